"""After the merge: running statistics are those of the data, repaired units those of the endpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import reference
from models import MLP, VGG16, ResNet20, randomise
from rebasin_fast import (
    ActivationSite,
    PermutationSpec,
    activation_sites,
    evaluate,
    interpolate,
    mlp,
    repair,
    reset_batch_norm,
    resnet20,
    vgg16,
)
from rebasin_fast.datasets import load_digits, split_batches

VGG = {"width_multiplier": 0.125, "classifier_widths": (16,), "spatial": 2}
WIDTHS = (6, 14, 10, 3)


def state(model, seed):
    return {name: tensor.clone() for name, tensor in randomise(model, seed).state_dict().items()}


def inputs(shape, count=16, dtype=torch.float64, seed=5):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fingerprint(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return {n: t.tolist() for n, t in model.state_dict().items()}, [m.training for m in model.modules()], hooks


# Reset


def test_one_batch_gives_what_torch_gives():
    model = ResNet20(0.25).double()
    params, x = state(model, 1), inputs((3, 12, 12))
    got = reset_batch_norm(model, params, [x])
    model.load_state_dict(params)
    torch.optim.swa_utils.update_bn([x], model)
    for name, want in model.state_dict().items():
        torch.testing.assert_close(got[name], want, rtol=1e-10, atol=1e-12)


def test_batches_of_different_sizes_are_pooled():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 6), nn.BatchNorm1d(6)).double()
    params, x = state(model, 1), inputs((4,), 40)
    seen = {"1": [], "4": []}
    model.train().load_state_dict(params)
    for name, noted in seen.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _m, args, noted=noted: noted.append(args[0].numpy()))
    with torch.no_grad():
        for part in x.split([7, 30, 3]):
            model(part)
    got = reset_batch_norm(model, params, x.split([7, 30, 3]))
    for name, noted in seen.items():
        together = np.concatenate(noted[:3])
        np.testing.assert_allclose(got[f"{name}.running_mean"], together.mean(axis=0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(got[f"{name}.running_var"], together.var(axis=0, ddof=1), rtol=1e-12)
        assert got[f"{name}.num_batches_tracked"] == 3


def test_only_statistics_change_and_only_in_the_copy():
    model = ResNet20(0.25)
    model.train()
    model.bn1.eval()
    params = state(model, 2)
    before, kept = fingerprint(model), {name: tensor.clone() for name, tensor in params.items()}
    seen = []
    got = reset_batch_norm(
        model, params, [(inputs((3, 12, 12), dtype=torch.float32), None)] * 2, progress=lambda *now: seen.append(now)
    )
    assert seen == [("reset batch norm", 1, 2), ("reset batch norm", 2, 2)]
    assert fingerprint(model) == before
    for name, tensor in kept.items():
        assert torch.equal(params[name], tensor)
        assert got[name].dtype == tensor.dtype
        statistic = name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
        assert torch.equal(got[name], tensor) != statistic


def test_numpy_parameters_and_tied_tensors():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    params = {name: tensor.numpy() for name, tensor in state(model, 1).items()}
    params["2.weight"] = params["1.weight"]
    got = reset_batch_norm(model, params, [torch.tensor([[1.0, 2.0], [3.0, 2.0]])])
    np.testing.assert_allclose(got["0.running_mean"], [2.0, 2.0])
    np.testing.assert_allclose(got["0.running_var"], [2.0, 0.0])
    assert got["1.weight"] is got["2.weight"]


def test_statistics_that_are_not_tracked_are_left_out():
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False))
    assert list(reset_batch_norm(model, model.state_dict(), [torch.rand(3, 2)])) == ["0.weight", "0.bias"]


def test_reset_names_what_is_wrong():
    model = nn.Sequential(nn.BatchNorm1d(2))
    params = model.state_dict()
    with pytest.raises(ValueError, match="batches is empty"):
        reset_batch_norm(model, params, [])
    with pytest.raises(ValueError, match=r"params does not fit the model; missing: \['0.bias'\]"):
        reset_batch_norm(model, {n: t for n, t in params.items() if n != "0.bias"}, [])
    with pytest.raises(TypeError, match="batch 0 is a int"):
        reset_batch_norm(model, params, [3])


# REPAIR

NETWORKS = {
    "mlp": (mlp(WIDTHS), lambda: MLP(WIDTHS), (6,)),
    "vgg16": (vgg16(**VGG, norm=None), lambda: VGG16(**VGG, norm=None), (3, 64, 64)),
    "resnet20 batch norm": (resnet20(0.25), lambda: ResNet20(0.25), (3, 12, 12)),
    "resnet20 layer norm": (resnet20(0.5, norm="layer_norm"), lambda: ResNet20(0.5, norm="layer_norm"), (3, 24, 24)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    spec, build, shape = NETWORKS[request.param]
    return spec, build().double(), shape


def moments_at(spec, model, params, x):
    """Mean and spread of every unit at every output site, from the model's own forward pass."""
    model.load_state_dict(params)
    found, sizes = {}, spec.group_sizes(params)
    for site in activation_sites(spec, model, "output"):

        def note(_module, _args, output, site=site):
            samples = site.samples(output, sizes[site.group])
            found[site] = samples.mean(dim=0), samples.std(dim=0, unbiased=False)

        handle = model.get_submodule(site.module).register_forward_hook(note)
        with torch.no_grad():
            model.eval()(x)
        handle.remove()
    return found


def test_units_get_the_mean_and_spread_of_the_endpoints(network):
    spec, model, shape = network
    a, b, x = state(model, 1), state(model, 2), inputs(shape, 8)
    merged = interpolate(a, b, 0.25)
    repaired = repair(spec, model, merged, [a, b], [x], weights=[0.75, 0.25])
    at_a, at_b, got = (moments_at(spec, model, params, x) for params in (a, b, repaired))
    for site, (mean, spread) in got.items():
        alive = spread > 1e-9
        want_mean, want_spread = (0.75 * p + 0.25 * q for p, q in zip(at_a[site], at_b[site], strict=True))
        torch.testing.assert_close(mean, want_mean, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(spread[alive], want_spread[alive], rtol=1e-7, atol=1e-8)


def test_repair_agrees_with_the_slow_twin():
    spec, build, shape = NETWORKS["mlp"]
    model = build().double()
    params, x = [state(model, seed) for seed in (1, 2, 3)], inputs(shape, 50)
    merged = {name: sum(p[name] for p in params) / 3 for name in params[0]}
    got = repair(spec, model, merged, params, iter([x]))
    as_numpy = [{name: tensor.numpy() for name, tensor in p.items()} for p in (merged, *params)]
    want = reference.repair_mlp(as_numpy[1:], as_numpy[0], x.numpy(), 3, [1 / 3] * 3)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-9, atol=1e-12)
    in_numpy = repair(spec, model, as_numpy[0], as_numpy[1:], [x])
    for name, array in want.items():
        np.testing.assert_allclose(in_numpy[name], array, rtol=1e-9, atol=1e-12)


def test_what_is_whole_is_left_as_it_is(network):
    spec, model, shape = network
    a, x = state(model, 1), inputs(shape, 8)
    repaired = repair(spec, model, a, [a, a], [x])
    for name, tensor in a.items():
        torch.testing.assert_close(repaired[name], tensor, rtol=1e-7, atol=1e-9)


def test_repair_lowers_the_loss_of_a_careless_mean():
    """Two networks averaged without any matching: most of what is lost is variance."""
    from rebasin_fast.training import make_mlp, train

    data, widths = load_digits(), (64, 48, 48, 10)
    nets = [train(lambda: make_mlp(widths), data, epochs=10, lr=3e-3, seed=seed).model for seed in (0, 1)]
    a, b = (net.state_dict() for net in nets)
    test = split_batches(data.test_x, data.test_y)
    merged, seen = interpolate(a, b, 0.5), []
    repaired = repair(
        mlp(widths), nets[0], merged, [a, b], split_batches(data.train_x, data.train_y),
        progress=lambda *now: seen.append(now),
    )  # fmt: skip
    assert evaluate(nets[0], repaired, test).loss < 0.8 * evaluate(nets[0], merged, test).loss
    assert seen == [("repair", done, 3) for done in (1, 2, 3)]


def test_a_unit_that_never_changes_is_only_shifted():
    spec, model = mlp((2, 2, 1), names=("0", "2")), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    b = {name: -tensor for name, tensor in a.items()} | {"0.bias": a["0.bias"] + 4}
    merged = interpolate(a, b, 0.5)
    assert not merged["0.weight"].any()
    repaired = repair(spec, model, merged, [a, b], [torch.randn(20, 2)])
    assert torch.isfinite(repaired["0.bias"]).all()
    assert torch.equal(repaired["0.weight"], merged["0.weight"])


def test_model_and_parameters_are_untouched():
    spec, build, shape = NETWORKS["resnet20 batch norm"]
    model = build()
    model.train()
    a, b = state(model, 1), state(model, 2)
    merged = interpolate(a, b, 0.5)
    before = fingerprint(model)
    kept = [{name: tensor.clone() for name, tensor in params.items()} for params in (a, b, merged)]
    repair(spec, model, merged, [a, b], [inputs(shape, 4, torch.float32)])
    assert fingerprint(model) == before
    for params, copies in zip((a, b, merged), kept, strict=True):
        assert all(torch.equal(params[name], copies[name]) for name in copies)


def test_repair_names_what_is_wrong():
    spec, model = mlp(WIDTHS), MLP(WIDTHS).double()
    a, x = state(model, 1), inputs((6,))
    run = lambda **other: repair(  # noqa: E731
        **{"spec": spec, "model": model, "merged": a, "endpoints": [a], "batches": [x], **other}
    )
    bare = MLP(WIDTHS, bias=False).double()
    for change, error, message in (
        ({"endpoints": []}, ValueError, "endpoints is empty"),
        ({"endpoints": a}, TypeError, "endpoints is of type dict"),
        ({"weights": [0.5]}, ValueError, r"weights is \[0.5\]; expected 1 numbers that add up to 1"),
        ({"endpoints": [{}]}, ValueError, r"endpoints\[0\] does not fit the model"),
        ({"batches": []}, ValueError, "batches gave no samples at the output of 'layer0'"),
        ({"sites": [ActivationSite("layer1", "P_0", "input")]}, ValueError, "sites holds the input of 'layer1'"),
        (
            {"spec": mlp(WIDTHS, bias=False), "model": bare, "merged": state(bare, 1)},
            ValueError,
            "the output of 'layer0' cannot be corrected: the module has no weight and bias",
        ),
        ({"spec": PermutationSpec.from_axes_to_perm({"x": ("P",)})}, ValueError, r"merged\['x'\] is missing"),
    ):
        with pytest.raises(error, match=message):
            run(**change)
