"""MergeMany of files holds the sum and one model; the benchmark that measures it checks what it merged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCH))

import merge_memory as bench  # noqa: E402


def test_files_take_the_memory_of_two_models_and_two_cost_matrices(tmp_path):
    """With room for half a model more; every model held at once, or copies of whole parameters, would not fit."""
    out = tmp_path / "out.json"
    options = ["--networks", "mlp2048", "--formats", "safetensors", "--by", "merge_many", "--models", "3"]
    command = [sys.executable, str(BENCH / "merge_memory.py"), *options, "--json", str(out)]
    # A process of its own, whose C library gives back what was freed.
    subprocess.run(command, check=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}, stdout=subprocess.DEVNULL)
    (row,) = json.loads(out.read_text())["rows"]
    if row["extra_bytes"] is None:
        pytest.skip("the resident set's high-water mark cannot be reset here")
    assert row["extra_bytes"] < 2.5 * row["model_bytes"] + 2 * row["cost_bytes"]


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_it_writes_what_it_measured(form, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert bench.main(["--networks", "tiny", "--formats", form, "--models", "2", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["by"] for row in rows] == ["merge_many", "command"]
    assert {row["network"] for row in rows} == {"tiny"}
    assert {row["model_bytes"] for row in rows} == {4 * (8 * 32 + 32 + 32 * 24 + 24 + 24 * 5 + 5)}
    assert f"{'tiny':12} {form}" in capsys.readouterr().out


def test_models_that_were_not_aligned_stop_it(monkeypatch):
    monkeypatch.setattr("rebasin_fast.merge_many", lambda spec, files, **options: merged(spec, files))

    def merged(spec, files):
        from rebasin_fast._checkpoint import load_parameters

        class Wrong:
            params = load_parameters(files[0], "first")
            distance = (1e9,)

        return Wrong

    with pytest.raises(RuntimeError, match="expected noise alone"):
        bench.measure("tiny", "pt", 2)
