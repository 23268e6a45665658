"""The small benchmark scripts: they stop at a wrong answer, measure what they say, and write what they measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCH))

import checkpoint_memory  # noqa: E402
import memory  # noqa: E402
import small_calls  # noqa: E402
import threads  # noqa: E402
import tracing  # noqa: E402
import warm_start  # noqa: E402
from families import make  # noqa: E402
from rebasin_fast import solve_assignment  # noqa: E402
from worker import PeakMemory  # noqa: E402

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def written(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    assert {"cpu", "python", "numpy", "rebasin_fast", "date", "command"} <= set(content["environment"])
    return content["rows"]


@pytest.mark.parametrize("script", [memory, small_calls, threads, warm_start], ids=lambda script: script.__name__)
def test_bad_options_end_with_a_message(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--sizes", "0"], "'0' is not a positive whole number"),
        (["--families", "nope"], "unknown: nope"),
        (["--json", "/nowhere/at/all.json"], "its folder does not exist"),
    ):
        with pytest.raises(SystemExit) as caught:
            script.main(arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


# Warm start


def test_as_many_rows_change_as_asked_for_and_the_rest_stay() -> None:
    one, other = (make("uniform", 40, "float64", seed) for seed in (0, 1))
    mixed, count = warm_start.changed(one, other, 0.1, np.random.default_rng(0))
    differing = (mixed != one).any(axis=1)
    assert count == differing.sum() == 4
    np.testing.assert_array_equal(mixed[differing], other[differing])
    assert warm_start.changed(one, other, 1e-9, np.random.default_rng(0))[1] == 1


@pytest.mark.parametrize("integral", [False, True])
def test_a_warm_answer_that_is_wrong_or_unproved_is_not_timed(integral: bool) -> None:
    cost = make("int100" if integral else "uniform", 30, "float64", 0)
    right = solve_assignment(cost)
    warm_start.check(cost, right, right, integral)
    wrong = replace(right, col_ind=np.roll(right.col_ind, 1))
    unproved = replace(right, row_duals=right.row_duals - 1.0, col_duals=right.col_duals + np.arange(30.0))
    for cold, warm, message in (
        (wrong, right, "without a start is not proved"),
        (unproved, right, "without a start is not proved"),
        (right, wrong, "from the previous duals is wrong"),
        (right, unproved, "from the previous duals is not proved"),
    ):
        with pytest.raises(RuntimeError, match=message):
            warm_start.check(cost, cold, warm, integral)


def test_warm_start_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "w.json"
    arguments = ["--sizes", "60,80", "--families", "uniform,int10n", "--repeats", "2", "--changed", "0.05"]
    assert warm_start.main([*arguments, "--json", str(where)]) == 0
    rows = written(where)
    assert [(row["family"], row["n"], row["changed_rows"]) for row in rows] == [
        ("uniform", 60, 3),
        ("uniform", 80, 4),
        ("int10n", 60, 3),
        ("int10n", 80, 4),
    ]
    assert all(len(row["cold_samples"]) == len(row["warm_samples"]) == 2 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4 + 1
    made = warm_start.Row("uniform", 60, "float32", 3, [1.0, 2.0, 9.0], [1.0, 0.5, 0.1])
    assert made.ratio == 0.25


# Threads


def test_a_wrong_answer_with_more_threads_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = make("uniform", 30, "float64", 0)

    def wrong_with(count: int) -> Any:
        def solve(cost: Any, threads: int) -> Any:
            answer = solve_assignment(cost)
            return replace(answer, col_ind=np.roll(answer.col_ind, 1)) if threads == count else answer

        return solve

    threads.check(cost, [1, 2], False)
    for count, message in ((1, "with 1 threads is not proved"), (2, "with 2 threads is wrong")):
        monkeypatch.setattr("rebasin_fast.solve_assignment", wrong_with(count))
        with pytest.raises(RuntimeError, match=message):
            threads.check(cost, [1, 2], False)


@LINUX
def test_the_busy_process_is_busy_and_ends() -> None:
    def ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    with threads.busy_core() as pid:
        before, looks = ticks(pid), 0
        while ticks(pid) == before:
            looks += 1
            assert looks < 10**6
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_threads_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "t.json"
    arguments = ["--sizes", "60", "--families", "uniform", "--threads", "2,1,3", "--repeats", "2"]
    assert threads.main([*arguments, "--json", str(where)]) == 0
    rows = written(where)
    assert [(row["beside"], row["threads"]) for row in rows] == [(b, t) for b in threads.BESIDE for t in (1, 2, 3)]
    assert all(len(row["samples"]) == 2 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 1
    made = [
        threads.Row("ties", 8, "float32", beside, count, [seconds])
        for beside, factor in zip(threads.BESIDE, (1.0, 2.0), strict=True)
        for count, seconds in ((1, 0.03 * factor), (2, 0.02), (4, 0.01))
    ]
    alone, busy = threads.lines(made)
    assert alone.split()[-5:] == ["30.00", "20.00", "10.00", "1.50", "3.00"]
    assert busy.split()[-5:] == ["60.00", "20.00", "10.00", "3.00", "6.00"]


# Memory


@pytest.mark.parametrize("dtype", memory.ALL_DTYPES)
@pytest.mark.parametrize("family", ["uniform", "int100", "lowrank16", "constant"])
def test_instances_come_in_every_dtype(family: str, dtype: str) -> None:
    cost = memory.instance(family, 40, dtype)
    assert cost.dtype == dtype
    assert cost.shape == (40, 40)
    assert np.isfinite(cost).all()
    if family != "constant":
        assert 2 <= len(np.unique(cost)) <= 40 * 40
        assert len(np.unique(cost)) > 40 or dtype == "bool"
    if cost.dtype.kind in "iu":
        assert np.ptp(cost.astype(float)) <= 2**30


@LINUX
def test_the_peak_is_counted_even_in_memory_that_was_freed_before() -> None:
    size, chunk = 8 << 20, 50_000  # so small that they come from the heap
    blocks = [b"x" * chunk for _ in range(size // chunk)]
    above = b"x" * chunk  # under which the heap keeps what is freed
    del blocks
    with PeakMemory() as measured:
        blocks = [b"x" * chunk for _ in range(size // chunk)]
    del blocks, above
    if measured.bytes is None:
        pytest.skip("the high-water mark cannot be reset here")
    assert 0.9 * size <= measured.bytes <= 1.5 * size


@LINUX
def test_memory_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PeakMemory() as measured:
        pass
    if measured.bytes is None:
        pytest.skip("the high-water mark cannot be reset here")
    where = tmp_path / "m.json"
    assert memory.main(["--sizes", "1024", "--dtypes", "float16,float64", "--json", str(where)]) == 0
    rows = written(where)
    assert [(row["dtype"], row["with_duals"], row["maximize"]) for row in rows] == [
        (dtype, duals, maximize)
        for dtype in ("float16", "float64")
        for duals in (False, True)
        for maximize in (False, True)
    ]
    assert max(row["share"] for row in rows) < 0.9  # every dtype is solved where it lies
    assert all(row["share"] == row["extra_bytes"] / (1024**2 * np.dtype(row["dtype"]).itemsize) for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 1


@LINUX
def test_memory_of_a_wrong_answer_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "c.npy", make("uniform", 30, "float32", 0))
    wrong = (np.arange(30), np.arange(30))
    monkeypatch.setattr("rebasin_fast.linear_sum_assignment", lambda cost, maximize: wrong)
    with pytest.raises(RuntimeError, match=r"the answer is wrong on a \(30, 30\) float32 matrix"):
        memory.extra_bytes(str(tmp_path / "c.npy"), False, False)


# Small calls


def test_small_calls_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "s.json"
    arguments = ["--sizes", "4", "--families", "ties", "--dtypes", "float32,int64", "--instances", "1", "--bursts", "1"]
    assert small_calls.main([*arguments, "--peers-dir", str(tmp_path), "--json", str(where)]) in (0, 1)
    rows = written(where)
    assert [(row["dtype"], row["family"], row["n"]) for row in rows] == [("float32", "ties", 4), ("int64", "ties", 4)]
    assert all({"rebasin_fast", "scipy"} <= set(row["microseconds"]) for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 1


# Tracing


def test_tracing_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tracing.main(["--layers", "3", "--repeats", "1", "--json", str(tmp_path / "out.json")]) == 0
    rows = written(tmp_path / "out.json")
    assert [(row["model"], row["groups"]) for row in rows] == [("encoder", 13), ("perceptron", 4)]
    assert all(row["seconds"] > 0 for row in rows)
    assert "perceptron" in capsys.readouterr().out


# Checkpoints


@LINUX
def test_the_memory_of_a_merge_is_measured_and_its_answer_checked(tmp_path: Path) -> None:
    import torch

    size, peak = checkpoint_memory.merge_peak(tmp_path, "1M", torch.bfloat16, 16, 3)
    assert size >= 3 * 16 * 16 * 2
    assert peak > 10 << 20
