"""Activation matching: the slow twin's answer from any split of the data, and a model left as it was found."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

import reference
from models import MLP, VGG16, ResNet20, randomise
from rebasin_fast import (
    ActivationSite,
    PermutationSpec,
    activation_matching,
    activation_sites,
    apply_permutation,
    invert,
    mlp,
    random_permutation,
    resnet20,
    vgg16,
)

VGG = {"width_multiplier": 0.125, "classifier_widths": (32, 24)}
NETWORKS = {
    "mlp": (mlp((12, 20, 16, 5)), lambda: MLP((12, 20, 16, 5)), (12,)),
    "vgg16 batch norm": (vgg16(**VGG), lambda: VGG16(**VGG), (3, 32, 32)),
    "resnet20 batch norm": (resnet20(0.5), lambda: ResNet20(0.5), (3, 24, 24)),
    "resnet20 layer norm": (resnet20(0.5, norm="layer_norm"), lambda: ResNet20(0.5, norm="layer_norm"), (3, 24, 24)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    spec, build, shape = NETWORKS[request.param]
    return spec, build().double(), shape


def state(model, seed):
    return {name: tensor.clone() for name, tensor in randomise(model, seed).state_dict().items()}


def inputs(shape, count=24, seed=5, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[group], other[group]) for group in one)


def activations(model, params, x, names):
    """Load the parameters into the model itself, and note the inputs of the modules called `names`."""
    model.load_state_dict(params)
    seen = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, args, name=name: seen.__setitem__(name, args[0].numpy().copy())
        )
        for name in names
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return {name: np.moveaxis(tensor, 1, 0).reshape(tensor.shape[1], -1) for name, tensor in seen.items()}


@pytest.mark.parametrize("similarity", ["inner", "correlation"])
def test_agrees_with_the_slow_twin(network, similarity):
    spec, model, shape = network
    a, b, x = state(model, 1), state(model, 2), inputs(shape)
    found = activation_matching(spec, model, a, b, x.split(10), sites="input", similarity=similarity)
    names = [site.module for site in activation_sites(spec, model)]
    seen_a, seen_b = (activations(model, params, x, names) for params in (a, b))
    for group, sites in found.sites.items():
        tensors = [(seen_a[site.module], seen_b[site.module]) for site in sites]
        if similarity == "correlation" and any(not z.std(axis=1).all() for pair in tensors for z in pair):
            continue  # NumPy has no correlation for a unit that never changes
        want = reference.activation_matching(tensors, similarity == "correlation")
        got = found.permutation[group]
        if similarity == "inner":
            cost = lambda p: sum(((za - zb[p]) ** 2).sum() for za, zb in tensors)  # noqa: B023, E731
        else:
            n = len(got)
            matrices = [np.corrcoef(za, zb)[:n, n:] for za, zb in tensors]
            cost = lambda p: -sum(m[np.arange(n), p].sum() for m in matrices)  # noqa: B023, E731
            assert found.objective[group] == pytest.approx(-cost(got))
        assert cost(got) == pytest.approx(cost(want), rel=1e-9), group  # dead units tie
        assert found.samples[group] == sum(za.shape[1] for za, _ in tensors)


def test_both_sides_are_summed():
    spec, build, shape = NETWORKS["mlp"]
    model = build().double()
    a, b, x = state(model, 1), state(model, 2), inputs(shape, 60)
    found = activation_matching(spec, model, a, b, [x])
    assert [site.side for site in found.sites["P_0"]] == ["input", "output"]
    assert found.samples["P_0"] == 120
    seen = [activations(model, params, x, ["layer1", "layer2"]) for params in (a, b)]
    for group, name, writer in (("P_0", "layer1", "layer0"), ("P_1", "layer2", "layer1")):
        after = [side[name] for side in seen]
        before = []
        for params in (a, b):
            model.load_state_dict(params)
            into = x if writer == "layer0" else torch.relu(model.layer0(x))
            before.append(model.get_submodule(writer)(into).detach().numpy().T)
        assert all(z.std(axis=1).all() for z in after)
        want = reference.activation_matching([tuple(after), tuple(before)], correlation=True)
        assert np.array_equal(found.permutation[group], want)


@pytest.mark.parametrize("similarity", ["inner", "correlation"])
@pytest.mark.parametrize("sites", ["input", "output", "both"])
def test_planted_permutation_is_recovered(network, similarity, sites):
    spec, model, shape = network
    a, x = state(model, 3), inputs(shape)
    planted = random_permutation(spec, seed=4)
    b = apply_permutation(spec, planted, a)
    found = activation_matching(spec, model, a, b, [x], sites=sites, similarity=similarity)
    aligned = apply_permutation(spec, found.permutation, b)
    if sites != "input":  # before the nonlinearity no unit is dead
        assert same(found.permutation, invert(planted))
    # Dead units cannot be told apart, and need not be: the samples do not tell the networks apart either.
    for name, before in activations(model, a, x, [s.module for s in activation_sites(spec, model)]).items():
        after = activations(model, aligned, x, [name])[name]
        np.testing.assert_allclose(after, before, rtol=1e-8, atol=1e-10)


def test_permuted_network_computes_the_same_function(network):
    spec, model, shape = network
    a, b, x = state(model, 1), state(model, 2), inputs(shape)
    found = activation_matching(spec, model, a, b, [x])
    model.eval()
    with torch.no_grad():
        want, got = (
            torch.func.functional_call(model, params, (x,))
            for params in (b, apply_permutation(spec, found.permutation, b))
        )
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))


def correlations(one, other):
    """Return Pearson's correlations of the columns; zeros where one never changes."""
    one, other = one - one.mean(0), other - other.mean(0)
    scale = np.sqrt((one**2).sum(0))[:, None] * np.sqrt((other**2).sum(0))
    return np.divide(one.T @ other, scale, out=np.zeros_like(scale), where=scale > 1e-12)


def test_with_a_loss_the_correlations_of_its_gradients_are_added():
    spec, build, shape = NETWORKS["mlp"]
    model = build().double()
    a, b, x = state(model, 1), state(model, 2), inputs(shape, 60)
    targets = torch.arange(60) % 5
    ways = []
    for params in (a, b):
        before = [(x @ params["layer0.weight"].T + params["layer0.bias"]).requires_grad_()]
        after = [before[0].relu()]
        before.append(after[0] @ params["layer1.weight"].T + params["layer1.bias"])
        after.append(before[1].relu())
        outputs = after[1] @ params["layer2.weight"].T + params["layer2.bias"]
        tensors = [*before, *after]
        gradients = torch.autograd.grad(nn.functional.cross_entropy(outputs, targets, reduction="sum"), tensors)
        ways.append([tensor.detach().numpy() for tensor in (*tensors, *gradients)])
    batches = list(zip(x.split(25), targets.split(25), strict=True))  # the last one is shorter
    found = activation_matching(spec, model, a, b, batches, loss=nn.functional.cross_entropy)
    for k, group in enumerate(("P_0", "P_1")):
        S = sum(correlations(one, other) for one, other in zip(*(way[k::2] for way in ways), strict=True))
        rows, columns = linear_sum_assignment(S, maximize=True)
        assert found.objective[group] == pytest.approx(S[rows, columns].sum(), rel=1e-9)
        assert S[rows, found.permutation[group]].sum() == pytest.approx(S[rows, columns].sum(), rel=1e-9)
    assert found.samples == activation_matching(spec, model, a, b, [x]).samples


def test_with_a_loss_planted_permutations_come_back(network):
    spec, model, shape = network
    a, x = state(model, 3), inputs(shape)
    planted = random_permutation(spec, seed=4)
    batches = [(x, torch.arange(len(x)) % 5)]
    b = apply_permutation(spec, planted, a)
    found = activation_matching(spec, model, a, b, batches, loss=nn.functional.cross_entropy)
    assert same(found.permutation, invert(planted))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_with_a_loss_the_model_is_left_as_it_was(off):
    spec, build, shape = NETWORKS["resnet20 batch norm"]
    model = randomise(build(), 3).train()
    model.bn1.eval()
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(k % 2 == 0)
        parameter.grad = torch.full_like(parameter, k)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    x, targets = inputs(shape, 12, dtype=torch.float32), torch.arange(12) % 5
    a, b = ({name: tensor.clone() for name, tensor in randomise(build(), seed).state_dict().items()} for seed in (1, 2))
    a["conv1.weight"].requires_grad_()
    with off():  # of the caller's: gradients are ours to switch on
        found = activation_matching(spec, model, a, b, [(x, targets)], loss=nn.functional.cross_entropy)
        assert not torch.is_grad_enabled()
    plain = activation_matching(spec, model, a, b, [x])
    assert all(found.objective[group] != objective for group, objective in plain.objective.items())
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for k, parameter in enumerate(model.parameters()):
        assert parameter.requires_grad == (k % 2 == 0)
        assert torch.equal(parameter.grad, torch.full_like(parameter, k))
    assert [name for name, tensor in a.items() if tensor.requires_grad] == ["conv1.weight"]
    assert all(tensor.grad is None for params in (a, b) for tensor in params.values())


def test_gradients_of_half_precision_neither_vanish_nor_overflow():
    spec, build, shape = NETWORKS["mlp"]
    model = build()
    a, b = ({name: t.float() for name, t in state(model, seed).items()} for seed in (1, 2))
    x = inputs(shape, 66_000, dtype=torch.float32)  # the mean's gradients are below float16's least number
    targets = torch.arange(len(x)) % 5
    loss = lambda outputs, y: 1e-3 * nn.functional.cross_entropy(outputs.float(), y).to(outputs.dtype)  # noqa: E731
    want = activation_matching(spec, model, a, b, [(x, targets)], loss=loss)
    half = [{name: tensor.half() for name, tensor in params.items()} for params in (a, b)]
    found = activation_matching(spec, model, *half, [(x.half(), targets)], loss=loss)
    for group, objective in want.objective.items():
        assert found.objective[group] == pytest.approx(objective, rel=0.01)


def test_what_the_loss_does_not_depend_on_adds_nothing():
    """The second layer's units have no way to it; the first one's have one in A alone."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.aside, self.leave = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 2)
            self.register_buffer("open", torch.ones(()))

        def forward(self, x):
            z = torch.relu(self.enter(x))
            return self.leave(z if self.open > 0 else z.detach()), torch.relu(self.aside(z))

    spec = PermutationSpec.from_axes_to_perm(
        {
            "enter.weight": ("P", None),
            "enter.bias": ("P",),
            "aside.weight": ("Q", "P"),
            "aside.bias": ("Q",),
            "leave.weight": (None, "P"),
            "leave.bias": (None,),
            "open": (),
        }
    )
    model = Gate().double()
    a, b, x = state(model, 1), state(model, 2), inputs((4,), 40)
    batches = [(x, torch.arange(len(x)) % 2)]
    options = {"loss": lambda outputs, y: nn.functional.cross_entropy(outputs[0], y), "prove": False}
    plain = activation_matching(spec, model, a, b, [x], prove=False)
    for open_in_b in (1, 0):
        closed = b | {"open": torch.tensor(float(open_in_b), dtype=torch.float64)}
        found = activation_matching(spec, model, a, closed, batches, **options)
        assert (found.objective["P"] > plain.objective["P"]) == bool(open_in_b)
        assert found.objective["Q"] == plain.objective["Q"]


def test_no_split_order_or_packing_of_the_batches_matters():
    spec, build, shape = NETWORKS["resnet20 batch norm"]
    model = build().double()
    a, b, x = state(model, 1), state(model, 2), inputs(shape, 12)
    want = activation_matching(spec, model, a, b, [x], sites="output")  # no dead units there, hence no ties
    y = torch.zeros(12)
    for batches in (
        x.split(1),
        [x[6:], x[:6]],
        ((part, y) for part in x.split(5)),
        [[x, y, "more"]],
        [x[:0], x],
    ):
        got = activation_matching(spec, model, a, b, batches, sites="output")
        assert same(got.permutation, want.permutation)
        assert got.objective == pytest.approx(want.objective, rel=1e-12)
        assert got.samples == want.samples


def test_the_model_is_left_as_it_was_also_after_an_error():
    spec, build, shape = NETWORKS["vgg16 batch norm"]
    model = randomise(build(), 7)
    model.train()
    model.features[1].eval()
    flags = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    a, b = ({name: tensor.clone() for name, tensor in randomise(build(), seed).state_dict().items()} for seed in (1, 2))
    copies = [{name: tensor.clone() for name, tensor in params.items()} for params in (a, b)]
    x = inputs(shape, 4, dtype=torch.float32)
    activation_matching(spec, model, a, b, [x])
    with pytest.raises(TypeError, match="batch 1 is a str"):
        activation_matching(spec, model, a, b, [x, "no batch"])
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    for params, copy in zip((a, b), copies, strict=True):
        assert all(torch.equal(params[name], copy[name]) for name in copy)


def test_no_batch_is_kept():
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def batches():
        nonlocal most
        for seed in range(5):
            x = inputs((12,), 50, seed)
            alive.add(x)
            most = max(most, len(alive))
            yield x

    spec, build, _ = NETWORKS["mlp"]
    model = build().double()
    activation_matching(spec, model, state(model, 1), state(model, 2), batches())
    assert most <= 2


def test_in_place_activations_do_not_spoil_outputs():
    spec = mlp((6, 8, 3), names=("0", "2"))
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    in_place = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)).double()
    a, b, x = state(plain, 1), state(plain, 2), inputs((6,), 40)
    want, got = (activation_matching(spec, m, a, b, [x], sites="output") for m in (plain, in_place))
    assert got.objective == want.objective
    batches = [(x, torch.arange(len(x)) % 3)]
    options = {"sites": "output", "loss": nn.functional.cross_entropy}
    with_loss, got = (activation_matching(spec, m, a, b, batches, **options) for m in (plain, in_place))
    assert got.objective == with_loss.objective
    assert all(got.objective[group] > objective for group, objective in want.objective.items())
    named = activation_matching(spec, plain, a, b, [x], sites={"P_0": ["1"]})
    assert same(named.permutation, activation_matching(spec, plain, a, b, [x], sites="input").permutation)
    assert named.sites == {"P_0": (ActivationSite("1", "P_0"),)}


def test_a_module_that_is_called_twice_gives_two_tensors():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.inner, self.leave = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = torch.relu(self.enter(x))
            return self.leave(torch.relu(self.inner(torch.relu(self.inner(x)))))

    spec = PermutationSpec.from_axes_to_perm(
        {
            "enter.weight": ("P", None),
            "enter.bias": ("P",),
            "inner.weight": (None, None),
            "inner.bias": (None,),
            "leave.weight": (None, None),
            "leave.bias": (None,),
        }
    )
    model = Twice().double()
    a, b = state(model, 1), state(model, 2)
    run = lambda **options: activation_matching(  # noqa: E731
        spec, model, a, b, [inputs((4,), 9)], sites={"P": ["inner"]}, **options
    )
    assert run(prove=False).samples == {"P": 18}
    with pytest.raises(ValueError, match=r"spec is not one of model: .* by these groups alone: P\."):
        run()


def test_float16_and_numpy_state_dicts():
    spec, build, shape = NETWORKS["mlp"]
    model = build()
    a, b = ({name: t.float() for name, t in state(model, seed).items()} for seed in (1, 2))
    x = inputs(shape, dtype=torch.float32)
    want = activation_matching(spec, model, a, b, [x])
    as_numpy = [{name: t.numpy() for name, t in params.items()} for params in (a, b)]
    assert same(activation_matching(spec, model, *as_numpy, [x]).permutation, want.permutation)
    half = [{name: t.bfloat16() for name, t in params.items()} for params in (a, b)]
    found = activation_matching(spec, model, *half, [x.bfloat16()])
    aligned = apply_permutation(spec, found.permutation, half[1])
    assert all(tensor.dtype == torch.bfloat16 for tensor in aligned.values())


def test_progress():
    spec, build, shape = NETWORKS["mlp"]
    model = build().double()
    seen = []
    batches = list(inputs(shape).split(10))
    activation_matching(spec, model, state(model, 1), state(model, 2), batches, progress=lambda *now: seen.append(now))
    assert seen == [("activation matching", done, 3) for done in (1, 2, 3)]


def test_bad_input_is_named():
    spec, build, shape = NETWORKS["mlp"]
    model = build().double()
    a, b, x = state(model, 1), state(model, 2), inputs(shape)
    run = lambda **other: activation_matching(  # noqa: E731
        **{"spec": spec, "model": model, "params_a": a, "params_b": b, "batches": [x], **other}
    )
    missing = {name: tensor for name, tensor in b.items() if name != "layer1.bias"}
    steep = lambda out, _: (out - out.detach()).abs().sqrt().mean()  # noqa: E731  # finite, its gradient not
    for change, error, message in (
        ({"sites": "everywhere"}, ValueError, "sites is 'everywhere'; expected 'input', 'output', 'both' or"),
        ({"similarity": "cosine"}, ValueError, "similarity is 'cosine'; expected 'inner' or 'correlation'"),
        ({"params_b": missing}, ValueError, r"params_b\['layer1.bias'\] is missing"),
        ({"params_a": a | {"extra": x}}, ValueError, r"params_a\['extra'\] is unknown"),
        ({"params_a": a | {"layer0.weight": x}}, ValueError, r"params_a\['layer0.weight'\] has shape"),
        ({"batches": []}, ValueError, r"no samples of the groups \['P_0', 'P_1'\]"),
        ({"batches": [x[:0]]}, ValueError, "expected at least one example"),
        ({"batches": [x * float("nan")]}, ValueError, "the model's outputs hold no finite number"),
        ({"batches": [x, x * float("nan")]}, ValueError, "activations of group 'P_0' hold NaN or infinity"),
        ({"model": 3}, TypeError, "model is a int"),
        ({"spec": 3}, TypeError, "spec is of type int"),
        ({"loss": "cross_entropy"}, TypeError, "loss is of type str; expected a function of outputs and targets"),
        ({"loss": lambda out, _: out}, TypeError, "batch 0 is a Tensor; expected a pair"),
        ({"loss": lambda out, _: out, "batches": [{"x": x}]}, TypeError, "batch 0 is a dict; expected a pair"),
        ({"loss": lambda out, _: out, "batches": [(x, x)]}, ValueError, r"loss returned a tensor of shape \(24, 5\)"),
        ({"loss": lambda out, _: out, "batches": [(x,)]}, ValueError, "batch 0 has 1 items; expected 2"),
        ({"loss": lambda out, _: out, "batches": [(x, None)]}, TypeError, "targets of batch 0 are NoneType"),
        ({"loss": lambda out, _: out, "batches": [(x[:0], x[:0])]}, ValueError, "expected at least one example"),
        ({"loss": lambda out, _: out.sum() / 0, "batches": [(x, x)]}, ValueError, "the loss of batch 0 is (nan|-?inf)"),
        ({"loss": lambda _, y: y.mean(), "batches": [(x, x)]}, ValueError, "no gradient passes through the loss of b"),
        ({"loss": lambda *_: 1.0, "batches": [(x, x)]}, ValueError, "no gradient passes through the loss of batch 0"),
        ({"loss": steep, "batches": [(x, x)]}, ValueError, "the gradients of the loss in group 'P_0' hold NaN"),
        ({"loss": lambda out, _: out, "similarity": "inner"}, ValueError, "a loss is given with similarity='inner'"),
        ({"process_group": "world"}, TypeError, "process_group is of type str"),
    ):
        with pytest.raises(error, match=message):
            run(**change)
