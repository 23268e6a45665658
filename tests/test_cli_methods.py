"""Methods on data, repair, barriers, nested checkpoints and the benchmark, from the command line."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from rebasin_fast import (
    PermutationSpec,
    activation_matching,
    apply_permutation,
    barrier,
    interpolate,
    merge_many,
    mlp,
    repair,
    reset_batch_norm,
    straight_through,
    weight_matching,
)
from rebasin_fast.cli import _bench
from rebasin_fast.cli._options import parse_bytes

WIDTHS = (16, 24, 18, 4)
SPEC = mlp(WIDTHS)
ARCH = ["--arch", "mlp", "--quiet"]
COUNT = 200


def examples(seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(COUNT, WIDTHS[0])).astype(np.float32)
    return inputs, np.argmax(inputs[:, : WIDTHS[-1]], axis=1)


def drawn(seed=0):
    """Return inputs and labels as the commands draw them with a seed."""
    inputs, labels = examples()
    order = np.random.default_rng(seed).permutation(COUNT)
    return torch.from_numpy(inputs[order]), torch.from_numpy(labels[order])


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def trio(tmp_path):
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.safetensors")
        save_file(models.MLP(WIDTHS).state_dict(), paths[-1])
    inputs, labels = examples()
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=labels)
    return paths


def test_activation_matching_is_the_librarys(tmp_path, call, trio):
    out = tmp_path / "m.safetensors"
    options = ["--method", "activation", "--data", tmp_path / "data.npz", "--batch-size", 50]
    code, told, err = call("merge", *trio[:2], "-o", out, *ARCH, *options, "--json")
    assert (code, err) == (0, "")
    a, b = map(load_file, trio[:2])
    x, _ = drawn()
    found = activation_matching(SPEC, models.MLP(WIDTHS), a, b, x.split(50))
    assert same(load_file(out), interpolate(a, apply_permutation(SPEC, found.permutation, b), 0.5))
    made = json.loads(told)
    assert made["options"] == {
        "method": "activation",
        "seed": 0,
        "lambda": 0.5,
        "data": "data.npz",
        "examples": 10000,
        "batch_size": 50,
    }
    assert made["result"]["examples"] == COUNT


def test_straight_through_is_the_librarys(tmp_path, call, trio):
    perm = tmp_path / "perm.safetensors"
    options = ["--method", "ste", "--data", tmp_path / "data.npz", "--epochs", 2, "--batch-size", 40, "--seed", 3]
    code, told, err = call("match", *trio[:2], "-o", perm, *ARCH, *options, "--json")
    assert (code, err) == (0, "")
    a, b = map(load_file, trio[:2])
    x, y = drawn(seed=3)
    learn, held = ([*zip(x[s].split(40), y[s].split(40), strict=True)] for s in (slice(0, 160), slice(160, 200)))
    found = straight_through(SPEC, models.MLP(WIDTHS), a, b, learn, epochs=2, validation=held, seed=3)
    assert {g: i.tolist() for g, i in load_file(perm).items()} == {g: i.tolist() for g, i in found.permutation.items()}
    before, best = json.loads(told)["result"]["held_out_loss"]
    assert best == pytest.approx(found.loss)
    assert best <= before


@pytest.mark.parametrize("count", [2, 3])
def test_repair_is_the_librarys(tmp_path, call, trio, count):
    out = tmp_path / "m.safetensors"
    code, _, err = call("merge", *trio[:count], "-o", out, *ARCH, "--repair", "--data", tmp_path / "data.npz")
    assert (code, err) == (0, "")
    ends = [load_file(path) for path in trio[:count]]
    if count == 2:
        found = weight_matching(SPEC, *ends)
        ends[1] = apply_permutation(SPEC, found.permutation, ends[1])
        merged = interpolate(*ends, 0.5)
    else:
        many = merge_many(SPEC, ends)
        ends = [apply_permutation(SPEC, index, params) for index, params in zip(many.permutations, ends, strict=True)]
        merged = many.params
    x, _ = drawn()
    expected = repair(SPEC, models.MLP(WIDTHS), merged, ends, x.split(500))
    written = load_file(out)
    for name, tensor in expected.items():
        torch.testing.assert_close(written[name], tensor)
    assert not same(written, merged)


def test_repair_takes_statistics_of_batch_norm_anew(tmp_path, call):
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.pt")
        torch.save(models.ResNet20(0.25).state_dict(), paths[-1])
    images = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=images)
    out = tmp_path / "m.pt"
    code, _, err = call(
        "merge", *paths, "-o", out, "--arch", "resnet20", "--repair", "--data", tmp_path / "images.npz", "--quiet"
    )
    assert (code, err) == (0, "")
    model = models.ResNet20(0.25)
    written = torch.load(out, weights_only=True)
    x = torch.from_numpy(images[np.random.default_rng(0).permutation(12)])
    again = reset_batch_norm(model, written, [x])
    torch.testing.assert_close(written["bn1.running_mean"], again["bn1.running_mean"])


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_idx(folder, side=4):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 60), ("t10k", 30)):
        images = rng.integers(0, 256, size=(count, side, side))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        labels = rng.integers(0, 4, size=count)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def test_idx_folders_are_read_and_brought_to_the_models_shape(tmp_path, call, trio):
    data = write_idx(tmp_path / "idx")
    code, out, err = call("barrier", *trio[:2], "--data", data, *ARCH, "--lambdas", 5, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["examples"] == 30
    code, _, err = call(
        "merge", *trio[:2], "-o", tmp_path / "m.pt", *ARCH, "--method", "activation", "--data", data, "--examples", 25
    )
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "m.pt.json").read_text())["result"]["examples"] == 25


def test_a_barrier_is_the_librarys(tmp_path, call, trio):
    figure = tmp_path / "barrier.svg"
    command = ["barrier", *trio[:2], "--data", tmp_path / "data.npz", *ARCH, "--lambdas", 5, "--match"]
    code, out, err = call(*command, "--figure", figure, "--json")
    assert (code, err) == (0, "")
    a, b = map(load_file, trio[:2])
    x, y = drawn()
    curves = json.loads(out)["curves"]
    aligned = apply_permutation(SPEC, weight_matching(SPEC, a, b).permutation, b)
    for name, end in (("as they are", b), ("matched", aligned)):
        expected = barrier(models.MLP(WIDTHS), a, end, [(x, y)], lambdas=5)
        assert curves[name]["loss"] == pytest.approx(expected.loss.tolist(), rel=1e-5)
        assert curves[name]["accuracy"] == pytest.approx(expected.accuracy.tolist())
        assert curves[name]["barrier"] == pytest.approx(expected.barrier, abs=1e-6)
    assert "<svg" in figure.read_text()
    code, out, _ = call(*command)
    assert code == 0
    assert "barrier, matched" in out
    assert call(*command, "--figure", figure)[0] == 2  # it exists


def test_a_spec_file_needs_a_model_for_methods_on_data(tmp_path, call, trio):
    SPEC.save(tmp_path / "spec.json")
    data = ["--method", "activation", "--data", tmp_path / "data.npz", "--quiet"]
    spec = ["--spec", tmp_path / "spec.json"]
    code, _, err = call("merge", *trio[:2], "-o", tmp_path / "m.pt", *spec, *data)
    assert code == 2
    assert "beside --spec" in err
    by_class = ["--model-class", "models:MLP", "--kwargs", json.dumps({"widths": WIDTHS}), "--input", "5,16"]
    for number, model in enumerate((["--arch", "mlp"], by_class)):
        code, _, err = call("merge", *trio[:2], "-o", tmp_path / f"{number}.pt", *spec, *model, *data)
        assert (code, err) == (0, "")
    first, second = (torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in range(2))
    assert same(first, second)


@pytest.mark.parametrize("arch", ["mlp", "vgg16", "resnet20", "resnet50"])
def test_the_packages_own_networks_prove_their_specs(tmp_path, call, arch):
    """They compute what the tests' networks compute, and the proof is in the record."""
    network, x = {
        "mlp": (models.MLP(WIDTHS), torch.randn(3, 16)),
        "vgg16": (models.VGG16(0.0625), torch.randn(2, 3, 32, 32)),
        "resnet20": (models.ResNet20(0.25), torch.randn(2, 3, 16, 16)),
        "resnet50": (models.ResNet50(0.0625, num_classes=5), torch.randn(2, 3, 32, 32)),
    }[arch]
    models.randomise(network, 0).eval()
    state = network.state_dict()
    torch.save(state, tmp_path / "a.pt")
    code, out, err = call("spec", tmp_path / "a.pt", "--arch", arch, "--prove", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["proof"] | {"change": 0} == {
        "holds": True,
        "change": 0,
        "dtype": "float64",
        "on": "the first checkpoint",
        "broken_groups": [],
    }
    from rebasin_fast.cli._known_architectures import KNOWN

    own = KNOWN[arch](state).model()
    own.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(own(x), network(x))


def test_a_spec_that_does_not_hold_is_found_with_arch_too(tmp_path, call, trio, monkeypatch):
    fixed = {name: (None,) * tensor.ndim for name, tensor in load_file(trio[0]).items()}
    wrong = PermutationSpec.from_axes_to_perm(fixed | {"layer2.weight": ("classes", None), "layer2.bias": ("classes",)})
    wrong.save(tmp_path / "wrong.json")
    command = ["merge", *trio[:2], "-o", tmp_path / "m.pt", *ARCH, "--spec", tmp_path / "wrong.json"]
    code, _, err = call(*command)
    assert code == 2
    assert "classes" in err
    assert "Nothing was matched or merged" in err
    assert not (tmp_path / "m.pt").exists()
    assert call(*command, "--no-prove")[0] == 0
    assert json.loads((tmp_path / "m.pt.json").read_text())["proof"] is None


def test_a_proof_beyond_the_budget_is_asked_about(tmp_path, call):
    wide = models.MLP((400, 300, 4)).state_dict()
    for name in "ab":
        torch.save(wide, tmp_path / f"{name}.pt")
    command = ["merge", tmp_path / "a.pt", tmp_path / "b.pt", "-o", tmp_path / "m.pt", *ARCH, "--max-memory", "1M"]
    code, _, err = call(*command)
    assert code == 2
    assert "--no-prove" in err
    assert call(*command, "--no-prove")[0] == 0


def test_nested_checkpoints_need_a_key_and_stay_nested(tmp_path, call, trio):
    a, b = map(load_file, trio[:2])
    for name, params in (("a", a), ("b", b)):
        torch.save({"state_dict": params, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / f"{name}.pt")
    pair = [tmp_path / "a.pt", tmp_path / "b.pt"]
    code, _, err = call("merge", *pair, "-o", tmp_path / "m.pt", *ARCH)
    assert code == 2
    assert "state_dict (6 tensors), epoch (int), optimizer (mapping of 1)" in err
    assert "--key with one of: state_dict" in err
    code, out, err = call("merge", *pair, "-o", tmp_path / "m.pt", "--arch", "mlp", "--key", "state_dict", "--json")
    assert code == 0
    assert "not taken from a.pt: epoch, optimizer" in err
    assert json.loads(out)["left_out"] == {"a.pt": ["epoch", "optimizer"], "b.pt": ["epoch", "optimizer"]}
    found = weight_matching(SPEC, a, b)
    expected = interpolate(a, apply_permutation(SPEC, found.permutation, b), 0.5)
    assert same(torch.load(tmp_path / "m.pt", weights_only=True)["state_dict"], expected)
    for key, message in (("epoch", "expected an entry of"), ("model", "expected an entry of")):
        code, _, err = call("merge", *pair, "-o", tmp_path / "n.pt", *ARCH, "--key", key)
        assert code == 2
        assert message in err
    code, _, err = call("merge", *trio[:2], "-o", tmp_path / "n.pt", *ARCH, "--key", "state_dict")
    assert code == 2
    assert "no torch file" in err
    torch.save(a, tmp_path / "flat.pt")
    code, _, err = call("spec", tmp_path / "flat.pt", "--arch", "mlp", "--key", "state_dict")
    assert code == 2
    assert "parameters alone" in err


MERGE = ["merge", "0.safetensors", "1.safetensors", "-o", "m.pt", *ARCH]
BARRIER = ["barrier", "0.safetensors", "1.safetensors", *ARCH, "--data"]
OTHER = ["--model-class", "models:MLP", "--kwargs", '{"widths": [16, 24, 4]}', "--input", "5,16", "--quiet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*MERGE, "--method", "activation"], "expected --data"),
        ([*MERGE, "--repair"], "--repair looks at what the models do"),
        ([*MERGE, "--data", "data.npz"], "does not look at"),
        ([*MERGE, "--method", "ste", "--data", "bare.npz"], "needs labels"),
        ([*MERGE, "--method", "activation", "--data", "nowhere.npz"], "nowhere.npz"),
        ([*MERGE, "--method", "activation", "--data", "torn.npz"], "cannot be read"),
        ([*MERGE, "--method", "activation", "--data", "strange.npz"], "called inputs"),
        ([*MERGE, "--method", "activation", "--data", "bytes.npz"], "uint8"),
        ([*MERGE, "--method", "activation", "--data", "narrow.npz"], "the model cannot be run on --data"),
        ([*MERGE, "--method", "activation", "--data", "pickle.npz"], "cannot be read"),
        ([*MERGE, "--method", "activation", "--data", "words.npz"], "words.npz holds what torch takes for no numbers"),
        ([*MERGE, "--method", "activation", "--data", "."], "no IDX files"),
        ([*MERGE, "--max-memory", "lots"], "--max-memory is 'lots'"),
        ([*BARRIER, "bare.npz"], "no labels"),
        ([*BARRIER, "short.npz"], "200 inputs, and labels of shape (7,)"),
        ([*BARRIER, "data.npz", "--split", "all"], "expected train or test"),
        ([*BARRIER, "data.npz", "--interpolation", "cubic"], "expected one of lerp, slerp"),
        ([*BARRIER, "data.npz", "--figure", "x.bmp"], "ends in .png"),
        (["barrier", "0.safetensors", "1.safetensors", "--data", "data.npz", *OTHER], "does not fit"),
        (["bench", "--size", "0"], "Usage"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, call, trio, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    inputs, labels = examples()
    np.savez("bare.npz", inputs=inputs)
    np.savez("strange.npz", a=inputs)
    np.savez("bytes.npz", inputs=inputs.astype(np.uint8))
    np.savez("narrow.npz", inputs=inputs[:, :5])
    np.savez("short.npz", inputs=inputs, labels=labels[:7])
    np.savez("words.npz", inputs=inputs.astype(str))
    np.savez("pickle.npz", inputs=np.array([object()], dtype=object))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:300])
    before = sorted(tmp_path.iterdir())
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_the_benchmark_compares_with_what_is_installed(call):
    code, out, err = call("bench", "--size", 40, "--repeats", 1, "--quiet", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["rows"]
    assert [row["size"] for row in rows] == [40, 40, 40]
    assert all({"rebasin_fast", "SciPy"} <= set(row["seconds"]) for row in rows)
    assert all(row["not_optimal"] == [] and row["best_other_over_ours"] > 0 for row in rows)
    code, out, _ = call("bench", "--size", 20, "--repeats", 1)
    assert code == 0
    assert "best other / ours" in out


def test_the_benchmark_tells_of_wrong_answers(call, monkeypatch):
    lazy = {"rebasin_fast": _bench._ours, "lazy": lambda cost: np.arange(len(cost))}
    monkeypatch.setattr(_bench, "solvers", lambda: lazy)
    code, _, err = call("bench", "--size", 30, "--repeats", 1, "--quiet")
    assert code == 1
    assert "not optimal: lazy on uniform, 30" in err


def test_without_others_the_benchmark_says_so(call, monkeypatch):
    monkeypatch.setattr(_bench, "_PEERS", {"nobody": ("no_such_module", _bench._scipy)})
    code, out, _ = call("bench", "--size", 10, "--repeats", 1, "--quiet")
    assert code == 0
    assert "pip install scipy" in out


@pytest.mark.parametrize("command", ["demo", "info", "lap", "bench", "spec", "match", "apply", "merge", "barrier"])
def test_every_command_has_examples_in_its_help(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"rebasin-fast {command}" in out
    assert "--json" in out
    assert "--quiet" in out


@pytest.mark.parametrize(
    ("text", "count"), [("1M", 1 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("2097152", 2 << 20)]
)
def test_sizes_in_words(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1M", "1X", "1000", "1e9"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="max-memory"):
        parse_bytes(text)


def test_examples_of_the_other_byte_order_are_the_same(tmp_path, call, trio):
    inputs, labels = examples()
    np.savez(tmp_path / "swapped.npz", inputs=inputs.astype(">f4"), labels=labels.astype(">i8"))
    command = ["barrier", *trio[:2], *ARCH, "--lambdas", 3, "--json", "--data"]
    found = [call(*command, tmp_path / name) for name in ("data.npz", "swapped.npz")]
    assert found[0][0] == 0
    assert found[0] == found[1]
