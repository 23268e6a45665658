"""The benchmark of barriers: what it prints and writes is what the methods leave between the networks."""

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

import method_barriers as bench  # noqa: E402


def test_from_end_to_end(tmp_path, capsys):
    threads = torch.get_num_threads()
    options = ["--seeds", "1", "--first-seed", "3", "--examples", "500", "--json", str(tmp_path / "b.json")]
    assert bench.main([*options, "--methods", "weights,activations,with_loss"]) == 0
    torch.set_num_threads(threads)
    row = json.loads((tmp_path / "b.json").read_text())["barriers"]["3"]
    assert list(row) == ["weights", "activations", "with_loss"]
    assert all(abs(barrier) < 0.3 for barrier in row.values())  # unmatched it is 1
    assert row["activations"] != row["with_loss"]
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["3", f"{row['weights']:.4f}"] + [
        f"{row[other] - row['weights']:+.4f}" for other in ("activations", "with_loss")
    ]


def test_an_unknown_method_is_named(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--methods", "weights,magic"])
    assert "unknown method: magic; expected some of weights, activations" in capsys.readouterr().err
