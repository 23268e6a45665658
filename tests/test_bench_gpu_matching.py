"""The GPU matching benchmark, tried on the CPU: it checks answers, prints a table, and claims no GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCH))

import gpu_matching as bench  # noqa: E402

TRY = ["--device", "cpu", "--networks", "tiny", "--kinds", "random,planted", "--repeats", "1"]


def test_it_measures_ours_and_the_plain_algorithm(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert bench.main([*TRY, "--json", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("cpu; ")
    found = json.loads(out.read_text())
    solvers = {row["solver"] for row in found["rows"]}
    assert {"rebasin_fast", "torch + SciPy"} <= solvers
    assert len(lines) == 2 + len(found["rows"])
    for row in found["rows"]:
        assert len(row["seconds"]) == 1
        assert row["objective"] > 0
    # Both find the planted permutation, so both have its objective.
    planted = {row["solver"]: row["objective"] for row in found["rows"] if row["kind"] == "planted"}
    assert planted["rebasin_fast"] == pytest.approx(planted["torch + SciPy"], rel=1e-9)


def test_wrong_answers_stop_it(monkeypatch):
    sizes = {"P_0": 32, "P_1": 24}
    wrong = {group: np.zeros(size, dtype=np.int64) for group, size in sizes.items()}
    monkeypatch.setattr(bench, "solvers", lambda options: {"wrong": lambda spec, a, b: (wrong, 1)})
    with pytest.raises(RuntimeError, match="the answer for group 'P_0' is not a permutation"):
        bench.main(TRY)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert bench.main(["--networks", "tiny"]) == 1
    assert "no CUDA device" in capsys.readouterr().err


def test_unknown_networks_are_named(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--networks", "tiny,huge"])
    assert "unknown network: huge" in capsys.readouterr().err
