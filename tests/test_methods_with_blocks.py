"""Every way of matching on specs with blocks: heads and their units in an encoder, gates of a GRU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import models
import traced_models
from rebasin_fast import (
    ActivationSite,
    PermutationSpec,
    WeightMatcher,
    activation_matching,
    activation_sites,
    apply_permutation,
    compose,
    match_blocks,
    merge_many,
    random_permutation,
    repair,
    straight_through,
    weight_matching,
)
from rebasin_fast._modules import removed_afterwards
from rebasin_fast._projection import MatchedAnew, projection_for
from rebasin_fast.operator_sites import OperatorSite
from rebasin_fast.permute import identity_permutation, validate_permutation
from rebasin_fast.sites import watch

NETWORKS = ["attention: encoder", "recurrent: GRU", "attention: grouped queries"]


@pytest.fixture(params=NETWORKS)
def network(request):
    case = traced_models.ALL[request.param]
    model = models.randomise(case.make().double(), seed=0).eval()
    x = torch.randn(3, *case.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return PermutationSpec.from_module(model, torch.zeros(case.shape, dtype=torch.float64)), model, x


def noisy(params, seed, noise=0.02):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + noise * value.std(correction=0) * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in params.items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[group], other[group]) for group in one)


def assert_equal(got, want):
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


def outputs(model, params, x):
    with torch.no_grad():
        return torch.func.functional_call(model, dict(params), (x,))


def inner_product(spec, a, b, permutation):
    moved = apply_permutation(spec, permutation, b)
    return float(sum((a[name] * moved[name]).sum() for name in spec.params if spec.matched(name)))


def test_weight_matching_finds_what_was_planted_and_says_what_it_did(network):
    spec, model, x = network
    assert not spec.plain
    a = dict(model.state_dict())
    original = noisy(a, 1)
    b = apply_permutation(spec, random_permutation(spec, seed=1), original)
    seen = []
    found = weight_matching(spec, a, b, progress=lambda *step: seen.append(step))
    back = apply_permutation(spec, found.permutation, b)
    assert_equal(back, original)
    torch.testing.assert_close(outputs(model, back, x), outputs(model, b, x), rtol=1e-9, atol=1e-11)
    assert found.converged
    assert len(found.objective) == found.sweeps + 1
    assert found.objective[-1] == pytest.approx(inner_product(spec, a, b, found.permutation), rel=1e-12)
    stats = found.stats
    visits = len(spec.groups) * found.sweeps
    assert len(seen) == visits
    assert stats.matrices_made > 0
    assert stats.solves > 0
    assert stats.multiply_adds > 0
    assert 0 < stats.cost_seconds + stats.lap_seconds <= stats.total_seconds
    assert (stats.steps, stats.matrices_kept, stats.matrices_updated, stats.cache_bytes) == (0, 0, 0, 0)


def test_unrelated_networks_end_where_nothing_is_left_to_gain(network):
    spec, model, x = network
    a, b = ({n: t.clone() for n, t in models.randomise(model, seed).state_dict().items()} for seed in (8, 9))
    for init in ("identity", "propagate", random_permutation(spec, 3)):
        found = weight_matching(spec, a, b, init=init, seed=4)
        validate_permutation(spec, found.permutation)
        assert found.converged
        assert list(found.objective) == sorted(found.objective)
        if not isinstance(init, str):
            assert found.objective[0] == pytest.approx(inner_product(spec, a, b, init))
        again = weight_matching(spec, a, b, init=found.permutation, seed=5)
        assert same(again.permutation, found.permutation)
        assert (again.sweeps, again.converged, again.stats.skipped) == (1, True, 0)
        moved = apply_permutation(spec, found.permutation, b)
        torch.testing.assert_close(outputs(model, moved, x), outputs(model, b, x), rtol=1e-9, atol=1e-11)
    best = weight_matching(spec, a, b, init="identity", n_starts=4)
    assert best.objective[-1] >= weight_matching(spec, a, b, init="identity").objective[-1]
    assert best.stats.solves > weight_matching(spec, a, b, init="identity").stats.solves
    assert weight_matching(spec, a, b, init="identity", max_sweeps=1).sweeps == 1
    narrow = weight_matching(spec, a, b, init="identity", compute_dtype="float32")
    assert narrow.objective[0] == pytest.approx(inner_product(spec, a, b, identity_permutation(spec)), rel=1e-4)
    assert same(weight_matching(spec, a, b).permutation, match_blocks(spec, a, b).permutation)


def test_options_of_plain_specs_are_refused_by_name(network):
    spec, model, _ = network
    a = dict(model.state_dict())
    for options, message in (
        ({"method": "frank_wolfe"}, "method is 'frank_wolfe', and spec is not plain .*expected 'coordinate_descent'"),
        ({"init": "barycentre"}, "init is 'barycentre', and spec is not plain"),
        ({"compute_dtype": "bfloat16"}, "compute_dtype is 'bfloat16', and spec is not plain"),
        ({"compute_dtype": "float16"}, "compute_dtype is 'float16'"),
        ({"method": "best"}, "method is 'best'"),
        ({"init": "best"}, "init is 'best'"),
        ({"init": {}}, "permutation does not fit the specification"),
        ({"n_starts": 0}, "n_starts is 0"),
        ({"max_sweeps": 0}, "max_sweeps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"rtol": 2.0}, "rtol is 2.0"),
        ({"max_cache_bytes": -1}, "max_cache_bytes is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            weight_matching(spec, a, a, **options)
    with pytest.raises(ValueError, match=r"spec has blocks.*expected a plain one, or weight_matching"):
        WeightMatcher(spec, a, a)


def test_a_group_twice_on_an_array_needs_no_sizes():
    spec = PermutationSpec.from_axes_to_perm({"w": ("P", "P"), "v": ("P", None)})
    rng = np.random.default_rng(0)
    a = {"w": rng.normal(size=(7, 7)), "v": rng.normal(size=(7, 3))}
    b = apply_permutation(spec, random_permutation(spec, 1, a), a)
    back = apply_permutation(spec, weight_matching(spec, a, b).permutation, b)
    assert all(np.array_equal(back[name], a[name]) for name in a)


@pytest.mark.parametrize("init", ["incremental", "identity"])
def test_merge_many(network, init):
    spec, model, x = network
    base = dict(model.state_dict())
    planted = [random_permutation(spec, seed) for seed in range(3)]
    copies = [apply_permutation(spec, p, noisy(base, seed)) for seed, p in enumerate(planted)]
    merged = merge_many(spec, copies, init=init)
    assert merged.converged
    assert (np.diff(merged.distance) <= 1e-9 * merged.distance[0]).all()
    for params, permutation in zip(copies, merged.permutations, strict=True):
        aligned = apply_permutation(spec, permutation, params)
        torch.testing.assert_close(outputs(model, aligned, x), outputs(model, params, x), rtol=1e-9, atol=1e-11)
    if init == "incremental":  # from the identity it may come to rest elsewhere
        relative = [compose(p, q) for p, q in zip(merged.permutations, planted, strict=True)]
        assert all(same(one, relative[0]) for one in relative)
        mean = {n: sum(noisy(base, seed)[n] for seed in range(3)) / 3 for n in base}
        want = outputs(model, mean, x)
        torch.testing.assert_close(outputs(model, merged.params, x), want, rtol=1e-9, atol=1e-11)


def test_straight_through(network):
    spec, model, x = network
    a = dict(model.state_dict())
    original = noisy(a, 1)
    b = apply_permutation(spec, random_permutation(spec, seed=1), original)
    batches = [(x, outputs(model, a, x))] * 2
    loss = lambda got, want: ((got - want) ** 2).mean()  # noqa: E731
    found = straight_through(spec, model, a, b, batches, epochs=2, loss=loss, validation=batches)
    assert_equal(apply_permutation(spec, found.permutation, b), original)
    from_identity = straight_through(spec, model, a, b, batches, epochs=1, loss=loss, init="identity")
    validate_permutation(spec, from_identity.permutation)
    moved = apply_permutation(spec, from_identity.permutation, b)
    torch.testing.assert_close(outputs(model, moved, x), outputs(model, b, x), rtol=1e-9, atol=1e-11)


def test_axes_of_groups_in_blocks_are_projected_with_their_blocks():
    """Each axis looks plain; the units must stay in their heads all the same."""
    spec = PermutationSpec.from_axes_to_perm(
        {"values": ("v", None), "out": (None, "v")}, sizes={"v": 6, "heads": 3}, blocks={"v": "heads"}
    )
    rng = np.random.default_rng(0)
    a, b = ({"values": rng.normal(size=(6, 2)), "out": rng.normal(size=(2, 6))} for _ in range(2))
    projection = projection_for(spec, b, identity_permutation(spec), 0)
    assert isinstance(projection, MatchedAnew)
    projection.project(a)
    validate_permutation(spec, projection.permutation)


VISIBLE = [
    "attention: nn.MultiheadAttention", "attention: encoder", "attention: decoder layer", "attention: separate",
    "attention: fused, split", "attention: fused, within heads", "attention: rotary, halves", "recurrent: GRU",
    "norms: GroupNorm", "convolutions: depthwise with multiplier", "attention: ALiBi, fused within heads",
]  # fmt: skip


@pytest.mark.parametrize("similarity", ["correlation", "inner"])
@pytest.mark.parametrize("name", VISIBLE)
def test_activation_matching_finds_what_was_planted(name, similarity):
    case = traced_models.ALL[name]
    model = models.randomise(case.make().double(), seed=0).eval()
    spec = PermutationSpec.from_module(model, torch.zeros(case.shape, dtype=torch.float64))
    x = torch.randn(40, *case.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    b = apply_permutation(spec, random_permutation(spec, seed=1), a)
    found = activation_matching(spec, model, a, b, x.split(25), sites="output", similarity=similarity)
    validate_permutation(spec, found.permutation)
    assert_equal(apply_permutation(spec, found.permutation, b), a)
    assert list(found.permutation) == list(found.objective) == list(spec.groups)
    parents = set(spec.blocks.values())
    for group, samples in found.samples.items():
        assert samples > 0 or group in parents
        assert bool(found.sites[group]) == (samples > 0)
    both = activation_matching(spec, model, a, b, [x], similarity=similarity)
    torch.testing.assert_close(
        outputs(model, apply_permutation(spec, both.permutation, b), x), outputs(model, b, x), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("widths", [{}, {"kdim": 5, "vdim": 7}], ids=["packed", "separate"])
@pytest.mark.parametrize("bias", [True, False])
def test_projections_of_attention_are_those_it_works_with(widths, bias):
    attention = torch.nn.MultiheadAttention(12, 3, batch_first=True, bias=bias, **widths).double()
    model = models.randomise(traced_models.Apply(lambda m, q, k, v: m.att(q, k, value=v)[0], att=attention), seed=0)
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 12), (2, 6, widths.get("kdim", 12)), (2, 6, widths.get("vdim", 12))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    spec = PermutationSpec.from_module(model, tuple(inputs))
    sites = activation_sites(spec, model, "output")
    assert [site.side for site in sites] == ["query", "key", "value"]
    assert all(site.written and site.entries == tuple(range(12)) for site in sites)
    assert activation_sites(spec, model, "input") == ()
    seen = {}
    with removed_afterwards(watch(model, sites, lambda site, tensor: seen.update({site.side: tensor.detach()}))):
        want = model(*inputs)
    q, k, v = (seen[side].unflatten(-1, (3, 4)).transpose(1, 2) for side in ("query", "key", "value"))
    got = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.out_proj(got), want, rtol=1e-10, atol=1e-12)


INSIDE = {
    "attention: grouped queries": "aten::bmm",  # scores: query heads within those of keys and values
    "attention: multi-query": "aten::bmm",
    "attention: norm of queries and keys": "aten::addmm",
    "recurrent: GRU, deep, both ways": "aten::bmm",
    "recurrent: LSTM with projection": "aten::bmm",
    "mixtures: looked up": "times 'up'",  # every expert is asked, not those alone that a token is sent to
    "mixtures: all experts": "aten::bmm",
    "shapes: distances": "aten::_cdist_forward",
    "shapes: mixer": "aten::bmm",  # hidden units of tokens: their mean over the channels of the stream
    "norms: weight norm": "aten::addmm",
}


def squared(outputs, _):
    return (outputs[0] if isinstance(outputs, tuple) else outputs).square().mean()


@pytest.mark.parametrize("name", INSIDE)
def test_units_that_modules_do_not_show_are_seen_in_operators(name):
    case = traced_models.ALL[name]
    model = models.randomise(case.make().double(), seed=0).eval()
    spec = PermutationSpec.from_module(model, torch.zeros(case.shape, dtype=torch.float64))
    x = torch.randn(40, *case.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    b = apply_permutation(spec, random_permutation(spec, seed=1), a)
    found = activation_matching(spec, model, a, b, x.split(25), sites="output")  # batches of two shapes
    assert_equal(apply_permutation(spec, found.permutation, b), a)
    # Gradients are seen at modules alone; going back must not change which operators are counted.
    pairs = [(part, part) for part in x.split(25)]
    again = activation_matching(spec, model, a, b, pairs, sites="output", loss=squared)
    assert_equal(apply_permutation(spec, again.permutation, b), a)
    assert again.samples == found.samples
    inside = [site for sites in found.sites.values() for site in sites if isinstance(site, OperatorSite)]
    assert any(INSIDE[name] in str(site) for site in inside), list(map(str, inside))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_units_inside_are_found_for_a_spec_in_other_names():
    """The trace's groups are told by where they lie; a group that is none of the trace's has no site."""
    case = traced_models.ALL["recurrent: GRU, deep, both ways"]
    model = models.randomise(case.make().double(), seed=0).eval()
    traced = PermutationSpec.from_module(model, torch.zeros(case.shape, dtype=torch.float64))
    names = {group: f"G{i}" for i, group in enumerate(traced.groups)}
    axes = {p: tuple(_renamed(entry, names) for entry in es) for p, es in traced.to_axes_to_perm().items()}
    spec = PermutationSpec.from_axes_to_perm(axes, sizes={names[g]: n for g, n in traced.sizes.items()})
    x = torch.randn(20, *case.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    b = apply_permutation(spec, random_permutation(spec, seed=1), a)
    found = activation_matching(spec, model, a, b, [x])
    assert_equal(apply_permutation(spec, found.permutation, b), a)


def _renamed(entry, names):
    if isinstance(entry, str):
        return " ".join(names.get(word, word) for word in entry.split())
    return (names[entry[0]], *entry[1:]) if isinstance(entry, tuple) else entry


def test_groups_that_nothing_shows_are_named():
    """Only weights meet one another there: a factor of two ranks."""
    case = traced_models.ALL["shapes: low rank"]
    model = models.randomise(case.make().double(), seed=0).eval()
    spec = PermutationSpec.from_module(model, torch.zeros(case.shape, dtype=torch.float64))
    found = activation_matching(spec, model, model.state_dict(), model.state_dict(), [torch.randn(9, 5).double()])
    assert {str(site) for site in found.sites["a"]} == {"result of aten::gelu (0) in 'Apply' times 'a.weight'"}
    with pytest.raises(ValueError, match=r"sites leaves the groups \['a'\] without a tensor"):
        activation_matching(
            spec, model, model.state_dict(), model.state_dict(), [], sites={"inp": ["inp"], "out": ["inp"]}, prove=False
        )


def test_sites_that_are_named_stand_in():
    """Units in heads, by the module that computes them and by entries of one that computes more."""
    case = traced_models.ALL["attention: fused, split"]
    model = models.randomise(case.make().double(), seed=0).eval()
    spec = PermutationSpec.from_module(model, torch.zeros(case.shape, dtype=torch.float64))
    x = torch.randn(30, *case.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    b = apply_permutation(spec, random_permutation(spec, seed=1), a)
    every = activation_sites(spec, model, "output")
    assert {len(site.entries) for site in every if site.module == "qkv"} == {12}
    named = {group: [site for site in every if site.group == group] for group in spec.groups}
    found = activation_matching(spec, model, a, b, [x], sites=named)
    assert_equal(apply_permutation(spec, found.permutation, b), a)
    with pytest.raises(ValueError, match="axis is None at 'qkv'; expected a number"):
        ActivationSite("qkv", "v", entries=(0, 1))
    with pytest.raises(ValueError, match=r"output of 'm' has shape \(2, 3\); expected axis -1 of length 6 or more"):
        ActivationSite("m", "P", axis=-1, entries=(4, 5)).samples(torch.zeros(2, 3), 2)
    with pytest.raises(ValueError, match=r"with 3 entries of group 'P' on it \(the site names 2\)"):
        ActivationSite("m", "P", axis=-1, entries=(1, 2)).samples(torch.zeros(2, 3), 3)


def test_groups_tangled_in_a_product_are_not_looked_at():
    """A norm within each head sees a head's units where heads lie on another axis: B's are in another order."""
    case = traced_models.ALL["attention: norm of queries and keys"]
    model = case.make()
    spec = PermutationSpec.from_module(model, torch.zeros(case.shape))
    shown = {site.module for side in ("input", "output") for site in activation_sites(spec, model, side)}
    assert "norm" not in shown


def test_a_spec_that_is_none_of_the_model_is_refused_before_anything_is_merged():
    model = models.randomise(models.MLP((4, 6, 5, 3)).double(), seed=0)
    right = PermutationSpec.from_module(model, torch.zeros(2, 4, dtype=torch.float64))
    wrong = PermutationSpec.from_axes_to_perm(
        dict(right.to_axes_to_perm()) | {"layer2.weight": (None, None)}, sizes=right.sizes
    )
    x = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = x, torch.zeros(40, dtype=torch.long)
    a, b = ({n: t.clone() for n, t in models.randomise(model, seed).state_dict().items()} for seed in (1, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refused = r"spec is not one of model: .* does not hold: .* by these groups alone: layer1\."
    with pytest.raises(ValueError, match=refused):
        activation_matching(wrong, model, a, b, [batch])
    with pytest.raises(ValueError, match=refused):
        straight_through(wrong, model, a, b, [batch], epochs=1)
    with pytest.raises(ValueError, match=refused):
        merge_many(wrong, [a, b], model=model, inputs=x)
    with pytest.raises(ValueError, match="only one of model and inputs is there"):
        merge_many(right, [a, b], model=model)
    assert straight_through(wrong, model, a, b, [batch], epochs=1, prove=False).losses
    in_numpy = [{name: tensor.numpy() for name, tensor in params.items()} for params in (a, b)]
    proven, plain = merge_many(right, in_numpy, model=model, inputs=x), merge_many(right, in_numpy)
    assert all(np.array_equal(proven.params[name], plain.params[name]) for name in a)
    assert_equal(model.state_dict(), before)
    # By the parameters that are to be merged, not by those the model happens to have.
    with torch.no_grad():
        model.layer2.weight.zero_()
    assert wrong.prove(model, x)
    assert not wrong.prove(model, x, params=a)


def test_a_proof_does_not_change_what_is_found():
    model = models.randomise(models.MLP((4, 6, 5, 3)).double(), seed=0)
    spec = PermutationSpec.from_module(model, torch.zeros(2, 4, dtype=torch.float64))
    a, b = ({n: t.clone() for n, t in models.randomise(model, seed).state_dict().items()} for seed in (1, 2))
    x = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(9)]
    with_proof, without = (activation_matching(spec, model, a, b, batches, prove=prove) for prove in (True, False))
    assert same(with_proof.permutation, without.permutation)
    assert with_proof.samples == without.samples
    one, other = (straight_through(spec, model, a, b, batches, epochs=2, prove=prove) for prove in (True, False))
    assert one.losses == other.losses


@pytest.mark.parametrize("name", ["attention: fused, split", "attention: separate", "norms: GroupNorm"])
def test_repair_of_units_in_blocks(name):
    """With the endpoints' own parameters merged, nothing is to repair; scaled ones come back as they were."""
    case = traced_models.ALL[name]
    model = models.randomise(case.make().double(), seed=0).eval()
    spec = PermutationSpec.from_module(model, torch.zeros(case.shape, dtype=torch.float64))
    x = torch.randn(50, *case.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any(site.entries or site.block > 1 or spec.blocks for site in activation_sites(spec, model, "output"))
    unchanged = repair(spec, model, a, [a, a], [x])
    shrunk = {name: tensor.clone() for name, tensor in a.items()}
    for site in activation_sites(spec, model, "output"):
        rows = slice(None) if site.entries is None else list(site.entries)
        for part in ("weight", "bias"):
            shrunk[f"{site.module}.{part}"][rows] *= 0.5
    repaired = repair(spec, model, shrunk, [a, a], [x])
    for name, tensor in a.items():
        torch.testing.assert_close(unchanged[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
        torch.testing.assert_close(repaired[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
