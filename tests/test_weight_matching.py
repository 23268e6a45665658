"""Weight matching: function preserved, objective never falls, planted permutations come back, bad input is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import reference
from models import MLP, VGG16, ResNet20, ResNet50, randomise
from rebasin_fast import (
    PermutationSpec,
    apply_permutation,
    invert,
    mlp,
    random_permutation,
    resnet20,
    resnet50,
    vgg16,
    weight_matching,
)

SMALL_VGG = {"width_multiplier": 0.125, "classifier_widths": (64, 48)}
NETWORKS = {
    "mlp": (mlp((20, 32, 48, 10)), lambda: MLP((20, 32, 48, 10)), (5, 20)),
    "vgg16 batch norm": (vgg16(**SMALL_VGG), lambda: VGG16(**SMALL_VGG), (2, 3, 32, 32)),
    "vgg16 layer norm": (
        vgg16(**SMALL_VGG, norm="layer_norm"),
        lambda: VGG16(**SMALL_VGG, norm="layer_norm"),
        (2, 3, 32, 32),
    ),
    "resnet20 batch norm": (resnet20(1), lambda: ResNet20(1), (2, 3, 32, 32)),
    "resnet20 layer norm": (
        resnet20(1, norm="layer_norm"),
        lambda: ResNet20(1, norm="layer_norm"),
        (2, 3, 32, 32),
    ),
    "resnet50": (
        resnet50(0.125, num_classes=10),
        lambda: ResNet50(0.125, num_classes=10),
        (1, 3, 64, 64),
    ),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    spec, build, shape = NETWORKS[request.param]
    return spec, build().double().eval(), shape


def state(model, seed):
    return {name: tensor.clone() for name, tensor in randomise(model, seed).state_dict().items()}


def as_numpy(params):
    return {name: tensor.numpy().copy() for name, tensor in params.items()}


def small_pair(seed=0, dtype=np.float64, widths=(6, 24, 20, 5)):
    spec = mlp(widths)
    rng = np.random.default_rng(seed)
    shapes = {f"layer{k}.weight": (widths[k + 1], widths[k]) for k in range(len(widths) - 1)}
    shapes |= {f"layer{k}.bias": (widths[k + 1],) for k in range(len(widths) - 1)}
    draw = lambda: {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}  # noqa: E731
    return spec, draw(), draw()


@pytest.mark.parametrize("seed", range(3))
def test_planted_permutation_is_recovered_wholly(network, seed):
    spec, model, _ = network
    a = state(model, seed)
    planted = random_permutation(spec, seed=100 + seed)
    found = weight_matching(spec, a, apply_permutation(spec, planted, a), seed=seed)
    assert found.converged
    for group, index in invert(planted).items():
        assert np.array_equal(found.permutation[group], index), group


@pytest.mark.parametrize("seed", range(2))
def test_default_initialisation_is_recovered_too(network, seed):
    """As torch initialises: norms are all ones, biases zero; the weights alone must tell the units apart."""
    spec, model, _ = network
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    planted = random_permutation(spec, seed=seed)
    found = weight_matching(spec, a, apply_permutation(spec, planted, a), seed=seed)
    for group, index in invert(planted).items():
        assert np.array_equal(found.permutation[group], index), group


def test_permuted_network_computes_the_same_function(network):
    spec, model, shape = network
    a = state(model, 1)
    b = state(model, 2)
    found = weight_matching(spec, a, b)
    aligned = apply_permutation(spec, found.permutation, b)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = torch.func.functional_call(model, b, (x,))
        got = torch.func.functional_call(model, aligned, (x,))
    assert any(not torch.equal(aligned[name], b[name]) for name in b)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_objective_never_falls_and_is_what_it_says(network, dtype):
    spec, model, _ = network
    a, b = (
        {name: t.to(dtype) if t.is_floating_point() else t for name, t in state(model, seed).items()} for seed in (1, 2)
    )
    found = weight_matching(spec, a, b, init="identity", seed=3)
    assert len(found.objective) == found.sweeps + 1
    assert (np.diff(found.objective) >= 0).all()
    assert found.objective[-1] > found.objective[0]
    identity = {group: np.arange(size) for group, size in spec.group_sizes().items()}
    a, b = ({name: array.astype(float) for name, array in as_numpy(params).items()} for params in (a, b))
    assert found.objective[-1] == pytest.approx(reference.objective(spec, a, b, found.permutation), rel=1e-9)
    # What came before is as precise as the cost matrices.
    start = reference.objective(spec, a, b, identity)
    assert found.objective[0] == pytest.approx(
        start, abs=(1e-9 if dtype == torch.float64 else 1e-6) * found.objective[-1]
    )


def test_a_matched_to_itself_is_the_identity(network):
    spec, model, _ = network
    a = state(model, 4)
    found = weight_matching(spec, a, a)
    assert found.converged
    for group, size in spec.group_sizes().items():
        assert np.array_equal(found.permutation[group], np.arange(size))


def test_same_answer_as_the_slow_twin(network):
    spec, model, _ = network
    a, b = as_numpy(state(model, 5)), as_numpy(state(model, 6))
    found = weight_matching(spec, a, b, init="identity", seed=7)
    slow = reference.weight_matching(spec, a, b, seed=7)
    for group, index in slow.items():
        assert np.array_equal(found.permutation[group], index), group


def test_converged_means_that_no_group_alone_can_gain():
    spec, a, b = small_pair()
    found = weight_matching(spec, a, b)
    assert found.converged
    for group in spec.groups:
        S = reference.similarity(spec, group, a, b, found.permutation)
        rows, cols = reference.linear_sum_assignment(S, maximize=True)
        assert S[rows, found.permutation[group]].sum() == pytest.approx(S[rows, cols].sum(), rel=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_same_seed_same_answer_on_any_number_of_threads(threads):
    spec = mlp((64, 256, 256, 10))
    a, b = (state(MLP((64, 256, 256, 10)), seed) for seed in (1, 2))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        want = weight_matching(spec, a, b, seed=5)
        torch.set_num_threads(threads)
        got = weight_matching(spec, a, b, seed=5)
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(got.permutation[group], want.permutation[group]) for group in spec.groups)
    assert got.sweeps == want.sweeps


def test_numpy_and_torch_agree():
    spec, a, b = small_pair()
    torch_a, torch_b = ({name: torch.from_numpy(x) for name, x in params.items()} for params in (a, b))
    want = weight_matching(spec, a, b)
    for left, right in ((torch_a, torch_b), (torch_a, b), (a, torch_b)):
        got = weight_matching(spec, left, right)
        assert all(np.array_equal(got.permutation[group], want.permutation[group]) for group in spec.groups)
        assert got.objective == pytest.approx(want.objective, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_and_input_left_alone(dtype):
    spec = mlp((16, 64, 10))
    a = {name: tensor.to(dtype) for name, tensor in state(MLP((16, 64, 10)), 1).items()}
    planted = random_permutation(spec, seed=1)
    b = apply_permutation(spec, planted, a)
    copies = {name: tensor.clone() for name, tensor in (*a.items(),)}, {name: t.clone() for name, t in b.items()}
    for params in (a, b):
        for tensor in params.values():
            tensor.requires_grad_()
    found = weight_matching(spec, a, b)
    assert np.array_equal(found.permutation["P_0"], invert(planted)["P_0"])
    for params, before in zip((a, b), copies, strict=True):
        assert all(torch.equal(params[name], before[name]) and params[name].dtype == dtype for name in params)


def test_running_statistics_are_no_terms_of_the_objective():
    spec = resnet20(1)
    a, b = (state(ResNet20(1), seed) for seed in (1, 2))
    want = weight_matching(spec, a, b, max_sweeps=2)
    other = {name: t * 100 + 3 if name.endswith(("mean", "var")) else t for name, t in b.items()}
    got = weight_matching(spec, a, other, max_sweeps=2)
    assert got.objective == want.objective


def test_start_and_max_sweeps():
    spec, a, b = small_pair(widths=(4, 16, 16, 16, 16, 4))
    whole = weight_matching(spec, a, b, seed=1)
    assert whole.sweeps > 1
    one = weight_matching(spec, a, b, seed=1, max_sweeps=1)
    assert (one.sweeps, one.converged) == (1, False)
    again = weight_matching(spec, a, b, init=whole.permutation)
    assert again.sweeps == 1
    assert again.objective[0] == pytest.approx(whole.objective[-1])
    assert all(np.array_equal(again.permutation[g], whole.permutation[g]) for g in spec.groups)
    start = random_permutation(spec, seed=9)
    kept = {group: index.copy() for group, index in start.items()}
    weight_matching(spec, a, b, init=start)
    assert all(np.array_equal(start[group], kept[group]) for group in start)


def test_progress_and_stats():
    spec, a, b = small_pair()
    seen = []
    found = weight_matching(spec, a, b, init="propagate", progress=lambda *event: seen.append(event))
    assert seen[:3] == [
        ("weight matching, start", 1, 2),
        ("weight matching, start", 2, 2),
        ("weight matching, sweep 1", 1, 2),
    ]
    assert len(seen) == 2 + 2 * found.sweeps
    stats = found.stats
    assert stats.solves + stats.skipped == 2 + 2 * found.sweeps + stats.confirmations
    assert stats.matrices_made + stats.matrices_updated + stats.matrices_kept == stats.solves
    assert stats.steps == 0
    assert stats.cache_bytes == 8 * (24**2 + 20**2)
    assert 0 < stats.cost_seconds + stats.lap_seconds <= stats.total_seconds


def test_a_group_with_nothing_to_match_stays_put():
    spec = PermutationSpec.from_axes_to_perm({"bn.running_mean": ("P",), "free": (None,)}, sizes={"P": 3})
    params = {"bn.running_mean": np.arange(3.0), "free": np.ones(2)}
    found = weight_matching(spec, params, {**params, "bn.running_mean": np.arange(3.0)[::-1].copy()})
    assert found.permutation["P"].tolist() == [0, 1, 2]
    assert found.objective[-1] == 2.0


def test_flattened_axes_are_matched_in_blocks():
    spec = PermutationSpec.from_axes_to_perm({"conv": ("P", None, None, None), "fc": (None, ("P", 4))})
    rng = np.random.default_rng(0)
    a = {"conv": rng.standard_normal((6, 2, 3, 3)), "fc": rng.standard_normal((5, 24))}
    planted = {"P": rng.permutation(6)}
    b = apply_permutation(spec, planted, a)
    assert np.array_equal(weight_matching(spec, a, b).permutation["P"], invert(planted)["P"])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda p: p.pop("layer0.bias"), ValueError, r"params_b\['layer0.bias'\] is missing"),
        (lambda p: p.update(extra=np.ones(3)), ValueError, r"params_b\['extra'\] is unknown"),
        (lambda p: p.update({"layer0.weight": np.ones((24, 7))}), ValueError, r"params_b\['layer0.weight'\]"),
        (lambda p: p.update({"layer0.weight": np.ones((23, 6))}), ValueError, r"params_b\['layer0.weight'\]"),
        (lambda p: p.update({"layer0.weight": [[1.0]]}), ValueError, "expected a numpy array or a torch tensor"),
        (lambda p: p["layer1.weight"].__setitem__((0, 0), np.nan), ValueError, "holds NaN or infinity"),
        (lambda p: p["layer2.bias"].__setitem__(0, np.inf), ValueError, r"params_b\['layer2.bias'\] holds NaN"),
        (lambda p: p.update({"layer0.bias": np.ones(24, int)}), TypeError, "dtype int64; expected floating-point"),
        (lambda p: p.update({"layer0.bias": np.ones(24, complex)}), TypeError, "dtype complex128; expected floating"),
    ],
)
def test_bad_parameters_are_named(change, error, text):
    spec, a, b = small_pair()
    change(b)
    with pytest.raises(error, match=text):
        weight_matching(spec, a, b)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"init": "random"},
            ValueError,
            "init is 'random'; expected 'propagate', 'identity', 'barycentre' or a permutation",
        ),
        ({"init": {"P_0": np.arange(24)}}, ValueError, "group 'P_1' is missing"),
        ({"init": 3}, TypeError, "permutation is of type int"),
        ({"seed": -1}, ValueError, "seed is -1; expected at least 0"),
        ({"seed": "x"}, TypeError, "seed is 'x'; expected an integer"),
        ({"max_sweeps": 0}, ValueError, "max_sweeps is 0; expected at least 1"),
        ({"max_sweeps": True}, TypeError, "max_sweeps is True; expected an integer"),
        ({"rtol": -1e-3}, ValueError, "rtol is -0.001; expected a number in"),
        ({"rtol": float("nan")}, ValueError, "rtol is nan"),
        ({"rtol": None}, ValueError, "rtol is None"),
        ({"n_starts": 0}, ValueError, "n_starts is 0; expected at least 1"),
        ({"n_starts": 1.5}, TypeError, "n_starts is 1.5; expected an integer"),
        ({"method": "newton"}, ValueError, "method is 'newton'; expected 'coordinate_descent' or 'frank_wolfe'"),
        (
            {"max_cache_bytes": 7807, "init": "barycentre"},
            ValueError,
            "max_cache_bytes is 7807; expected at least 7808, as init is 'barycentre'",
        ),
        ({"max_cache_bytes": -1}, ValueError, "max_cache_bytes is -1; expected at least 0"),
        ({"max_cache_bytes": 1e9}, TypeError, "max_cache_bytes is 1000000000.0; expected an integer"),
        (
            {"max_cache_bytes": 7807, "method": "frank_wolfe"},
            ValueError,
            "max_cache_bytes is 7807; expected at least 7808, as method is 'frank_wolfe'",
        ),
        ({"compute_dtype": "int8"}, ValueError, "compute_dtype is 'int8'; expected"),
        ({"compute_dtype": "bfloat16"}, ValueError, "the networks are numpy arrays; expected torch tensors"),
    ],
)
def test_bad_options_are_named(options, error, text):
    spec, a, b = small_pair()
    with pytest.raises(error, match=text):
        weight_matching(spec, a, b, **options)


def test_what_is_no_spec_or_no_state_dict():
    spec, a, b = small_pair()
    with pytest.raises(TypeError, match="spec is of type dict; expected a PermutationSpec"):
        weight_matching({}, a, b)
    with pytest.raises(TypeError, match=r"params_a is .*; expected a mapping"):
        weight_matching(spec, [1], b)


def test_networks_of_other_shape_where_no_group_tells():
    """Fixed axes (inputs, kernel sizes) belong to no group; they must agree all the same."""
    spec = PermutationSpec.from_axes_to_perm({"w": ("P", None)})
    with pytest.raises(ValueError, match=r"params_b\['w'\] has shape \(3, 5\); expected \(3, 4\), as in params_a"):
        weight_matching(spec, {"w": np.ones((3, 4))}, {"w": np.ones((3, 5))})


def test_weights_whose_products_overflow_are_said_to():
    spec, generator = mlp((4, 16, 3), bias=False), torch.Generator().manual_seed(0)
    a = {
        "layer0.weight": 1e25 * torch.randn(16, 4, generator=generator),
        "layer1.weight": torch.randn(3, 16, generator=generator),
    }
    planted = random_permutation(spec, seed=1)
    b = apply_permutation(spec, planted, a)
    with pytest.raises(ValueError, match="inner products of weights leave the range of float32; expected smaller"):
        weight_matching(spec, a, b)
    found = weight_matching(spec, a, b, compute_dtype="float64")
    np.testing.assert_array_equal(found.permutation["P_0"], invert(planted)["P_0"])
