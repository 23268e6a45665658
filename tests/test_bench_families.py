"""The benchmark's own ground: instances are what they claim, and no wrong answer gets a timing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCH))

import checking  # noqa: E402
import compare  # noqa: E402
import environment  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import suites  # noqa: E402
from families import FAMILIES, make, shape_of  # noqa: E402
from measure import Outcome, Record, Settings, Task, measure  # noqa: E402

INTEGRAL = [name for name, family in FAMILIES.items() if family.integral]
SEEDLESS = {"constant", "machol-wien"}


# Families


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_family_is_a_finite_matrix_that_its_seed_decides(name: str, dtype: str) -> None:
    cost = make(name, 24, dtype, seed=3)
    assert cost.shape == shape_of(name, 24)
    assert cost.dtype == dtype
    assert cost.flags.c_contiguous
    assert np.isfinite(cost).all()
    np.testing.assert_array_equal(cost, make(name, 24, dtype, seed=3))
    assert np.array_equal(cost, make(name, 24, dtype, seed=4)) == (name in SEEDLESS)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_float_dtypes_are_the_same_problem(name: str) -> None:
    single, double = (make(name, 32, dtype, seed=1) for dtype in ("float32", "float64"))
    low, high = (checking.objective(cost, *linear_sum_assignment(cost)) for cost in (single, double))
    magnitude = np.abs(double[linear_sum_assignment(double)]).sum()
    assert low == high if FAMILIES[name].integral else abs(low - high) <= 1e-5 * magnitude


@pytest.mark.parametrize("name", INTEGRAL)
def test_integral_family_holds_integers_in_every_dtype(name: str) -> None:
    floats = make(name, 20, "float64", seed=2)
    np.testing.assert_array_equal(floats, np.rint(floats))
    for dtype in ("int32", "int64", "float32"):
        np.testing.assert_array_equal(make(name, 20, dtype, seed=2), floats)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (1, 1)])
def test_every_family_takes_an_explicit_shape(name: str, shape: tuple[int, int]) -> None:
    assert make(name, shape, "float64", seed=0).shape == shape


def test_planted_permutation_is_the_optimum() -> None:
    cost = make("planted", 256, "float64", seed=5)
    _, cols = linear_sum_assignment(cost)
    np.testing.assert_array_equal(cols, cost.argmin(axis=1))


def test_machol_wien_optimum_is_the_reversal() -> None:
    rows, cols = linear_sum_assignment(make("machol-wien", 17, "int64"))
    np.testing.assert_array_equal(cols, rows[::-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense", 8), "family is 'nonsense'"),
        (("uniform", 0), "size is 0"),
        (("uniform", (3, -1)), "size is"),
        (("uniform", 8, "float16"), "dtype is 'float16'"),
        (("uniform", 8, "int32"), "not integers"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*arguments)


# Checking


@pytest.mark.parametrize(
    ("rows", "cols", "message"),
    [
        ([0, 1, 2], [0, 1, 1], "column indices repeat"),
        ([0, 1, 1], [0, 1, 2], "row indices repeat"),
        ([0, 1, 2], [0, 1, 3], "column indices span"),
        ([0, 1, 2], [0, 1, -1], "column indices span"),
        ([0, 1], [0, 1], "2 row indices; expected 3"),
        ([0, 1, 2], [0.0, 1.0, 2.0], "expected one axis of integers"),
        ([[0, 1, 2]], [0, 1, 2], "expected one axis of integers"),
    ],
)
def test_what_is_no_assignment_is_flagged(rows: list[int], cols: list[int], message: str) -> None:
    reason = checking.why_invalid((3, 3), rows, cols)
    assert reason is not None
    assert message in reason


@pytest.mark.parametrize("name", FAMILIES)
def test_the_optimum_passes_and_a_swap_that_costs_is_flagged(name: str) -> None:
    cost = make(name, 24, "float32", seed=6)
    rows, cols = linear_sum_assignment(cost)
    reference = checking.reference_from(cost, rows, cols, None, FAMILIES[name].integral)
    assert reference is not None
    assert checking.why_invalid(cost.shape, rows, cols) is None
    assert checking.why_wrong(checking.objective(cost, rows, cols), reference) is None
    wrong = np.roll(cols, 1)
    assert checking.why_invalid(cost.shape, rows, wrong) is None
    verdict = checking.why_wrong(checking.objective(cost, rows, wrong), reference)
    assert (verdict is None) == (name == "constant")


def test_one_unit_is_too_much_for_integers_and_below_the_optimum_is_flagged_too() -> None:
    reference = checking.Reference(value=1e9, slack=0.5, source="scipy", gap=None)
    assert checking.why_wrong(1e9, reference) is None
    assert "above" in str(checking.why_wrong(1e9 + 1, reference))
    assert "BELOW" in str(checking.why_wrong(1e9 - 1, reference))


@pytest.mark.parametrize("shape", [(20, 20), (12, 20), (20, 12)])
def test_dual_bound_holds_for_any_duals_and_is_tight_for_optimal_ones(shape: tuple[int, int]) -> None:
    from scipy.optimize import linprog

    cost = make("uniform", shape, "float64", seed=7)
    optimum = checking.objective(cost, *linear_sum_assignment(cost))
    rng = np.random.default_rng(8)
    for _ in range(20):
        assert checking.dual_bound(cost, rng.normal(size=shape[0]), rng.normal(size=shape[1])) <= optimum + 1e-12
    row_of, col_of = np.divmod(np.arange(cost.size), shape[1])
    sums = np.vstack([row_of == i for i in range(shape[0])] + [col_of == j for j in range(shape[1])]).astype(float)
    at_most = np.r_[np.full(shape[0], shape[0] > shape[1]), np.full(shape[1], shape[1] > shape[0])]
    free = {"A_ub": sums[at_most], "b_ub": np.ones(at_most.sum())} if at_most.any() else {}
    solved = linprog(cost.ravel(), A_eq=sums[~at_most], b_eq=np.ones((~at_most).sum()), **free)
    duals = np.zeros(sum(shape))
    duals[~at_most] = solved.eqlin.marginals
    duals[at_most] = solved.ineqlin.marginals if free else 0.0
    assert checking.dual_bound(cost, duals[: shape[0]], duals[shape[0] :]) == pytest.approx(optimum, abs=1e-9)


def test_a_reference_needs_a_valid_answer_and_duals_that_prove_it() -> None:
    cost = make("int100", 10, "float64", seed=9)
    rows, cols = linear_sum_assignment(cost)
    zeros = np.zeros(10)
    assert checking.dual_bound(cost, zeros, zeros) < checking.objective(cost, rows, cols) - 0.5
    assert checking.reference_from(cost, rows, cols, (zeros, zeros), True) is None
    assert checking.reference_from(cost, rows, np.zeros(10, int), None, True) is None


# Peers in processes of their own; stand-ins named `lap` misbehave in every way a peer can

RIGHT = "from scipy.optimize import linear_sum_assignment as lsa\ndef lapjv(c, **k): return lsa(c)[1], None"
STAND_INS = {
    "ok": RIGHT,
    "wrong: objective": "import numpy as np\ndef lapjv(c, **k): return np.arange(len(c)), None",
    "wrong: 29 column indices repeat": "import numpy as np\ndef lapjv(c, **k): return np.arange(len(c)) // 30, None",
    "wrong: 29 row indices; expected 30": "import numpy as np\ndef lapjv(c, **k): return np.arange(len(c)) - 1, None",
    "wrong: the input was modified": RIGHT.replace("return", "c[0] += 1; return"),
    "failed: RuntimeError: no luck": "def lapjv(c, **k): raise RuntimeError('no luck')",
    "failed: exit status 7": "import os\ndef lapjv(c, **k): os._exit(7)",
    "over limit: more than 2 s": "import time\ndef lapjv(c, **k): time.sleep(60)",
}


def run_stand_in(folder: Path, source: str, limit: float = 60.0, skip: frozenset[str] = frozenset()) -> Record:
    (folder / "lap").mkdir()
    (folder / "lap" / "lap.py").write_text("print('noise on standard output')\n" + source)
    settings = Settings(threads=1, repeats=2, limit=limit, peers_dir=folder)
    task = Task("uniform", 30, "float32", 0)
    return measure(task, peers.solvers_named(["lap"]), settings, set(skip), lambda step: None)


@pytest.mark.parametrize(("expected", "source"), STAND_INS.items(), ids=list(STAND_INS))
def test_only_right_answers_are_timed(tmp_path: Path, expected: str, source: str) -> None:
    record = run_stand_in(tmp_path, source, limit=2.0 if "over limit" in expected else 60.0)
    [outcome] = record.outcomes
    status, _, detail = expected.partition(": ")
    assert outcome.status == status
    assert detail in outcome.detail
    assert (outcome.seconds is not None) == (status == "ok") == bool(outcome.samples)
    assert record.reference is not None
    assert record.pass_seconds is not None


def test_a_peer_that_is_not_there_is_reported_as_such(tmp_path: Path) -> None:
    [outcome] = run_stand_in(tmp_path, "import a_module_that_is_not_there").outcomes
    assert (outcome.status, outcome.seconds) == ("not installed", None)


def test_a_solver_to_be_skipped_is_not_run(tmp_path: Path) -> None:
    [outcome] = run_stand_in(tmp_path, RIGHT, skip=frozenset({"lap"})).outcomes
    assert (outcome.status, outcome.samples) == ("skipped", [])


def test_solver_names_are_checked() -> None:
    assert [solver.name for solver in peers.solvers_named(["lapx"])] == ["lapx.lapjvs", "lapx.lapjvr", "lapx.lapjvh"]
    with pytest.raises(ValueError, match="unknown solvers munkres"):
        peers.solvers_named(["scipy", "munkres"])


def test_rounding_to_integers_keeps_integers_and_the_order_of_the_rest() -> None:
    whole = make("int100", 9, "float32")
    np.testing.assert_array_equal(peers.to_integers(whole), whole)
    real = make("uniform", 9, "float64")
    np.testing.assert_array_equal(np.argsort(peers.to_integers(real).ravel()), np.argsort(real.ravel()))


# Report, files, command line


def record(n: int, **seconds: float | None) -> Record:
    outcomes = [
        Outcome(name, peers.SOLVERS[name].package, "ok" if s else "wrong", "", seconds=s, extra_memory=0.5)
        for name, s in ((name.replace("__", "."), s) for name, s in seconds.items())
    ]
    return Record("uniform", n, (n, n), "float32", 0, checking.Reference(1.0, 0.0, "scipy", None), 1e-4, outcomes)


def test_report_takes_the_fastest_right_variant_and_never_a_wrong_one() -> None:
    one = record(64, rebasin_fast=0.01, scipy=0.2, lapx__lapjvs=0.03, lapx__lapjvr=0.02, lap=None)
    assert report.best_peer(one) == ("lapx.lapjvr", 0.02)
    assert report.speed_up(one) == pytest.approx(2.0)
    text = report.table([one])
    assert "WRONG" in text
    assert "2.00x" in text
    assert report.speed_up(record(64, rebasin_fast=None, scipy=0.2)) is None
    assert report.milliseconds(0.0123456) == "12.3"
    assert report.milliseconds(12.3456) == "12346"


def test_json_goes_round_and_the_figure_is_drawn(tmp_path: Path) -> None:
    plot = pytest.importorskip("plot", reason="needs matplotlib")
    records = [record(64, rebasin_fast=0.01, scipy=0.2), record(128, rebasin_fast=0.02, scipy=None)]
    records.append(replace(records[0], family="ties", reference=None, pass_seconds=None))
    options = compare.parse(["--json", str(tmp_path / "r.json")])
    compare.write_records(options.json, options, records)
    again, about = report.read(options.json)
    assert again == records
    assert {"cpu", "python", "numpy", "date", "command", "threads"} <= set(about)
    plot.draw(records, tmp_path / "r.png", environment.caption(about))
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--families", "nope"], "unknown: nope"),
        (["--sizes", "12,x"], "'x' is not a positive whole number"),
        (["--threads", "0"], "'0' is not a positive whole number"),
        (["--solvers", "nope"], "unknown solvers nope"),
        (["--limit-seconds", "0"], "expected a positive number"),
        (["--limit-gib", "nan"], "expected a positive number"),
        (["--dtype", "int32", "--families", "uniform"], "none of the families has integer costs"),
        (["--json", "/nowhere/at/all.json"], "its folder does not exist"),
    ],
)
def test_bad_options_end_with_a_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        compare.parse(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_markdown_holds_one_line_an_instance_and_what_it_was_measured_on() -> None:
    right = record(64, rebasin_fast=0.01, scipy=0.2, lapx__lapjvs=0.03, lapx__lapjvr=0.02, lap=None)
    right.outcomes[1].version = "9.8.7"
    slow = record(128, rebasin_fast=0.5)
    slow.outcomes.append(Outcome("scipy", "scipy", "over limit", "more than 5 s"))
    alone = record(256, rebasin_fast=0.5)
    text = report.markdown([right, slow, alone], environment.environment())
    header, rule, first, second, third, *foot = text.splitlines()
    assert {line.count("|") for line in (header, rule, first, second, third)} == {9}
    assert first == "| uniform | 64 x 64 | float32 | 10.0 | 20.0 | lapx.lapjvr | 2.00 | 100.0 |"
    assert second == "| uniform | 128 x 128 | float32 | 500 | > limit | - | - | 5000.0 |"
    assert third == "| uniform | 256 x 256 | float32 | 500 | - | - | - | 5000.0 |"
    for part in ("scipy 9.8.7", "Python 3", "NumPy", "2.6 GB/s on the largest matrix", "geometric mean 2.00x"):
        assert part in "".join(foot)


def test_results_files_are_printed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "r.json"
    compare.write_records(where, compare.parse([]), [record(64, rebasin_fast=0.01, scipy=0.2)])
    assert report.main([str(where)]) == 0
    assert "20.00x" in capsys.readouterr().out
    assert report.main([str(where), "--markdown"]) == 0
    assert "| 200 | scipy | 20.00 |" in capsys.readouterr().out


def test_suites_say_which_sizes_and_the_command_line_may_say_otherwise() -> None:
    assert {name for suite in suites.SUITES.values() for name in suite} == set(FAMILIES)
    large = suites.cases("large", None, None)
    assert {shape_of("wide4", n) for n in large["wide4"]} == {(1024, 4096), (4096, 16384)}
    assert {shape_of("tall4", n) for n in large["tall4"]} == {(4096, 1024), (16384, 4096)}
    assert large["uniform"][-1] == 16384
    assert suites.cases("large", ["uniform", "ties"], [5]) == {"uniform": (5,), "ties": (5,)}
    assert suites.cases("quick", ["tall4"], None) == {"tall4": (512, 2048)}
    assert set(compare.parse(["--dtype", "int32"]).cases) == {n for n in INTEGRAL if n in suites.SUITES["quick"]}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is the system's")
def test_a_solver_that_wants_too_much_memory_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "lap").mkdir()
    (tmp_path / "lap" / "lap.py").write_text(RIGHT.replace("return", "bytearray(2 << 30); return"))
    task, solvers = Task("uniform", 30, "float32", 0), peers.solvers_named(["lap", "scipy"])
    settings = Settings(threads=1, repeats=1, limit=60.0, peers_dir=tmp_path, limit_gib=2.0)
    outcomes = {outcome.solver: outcome for outcome in measure(task, solvers, settings, set(), str).outcomes}
    assert (outcomes["lap"].status, outcomes["scipy"].status) == ("failed", "ok")
    assert "MemoryError" in outcomes["lap"].detail


def test_comparison_runs_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lapjv").mkdir()
    (tmp_path / "lapjv" / "lapjv.py").write_text("raise ImportError('no lapjv here')")
    where = str(tmp_path / "r.json")
    arguments = ["--sizes", "16", "--families", "uniform,wide", "--solvers", "scipy,lapjv", "--repeats", "1"]
    outputs = ["--json", where, "--markdown", str(tmp_path / "r.md"), "--peers-dir", str(tmp_path)]
    assert compare.main([*arguments, *outputs]) == 0
    assert (tmp_path / "r.md").read_text().count("| uniform | 16 x 16 |") == 1
    output = capsys.readouterr().out
    assert "no lapjv here (uniform/16)" in output
    assert "square matrices only (wide/16)" in output
    assert [entry["shape"] for entry in json.loads(Path(where).read_text())["records"]] == [[16, 16], [16, 32]]
