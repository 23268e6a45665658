"""The benchmark of the projection: it measures what it says, and stops at a projection that is no local optimum."""

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

import straight_through as bench  # noqa: E402


@pytest.fixture
def small(monkeypatch):
    """A network of a size that takes no time."""
    monkeypatch.setattr(bench, "WIDTHS", (30, 12, 12, 10))
    monkeypatch.setattr(bench, "BATCH", 20)
    monkeypatch.setattr(bench, "CHECK_EVERY", 2)
    whole = bench.patterns
    monkeypatch.setattr(bench, "patterns", lambda: whole(160))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_from_end_to_end(small, tmp_path, capsys):
    bench.main(["--epochs", "2", "--json", str(tmp_path / "s.json")])
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["environment"]["batch"] == 20
    assert [row["optimizer"] for row in written["rows"]] == ["sgd", "adam"]
    for row in written["rows"]:
        assert (row["steps"], len(row["step_samples"]), len(row["projection_samples"])) == (16, 15, 15)
        assert all(0 < p < s for p, s in zip(row["projection_samples"], row["step_samples"], strict=True))
        assert len(row["weight_matching_samples"]) == 7
    assert "by weight_matching" in capsys.readouterr().out


def test_a_projection_that_is_none_stops_it(small, monkeypatch):
    from rebasin_fast._projection import Projection

    def wrong(projection, _target):
        projection.permutation = {group: index[::-1].copy() for group, index in projection.permutation.items()}
        return True

    monkeypatch.setattr(Projection, "project", wrong)
    with pytest.raises(RuntimeError, match="projection 1 is no local optimum"):
        bench.main(["--epochs", "1"])
