"""The GPU benchmark, tried on the CPU: every kind of row, answers checked, peers beside us, and wrong ones told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCH))

import gpu as bench  # noqa: E402
import gpu_peers  # noqa: E402

TRY = ["--device", "cpu", "--sizes", "60", "--batches", "5x12", "--factored", "70x6", "--repeats", "1"]


def test_every_kind_of_problem_is_measured_with_peers_beside(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert bench.main([*TRY, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]
    assert len(rows) == len(capsys.readouterr().out.splitlines()) - 1 == 1 + 4 + 2
    assert all(row["wrong"] is None and row["seconds"] > 0 for row in rows)
    assert all(row["peers"]["SciPy"] > 0 for row in rows if "d" not in row)
    assert all(row["matrix_seconds"] > 0 for row in rows if "d" in row)


def test_what_there_is_no_memory_for_is_said_and_the_rest_measured(monkeypatch, tmp_path, capsys):
    def fails(family, n, device, seed):
        raise MemoryError("cudaMallocFromPoolAsync: out of memory")

    monkeypatch.setattr(bench, "draw", fails)
    assert bench.main([*TRY, "--families", "uniform", "--json-folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("no memory: cudaMallocFromPoolAsync") == 1
    (out,) = tmp_path.iterdir()
    assert out.name.endswith("-gpu-lap-cpu.json")
    rows = json.loads(out.read_text())["results"]
    assert [row["seconds"] is None for row in rows] == [False, True, False, False]


def test_structured_costs_stop_earlier_and_aims_are_told(capsys, monkeypatch):
    monkeypatch.setitem(bench._AIMS, ("uniform", 60), 0.25)
    assert bench.main([*TRY, "--structured-up-to", "50", "--peers-up-to", "0"]) == 0
    said = capsys.readouterr().out
    assert "euclidean" not in said
    assert said.count("(aim on an H100: 250 ms)") == 1


def test_answers_that_prove_nothing_are_told(monkeypatch, capsys):
    right = bench.solve_assignment_factored
    monkeypatch.setattr(bench, "solve_assignment_factored", lambda a, b, maximize: right(a, b))
    assert bench.main([*TRY, "--families", "uniform"]) == 1
    assert capsys.readouterr().out.count("WRONG: gap") == 2


def test_peers_that_are_worse_or_fail_are_not_timed(monkeypatch, capsys):
    def fails(costs):
        raise RuntimeError("out of order")

    worse = {"one": lambda costs: torch.arange(costs.shape[1]).repeat(len(costs), 1), "two": fails, "three": zeros}
    monkeypatch.setattr(bench, "peers", lambda device: worse)
    assert bench.main([*TRY, "--families", "uniform"]) == 0
    said = capsys.readouterr().out
    for what in ("one", "two RuntimeError: out of order", "three no permutation", "above the optimum"):
        assert said.count(what) == 2  # one matrix, one batch


def zeros(costs):
    return torch.zeros(costs.shape[:2], dtype=torch.int64)


def test_the_optimum_itself_is_right():
    costs = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    columns = gpu_peers.scipy(costs)
    optimum = costs.gather(2, columns[:, :, None]).double().sum((1, 2))
    assert gpu_peers.why_wrong(costs, columns.to(torch.int32), optimum) is None
    assert "above" in gpu_peers.why_wrong(costs, columns.flip(1), optimum)
