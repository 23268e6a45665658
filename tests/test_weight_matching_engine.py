"""What makes weight matching fast must not change what it finds: cached, updated and propagated costs, warm starts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from rebasin_fast import (
    PermutationSpec,
    WeightMatcher,
    apply_permutation,
    invert,
    mlp,
    random_permutation,
    resnet20,
    weight_matching,
)
from rebasin_fast import _cost_cache as cost_cache
from rebasin_fast._cost_cache import CostCache
from rebasin_fast.cost import MatchedPair

# Convolutions, a flattened axis, a group on the second axis first, a parameter in three groups, vectors, a constant.
SPEC = PermutationSpec.from_axes_to_perm(
    {
        "conv0": ("P", None, None, None),
        "norm0": ("P",),
        "bias0": ("P",),
        "conv1": ("Q", "P", None, None),
        "fc": ("R", ("Q", 4)),
        "mixed": (None, "P", "R", "Q"),
        "out": (None, "R"),
        "free": (None,),
    }
)
SHAPES = {
    "conv0": (7, 3, 2, 2),
    "norm0": (7,),
    "bias0": (7,),
    "conv1": (6, 7, 3, 1),
    "fc": (5, 24),
    "mixed": (2, 7, 5, 6),
    "out": (4, 5),
    "free": (3,),
}


def drawn(seed, dtype=np.float64, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def mlp_pair(widths, seed=0, dtype=np.float64):
    spec = mlp(widths)
    shapes = {}
    for k in range(len(widths) - 1):
        shapes |= {f"layer{k}.weight": (widths[k + 1], widths[k]), f"layer{k}.bias": (widths[k + 1],)}
    return spec, drawn(2 * seed, dtype, shapes), drawn(2 * seed + 1, dtype, shapes)


def planted_pair(widths, noise, seed=0):
    spec, a, extra = mlp_pair(widths, seed)
    noisy = {name: array + noise * extra[name] for name, array in a.items()}
    planted = random_permutation(spec, seed)
    return spec, a, apply_permutation(spec, planted, noisy), invert(planted)


def as_torch(params):
    return {name: torch.from_numpy(array.copy()) for name, array in params.items()}


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[group], right[group]) for group in left)


def value_at(spec, a, b, permutation):
    return reference.objective(spec, a, b, permutation)


# Cost matrices


@settings(max_examples=40, deadline=None)
@given(data=st.data(), library=st.sampled_from([dict, as_torch]), kept=st.sampled_from([0, 300, 10**6]))
def test_cost_matrices_are_right_whatever_was_asked_before(data, library, kept):
    """A few units move, many, or none; for any group; panels may be of one entry."""
    a, b = drawn(1), drawn(2)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost_cache, "_SMALLEST_PANEL", data.draw(st.sampled_from([1, 400, 10**6])))
        patch.setattr(cost_cache, "_WIDE_ENOUGH_TO_KEEP", data.draw(st.sampled_from([1, 128])))
        pair = MatchedPair(SPEC, library(a), library(b))
        cache = CostCache(pair, kept)
    permutation = {group: np.arange(size) for group, size in pair.sizes.items()}
    for _ in range(data.draw(st.integers(1, 6))):
        group = data.draw(st.sampled_from(sorted(permutation)))
        if data.draw(st.booleans()):
            permutation[group] = rng.permutation(len(permutation[group]))
        else:
            permutation[group] = permutation[group].copy()
            permutation[group][:2] = permutation[group][:2][::-1]
        asked = data.draw(st.sampled_from(sorted(permutation)))
        got = cache.readable(asked, permutation, afresh=data.draw(st.booleans()))
        np.testing.assert_allclose(got, reference.similarity(SPEC, asked, a, b, permutation), rtol=0, atol=1e-12)
    assert cache.kept_bytes <= kept
    assert (cache.counts.kept + cache.counts.updated > 0) <= (kept > 0)


def test_terms_that_are_not_settled_are_left_out_and_come_in_later():
    a, b = drawn(1), drawn(2)
    pair = MatchedPair(SPEC, a, b)
    cache = CostCache(pair, 10**6)
    permutation = random_permutation(SPEC, 3, a)
    without = {name: 0 * array if name in ("fc", "mixed") else array for name, array in a.items()}
    np.testing.assert_allclose(
        cache.at("Q", permutation, {"P"}), reference.similarity(SPEC, "Q", without, b, permutation), atol=1e-12
    )
    assert cache.columns("Q", {"P"}) == 7 * 3
    assert cache.columns("Q") == 7 * 3 + 4 * 5 + 2 * 7 * 5
    np.testing.assert_allclose(
        cache.at("Q", permutation), reference.similarity(SPEC, "Q", a, b, permutation), atol=1e-12
    )
    assert (cache.counts.made, cache.counts.updated, cache.is_updated("Q")) == (1, 1, False)
    assert cache.counts.multiply_adds == 6**2 * cache.columns("Q")


def test_wide_fixed_terms_are_multiplied_once():
    spec, a, b = mlp_pair((130, 40, 30, 2))
    sizes = {"P_0": 40, "P_1": 30}
    for budget, spared in ((10**6, 131), (8 * (40**2 + 30**2), 0)):  # weights and bias
        cache = CostCache(MatchedPair(spec, a, b), budget)
        permutation = {group: np.arange(size) for group, size in sizes.items()}
        first = np.array(cache.readable("P_0", permutation))
        before = cache.counts.multiply_adds
        np.testing.assert_allclose(cache.readable("P_0", permutation, afresh=True), first, atol=1e-12)
        assert cache.counts.multiply_adds - before == 40**2 * (cache.columns("P_0") - spared)
        assert cache.kept_bytes == 8 * 40**2 * (2 if spared else 1) <= cache.most_bytes <= budget
        # Another A is another fixed term.
        cache.forget(MatchedPair(spec, b, b))
        np.testing.assert_allclose(
            cache.readable("P_0", permutation), reference.similarity(spec, "P_0", b, b, permutation), atol=1e-12
        )


def test_only_changed_columns_are_multiplied():
    spec, a, b = mlp_pair((3, 40, 30, 2))
    cache = CostCache(MatchedPair(spec, a, b), 10**6)
    permutation = {"P_0": np.arange(40), "P_1": np.arange(30)}
    cache.at("P_1", permutation)
    before = cache.counts.multiply_adds
    cache.at("P_1", {**permutation, "P_0": np.r_[2, 0, 1, 3:40]})
    assert cache.counts.multiply_adds - before == 3 * 30**2
    assert (cache.counts.made, cache.counts.updated, cache.counts.kept) == (1, 1, 0)
    assert cache.is_updated("P_1")
    cache.at("P_1", {**permutation, "P_0": np.r_[2, 0, 1, 3:40]})
    assert cache.counts.kept == 1
    # Nearly all columns: cheaper from nothing.
    cache.at("P_1", {**permutation, "P_0": np.arange(40)[::-1].copy()})
    assert (cache.counts.made, cache.is_updated("P_1")) == (2, False)


def test_at_the_barycentre_a_matrix_is_the_mean_over_all_permutations():
    shapes = {name: SHAPES[name] for name in SHAPES if name != "mixed"}
    spec = PermutationSpec.from_axes_to_perm({name: SPEC.to_axes_to_perm()[name] for name in shapes})
    a, b = drawn(1, shapes=shapes), drawn(2, shapes=shapes)
    for library in (dict, as_torch):
        cache = CostCache(MatchedPair(spec, library(a), library(b)), 0)
        sizes = spec.group_sizes(a)
        # The cyclic shifts have the mean of all permutations, and Q's parameters lie in one other group each.
        shifts = [{group: np.roll(np.arange(n), k % n) for group, n in sizes.items()} for k in range(7 * 5 * 6)]
        mean = np.mean([reference.similarity(spec, "Q", a, b, shift) for shift in shifts], axis=0)
        np.testing.assert_allclose(np.asarray(cache.at_barycentre("Q")), mean, atol=1e-12)


@pytest.mark.parametrize("layout", ["fortran", "strided", "channels_last"])
def test_any_memory_layout(layout):
    spec = resnet20(1)
    rng = np.random.default_rng(0)
    from models import ResNet20, randomise

    a, b = ({n: t.clone() for n, t in randomise(ResNet20(1), seed).state_dict().items()} for seed in (1, 2))
    want = weight_matching(spec, a, b)
    if layout == "channels_last":
        other = {n: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for n, t in b.items()}
    elif layout == "fortran":
        a = {n: t.numpy() for n, t in a.items()}
        other = {n: np.asfortranarray(t.numpy()) if t.ndim else t.numpy() for n, t in b.items()}
    else:
        wide = {n: torch.from_numpy(rng.standard_normal((*t.shape, 2))).to(t.dtype) for n, t in b.items()}
        for name, tensor in b.items():
            wide[name][..., 1] = tensor
        other = {n: t[..., 1] for n, t in wide.items()}
    got = weight_matching(spec, a, other)
    assert got.objective[-1] == pytest.approx(want.objective[-1], rel=1e-4)
    assert same(got.permutation, want.permutation)


# The descent


@pytest.mark.parametrize("max_cache_bytes", [0, 5000, 1 << 30])
@pytest.mark.parametrize("seed", range(4))
def test_the_slow_twins_answer_with_any_cache(max_cache_bytes, seed):
    a, b = drawn(2 * seed), drawn(2 * seed + 1)
    found = weight_matching(SPEC, a, b, init="identity", seed=seed, max_cache_bytes=max_cache_bytes)
    assert same(found.permutation, reference.weight_matching(SPEC, a, b, seed))
    spec, a, b = mlp_pair((9, 31, 33, 29, 4), seed)
    found = weight_matching(spec, a, b, init="identity", seed=seed, max_cache_bytes=max_cache_bytes)
    assert same(found.permutation, reference.weight_matching(spec, a, b, seed))
    assert found.stats.cache_bytes <= max_cache_bytes
    assert found.stats.skipped > 0


def test_convergence_is_confirmed_on_matrices_made_anew(monkeypatch):
    """Updates that go wrong lead astray, and the matrices made at the end find that out."""
    from rebasin_fast._terms import Term

    spec, a, b = mlp_pair((9, 31, 33, 29, 4))
    right = Term.add_change

    def wrong(self, total, *args):
        right(self, total, *args)
        total += np.random.default_rng(0).standard_normal(total.shape)

    monkeypatch.setattr(Term, "add_change", wrong)
    found = weight_matching(spec, a, b, init="identity")
    assert found.converged
    assert found.stats.confirmations > 0
    for group in spec.groups:
        S = reference.similarity(spec, group, a, b, found.permutation)
        rows, cols = reference.linear_sum_assignment(S, maximize=True)
        assert S[rows, found.permutation[group]].sum() == pytest.approx(S[rows, cols].sum(), rel=1e-6)


def test_a_planted_permutation_takes_every_product_once():
    spec, a, b, planted = planted_pair((30, 60, 50, 40, 10), 0.3)
    found = weight_matching(spec, a, b)
    assert same(found.permutation, planted)
    assert found.sweeps == 1
    assert found.stats.confirmations == 0
    cache = CostCache(MatchedPair(spec, a, b), 0)
    assert found.stats.multiply_adds == sum(n * n * cache.columns(group) for group, n in spec.group_sizes().items())


def test_growing_outward_from_the_fixed_axes_withstands_more_noise():
    """DESIGN's reason for it: from the identity the first solves see nothing but noise."""
    recovered = {"propagate": [], "identity": []}
    for seed in range(3):
        spec, a, b, planted = planted_pair((100, 100, 100, 100, 10), 3.0, seed)
        for init, shares in recovered.items():
            found = weight_matching(spec, a, b, init=init, seed=seed).permutation
            shares.append(np.mean([np.mean(found[group] == planted[group]) for group in planted]))
    assert np.mean(recovered["propagate"]) > np.mean(recovered["identity"]) + 0.3


def test_more_starts_are_never_worse_and_the_first_is_the_one():
    spec, a, b = mlp_pair((9, 31, 33, 29, 4))
    one = weight_matching(spec, a, b, seed=3)
    many = weight_matching(spec, a, b, seed=3, n_starts=6)
    again = weight_matching(spec, a, b, seed=3, n_starts=6)
    assert many.objective[-1] >= one.objective[-1]
    assert same(many.permutation, again.permutation)
    assert many.stats.confirmations > 3 * one.stats.confirmations  # every descent confirms its end
    gains = []
    for pair in range(4):
        spec, a, b = mlp_pair((9, 31, 33, 29, 4), pair)
        values = [weight_matching(spec, a, b, init="identity", n_starts=n).objective[-1] for n in (1, 6)]
        gains.append(values[1] - values[0])
    assert min(gains) >= 0
    assert max(gains) > 0  # at this size orders do matter


def test_costs_whose_duals_do_not_fit_are_solved_all_the_same():
    spec, a, _ = mlp_pair((4, 12, 3))
    planted = random_permutation(spec, 1)
    a = {name: 1e152 * array for name, array in a.items()}
    found = weight_matching(spec, a, apply_permutation(spec, planted, a))
    assert same(found.permutation, invert(planted))


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_matched_in_float32_and_comes_back_as_it_was(dtype):
    spec, a, b = mlp_pair((9, 31, 33, 29, 4), dtype=np.float32)
    a, b = ({name: tensor.to(dtype) for name, tensor in as_torch(params).items()} for params in (a, b))
    found = weight_matching(spec, a, b)
    wide = weight_matching(spec, *({n: t.float() for n, t in params.items()} for params in (a, b)))
    assert same(found.permutation, wide.permutation)
    assert found.objective[-1] == pytest.approx(wide.objective[-1], rel=1e-12)
    aligned = apply_permutation(spec, found.permutation, b)
    assert {tensor.dtype for tensor in aligned.values()} == {dtype}
    if dtype == torch.float16:
        arrays = [{name: tensor.numpy() for name, tensor in params.items()} for params in (a, b)]
        assert same(weight_matching(spec, *arrays).permutation, wide.permutation)


@pytest.mark.parametrize("method", ["coordinate_descent", "frank_wolfe"])
def test_bfloat16_products_end_near_and_never_fall(method):
    spec, a, b = mlp_pair((50, 60, 60, 10), dtype=np.float32)
    a, b = as_torch(a), as_torch(b)
    exact = weight_matching(spec, a, b, method=method)
    coarse = weight_matching(spec, a, b, method=method, compute_dtype="bfloat16")
    assert (np.diff(coarse.objective) >= 0).all()
    assert coarse.objective[-1] == pytest.approx(exact.objective[-1], rel=0.03)
    arrays = [{name: tensor.numpy().astype(float) for name, tensor in params.items()} for params in (a, b)]
    assert coarse.objective[-1] == pytest.approx(value_at(spec, *arrays, coarse.permutation), rel=1e-9)


def test_projecting_with_bfloat16_products_ends_and_never_falls():
    spec, a, b = mlp_pair((50, 60, 60, 10), dtype=np.float32)
    matcher = WeightMatcher(spec, as_torch(a), as_torch(b), compute_dtype="bfloat16")
    arrays = [{name: array.astype(float) for name, array in params.items()} for params in (a, b)]
    start = random_permutation(spec, 0)
    once = matcher.project(start)
    again = matcher.project(once)
    values = [value_at(spec, *arrays, permutation) for permutation in (start, once, again)]
    assert values[0] < values[1] <= values[2]


def test_precision_can_be_chosen_either_way():
    spec, a, b = mlp_pair((9, 31, 33, 29, 4))
    narrow = [{name: array.astype(np.float32) for name, array in params.items()} for params in (a, b)]
    want = reference.weight_matching(spec, *({n: x.astype(float) for n, x in p.items()} for p in narrow), 0)
    wide = weight_matching(spec, *narrow, init="identity", compute_dtype="float64")
    assert same(wide.permutation, want)
    assert wide.stats.cache_bytes == 8 * (31**2 + 33**2 + 29**2)
    assert weight_matching(spec, a, b, compute_dtype="float32").stats.cache_bytes == 4 * (31**2 + 33**2 + 29**2)


@pytest.mark.parametrize(("max_cache_bytes", "init"), [(0, "identity"), (1 << 30, "propagate")])
def test_memory_is_the_cache_and_twice_the_largest_matrix(max_cache_bytes, init):
    """numpy tells tracemalloc of its arrays: all of them, and nothing else, are counted."""
    spec, a, b = mlp_pair((400, 700, 600, 500, 10), dtype=np.float32)
    weight_matching(spec, a, b, max_sweeps=1)
    tracemalloc.start()
    weight_matching(spec, a, b, init=init, max_sweeps=3, max_cache_bytes=max_cache_bytes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    matrices = [4 * size**2 for size in spec.group_sizes().values()]
    assert peak <= 1.05 * (min(max_cache_bytes, sum(matrices)) + 2 * max(matrices)) + (2 << 20)


# The matcher, used again and again


def test_projecting_is_matching_from_there_with_another_a():
    spec, a, b = mlp_pair((9, 31, 33, 29, 4))
    matcher = WeightMatcher(spec, as_torch(a), as_torch(b))
    permutation = matcher.match().permutation
    rng = np.random.default_rng(0)
    for step in range(6):
        a = {name: array + 0.2 * rng.standard_normal(array.shape) for name, array in a.items()}
        matcher.update_a(as_torch(a))
        kept = {group: index.copy() for group, index in permutation.items()}
        projected = matcher.project(permutation, seed=step)
        assert same(permutation, kept)
        fresh = weight_matching(spec, a, b, init=permutation, seed=step)
        assert value_at(spec, a, b, projected) == pytest.approx(fresh.objective[-1], rel=1e-9)
        assert same(matcher.match(init=permutation, seed=step).permutation, fresh.permutation)
        permutation = projected


def test_what_the_caller_does_to_permutations_does_not_reach_the_matcher():
    spec, a, b = mlp_pair((9, 31, 33, 4))
    matcher = WeightMatcher(spec, a, b)
    start = random_permutation(spec, 0)
    want = matcher.match(init={group: index.copy() for group, index in start.items()})
    for index in (*start.values(), *want.permutation.values()):
        index.sort()
    again = matcher.match(init=random_permutation(spec, 0))
    fresh = weight_matching(spec, a, b, init=random_permutation(spec, 0))
    assert same(again.permutation, fresh.permutation)
    assert again.objective[-1] == want.objective[-1]


def test_an_a_changed_in_place_counts_once_it_is_given_again():
    spec, a, b = mlp_pair((9, 31, 33, 4))
    matcher = WeightMatcher(spec, a, b)
    matcher.match()
    other = mlp_pair((9, 31, 33, 4), seed=7)[1]
    for name, array in a.items():
        array[...] = other[name]
    matcher.update_a(a)
    assert same(matcher.match().permutation, weight_matching(spec, other, b).permutation)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda p: p.pop("layer0.bias"), ValueError, r"params_a\['layer0.bias'\] is missing"),
        (lambda p: p.update(extra=np.ones(2)), ValueError, r"params_a\['extra'\] is unknown"),
        (lambda p: p.update({"layer0.bias": np.full(31, np.nan)}), ValueError, r"params_a\['layer0.bias'\] holds NaN"),
        (lambda p: p.update({"layer0.bias": np.ones(31, int)}), TypeError, "dtype int64; expected floating-point"),
        (lambda p: p.update({"layer0.weight": np.ones((31, 8))}), ValueError, r"params_a\['layer0.weight'\]"),
    ],
)
def test_an_a_that_does_not_fit_is_refused(change, error, text):
    spec, a, b = mlp_pair((9, 31, 33, 4))
    matcher = WeightMatcher(spec, a, b)
    changed = dict(a)
    change(changed)
    with pytest.raises(error, match=text):
        matcher.update_a(changed)
    assert same(matcher.match().permutation, weight_matching(spec, a, b).permutation)


def test_another_a_must_have_the_old_lengths_on_fixed_axes_too():
    spec = PermutationSpec.from_axes_to_perm({"w": ("P", None)})
    matcher = WeightMatcher(spec, {"w": np.ones((3, 4))}, {"w": np.ones((3, 4))})
    with pytest.raises(ValueError, match=r"params_a\['w'\] has shape \(3, 5\); expected \(3, 4\), as in params_b"):
        matcher.update_a({"w": np.ones((3, 5))})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["coordinate_descent", "frank_wolfe"])
def test_cuda_tensors(method):
    spec, a, b = mlp_pair((9, 31, 33, 29, 4))
    want = weight_matching(spec, a, b, method=method)
    on_device = [{name: tensor.cuda() for name, tensor in as_torch(params).items()} for params in (a, b)]
    assert same(weight_matching(spec, *on_device, method=method).permutation, want.permutation)
