"""Networks on a device: every method finds there what it finds on the CPU, and only answers come to the host.

The device is an imitation that counts transfers (`imitated_device`); with ``-m gpu`` it is a GPU, watched the same way.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from imitated_device import FakeDevice, Transfers, imitated_device
from models import MLP, VGG16, ResNet20, randomise
from rebasin_fast import (
    PermutationSpec,
    WeightMatcher,
    _assign,
    activation_matching,
    apply_permutation,
    cuda,
    merge_many,
    mlp,
    random_permutation,
    resnet20,
    straight_through,
    vgg16,
    weight_matching,
)
from rebasin_fast._nested_assignment import solve_nested
from rebasin_fast.layout import Structure

WIDTHS = (20, 40, 30, 5)
VGG = {"width_multiplier": 0.125, "classifier_widths": (32, 24), "spatial": 2}
NETWORKS = {
    "mlp": (mlp(WIDTHS), lambda: MLP(WIDTHS)),
    "vgg16": (vgg16(**VGG), lambda: VGG16(**VGG)),
    "resnet20": (resnet20(0.25), lambda: ResNet20(0.25)),
}
# Three groups on one parameter, a constant, and a buffer of integers.
TANGLED = PermutationSpec.from_axes_to_perm(
    {"a": ("P", None), "b": ("Q", "P", None), "c": (None, "P", "R", "Q"), "d": ("R",), "e": (None,), "count": ()}
)
SHAPES = {"a": (12, 9), "b": (11, 12, 3), "c": (2, 12, 10, 11), "d": (10,), "e": (6,)}


@pytest.fixture(params=["imitation", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "imitation":
        with imitated_device() as imitation:
            yield imitation
    elif not (torch.cuda.is_available() and cuda.is_available()):
        pytest.skip("no CUDA device")
    else:
        with Transfers() as real:
            yield real


def state(model, seed, dtype=torch.float32):
    tensors = randomise(model, seed).state_dict()
    return {name: t.to(dtype) if t.is_floating_point() else t.clone() for name, t in tensors.items()}


def tangled(seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return drawn | {"count": torch.tensor(seed)}


def pair(network, dtype=torch.float32):
    if network == "tangled":
        return TANGLED, *({n: t.to(dtype) if n != "count" else t for n, t in tangled(k).items()} for k in (1, 2))
    spec, build = NETWORKS[network]
    return spec, state(build(), 1, dtype), state(build(), 2, dtype)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[group], other[group]) for group in one)


def only_answers_travelled(device, spec, params):
    """No transfer was larger than the permutation of an axis: no weight matrix and no cost matrix is that small."""
    units = max(spec.group_sizes(params).values())
    entries = max(length for tensor in params.values() for length in tensor.shape)
    return max(device.to_host) <= units and max(device.to_device, default=0) <= entries


@pytest.mark.parametrize("method", ["coordinate_descent", "frank_wolfe"])
@pytest.mark.parametrize("network", ["tangled", *NETWORKS])
def test_weight_matching(device, network, method):
    spec, a, b = pair(network)
    if network == "tangled" and method == "frank_wolfe":
        pytest.skip("Frank-Wolfe takes at most two groups on a parameter")
    there = device.put(a), device.put(b)
    found = weight_matching(spec, *there, method=method)
    assert only_answers_travelled(device, spec, a)
    if isinstance(device, FakeDevice):
        assert device.packed > 0
        assert device.solved >= found.stats.solves  # rounding from inside is not counted
    want = weight_matching(spec, a, b, method=method)
    assert same(found.permutation, want.permutation)
    assert found.objective == pytest.approx(want.objective)
    assert all(isinstance(index, np.ndarray) for index in found.permutation.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("network", ["tangled", "vgg16"])
def test_other_precisions_are_matched_as_on_the_cpu_and_come_back(device, network, dtype):
    spec, a, b = pair(network, dtype)
    there = device.put(a), device.put(b)
    found = weight_matching(spec, *there)
    moved = apply_permutation(spec, found.permutation, there[1])
    assert only_answers_travelled(device, spec, a)
    assert all(tensor.device == there[1][name].device for name, tensor in moved.items())
    want = weight_matching(spec, a, b)
    assert same(found.permutation, want.permutation)
    for name, tensor in apply_permutation(spec, want.permutation, b).items():
        back = device.back(moved)[name]
        assert back.dtype == b[name].dtype
        assert torch.equal(back, tensor)


def test_products_in_bfloat16_stay_on_the_device(device):
    spec, a, b = pair("mlp")
    found = weight_matching(spec, device.put(a), device.put(b), compute_dtype="bfloat16")
    assert only_answers_travelled(device, spec, a)
    assert found.objective[-1] == pytest.approx(weight_matching(spec, a, b).objective[-1], rel=0.05)


@pytest.mark.parametrize("kept", [0, 10**6])
def test_matching_again_and_again(device, kept):
    """Whether cost matrices are kept and updated or not, and with an A that changes."""
    spec, a, b = pair("tangled")
    start = random_permutation(spec, 3, a)
    matcher = WeightMatcher(spec, device.put(a), device.put(b), max_cache_bytes=kept)
    beside = WeightMatcher(spec, a, b, max_cache_bytes=kept)
    permutation = start
    for step in range(3):
        a = {name: t + 0.3 * step if t.is_floating_point() else t for name, t in a.items()}
        matcher.update_a(device.put(a))
        beside.update_a(a)
        permutation = matcher.project(permutation, seed=step)
        start = beside.project(start, seed=step)
        assert same(permutation, start)
    found, want = matcher.match(init=start, n_starts=2), beside.match(init=start, n_starts=2)
    assert same(found.permutation, want.permutation)
    assert (found.stats.matrices_updated, found.stats.solves) == (want.stats.matrices_updated, want.stats.solves)
    assert only_answers_travelled(device, spec, a)


def test_specs_that_are_not_plain(device):
    """A group twice on one array, and blocks that stay: by `match_blocks`, each problem on the device."""
    spec = PermutationSpec.from_axes_to_perm(
        {"in": ("P", None), "again": ("P", "P"), "grouped": ("Q", "P"), "out": (None, "Q")},
        sizes={"P": 14, "Q": 12},
        blocks={"Q": 3},
    )
    shapes = {"in": (14, 6), "again": (14, 14), "grouped": (12, 14), "out": (5, 12)}
    a, b = (
        {name: torch.randn(shape, generator=torch.Generator().manual_seed(k)) for name, shape in shapes.items()}
        for k in (1, 2)
    )
    found, want = weight_matching(spec, device.put(a), device.put(b)), weight_matching(spec, a, b)
    assert same(found.permutation, want.permutation)
    assert found.objective == pytest.approx(want.objective)
    assert only_answers_travelled(device, spec, a)


HEADS = PermutationSpec.from_axes_to_perm(
    {
        "q": ("qk", "P"), "k": ("qk", "P"), "v": ("v", "P"), "o": ("P", "v"), "up": ("hidden", "P"),
        "down": ("P", "hidden"), "in": ("P", None), "grouped": ("g", "P"), "out": (None, "g"),
    },
    sizes={"P": 10, "heads": 3, "qk": 12, "v": 15, "hidden": 11, "g": 8},
    blocks={"qk": "heads", "v": "heads", "g": 2},
)  # fmt: skip


def heads(seed):
    generator = torch.Generator().manual_seed(seed)
    size = HEADS.sizes
    return {
        name: torch.randn([size[axis.group] if axis else 6 for axis in axes], generator=generator)
        for name, axes in HEADS.axes.items()
    }


@pytest.mark.parametrize("solver", [True, False])
def test_attention_heads(device, solver, monkeypatch):
    """Units within heads: the problems of all pairs of heads in batches there, and the heads' own there as well."""
    if not solver:
        monkeypatch.setattr(cuda, "why_unusable", lambda: "there is none")
    a, b = heads(1), heads(2)
    found, want = weight_matching(HEADS, device.put(a), device.put(b)), weight_matching(HEADS, a, b)
    assert same(found.permutation, want.permutation)
    assert found.objective == pytest.approx(want.objective)
    if solver:
        assert only_answers_travelled(device, HEADS, a)
    if isinstance(device, FakeDevice):
        assert (device.stacks > 0) == solver


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_blocks_in_blocks(device, at_once, monkeypatch):
    monkeypatch.setattr(_assign, "_COPIED_AT_ONCE", at_once)
    sizes = {"experts": 2, "heads": 6, "units": 24, "gates": 10, "fixed": 9}
    blocks = {"units": "heads", "heads": "experts", "gates": "experts", "fixed": 3}
    rng = np.random.default_rng(5)
    for root in ("experts", "fixed"):
        family = [root] if root == "fixed" else ["experts", "units", "gates"]  # of heads themselves nothing is known
        similarity = {group: rng.normal(size=(sizes[group],) * 2) for group in family}
        there = device.put({group: torch.from_numpy(matrix) for group, matrix in similarity.items()})
        if root == "experts":
            there["gates"] = similarity["gates"]  # in numpy: joins the others
        structure = Structure(sizes, blocks)
        assert same(solve_nested(structure, root, there), solve_nested(structure, root, similarity))
    assert max(device.to_host) <= 24


def test_a_network_on_the_cpu_joins_one_on_the_device(device):
    spec, a, b = pair("mlp")
    found = weight_matching(spec, device.put(a), b)
    assert same(found.permutation, weight_matching(spec, a, b).permutation)
    assert max(device.to_host) <= max(spec.group_sizes(a).values())


def test_without_a_solver_for_devices_cost_matrices_are_solved_on_the_cpu(device, monkeypatch):
    spec, a, b = pair("mlp")
    monkeypatch.setattr(cuda, "why_unusable", lambda: "there is none")
    found = weight_matching(spec, device.put(a), device.put(b))
    assert same(found.permutation, weight_matching(spec, a, b).permutation)
    assert max(device.to_host) == 40 * 40


@pytest.mark.parametrize("similarity", ["inner", "correlation"])
def test_activation_matching(device, similarity):
    spec, build = NETWORKS["resnet20"]
    # In float64: a GPU may compute convolutions of float32 in TF32.
    model, a, b = build(), state(build(), 1, torch.float64), state(build(), 2, torch.float64)
    batches = [torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(k)).double() for k in range(3)]
    want = activation_matching(spec, model, a, b, batches, similarity=similarity, prove=False)
    there = [device.tensor(batch) for batch in batches]
    found = activation_matching(spec, model, device.put(a), device.put(b), there, similarity=similarity, prove=False)
    assert same(found.permutation, want.permutation)
    assert found.objective == pytest.approx(want.objective)
    assert only_answers_travelled(device, spec, a)


@pytest.mark.parametrize("network", ["mlp", "vgg16"])
def test_straight_through(device, network, monkeypatch):
    if not torch.cuda.is_available():  # the imitation has no random numbers of its own
        module = sys.modules["rebasin_fast.straight_through"]
        monkeypatch.setattr(module, "_seeded", lambda torch, device, seed: nullcontext())
    spec, build = NETWORKS[network]
    model, a, b = build(), state(build(), 1, torch.float64), state(build(), 2, torch.float64)
    shape = (20,) if network == "mlp" else (3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, *shape, generator=generator).double(), torch.randint(5, (8,), generator=generator))
        for _ in "12"
    ]
    for module in model.modules():
        module.p = 0.0  # no dropout
    options = {"epochs": 2, "init": "identity", "prove": False, "optimizer": lambda t: torch.optim.SGD(t, lr=0.5)}
    want = straight_through(spec, model, a, b, batches, **options)
    there = [(device.tensor(x), device.tensor(y)) for x, y in batches]
    found = straight_through(spec, model, device.put(a), device.put(b), there, **options)
    assert found.losses == pytest.approx(want.losses, rel=1e-4)
    assert same(found.permutation, want.permutation)
    assert only_answers_travelled(device, spec, a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_many(device, dtype):
    models = [{name: t.to(dtype) if name != "count" else t for name, t in tangled(seed).items()} for seed in range(3)]
    want = merge_many(TANGLED, models)
    found = merge_many(TANGLED, [device.put(model) for model in models])
    assert all(same(*each) for each in zip(found.permutations, want.permutations, strict=True))
    assert only_answers_travelled(device, TANGLED, models[0])
    back = device.back(found.params)
    for name, tensor in want.params.items():
        assert back[name].dtype == tensor.dtype
        torch.testing.assert_close(back[name], tensor)


def test_tied_tensors_stay_one(device):
    spec = PermutationSpec.from_axes_to_perm({"embed": (None, "P"), "w": ("P", None), "head": (None, "P")})
    models = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        shared = torch.randn(6, 9, generator=generator)
        models.append({"embed": shared, "w": torch.randn(9, 4, generator=generator), "head": shared})
    there = [device.put(model) for model in models]
    moved = apply_permutation(spec, random_permutation(spec, 0, models[0]), there[0])
    merged = merge_many(spec, there).params
    assert moved["embed"] is moved["head"]
    assert merged["embed"] is merged["head"]
    assert moved["embed"] is not moved["w"]
