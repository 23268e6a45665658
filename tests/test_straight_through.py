"""The straight-through estimator: the slow twin's way step by step, the best permutation kept, the model left alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import reference
from models import MLP, VGG16, ResNet20, randomise
from rebasin_fast import (
    Axis,
    PermutationSpec,
    apply_permutation,
    evaluate,
    interpolate,
    invert,
    mlp,
    random_permutation,
    resnet20,
    straight_through,
    vgg16,
    weight_matching,
)
from rebasin_fast._projection import MatchedAnew, Projection, projection_for
from rebasin_fast.datasets import load_digits, split_batches
from rebasin_fast.training import make_mlp, train

WIDTHS = (6, 14, 10, 3)
SPEC = mlp(WIDTHS)
SMALL_VGG = {"width_multiplier": 0.125, "classifier_widths": (16,), "spatial": 2}


def state(model, seed):
    return {name: tensor.clone() for name, tensor in randomise(model, seed).state_dict().items()}


def batches(count=4, size=30, dtype=torch.float64, inputs=6, classes=3):
    generator = torch.Generator().manual_seed(11)
    return [
        (
            torch.randn(size, inputs, generator=generator, dtype=dtype),
            torch.randint(classes, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def sgd(lr, momentum=0.0):
    return lambda tensors: torch.optim.SGD(tensors, lr=lr, momentum=momentum)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[group], other[group]) for group in one)


# The projection alone


@pytest.mark.parametrize(
    ("spec", "build"),
    [
        (SPEC, lambda: MLP(WIDTHS)),
        (resnet20(0.5), lambda: ResNet20(0.5)),
        (vgg16(**SMALL_VGG), lambda: VGG16(**SMALL_VGG)),
    ],
    ids=["mlp", "resnet20", "vgg16"],
)
@pytest.mark.parametrize("noise", [0.02, 1.0])
@pytest.mark.parametrize("kind", [Projection, MatchedAnew])
def test_projections_are_local_optima_of_weight_matching(kind, spec, build, noise):
    """However they were come by: corrected costs, warm prices, B kept permuted."""
    model = build().double()
    a, b = state(model, 1), state(model, 2)
    generator = torch.Generator().manual_seed(3)
    projection = kind(spec, b, random_permutation(spec, 4), seed=5)
    target = dict(a)
    for step in range(4):
        projection.project(target)
        for param, array in projection.permuted.items():
            want = reference.permuted(spec, projection.permutation, param, b[param].numpy())
            np.testing.assert_array_equal(array.numpy(), want)
        again = weight_matching(spec, target, b, init=projection.permutation, max_sweeps=1)
        assert same(again.permutation, projection.permutation), step
        assert again.converged
        for param in target:
            if target[param].is_floating_point():
                spread = float(a[param].std()) if a[param].numel() > 1 else 1.0
                added = torch.randn(a[param].shape, generator=generator, dtype=torch.float64)
                target[param] = target[param] + noise * spread * added


def test_a_projection_starts_where_it_is_told_and_finds_what_was_planted():
    a = state(MLP(WIDTHS).double(), 1)
    planted = random_permutation(SPEC, 2)
    b = apply_permutation(SPEC, planted, a)
    projection = Projection(SPEC, b, random_permutation(SPEC, 3), seed=0)
    assert projection.project(a)
    assert same(projection.permutation, invert(planted))
    assert not projection.project(a)


def test_axes_that_are_not_plain_are_matched_anew():
    class Other(Axis):
        """What a later kind of axis may be."""

    a = state(MLP(WIDTHS).double(), 1)
    axes = {param: tuple(axis and Other(axis.group) for axis in SPEC.axes[param]) for param in SPEC.axes}
    start = random_permutation(SPEC, 1)
    assert isinstance(projection_for(SPEC, a, start, 0), Projection)
    assert isinstance(projection_for(PermutationSpec(axes, sizes=SPEC.sizes), a, start, 0), MatchedAnew)
    twice = PermutationSpec.from_axes_to_perm({"w": ("P", "P")}, sizes={"P": 3})
    assert isinstance(projection_for(twice, {"w": np.eye(3)}, {"P": np.arange(3)}, 0), MatchedAnew)


# The whole


class InOrder:
    """No sequence, hence not shuffled."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


def gradient_of(model, data):
    def gradient(params, step):
        leaves = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
        x, y = data[step % len(data)]
        loss = nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
        loss.backward()
        return float(loss.detach()), {name: leaf.grad.numpy() for name, leaf in leaves.items()}

    return gradient


@pytest.mark.parametrize("seed", range(3))
def test_goes_the_way_of_the_slow_twin(seed):
    model = MLP(WIDTHS).double()
    a = state(model, seed)
    noise = state(model, 10 + seed)
    noisy = {name: tensor + 0.5 * noise[name] for name, tensor in a.items()}
    b = apply_permutation(SPEC, random_permutation(SPEC, seed), noisy)
    data = batches(4)
    as_numpy = ({name: tensor.numpy() for name, tensor in params.items()} for params in (a, b))
    losses, permutations = reference.straight_through(SPEC, *as_numpy, gradient_of(model, data), 12, 0.3, 0.9)
    found = straight_through(SPEC, model, a, b, InOrder(data), epochs=3, optimizer=sgd(0.3, 0.9), init="identity")
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    best = int(np.argmin(losses))
    assert found.step == best
    assert found.loss == pytest.approx(losses[best])
    assert same(found.permutation, permutations[best])
    assert found.stats.changes == sum(not same(p, q) for p, q in pairwise(permutations))


def test_planted_permutation_is_recovered():
    for spec, build, shape in (
        (SPEC, lambda: MLP(WIDTHS), (6,)),
        (resnet20(0.25), lambda: ResNet20(0.25), (3, 16, 16)),
    ):
        model = build().double()
        a, planted = state(model, 1), random_permutation(spec, seed=2)
        data = [(torch.randn(8, *shape, dtype=torch.float64), torch.randint(3, (8,)))]
        found = straight_through(spec, model, a, apply_permutation(spec, planted, a), data, epochs=1)
        assert same(found.permutation, invert(planted))


def test_permuted_network_computes_the_same_function():
    model = MLP(WIDTHS).double()
    a, b, data = state(model, 1), state(model, 2), batches()
    found = straight_through(SPEC, model, a, b, data, epochs=5, optimizer=sgd(1.0, 0.9))
    assert found.stats.changes > 0
    x = data[0][0]
    want, got = (
        torch.func.functional_call(model, params, (x,)) for params in (b, apply_permutation(SPEC, found.permutation, b))
    )
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module")
def digits():
    """Two small networks, trained apart on real images."""
    data = load_digits()
    widths = (64, 32, 32, 10)
    nets = [train(lambda: make_mlp(widths), data, epochs=12, lr=3e-3, seed=seed).model.state_dict() for seed in (0, 1)]
    return widths, nets, data


@pytest.mark.parametrize("init", ["identity", "weight_matching", random_permutation(SPEC, 7)])
def test_starts(init):
    model = MLP(WIDTHS).double()
    a, planted = state(model, 1), random_permutation(SPEC, 2)
    found = straight_through(SPEC, model, a, apply_permutation(SPEC, planted, a), batches(), epochs=1, init=init)
    assert same(found.permutation, invert(planted))


def test_held_out_loss_is_the_least_met_and_no_worse_than_by_weight_matching(digits):
    widths, (a, b), data = digits
    spec, model = mlp(widths), make_mlp(widths)
    held_out = split_batches(data.test_x, data.test_y)
    found = straight_through(
        spec, model, a, b, split_batches(data.train_x, data.train_y, 200), epochs=8, validation=iter(held_out),
        optimizer=sgd(0.3, 0.9),
    )  # fmt: skip
    assert len(found.validation) == 9
    assert found.loss == min(found.validation)
    midpoint = interpolate(a, apply_permutation(spec, found.permutation, b), 0.5)
    assert evaluate(model, midpoint, held_out).loss == pytest.approx(found.loss, rel=1e-5)
    assert found.loss < found.validation[0]
    matched = apply_permutation(spec, weight_matching(spec, a, b).permutation, b)
    assert found.loss <= evaluate(model, interpolate(a, matched, 0.5), held_out).loss


def test_repeatable_and_the_model_is_left_as_it_was():
    class Noisy(nn.Sequential):
        """Dropout draws from the global generator."""

    model = Noisy(nn.Linear(6, 14), nn.BatchNorm1d(14), nn.ReLU(), nn.Dropout(0.5), nn.Linear(14, 3))
    model[3].eval()
    spec = _spec_of_noisy()
    a, b = state(model, 1), state(model, 2)
    copies = [{name: tensor.clone() for name, tensor in params.items()} for params in (a, b)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = batches(dtype=torch.float32)
    flags = [module.training for module in model.modules()]
    generator = torch.random.get_rng_state()
    one = straight_through(spec, model, a, b, data, epochs=3, seed=4)
    torch.rand(5)
    two = straight_through(spec, model, a, b, data, epochs=3, seed=4, validation=data)
    assert one.losses == two.losses
    assert one.losses != straight_through(spec, model, a, b, data, epochs=3, seed=5).losses
    torch.random.set_rng_state(generator)
    straight_through(spec, model, a, b, data, epochs=1, seed=4)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    for params, copy in zip((a, b), copies, strict=True):
        assert all(torch.equal(params[name], copy[name]) for name in copy)


def _spec_of_noisy():
    names = {"0.weight": ("P", None), "0.bias": ("P",), "4.weight": (None, "P"), "4.bias": (None,)}
    norm = {f"1.{part}": ("P",) for part in ("weight", "bias", "running_mean", "running_var")}
    return PermutationSpec.from_axes_to_perm(names | norm | {"1.num_batches_tracked": ()})


def test_optimiser_loss_numpy_and_progress():
    model = MLP(WIDTHS)
    a, b = ({name: t.float() for name, t in state(model, seed).items()} for seed in (1, 2))
    as_numpy = [{name: t.numpy() for name, t in params.items()} for params in (a, b)]
    data, seen = batches(dtype=torch.float32), []
    targets = [(x, torch.zeros(len(x), 3)) for x, _ in data]
    found = straight_through(
        SPEC,
        model,
        *as_numpy,
        targets,
        epochs=2,
        loss=nn.functional.mse_loss,
        optimizer=lambda tensors: torch.optim.Adam(tensors, lr=1e-2),
        progress=lambda *now: seen.append(now),
    )
    assert seen == [("straight-through", done, 8) for done in range(1, 9)]
    assert found.stats.steps == len(found.losses) == 8
    assert 0 < found.stats.projection_seconds < found.stats.total_seconds
    assert found.loss == min(found.losses)


def test_narrow_floats_are_matched_in_float32():
    model = MLP(WIDTHS).bfloat16()
    a = {name: tensor.bfloat16() for name, tensor in state(MLP(WIDTHS), 1).items()}
    planted = random_permutation(SPEC, 2)
    data = batches(dtype=torch.bfloat16)
    found = straight_through(SPEC, model, a, apply_permutation(SPEC, planted, a), data, epochs=1)
    assert same(found.permutation, invert(planted))


def test_bad_input_is_named():
    model = MLP(WIDTHS).double()
    a, b, data = state(model, 1), state(model, 2), batches()
    run = lambda **other: straight_through(  # noqa: E731
        **{"spec": SPEC, "model": model, "params_a": a, "params_b": b, "batches": data, **other}
    )
    missing = {name: tensor for name, tensor in b.items() if name != "layer1.bias"}
    nan = a | {"layer1.bias": torch.full((10,), float("nan"), dtype=torch.float64)}
    for change, error, message in (
        ({"spec": 3}, TypeError, "spec is of type int"),
        ({"model": 3}, TypeError, "model is a int"),
        ({"params_b": missing}, ValueError, r"params_b does not fit the model; missing: \['layer1.bias'\]"),
        ({"params_a": a | {"more": a["layer1.bias"]}}, ValueError, r"params_a does not fit .* unknown: \['more'\]"),
        ({"params_a": nan}, ValueError, r"params_a\['layer1.bias'\] holds NaN"),
        ({"params_b": {n: t.float() for n, t in b.items()}}, ValueError, "has dtype torch.float32; expected torch.fl"),
        ({"batches": []}, ValueError, "batches holds no examples"),
        ({"batches": [data[0][0]]}, TypeError, "batch 0 is a Tensor; expected a pair"),
        ({"epochs": 0}, ValueError, "epochs is 0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": "x"}, TypeError, "seed is 'x'"),
        ({"init": "random"}, ValueError, "init is 'random'"),
        ({"init": {}}, ValueError, "group 'P_0' is missing"),
        ({"loss": lambda outputs, _: outputs}, ValueError, r"loss returned a tensor of shape \(30, 3\)"),
        ({"loss": lambda outputs, _: outputs.sum() * float("inf")}, ValueError, "the loss at step 0 is (inf|nan)"),
    ):
        with pytest.raises(error, match=message):
            run(**change)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_are_switched_on_where_the_caller_has_them_off(off):
    model, a, b = MLP(WIDTHS).double(), state(MLP(WIDTHS).double(), 1), state(MLP(WIDTHS).double(), 2)
    data = batches()
    want = straight_through(SPEC, model, a, b, data, epochs=2)
    with off():
        got = straight_through(SPEC, model, a, b, data, epochs=2)
        assert not torch.is_grad_enabled()
    assert got.losses == want.losses


def test_empty_batches_are_passed_over():
    model, a, b = MLP(WIDTHS).double(), state(MLP(WIDTHS).double(), 1), state(MLP(WIDTHS).double(), 2)
    full = batches(3)
    empty = full[0][0][:0], full[0][1][:0]
    with_empty, want = (
        straight_through(SPEC, model, a, b, InOrder(given), epochs=2) for given in ([empty, *full, empty], full)
    )
    assert with_empty.losses == want.losses
    with pytest.raises(ValueError, match="batches holds no examples"):
        straight_through(SPEC, model, a, b, [empty], epochs=2)


def test_an_optimiser_may_look_at_several_points_in_a_step():
    """LBFGS asks for the loss again where it has gone: projected there, and differentiated."""
    model, a, b = MLP(WIDTHS).double(), state(MLP(WIDTHS).double(), 1), state(MLP(WIDTHS).double(), 2)
    asked = []

    def loss(outputs, targets):
        found = nn.functional.cross_entropy(outputs, targets)
        asked.append(float(found.detach()))
        return found

    newton = lambda tensors: torch.optim.LBFGS(tensors, lr=0.5, max_iter=4)  # noqa: E731
    found = straight_through(SPEC, model, a, b, batches(2), epochs=2, optimizer=newton, loss=loss)
    assert found.stats.steps == len(found.losses) == 4
    assert len(asked) > 4
    assert found.losses[0] == asked[0]
    assert set(found.losses) <= set(asked)
    assert asked[2] != asked[0]  # units have moved within the first step

    def plain(tensors):
        """Like SGD, and asks for nothing."""

        class Plain(torch.optim.Optimizer):
            def step(self, closure=None):
                for tensor in tensors:
                    tensor.data.sub_(tensor.grad, alpha=0.1)

        return Plain(tensors, {})

    by_hand = straight_through(SPEC, model, a, b, batches(), epochs=3, optimizer=plain)
    assert by_hand.losses == straight_through(SPEC, model, a, b, batches(), epochs=3, optimizer=sgd(0.1)).losses


def test_what_the_loss_and_the_optimiser_give_is_checked():
    model, a, b = MLP(WIDTHS).double(), state(MLP(WIDTHS).double(), 1), state(MLP(WIDTHS).double(), 2)
    entropy = nn.functional.cross_entropy
    held_out = lambda o, t: entropy(o, t) * (1 if torch.is_grad_enabled() else float("nan"))  # noqa: E731
    for options, error, message in (
        ({"loss": "cross_entropy"}, TypeError, "loss is of type str; expected a function"),
        ({"optimizer": "adam"}, TypeError, "optimizer is of type str; expected a function"),
        ({"optimizer": lambda _: None}, TypeError, "optimizer returned a NoneType; expected a torch.optim.Optimizer"),
        ({"loss": lambda o, t: entropy(o.detach(), t)}, ValueError, "no gradient passes through the loss at step 0"),
        ({"loss": lambda *_: 1.0}, ValueError, "no gradient passes through the loss at step 0"),
        ({"loss": lambda o, _: o}, ValueError, r"loss returned a tensor of shape \(30, 3\)"),
        ({"loss": held_out, "validation": batches(1)}, ValueError, "the loss on the held-out data is nan"),
        ({"params_b": None}, TypeError, "params_b is of type NoneType; expected a state dict"),
    ):
        with pytest.raises(error, match=message):
            straight_through(
                **{"spec": SPEC, "model": model, "params_a": a, "params_b": b, "batches": batches()} | options
            )
