"""``rebasin-fast bench``: the solver against those that are installed, on this machine, every answer checked."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from typer import Exit, Option, Typer

from rebasin_fast.cli._common import FAILED, complain, expected_errors, print_json, progress_bars, table
from rebasin_fast.cli._options import AsJson, Quiet

if TYPE_CHECKING:
    from rebasin_fast._progress import Progress

_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast bench

rebasin-fast bench --size 500 --size 4000 --repeats 7

rebasin-fast bench --json > bench.json
"""

Matrix: TypeAlias = npt.NDArray[np.float32]
Solver: TypeAlias = "Callable[[Matrix], npt.NDArray[np.int64]]"
"""A square matrix to the column of each row."""

_OURS = "rebasin_fast"


def add_to(app: Typer) -> None:
    """Register the command."""
    app.command(epilog=_EXAMPLES)(bench)


def bench(
    sizes: Annotated[list[int] | None, Option("--size", min=1, help="Rows of the matrices; once for each.")] = None,
    repeats: Annotated[int, Option(min=1, help="Solves of each; medians are shown.")] = 3,
    seed: Annotated[int, Option(min=0, help="Same seed, same matrices.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time the solver against SciPy, lap (or lapx) and lapjv, those of them that are installed.

    Square float32 matrices of three kinds, one thread. Every answer is checked against the dual certificate of ours
    first: exit code 1 if one of them is wrong. The full suite is in the repository's bench/ folder.
    """
    with expected_errors():
        with progress_bars(quiet) as progress:
            rows = _measured(sorted(set(sizes or (512, 1024, 2048))), repeats, seed, progress)
        if as_json:
            print_json({"unit": "seconds", "repeats": repeats, "seed": seed, "rows": [row.facts() for row in rows]})
        else:
            _show(rows)
        wrong = [f"{name} on {row.kind}, {row.size}" for row in rows for name in row.wrong]
    if wrong:
        complain(f"not optimal: {'; '.join(wrong)}")
        raise Exit(FAILED)


@dataclass(frozen=True)
class Row:
    """Median seconds of every solver on one matrix, and whose answers were not optimal."""

    kind: str
    size: int
    seconds: dict[str, float]
    wrong: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Seconds of the fastest other solver over ours; NaN without one."""
        others = [seconds for name, seconds in self.seconds.items() if name != _OURS]
        return min(others) / self.seconds[_OURS] if others else math.nan

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        ratio = self.ratio if math.isfinite(self.ratio) else None
        return {
            "costs": self.kind,
            "size": self.size,
            "seconds": self.seconds,
            "best_other_over_ours": ratio,
            "not_optimal": list(self.wrong),
        }


def solvers() -> dict[str, Solver]:
    """Return the solvers that are installed, ours first."""
    found: dict[str, Solver] = {_OURS: _ours}
    for name, (module, make) in _PEERS.items():
        try:
            found[name] = make(import_module(module))
        except (ImportError, AttributeError):
            continue
    return found


def _ours(cost: Matrix) -> npt.NDArray[np.int64]:
    from rebasin_fast.lap import linear_sum_assignment

    return linear_sum_assignment(cost)[1]


def _scipy(module: Any) -> Solver:
    return lambda cost: np.asarray(module.linear_sum_assignment(cost)[1])


def _lap(module: Any) -> Solver:
    solve = module.lapjv
    return lambda cost: np.asarray(solve(cost, return_cost=False)[0], dtype=np.int64)


def _lapjv(module: Any) -> Solver:
    solve = module.lapjv
    return lambda cost: np.asarray(solve(cost)[0], dtype=np.int64)


_PEERS: dict[str, tuple[str, Callable[[Any], Solver]]] = {
    "SciPy": ("scipy.optimize", _scipy),
    "lap": ("lap", _lap),
    "lapjv": ("lapjv", _lapjv),
}


def _uniform(rng: np.random.Generator, size: int) -> Matrix:
    return rng.random((size, size), dtype=np.float32)


def _unrelated(rng: np.random.Generator, size: int) -> Matrix:
    a, b = rng.standard_normal((2, size, size), dtype=np.float32)
    return np.asarray(-(a @ b.T))


def _planted(rng: np.random.Generator, size: int) -> Matrix:
    a = rng.standard_normal((size, 64), dtype=np.float32)
    b = a[rng.permutation(size)] + 0.5 * rng.standard_normal((size, 64), dtype=np.float32)
    return np.asarray(-(a @ b.T))


_KINDS: dict[str, Callable[[np.random.Generator, int], Matrix]] = {
    "uniform": _uniform,
    "two unrelated networks": _unrelated,
    "a network and its permuted copy": _planted,
}


def _measured(sizes: list[int], repeats: int, seed: int, progress: "Progress | None") -> list[Row]:
    rows, total = [], len(sizes) * len(_KINDS)
    for size in sizes:
        for kind, make in _KINDS.items():
            rows.append(_row(kind, make(np.random.default_rng(seed), size), repeats))
            if progress is not None:
                progress("bench", len(rows), total)
    return rows


def _row(kind: str, cost: Matrix, repeats: int) -> Row:
    """Check every solver's answer, then time it; turn by turn, so that what else the machine does hits all alike."""
    from rebasin_fast.lap import solve_assignment
    from rebasin_fast.verify import verify_assignment

    proof = solve_assignment(cost)
    rows = np.arange(len(cost))
    wrong = []
    present = solvers()
    for name, solve in present.items():
        answer = rows, solve(cost)
        # In float32 other solvers decide between sums that differ by less than their rounding.
        tolerance = 1e-5 * float(np.abs(cost).max()) * len(cost)
        checked = verify_assignment(
            cost,
            answer,
            row_duals=proof.row_duals,
            col_duals=proof.col_duals,
            tolerance=None if name == _OURS else tolerance,
        )
        if not checked.optimal:
            wrong.append(name)
    seconds: dict[str, list[float]] = {name: [] for name in present}
    for _ in range(repeats):
        for name, solve in present.items():
            start = time.perf_counter()
            solve(cost)
            seconds[name].append(time.perf_counter() - start)
    return Row(kind, len(cost), {name: median(times) for name, times in seconds.items()}, tuple(wrong))


def _show(rows: list[Row]) -> None:
    from rich.console import Console

    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    shown = table("Milliseconds, median", "costs", "rows", *names, "best other / ours")
    for row in rows:
        ratio = f"{row.ratio:.1f}" if math.isfinite(row.ratio) else "-"
        cells = [f"{1000 * row.seconds[name]:.3g}" for name in names]
        shown.add_row(row.kind, str(row.size), *cells, ratio)
    Console(highlight=False).print(shown)
    if names == [_OURS]:
        print("no other solver is installed: pip install scipy lap lapjv")
