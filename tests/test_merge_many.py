"""MergeMany: the twin's answer, the distance never rises, models as dicts and as files, and what is wrong is named."""

from __future__ import annotations

import sys
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import reference
from models import MLP, ResNet20, randomise
from rebasin_fast import (
    PermutationSpec,
    apply_permutation,
    compose,
    interpolate,
    invert,
    merge_many,
    mlp,
    random_permutation,
    resnet20,
    weight_matching,
)
from rebasin_fast._checkpoint import load_parameters, load_some

WIDTHS = (6, 16, 12, 4)
SPEC = mlp(WIDTHS)


def model(seed, dtype=np.float64, widths=WIDTHS):
    rng = np.random.default_rng(seed)
    params = {}
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        params[f"layer{k}.weight"] = rng.standard_normal((outputs, inputs)).astype(dtype)
        params[f"layer{k}.bias"] = rng.standard_normal(outputs).astype(dtype)
    return params


def noisy_copies(count, noise=0.2):
    """One network, shuffled and with noise: the right answer is beyond doubt."""
    base, rng = model(0), np.random.default_rng(1)
    planted = [random_permutation(SPEC, seed) for seed in range(count)]
    noises = [{name: noise * rng.standard_normal(x.shape) for name, x in base.items()} for _ in range(count)]
    noisy = [{name: x + added[name] for name, x in base.items()} for added in noises]
    return [apply_permutation(SPEC, p, params) for p, params in zip(planted, noisy, strict=True)], planted


def as_torch(params, dtype=torch.float64):
    return {name: torch.as_tensor(x).detach().to(dtype, copy=True) for name, x in params.items()}


def equal(one, other):
    return len(one) == len(other) and all(
        p.keys() == q.keys() and all(np.array_equal(p[g], q[g]) for g in p) for p, q in zip(one, other, strict=True)
    )


def mean_of_aligned(spec, models, permutations):
    aligned = [apply_permutation(spec, p, params) for p, params in zip(permutations, models, strict=True)]
    return {name: sum(params[name] for params in aligned) / len(aligned) for name in aligned[0]}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [2, 3, 5])
def test_agrees_with_the_slow_twin(count, seed):
    models, _ = noisy_copies(count)
    merged = merge_many(SPEC, models, init="identity", seed=seed)
    want, permutations = reference.merge_many(SPEC, models, seed)
    assert merged.converged
    assert equal(merged.permutations, permutations)
    for name, array in want.items():
        np.testing.assert_allclose(merged.params[name], array, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("init", ["identity", "incremental"])
def test_unrelated_models_come_as_close_as_by_the_slow_twin(init):
    models = [model(seed) for seed in range(4)]
    found, want = [], []
    for seed in range(5):
        found.append(merge_many(SPEC, models, init=init, seed=seed).distance[-1])
        _, permutations = reference.merge_many(SPEC, models, seed)
        aligned = [apply_permutation(SPEC, p, params) for p, params in zip(permutations, models, strict=True)]
        want.append(reference.mean_squared_distance(SPEC, aligned))
    assert np.median(found) <= 1.02 * np.median(want)


@pytest.mark.parametrize("init", ["identity", "incremental"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_planted_permutations_are_recovered(init, kind):
    models, planted = noisy_copies(5)
    models = [as_torch(params) for params in models] if kind == "torch" else models
    merged = merge_many(SPEC, models, init=init)
    assert merged.converged
    relative = [compose(p, q) for p, q in zip(merged.permutations, planted, strict=True)]
    assert equal(relative, [relative[0]] * 5)


@pytest.mark.parametrize("init", ["identity", "incremental"])
def test_the_distance_is_what_it_says_and_never_rises(init):
    models = [model(seed) for seed in range(5)]
    merged = merge_many(SPEC, models, init=init, seed=2)
    assert len(merged.distance) == merged.sweeps + 1
    assert (np.diff(merged.distance) <= 1e-12 * merged.distance[0]).all()
    assert merged.distance[-1] < merged.distance[0]
    aligned = [apply_permutation(SPEC, p, params) for p, params in zip(merged.permutations, models, strict=True)]
    assert merged.distance[-1] == pytest.approx(reference.mean_squared_distance(SPEC, aligned), rel=1e-9)


def test_nothing_is_left_to_gain():
    models = [model(seed) for seed in range(4)]
    merged = merge_many(SPEC, models)
    assert merged.converged
    again = merge_many(SPEC, models, init=merged.permutations, seed=9)
    assert equal(again.permutations, merged.permutations)
    assert (again.sweeps, again.solved, again.converged) == (1, 4, True)


def test_two_models_are_matched_like_a_pair():
    a, b = model(1), model(2)
    merged = merge_many(SPEC, [a, b], init="identity", seed=0)
    between = compose(invert(merged.permutations[0]), merged.permutations[1])
    again = weight_matching(SPEC, a, b, init=between)
    assert equal([again.permutation], [between])
    want = interpolate(*(apply_permutation(SPEC, p, x) for p, x in zip(merged.permutations, (a, b), strict=True)), 0.5)
    for name, array in want.items():
        np.testing.assert_allclose(merged.params[name], array, rtol=1e-12)


def test_a_single_model_is_returned_as_it_is():
    params = as_torch(model(1), torch.bfloat16)
    merged = merge_many(SPEC, [params])
    assert (merged.sweeps, merged.converged, merged.solved, merged.distance) == (0, True, 0, (0.0,))
    assert all(torch.equal(merged.params[name], tensor) for name, tensor in params.items())
    assert merged.params["layer0.bias"].data_ptr() != params["layer0.bias"].data_ptr()


def test_permuted_networks_compute_the_same_function():
    spec = resnet20(0.25)
    network = ResNet20(0.25).double().eval()
    models = [{name: t.clone() for name, t in randomise(network, seed).state_dict().items()} for seed in range(3)]
    merged = merge_many(spec, models)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for params, permutation in zip(models, merged.permutations, strict=True):
        with torch.no_grad():
            want = torch.func.functional_call(network, params, (x,))
            got = torch.func.functional_call(network, apply_permutation(spec, permutation, params), (x,))
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))
    network.load_state_dict(merged.params)
    want = mean_of_aligned(spec, models, merged.permutations)
    torch.testing.assert_close(merged.params["bn1.running_var"], want["bn1.running_var"])
    assert torch.equal(merged.params["bn1.num_batches_tracked"], models[0]["bn1.num_batches_tracked"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_comes_back_and_nothing_is_modified(dtype):
    models = [as_torch(params, dtype) for params in noisy_copies(4)[0]]
    for params in models:
        params["layer0.weight"].requires_grad_()
    copies = [{name: t.detach().clone() for name, t in params.items()} for params in models]
    merged = merge_many(SPEC, models)
    assert list(merged.params) == list(models[0])
    assert all(t.dtype == dtype and not t.requires_grad for t in merged.params.values())
    for params, copy in zip(models, copies, strict=True):
        assert all(torch.equal(params[name], copy[name]) for name in copy)
    want = mean_of_aligned(SPEC, [as_torch(params, torch.float64) for params in copies], merged.permutations)
    for name, tensor in merged.params.items():
        assert torch.equal(tensor, want[name].to(dtype))


def test_what_is_one_tensor_in_all_models_stays_one():
    spec = PermutationSpec.from_axes_to_perm({"in": ("P", None), "out": ("P", None), "other": ("P", None)})

    def tied(seed, also):
        tensor = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        return {"in": tensor, "out": tensor, "other": tensor if also else tensor + 1}

    merged = merge_many(spec, [tied(0, True), tied(1, True), tied(2, False)]).params
    assert merged["in"] is merged["out"]
    assert merged["in"].data_ptr() != merged["other"].data_ptr()


def test_files_give_what_dicts_give(tmp_path):
    models = [as_torch(model(seed), torch.float32) for seed in range(4)]
    want = merge_many(SPEC, models, seed=3)
    files = []
    for i, params in enumerate(models):
        files.append(tmp_path / f"{i}.{'safetensors' if i % 2 else 'pt'}")
        save_file(params, files[-1]) if i % 2 else torch.save(params, files[-1])
    for sources in (files, [str(file) for file in files], [models[0], *files[1:]]):
        got = merge_many(SPEC, sources, seed=3)
        assert equal(got.permutations, want.permutations)
        assert got.distance == want.distance
        assert all(torch.equal(got.params[name], tensor) for name, tensor in want.params.items())


def test_some_parameters_of_a_file_of_any_kind(tmp_path):
    params = {name: torch.full((2, 3), float(k)) for k, name in enumerate(("a", "b", "c"))}
    save_file(params, tmp_path / "new.safetensors")
    torch.save(params, tmp_path / "new.pt")
    torch.save(params, tmp_path / "old.pt", _use_new_zipfile_serialization=False)  # which cannot be mapped into memory
    for source in (params, *tmp_path.iterdir()):
        some = load_some(source, ["c", "a"], "model")
        assert list(some) == ["c", "a"]
        assert all(torch.equal(tensor, params[name]) for name, tensor in some.items())
        whole = load_parameters(source, "model", mapped=True)
        assert all(torch.equal(tensor, params[name]) for name, tensor in whole.items())
    for file in tmp_path.iterdir():
        with pytest.raises(ValueError, match=rf"model: the file .*{file.name} holds no parameter 'missing'"):
            load_some(file, ["missing"], "model")
    with pytest.raises(FileNotFoundError):
        load_some(tmp_path / "nothing.pt", ["a"], "model")


@pytest.mark.parametrize("kept", [0, 10**6])
def test_the_cache_budget_changes_nothing(kept):
    models = [model(seed) for seed in range(3)]
    want, got = merge_many(SPEC, models), merge_many(SPEC, models, max_cache_bytes=kept)
    assert equal(got.permutations, want.permutations)
    assert got.distance == pytest.approx(want.distance)


def test_files_are_held_one_at_a_time(tmp_path, monkeypatch):
    files = []
    for seed in range(6):
        files.append(tmp_path / f"{seed}.pt")
        torch.save(as_torch(model(seed)), files[-1])
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0
    merge_module = sys.modules["rebasin_fast.merge_many"]  # the function hides it
    load = merge_module.load_parameters

    def watched(source, name, **options):
        nonlocal most
        most = max(most, len(alive))
        params = load(source, name, **options)
        alive.add(params["layer0.weight"])
        return params

    monkeypatch.setattr(merge_module, "load_parameters", watched)
    merge_many(SPEC, files, max_sweeps=2)
    assert most <= 1


def test_seed_and_max_sweeps_and_progress():
    models = [model(seed) for seed in range(4)]
    one, same = (merge_many(SPEC, models, seed=5) for _ in range(2))
    assert equal(one.permutations, same.permutations)
    assert one.distance == same.distance
    stages = []
    short = merge_many(SPEC, models, init="identity", max_sweeps=1, progress=lambda *now: stages.append(now))
    assert (short.sweeps, short.converged) == (1, False)
    start = [("merge many, start", done, 4) for done in range(1, 5)]
    assert stages == [*start, *(("merge many, sweep 1", done, 4) for done in range(1, 5))]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: p.pop("layer1.bias"), ValueError, r"models\[2\]\['layer1.bias'\] is missing"),
        (lambda p: p.update(extra=np.ones(2)), ValueError, r"models\[2\]\['extra'\] is unknown"),
        (lambda p: p.update({"layer0.weight": np.ones((16, 5))}), ValueError, r"models\[2\]\['layer0.weight'\]"),
        (lambda p: p["layer0.bias"].__setitem__(3, np.nan), ValueError, r"models\[2\]\['layer0.bias'\] holds NaN"),
        (lambda p: p.update({"layer0.bias": np.ones(16, int)}), ValueError, r"models\[2\].* has dtype int64"),
        (lambda p: p.update({"layer0.bias": torch.ones(16)}), ValueError, "has library torch; expected numpy"),
    ],
)
def test_bad_models_are_named(change, error, message):
    models = [model(seed) for seed in range(3)]
    change(models[2])
    with pytest.raises(error, match=message):
        merge_many(SPEC, models)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"models": []}, ValueError, "models is empty"),
        ({"models": "a.pt"}, TypeError, "models is of type str"),
        ({"models": [3]}, TypeError, r"models\[0\] is of type int; expected a state dict or the path of a file"),
        ({"models": [None]}, TypeError, r"models\[0\] is None on rank 0 of 1"),
        ({"models": ["/no/such/file.pt"]}, FileNotFoundError, "no/such/file"),
        ({"spec": 3}, TypeError, "spec is of type int"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 1.5}, TypeError, "seed is 1.5"),
        ({"max_sweeps": 0}, ValueError, "max_sweeps is 0"),
        ({"max_cache_bytes": -1}, ValueError, "max_cache_bytes is -1; expected at least 0"),
        ({"max_cache_bytes": 0.5}, TypeError, "max_cache_bytes is 0.5; expected an integer"),
        ({"init": "random"}, ValueError, "init is 'random'"),
        ({"init": 3}, TypeError, "init is of type int"),
        ({"init": []}, ValueError, "init has 0 permutations; expected 1"),
        ({"init": [{"P_0": np.arange(16)}]}, ValueError, "group 'P_1' is missing"),
        ({"process_group": 3}, TypeError, "process_group is of type int"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        merge_many(**{"spec": SPEC, "models": [model(0)], **options})


def test_broken_files_are_named(tmp_path):
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=rf"models\[0\]: the file .*{name} cannot be read"):
            merge_many(SPEC, [tmp_path / name])
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "more.pt")
    with pytest.raises(TypeError, match="does not hold a mapping of names to tensors alone"):
        merge_many(SPEC, [tmp_path / "more.pt"])


def test_integers_that_should_be_matched():
    spec = PermutationSpec.from_axes_to_perm({"w": ("P",)})
    with pytest.raises(TypeError, match=r"models\[0\]\['w'\] has dtype int64; expected floating-point"):
        merge_many(spec, [{"w": np.arange(3)}] * 2)


def test_mlp_in_torch_with_default_initialisation():
    models = []
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(MLP(WIDTHS).state_dict())
    merged = merge_many(SPEC, models)
    MLP(WIDTHS).load_state_dict(merged.params)
    assert merged.distance[-1] < merged.distance[0]
