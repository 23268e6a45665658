"""Hugging Face folders whose shards torch saved: read without running a pickle, written as safetensors."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from rebasin_fast import apply_permutation, interpolate, merge_many, mlp, random_permutation, weight_matching
from rebasin_fast._safetensors import form_of
from rebasin_fast._torch_file import TorchFile
from rebasin_fast.cli import _methods as methods
from rebasin_fast.cli._architecture import Network
from rebasin_fast.cli._checkpoints import Lazily, open_checkpoint

WIDTHS = (6, 24, 18, 4)
SPEC = mlp(WIDTHS)
INDEX, TORCH_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def network(seed, widths=WIDTHS):
    torch.manual_seed(seed)
    return models.MLP(widths).state_dict()


def write(folder, params, *, shards=True):
    """Write a model as transformers did before safetensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "none of transformers"}')
    if not shards:
        torch.save(params, folder / "pytorch_model.bin")
        return folder
    where = {name: SHARDS[number % 2] for number, name in enumerate(params)}
    for shard in SHARDS:
        torch.save({name: tensor for name, tensor in params.items() if where[name] == shard}, folder / shard)
    content = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / TORCH_INDEX).write_text(json.dumps(content))
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in b)


@pytest.fixture
def spec(tmp_path):
    SPEC.save(tmp_path / "spec.json")
    return ["--spec", tmp_path / "spec.json", "--quiet"]


@pytest.mark.parametrize("shards", [True, False])
def test_a_merge_is_what_the_library_makes_as_safetensors_sharded_alike(tmp_path, call, spec, shards):
    a, b = (write(tmp_path / name, network(seed), shards=shards) for seed, name in enumerate("ab"))
    before = contents(tmp_path)
    out = tmp_path / "m"
    code, told, err = call("merge", a, b, "-o", out, "--lambda", 0.25, *spec, "--json")
    assert (code, err) == (0, "")
    assert {path: kept for path, kept in contents(tmp_path).items() if not path.startswith("m/")} == before
    found = weight_matching(SPEC, network(0), network(1))
    expected = interpolate(network(0), apply_permutation(SPEC, found.permutation, network(1)), 0.25)
    made = json.loads(told)
    if shards:
        written = [name.replace("pytorch_model", "model").replace(".bin", ".safetensors") for name in SHARDS]
        assert sorted(contents(out)) == sorted([*written, INDEX, "config.json"])
        index = json.loads((out / INDEX).read_text())
        assert list(index["weight_map"]) == list(json.loads((a / TORCH_INDEX).read_text())["weight_map"])
        assert index["metadata"]["total_size"] == 1
        assert index["metadata"]["rebasin_fast"]["inputs"] == made["inputs"]
        merged = {name: load_file(out / shard)[name] for name, shard in index["weight_map"].items()}
        assert set(made["inputs"][0]["sha256"]) == {*SHARDS, TORCH_INDEX, "config.json"}
    else:
        assert sorted(contents(out)) == ["config.json", "model.safetensors"]
        merged = load_file(out / "model.safetensors")
    assert same(merged, expected)


def test_many_and_into_a_single_file_and_with_a_folder_of_safetensors(tmp_path, call, spec):
    folders = [write(tmp_path / str(seed), network(seed)) for seed in range(2)]
    (tmp_path / "2").mkdir()
    save_file(network(2), tmp_path / "2" / "model.safetensors")
    folders.append(tmp_path / "2")
    expected = merge_many(SPEC, [network(seed) for seed in range(3)]).params
    for out in ("m.safetensors", "m.pt"):
        code, _, err = call("merge", *folders, "-o", tmp_path / out, *spec)
        assert (code, err) == (0, "")
    assert same(load_file(tmp_path / "m.safetensors"), expected)
    assert same(torch.load(tmp_path / "m.pt", weights_only=True), expected)
    assert call("merge", *reversed(folders), "-o", tmp_path / "m", *spec)[0] == 0
    assert sorted(contents(tmp_path / "m")) == ["model.safetensors"]


def test_safetensors_are_read_where_there_are_both(tmp_path):
    folder = write(tmp_path / "a", network(0), shards=False)
    save_file(network(1), folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert [path.name for path in checkpoint.files] == ["model.safetensors"]
    assert same(checkpoint.params, network(1))


def test_names_of_shards_stay_apart(tmp_path):
    folder = write(tmp_path / "a", network(0))
    names = ("pytorch_model.bin", "model.bin")
    text = (folder / TORCH_INDEX).read_text()
    for old, new in zip(SHARDS, names, strict=True):
        (folder / old).rename(folder / new)
        text = text.replace(old, new)
    (folder / TORCH_INDEX).write_text(text)
    assert set(open_checkpoint(folder).shards) == {"pytorch_model.safetensors", "model.safetensors"}


class Bomb:
    def __reduce__(self):
        return (open, ("executed", "w"))


def damage(folder, kind):
    content = json.loads((folder / TORCH_INDEX).read_text())
    second = folder / SHARDS[1]
    held = torch.load(second, weights_only=True)
    first_name = next(iter(held))
    if kind == "missing shard":
        second.unlink()
    elif kind == "truncated shard":
        second.write_bytes(second.read_bytes()[:-200])
    elif kind == "empty shard":
        second.write_bytes(b"")
    elif kind == "pickle that runs code":
        second.write_bytes(pickle.dumps({first_name: Bomb()}))
    elif kind == "archive that runs code":
        torch.save({**held, first_name: Bomb()}, second)
    elif kind == "more than tensors":
        torch.save({**held, "epoch": 3}, second)
    elif kind == "nothing in it":
        torch.save({}, second)
    elif kind == "a sparse tensor":
        torch.save({**held, first_name: held[first_name].reshape(-1, 1).to_sparse()}, second)
    elif kind == "narrow floats":
        torch.save({**held, first_name: held[first_name].to(torch.float8_e4m3fn)}, second)
    elif kind == "name in no shard":
        content["weight_map"]["layer9.weight"] = SHARDS[1]
    elif kind == "name not in the index":
        del content["weight_map"][first_name]
    elif kind == "shard outside":
        content["weight_map"][first_name] = f"../a/{SHARDS[1]}"
    elif kind == "shard of the other kind":
        save_file(held, second.with_suffix(".safetensors"))
        content["weight_map"] = {
            name: shard.replace("2.bin", "2.safetensors") for name, shard in content["weight_map"].items()
        }
    elif kind == "other shapes":
        shutil.rmtree(folder)
        write(folder, network(1, (6, 25, 18, 4)))
        return
    (folder / TORCH_INDEX).write_text("{" if kind == "index is no JSON" else json.dumps(content))


DAMAGES = {
    "missing shard": f"names the shard {SHARDS[1]}",
    "truncated shard": f"{SHARDS[1]} cannot be read",
    "empty shard": f"{SHARDS[1]} cannot be read",
    "pickle that runs code": f"{SHARDS[1]} cannot be read",
    "archive that runs code": "code in a file is never run",
    "more than tensors": "tensors alone",
    "nothing in it": "tensors alone",
    "a sparse tensor": "sparse",
    "narrow floats": "F8_E4M3",
    "name in no shard": "which does not hold it",
    "name not in the index": "does not know",
    "shard outside": "in the same folder",
    "shard of the other kind": "expected a .bin file",
    "index is no JSON": f"{TORCH_INDEX} cannot be read",
    "other shapes": "has shape (25, 6); expected (24, 6)",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_told_and_nothing_is_written_or_run(tmp_path, call, spec, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    pair = [write(tmp_path / name, network(seed)) for seed, name in enumerate("ab")]
    damage(pair[1], kind)
    before = contents(tmp_path)
    code, out, err = call("merge", *pair, "-o", tmp_path / "m", *spec)
    assert (code, out) == (2, "")
    assert DAMAGES[kind] in err
    assert err.count("\n") == 1
    assert contents(tmp_path) == before  # which the bomb would have added to


def test_a_released_file_is_read_again_and_held_tensors_stay(tmp_path):
    params = network(0)
    torch.save({"state_dict": params, "epoch": 3}, tmp_path / "a.pt")
    file = TorchFile(tmp_path / "a.pt", "state_dict")
    held = file["layer0.weight"]
    assert file.nbytes == sum(tensor.nbytes for tensor in params.values())
    assert all(file.form(name) == form_of(tensor) for name, tensor in params.items())
    for _ in range(2):
        file.release()
        assert same(file, params)
    assert torch.equal(held, params["layer0.weight"])
    assert len(file) == len(params)


def test_an_archive_that_was_packed_again_is_read_as_it_is(tmp_path):
    """Torch maps a compressed one as if it were none."""
    params = {"a": torch.arange(1000.0), "b": torch.zeros(100_000)}
    torch.save(params, tmp_path / "a.pt")
    source = zipfile.ZipFile(tmp_path / "a.pt")
    with source, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    assert same(open_checkpoint(tmp_path / "packed.pt").params, params)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_opening_reads_no_numbers(tmp_path):
    """Neither a whole file into memory nor its pages: 64 MiB would show."""
    folder = write(tmp_path / "a", {"x": torch.zeros(1 << 24), "y": torch.zeros(2)})
    before = _resident()
    checkpoint = open_checkpoint(folder)
    assert checkpoint.forms()["x"] == ("F32", (1 << 24,))
    assert _resident() - before < 32 << 20
    assert checkpoint.params["x"].sum() == 0  # now it is there
    assert _resident() - before > 32 << 20
    checkpoint.mapped[0].release()
    assert _resident() - before < 32 << 20


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_torch_files_into_safetensors_are_merged_tensor_by_tensor(tmp_path, call, spec):
    """With the numbers that the whole has."""
    for seed in range(2):
        torch.save(network(seed), tmp_path / f"{seed}.pt")
    pair = [tmp_path / "0.pt", tmp_path / "1.pt"]
    for out in ("m.safetensors", "m.pt"):
        code, _, err = call("merge", *pair, "-o", tmp_path / out, *spec, "--max-memory", "1M")
        assert (code, err) == (0, "")
    whole = torch.load(tmp_path / "m.pt", weights_only=True)
    assert same(load_file(tmp_path / "m.safetensors"), whole)
    held = methods.aligned(Network(SPEC), open_checkpoint(pair[0]), random_permutation(SPEC, 0))
    assert isinstance(held, Lazily)
