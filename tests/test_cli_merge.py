"""``rebasin-fast match``, ``apply`` and ``merge`` on checkpoint files."""

import errno
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import models
from rebasin_fast import (
    PermutationSpec,
    apply_permutation,
    interpolate,
    merge_many,
    mlp,
    random_permutation,
    weight_matching,
)

WIDTHS = (6, 24, 18, 4)
SPEC = mlp(WIDTHS)
ARCH = ["--arch", "mlp", "--quiet"]


def network(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    return {name: tensor.to(dtype) for name, tensor in models.MLP(WIDTHS).state_dict().items()}


def write(path, params):
    (save_file if path.suffix == ".safetensors" else torch.save)(params, path)
    return path


def read(path):
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(params=[".safetensors", ".pt"])
def pair(request, tmp_path):
    """Two files, B being A with its units in another order, plus noise."""
    a = network(0)
    b = apply_permutation(SPEC, random_permutation(SPEC, 1), a)
    b = {name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in b.items()}
    return write(tmp_path / f"a{request.param}", a), write(tmp_path / f"b{request.param}", b)


def test_match_and_apply_do_what_the_library_does(tmp_path, call, pair):
    a, b = pair
    perm, aligned = tmp_path / "perm.safetensors", tmp_path / f"aligned{b.suffix}"
    code, out, err = call("match", a, b, "-o", perm, *ARCH, "--json")
    assert (code, err) == (0, "")
    found = weight_matching(SPEC, read(a), read(b))
    assert {group: index.tolist() for group, index in read(perm).items()} == {
        group: index.tolist() for group, index in found.permutation.items()
    }
    assert json.loads(out)["result"]["objective"][-1] == found.objective[-1]
    code, _, err = call("apply", perm, b, "-o", aligned, "--quiet")
    assert (code, err) == (0, "")
    assert same(read(aligned), apply_permutation(SPEC, found.permutation, read(b)))
    for name, tensor in read(a).items():  # found again: only the noise is left
        assert (read(aligned)[name] - tensor).abs().max() < 0.1


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_merge_of_two_does_what_the_library_does(tmp_path, call, pair, lam):
    a, b = pair
    before = [path.read_bytes() for path in pair]
    out_file = tmp_path / f"merged{a.suffix}"
    code, _, err = call("merge", a, b, "-o", out_file, *ARCH, "--lambda", lam)
    assert (code, err) == (0, "")
    found = weight_matching(SPEC, read(a), read(b))
    expected = interpolate(read(a), apply_permutation(SPEC, found.permutation, read(b)), lam)
    assert same(read(out_file), expected)
    assert [path.read_bytes() for path in pair] == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_stays(tmp_path, call, dtype):
    files = [write(tmp_path / f"{seed}.safetensors", network(seed, dtype)) for seed in range(2)]
    assert call("merge", *files, "-o", tmp_path / "m.safetensors", *ARCH)[0] == 0
    assert {tensor.dtype for tensor in read(tmp_path / "m.safetensors").values()} == {dtype}


def test_merge_of_many_does_what_the_library_does(tmp_path, call):
    files = [write(tmp_path / f"{seed}.pt", network(seed)) for seed in range(4)]
    code, out, err = call("merge", *files, "-o", tmp_path / "m.pt", *ARCH, "--seed", 3, "--json")
    assert (code, err) == (0, "")
    expected = merge_many(SPEC, files, seed=3)
    assert same(read(tmp_path / "m.pt"), expected.params)
    assert json.loads(out)["result"]["distance"] == list(expected.distance)
    assert json.loads(out)["options"] == {"method": "many", "seed": 3}


@pytest.mark.parametrize("method", ["weight", "many"])
def test_buffers_of_batch_norm_go_along(tmp_path, call, method):
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        files.append(write(tmp_path / f"{seed}.safetensors", models.ResNet20(0.25).state_dict()))
    out_file = tmp_path / "m.safetensors"
    code, _, err = call("merge", *files, "-o", out_file, "--arch", "resnet20", "--quiet", "--method", method)
    assert (code, err) == (0, "")
    models.ResNet20(0.25).load_state_dict(read(out_file))


def test_the_record_says_how_it_was_made(tmp_path, call, pair):
    a, b = pair
    out_file = tmp_path / f"merged{a.suffix}"
    assert call("merge", a, b, "-o", out_file, *ARCH, "--lambda", 0.25, "--seed", 5)[0] == 0
    if a.suffix == ".safetensors":
        with safe_open(out_file, framework="pt") as file:
            made = json.loads(file.metadata()["rebasin_fast"])
    else:
        made = json.loads((tmp_path / "merged.pt.json").read_text())
    assert made["options"] == {"method": "weight", "lambda": 0.25, "seed": 5}
    assert made["inputs"] == [{"file": path.name, "sha256": sha256(path)} for path in pair]
    assert made["version"]


@pytest.mark.parametrize(("out", "suffix"), [("m.safetensors", ".pt"), ("m.pt", ".safetensors"), ("m", ".safetensors")])
def test_the_name_of_the_output_says_its_format(tmp_path, call, out, suffix):
    files = [write(tmp_path / f"{seed}{suffix}", network(seed)) for seed in range(2)]
    assert call("merge", *files, "-o", tmp_path / out, *ARCH)[0] == 0
    found = torch.load(tmp_path / out, weights_only=True) if out == "m.pt" else load_file(tmp_path / out)
    assert found.keys() == network(0).keys()


def test_the_spec_may_come_from_a_file_or_a_class(tmp_path, call, pair):
    SPEC.save(tmp_path / "spec.json")
    by_class = ["--model-class", "models:MLP", "--kwargs", json.dumps({"widths": WIDTHS}), "--input", "5,6"]
    found = []
    for i, options in enumerate([["--arch", "mlp"], ["--spec", tmp_path / "spec.json"], by_class]):
        out_file = tmp_path / f"{i}.pt"
        code, _, err = call("merge", *pair, "-o", out_file, *options, "--quiet")
        assert (code, err) == (0, "")
        found.append(read(out_file))
    assert same(found[0], found[1])
    for name, tensor in found[2].items():  # other names of the groups, other order of the visits
        torch.testing.assert_close(tensor, found[0][name])


@pytest.mark.parametrize("command", ["match", "merge"])
def test_what_is_not_proven_says_so(tmp_path, call, pair, command):
    """A spec alone gives no model; the architecture beside it has it proven."""
    SPEC.save(tmp_path / "spec.json")
    out, alone = tmp_path / "out.safetensors", ["--spec", tmp_path / "spec.json"]
    for options, reason in (
        (alone, "a --spec alone gives no model"),
        ([*alone, "--arch", "mlp"], None),
        (["--arch", "mlp"], None),
        (["--arch", "mlp", "--no-prove"], "--no-prove"),
    ):
        code, told, err = call(command, *pair, "-o", out, *options, "--json", "--force")
        made = json.loads(told)
        assert code == 0
        assert ("not proven" in err) == (reason is not None)
        if reason is None:
            assert made["proof"]["holds"]
            assert made["proof"]["on"] == "the first checkpoint"
            assert "not_proven" not in made
        else:
            assert made["proof"] is None
            assert reason in made["not_proven"]
            assert reason in err


def test_a_spec_file_that_the_architecture_disproves_writes_nothing(tmp_path, call, pair):
    fixed = {name: (None,) * tensor.ndim for name, tensor in network(0).items()}
    wrong = fixed | {"layer2.weight": ("classes", None), "layer2.bias": ("classes",)}
    PermutationSpec.from_axes_to_perm(wrong).save(tmp_path / "spec.json")
    options = ["--arch", "mlp", "--spec", tmp_path / "spec.json", "--quiet"]
    code, _, err = call("merge", *pair, "-o", tmp_path / "out.safetensors", *options)
    assert code == 2
    assert "by these groups alone: classes" in err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("command", ["match", "merge"])
def test_a_spec_that_does_not_hold_writes_nothing(tmp_path, call, pair, monkeypatch, command):
    """A spec under which the classes trade places fits every shape: only a computation tells that it does not hold."""
    fixed = {name: (None,) * tensor.ndim for name, tensor in network(0).items()}
    wrong = PermutationSpec.from_axes_to_perm(fixed | {"layer2.weight": ("classes", None), "layer2.bias": ("classes",)})
    monkeypatch.setattr(PermutationSpec, "from_module", classmethod(lambda cls, model, inputs: wrong))
    by_class = ["--model-class", "models:MLP", "--kwargs", json.dumps({"widths": WIDTHS}), "--input", "5,6"]
    code, _, err = call(command, *pair, "-o", tmp_path / "out.safetensors", *by_class, "--quiet")
    assert code == 2
    assert "classes" in err
    assert "Nothing was matched or merged" in " ".join(err.split())
    assert not (tmp_path / "out.safetensors").exists()


def test_progress_goes_to_stderr_unless_quiet(tmp_path, call, pair):
    code, out, err = call("merge", *pair, "-o", tmp_path / "m.pt", "--arch", "mlp")
    assert code == 0
    assert "weight matching" in err
    assert "weight matching" not in out


class Bomb:
    def __reduce__(self):
        return (open, ("executed", "w"))


def broken_files(folder):
    """Return bad checkpoints by name, each with a piece of the message it has to give."""
    good = network(1)
    (folder / "torn.safetensors").write_bytes(write(folder / "x.safetensors", good).read_bytes()[:-8])
    (folder / "torn.pt").write_bytes(write(folder / "x.pt", good).read_bytes()[:200])
    (folder / "bomb.pt").write_bytes(pickle.dumps({"layer0.weight": Bomb()}))
    (folder / "empty.pt").write_bytes(b"")
    write(folder / "short.pt", {k: v for k, v in good.items() if k != "layer1.bias"})
    write(folder / "extra.pt", good | {"head.weight": torch.zeros(2)})
    write(folder / "wide.pt", models.MLP((6, 25, 18, 4)).state_dict())
    write(folder / "half.pt", network(1, torch.float16))
    write(folder / "nan.pt", good | {"layer0.bias": torch.full((24,), torch.nan)})
    write(folder / "nested.pt", {"state_dict": good})
    write(folder / "whole.pt", {name: tensor.to(torch.int32) for name, tensor in good.items()})
    return {
        "missing.pt": "missing.pt",
        "torn.safetensors": "cannot be read",
        "torn.pt": "torn.pt cannot be read: it is no file that torch saved, or is truncated",
        "bomb.pt": "bomb.pt cannot be read: it holds more than tensors",
        "empty.pt": "empty.pt cannot be read: it is no file that torch saved, or is truncated",
        "short.pt": "layer1.bias",
        "extra.pt": "head.weight",
        "wide.pt": "(25, 6)",
        "half.pt": "float16",
        "nan.pt": "nan.pt['layer0.bias'] holds NaN",
        "whole.pt": "whole.pt['layer0.",
        "nested.pt": "mapping of names to tensors",
    }


def test_bad_checkpoints_are_told_and_nothing_is_written(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a = write(tmp_path / "a.pt", network(0))
    bad = broken_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    for name, message in bad.items():
        for command in (["merge", a, name], ["merge", a, a, name], ["match", a, name]):
            code, out, err = call(*command, "-o", tmp_path / "new" / "out.safetensors", *ARCH)
            assert (code, out) == (2, ""), (command, err)
            assert message in err, (command, err)
            assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before  # which the bomb would have added to


@pytest.mark.parametrize("options", [ARCH, [*ARCH, "--no-prove"]])
def test_quantized_weights_are_told(tmp_path, call, options):
    """Which the model cannot compute with, so that the proof would fail before the matching did."""
    params = network(0)
    params["layer1.weight"] = (params["layer1.weight"] * 50).to(torch.int8)
    pair = [write(tmp_path / f"{name}.safetensors", params) for name in "ab"]
    out = ["-o", tmp_path / "out.safetensors", *options]
    for command in (["merge", *pair, *out], ["match", *pair, *out], ["spec", pair[0], "--prove", *ARCH[:2]]):
        code, told, err = call(*command)
        assert (code, told) == (2, "")
        assert "'layer1.weight'" in err
        assert "int8; expected floating-point numbers" in err
    assert sorted(tmp_path.iterdir()) == pair


def test_a_model_that_fails_in_the_proof_is_told(tmp_path, call):
    a = write(tmp_path / "a.safetensors", network(0))
    model = ["--model-class", "models:MLP", "--kwargs", json.dumps({"widths": WIDTHS}), "--quiet"]
    mlp(WIDTHS).save(tmp_path / "spec.json")
    code, _, err = call(
        "merge", a, a, "-o", tmp_path / "m.pt", *model, "--spec", tmp_path / "spec.json", "--input", "2,7"
    )
    assert code == 2
    assert "the model cannot be run on the first checkpoint, to prove the specification" in err
    assert err.count("\n") == 1


def test_a_pickle_of_another_kind_brings_no_warning(tmp_path):
    """Torch warns of it, also where it then refuses the file."""
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"layer0.weight": Bomb()}, protocol=4))
    program = "from rebasin_fast.cli import main; main()"
    arguments = ["merge", "bomb.pt", "bomb.pt", "-o", "m.pt", *ARCH]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("rebasin-fast: bomb.pt cannot be read")
    assert done.stderr.count("\n") == 1


def test_never_over_an_input_nor_an_existing_file(tmp_path, call, pair):
    a, b = pair
    before = [sha256(path) for path in pair]
    for target in pair:
        code, _, err = call("merge", a, b, "-o", target, *ARCH, "--force")
        assert code == 2
        assert "is an input" in err
    assert [sha256(path) for path in pair] == before
    taken = tmp_path / "taken.safetensors"
    taken.write_text("precious")
    for command in ("merge", "match"):
        assert call(command, a, b, "-o", taken, *ARCH)[0] == 2
        assert taken.read_text() == "precious"
    assert call("merge", a, b, "-o", taken, *ARCH, "--force")[0] == 0
    assert read(taken).keys() == SPEC.axes.keys()


def test_a_link_to_an_input_is_an_input(tmp_path, call, pair):
    (tmp_path / f"link{pair[0].suffix}").symlink_to(pair[0])
    code, _, err = call("merge", *pair, "-o", tmp_path / f"link{pair[0].suffix}", *ARCH, "--force")
    assert code == 2
    assert "is an input" in err


def test_a_full_disk_leaves_nothing(tmp_path, call, pair, monkeypatch):
    def half(path):
        path.write_bytes(b"half")
        assert path.parent == tmp_path / "new"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rebasin_fast.cli._model_files.write_tensors", lambda path, *_: half(path))
    monkeypatch.setattr("torch.save", lambda _, file: half(Path(file.name)))
    before = sorted(tmp_path.iterdir())
    for command in ("merge", "match"):
        code, out, err = call(command, *pair, "-o", tmp_path / "new" / "m.safetensors", *ARCH)
        assert (code, out) == (2, "")
        assert "m.safetensors cannot be written: No space left" in err
    assert call("merge", *pair, "-o", tmp_path / "new" / "m.pt", *ARCH)[0] == 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "a.pt", "-o", "m.pt", "--arch", "mlp"], "expected two or more"),
        (["merge", "a.pt", "b.pt", "-o", "m.pt"], "0 of --arch, --model-class and --config"),
        (["merge", "a.pt", "b.pt", "c.pt", "-o", "m.pt", "--arch", "mlp", "--method", "weight"], "takes two models"),
        (
            ["merge", "a.pt", "b.pt", "-o", "m.pt", "--arch", "mlp", "--method", "magic"],
            "expected one of weight, activation, ste, many",
        ),
        (["merge", "a.pt", "b.pt", "c.pt", "-o", "m.pt", "--arch", "mlp", "--lambda", "0.1"], "takes the mean"),
        (["merge", "a.pt", "b.pt", "-o", "m.pt", "--arch", "mlp", "--lambda", "2"], "Usage"),
        (["match", "a.pt", "b.pt", "-o", "perm.pt", "--arch", "mlp"], "ends in .safetensors"),
        (["match", "a.pt", "b.pt", "--arch", "mlp"], "Usage"),
        (["apply", "a.pt", "b.pt", "-o", "m.pt"], "a.pt"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, call, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_apply_takes_only_what_match_wrote_and_what_fits(tmp_path, call, pair):
    a, b = pair
    plain = tmp_path / "plain.safetensors"
    save_file({"P_0": torch.arange(24)}, plain)
    code, _, err = call("apply", plain, b, "-o", tmp_path / "m.pt")
    assert code == 2
    assert "no specification" in err
    perm = tmp_path / "perm.safetensors"
    assert call("match", a, b, "-o", perm, *ARCH)[0] == 0
    other = write(tmp_path / "other.pt", models.MLP((6, 25, 18, 4)).state_dict())
    code, _, err = call("apply", perm, other, "-o", tmp_path / "m.pt")
    assert code == 2
    assert "does not fit" in err
    assert not (tmp_path / "m.pt").exists()


def test_tied_and_strided_tensors_are_written(tmp_path, call):
    spec_of = {"a": ("P", None), "b": ("P", None), "c": (None, "P")}
    from rebasin_fast import PermutationSpec

    PermutationSpec.from_axes_to_perm(spec_of).save(tmp_path / "spec.json")
    for seed in range(2):
        torch.manual_seed(seed)
        tied = torch.randn(8, 3)
        torch.save({"a": tied, "b": tied, "c": torch.randn(8, 2).T}, tmp_path / f"{seed}.pt")
    for out in ("m.pt", "m.safetensors"):
        files = [tmp_path / "0.pt", tmp_path / "1.pt"]
        code, _, err = call("merge", *files, "-o", tmp_path / out, "--spec", tmp_path / "spec.json", "--quiet")
        assert (code, err) == (0, "")
        assert torch.equal(read(tmp_path / out)["a"], read(tmp_path / out)["b"])
    tied = torch.load(tmp_path / "m.pt", weights_only=True)
    assert tied["a"].data_ptr() == tied["b"].data_ptr()


def test_as_a_program(tmp_path, pair):
    program = [sys.executable, "-c", "from rebasin_fast.cli import main; main()", "merge", *map(str, pair)]
    done = subprocess.run(
        [*program, "-o", str(tmp_path / "m.pt"), *ARCH, "--json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert np.isfinite(json.loads(done.stdout)["result"]["objective"]).all()
    done = subprocess.run([*program, "-o", str(tmp_path / "m.pt"), *ARCH], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
