"""Killed, terminated, out of disk: what is there afterwards is whole, or not there."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from rebasin_fast import mlp

resource = pytest.importorskip("resource", reason="needs POSIX limits")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")

WIDTHS = (6, 24, 18, 4)
INDEX = "model.safetensors.index.json"

# Writes the first tensor, says so, and waits to be killed.
PROGRAM = """
import sys, time
from rebasin_fast import _safetensors as module
from rebasin_fast.cli import main
write = module._write
def slowly(file, tensor):
    write(file, tensor)
    file.flush()
    print("half", flush=True)
    time.sleep(600)
module._write = slowly
main(sys.argv[1:])
"""


def write(folder, name, seed, *, shards):
    torch.manual_seed(seed)
    params = models.MLP(WIDTHS).state_dict()
    if not shards:
        save_file(params, folder / f"{name}.safetensors")
        return folder / f"{name}.safetensors"
    (folder / name).mkdir()
    where = {param: f"{number}.safetensors" for number, param in enumerate(params)}
    for param, shard in where.items():
        save_file({param: params[param]}, folder / name / shard)
    (folder / name / INDEX).write_text(json.dumps({"weight_map": where}))
    return folder / name


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def visible(folder):
    return {name: kept for name, kept in files(folder).items() if not name.startswith(".")}


@pytest.fixture
def started(tmp_path):
    """Start a merge in a process of its own; return it when it has written half of its output."""
    running = []

    def start(*arguments):
        program = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        line = process.stdout.readline()
        assert line == "half\n", process.stderr.read()
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("shards", [False, True])
def test_killed_half_way_leaves_no_output(tmp_path, call, started, shards):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    pair = [write(tmp_path, name, seed, shards=shards) for seed, name in enumerate("ab")]
    before = files(tmp_path)
    out = tmp_path / ("merged" if shards else "merged.safetensors")
    command = ["merge", *pair, "-o", out, "--spec", tmp_path / "spec.json", "--quiet"]
    process = started(*command)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not out.exists()
    assert visible(tmp_path) == before  # what was begun has a hidden name
    assert call(*command)[0] == 0
    assert out.exists()


def test_terminated_half_way_cleans_up(tmp_path, started):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    pair = [write(tmp_path, name, seed, shards=True) for seed, name in enumerate("ab")]
    before = files(tmp_path)
    process = started("merge", *pair, "-o", tmp_path / "m", "--spec", tmp_path / "spec.json", "--quiet")
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err == "rebasin-fast: terminated\n"
    assert files(tmp_path) == before


@contextmanager
def file_size_limit(count):
    """Let no file grow beyond so many bytes, as a disk that is full would not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("shards", "out"), [(True, "merged"), (False, "merged.safetensors"), (False, "merged.pt"), (True, "merged.pt")]
)
def test_no_room_leaves_nothing(tmp_path, call, shards, out):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    pair = [write(tmp_path, name, seed, shards=shards) for seed, name in enumerate("ab")]
    before = files(tmp_path)
    command = ["merge", *pair, "-o", tmp_path / "new" / out, "--spec", tmp_path / "spec.json", "--quiet"]
    with file_size_limit(1200):
        code, told, err = call(*command)
    assert (code, told) == (2, "")
    assert f"{out} cannot be written" in err
    assert err.count("\n") == 1
    assert files(tmp_path) == before
    assert not (tmp_path / "new").exists()
    assert call(*command)[0] == 0


def test_no_room_keeps_the_earlier_output(tmp_path, call):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    pair = [write(tmp_path, name, seed, shards=True) for seed, name in enumerate("ab")]
    command = ["merge", *pair, "-o", tmp_path / "m", "--spec", tmp_path / "spec.json", "--quiet"]
    assert call(*command)[0] == 0
    before = files(tmp_path)
    with file_size_limit(1200):
        assert call(*command, "--force", "--lambda", 0.1)[0] == 2
    assert files(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_read_is_told(tmp_path, call):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    pair = [write(tmp_path, name, seed, shards=True) for seed, name in enumerate("ab")]
    (pair[1] / "3.safetensors").chmod(0)
    code, _, err = call("merge", *pair, "-o", tmp_path / "m", "--spec", tmp_path / "spec.json", "--quiet")
    assert code == 2
    assert "3.safetensors" in err
    assert not (tmp_path / "m").exists()


def test_a_shard_that_fails_while_it_is_read_is_told(tmp_path, call, monkeypatch):
    """A disk that fails answers when it is read, which the hashes do first."""
    mlp(WIDTHS).save(tmp_path / "spec.json")
    pair = [write(tmp_path, name, seed, shards=True) for seed, name in enumerate("ab")]
    before = files(tmp_path)

    def failing(path):
        if path == pair[1] / "2.safetensors":
            raise OSError(5, "Input/output error", str(path))
        return "0"

    monkeypatch.setattr("rebasin_fast.cli._model_files._sha256", failing)
    code, _, err = call("merge", *pair, "-o", tmp_path / "m", "--spec", tmp_path / "spec.json", "--quiet")
    assert code == 2
    assert "Input/output error" in err
    assert "2.safetensors" in err
    assert files(tmp_path) == before


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pipe_is_no_model(tmp_path, call, suffix):
    """Whoever opens one waits for a writer, who may never come."""
    mlp(WIDTHS).save(tmp_path / "spec.json")
    a = write(tmp_path, "a", 0, shards=False)
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    out = ["-o", tmp_path / "m.safetensors", "--quiet"]
    for command in (
        ["merge", a, pipe, *out, "--spec", tmp_path / "spec.json"],
        ["merge", a, a, *out, "--spec", pipe],
        ["apply", pipe, a, *out],
        ["barrier", a, a, "--arch", "mlp", "--data", pipe, "--quiet"],
    ):
        code, told, err = call(*command)
        assert (code, told) == (2, "")
        assert "pipe" in err
        assert err.count("\n") == 1
    code, _, err = call("merge", a, a, "-o", pipe, "--force", "--spec", tmp_path / "spec.json", "--quiet")
    assert code == 2
    assert "name of a file to write" in err
    assert pipe.is_fifo()


def test_devices_are_neither_read_nor_replaced(tmp_path, call):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    a = write(tmp_path, "a", 0, shards=False)
    spec = ["--spec", tmp_path / "spec.json", "--quiet"]
    code, _, err = call("merge", a, "/dev/zero", "-o", tmp_path / "m.safetensors", *spec)
    assert code == 2
    assert "/dev/zero is a pipe, a device or a socket" in err
    code, _, err = call("merge", a, a, "-o", "/dev/null", *spec, "--force")
    assert code == 2
    assert "/dev/null is a pipe, a device or a socket" in err


def test_links_in_a_circle_are_told_or_replaced(tmp_path, call):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    a = write(tmp_path, "a", 0, shards=False)
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    spec = ["--spec", tmp_path / "spec.json", "--quiet"]
    assert call("merge", a, loop, "-o", tmp_path / "m.safetensors", *spec)[0] == 2
    assert call("merge", a, a, "-o", loop, *spec)[0] == 2
    assert loop.is_symlink()
    assert call("merge", a, a, "-o", loop, *spec, "--force")[0] == 0
    assert load_file(loop).keys() == load_file(a).keys()


def test_a_name_without_a_suffix_takes_the_format_of_the_first(tmp_path, call):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    a = tmp_path / "a.pt"
    torch.save(models.MLP(WIDTHS).state_dict(), a)
    code, _, err = call("merge", a, a, "-o", tmp_path / "m", "--spec", tmp_path / "spec.json", "--quiet")
    assert (code, err) == (0, "")
    assert torch.load(tmp_path / "m", weights_only=True).keys() == mlp(WIDTHS).axes.keys()


@pytest.mark.parametrize("out", ["pairs.npy", "pairs.csv"])
def test_no_room_for_an_assignment_names_the_file(tmp_path, call, out):
    np.save(tmp_path / "cost.npy", np.random.default_rng(0).random((200, 200)))
    with file_size_limit(1200):
        code, _, err = call("lap", tmp_path / "cost.npy", "--out", tmp_path / out)
    assert code == 2
    assert f"{out} cannot be written" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.npy"]


def test_a_single_file_is_what_the_shards_are(tmp_path, call):
    mlp(WIDTHS).save(tmp_path / "spec.json")
    merged = {}
    for shards in (False, True):
        pair = [write(tmp_path, f"{name}{shards}", seed, shards=shards) for seed, name in enumerate("ab")]
        out = tmp_path / f"{shards}.safetensors"
        assert call("merge", *pair, "-o", out, "--spec", tmp_path / "spec.json", "--quiet")[0] == 0
        merged[shards] = load_file(out)
    assert merged[False].keys() == merged[True].keys()
    assert all(torch.equal(merged[True][name], tensor) for name, tensor in merged[False].items())
