"""The solvers that are compared: name, package, and a loader that imports it only when it is asked for.

A loader returns a function ``cost -> (row_ind, col_ind)``. What that function does is what is timed, so it holds all a
user of that solver pays for, starting from a C-contiguous matrix of the benchmark's dtype: conversions, padding and
arc lists included. A peer's fastest documented settings are used, in the precision of the data.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Cost = npt.NDArray[Any]
Answer = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Solve = Callable[[Cost], Answer]

PEERS_DIR = Path(__file__).resolve().parent.parent / ".bench-peers"

REQUIREMENTS = {"lap": "lap==0.5.13", "lapx": "lapx==0.11.1", "lapjv": "lapjv==1.3.29", "ortools": "ortools==9.15.6755"}
"""Peers that live in a folder of their own, PEERS_DIR/<package>: lap and lapx share an import name."""

OURS = "rebasin_fast"
_DISTRIBUTION = {OURS: "rebasin-fast"}


@dataclass(frozen=True)
class Solver:
    """One entry of the comparison; several solvers of one package share a column, the fastest right one is shown.

    Attributes
    ----------
    name, package : str
    load : callable
        ``threads -> (cost -> (row_ind, col_ind))``; imports the package. Peers have one thread and ignore the number.
    square_only : bool
        Takes no rectangular matrix.
    rounds : bool
        Solves a problem rounded to integers, so that a suboptimal answer is no fault of its own.
    """

    name: str
    package: str
    load: Callable[[int], Solve]
    square_only: bool = False
    rounds: bool = False


def load_ours(threads: int) -> Solve:
    """Return our solver; more threads than one reach it through `solve_assignment`, if it takes them."""
    from rebasin_fast import linear_sum_assignment, solve_assignment

    if threads == 1 or "threads" not in inspect.signature(solve_assignment).parameters:
        return linear_sum_assignment

    def solve(cost: Cost) -> Answer:
        answer = solve_assignment(cost, threads=threads)
        return answer.row_ind, answer.col_ind

    return solve


def load_scipy(threads: int) -> Solve:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment


def load_lap(threads: int) -> Solve:
    import lap

    def solve(cost: Cost) -> Answer:
        return _pairs(lap.lapjv(cost, extend_cost=cost.shape[0] != cost.shape[1], return_cost=False)[0])

    return solve


def load_lapjvs(threads: int) -> Solve:
    import lap

    def solve(cost: Cost) -> Answer:
        return lap.lapjvs(cost, return_cost=False, prefer_float32=cost.dtype == np.float32)

    return solve


def load_lapjvr(threads: int) -> Solve:
    import lap

    return lambda cost: lap.lapjvr(cost, extend_cost=cost.shape[0] != cost.shape[1], return_cost=False)


def load_lapjvh(threads: int) -> Solve:
    import lap

    return lambda cost: lap.lapjvh(cost, extend_cost=cost.shape[0] != cost.shape[1], return_cost=False)


def load_lapjv(threads: int) -> Solve:
    import lapjv

    def solve(cost: Cost) -> Answer:
        return _pairs(lapjv.lapjv(cost if cost.dtype.kind == "f" else cost.astype(np.float64))[0])

    return solve


def load_ortools(threads: int) -> Solve:
    from ortools.graph.python.linear_sum_assignment import SimpleLinearSumAssignment

    def solve(cost: Cost) -> Answer:
        n, m = cost.shape
        problem = SimpleLinearSumAssignment()
        left, right = np.repeat(np.arange(n, dtype=np.int32), m), np.tile(np.arange(m, dtype=np.int32), n)
        problem.add_arcs_with_cost(left, right, to_integers(cost).ravel())
        status = problem.solve()
        if status != problem.OPTIMAL:
            raise RuntimeError(f"ortools answered {status.name}")
        return np.arange(n), np.array([problem.right_mate(i) for i in range(n)])

    return solve


def to_integers(cost: Cost) -> npt.NDArray[np.int64]:
    """Return costs as ortools wants them: integers as they are, else 2^32 levels over the matrix's range.

    An answer is then at most n 2^-32 of the range above the optimum; the check says whether that was enough.
    """
    if cost.dtype.kind in "iu" or bool((cost == np.rint(cost)).all()):
        return cost.astype(np.int64)
    low, high = float(cost.min()), float(cost.max())
    return np.rint((cost.astype(np.float64) - low) * (2.0**32 / (high - low))).astype(np.int64)


def _pairs(col_of_row: npt.NDArray[Any]) -> Answer:
    """Turn a map row -> column, -1 for none, into index pairs."""
    rows = np.flatnonzero(col_of_row >= 0)
    return rows, col_of_row[rows]


_ALL = (
    Solver("rebasin_fast", OURS, load_ours),
    Solver("scipy", "scipy", load_scipy),
    Solver("lap", "lap", load_lap),
    Solver("lapx.lapjvs", "lapx", load_lapjvs),
    Solver("lapx.lapjvr", "lapx", load_lapjvr),
    Solver("lapx.lapjvh", "lapx", load_lapjvh),
    Solver("lapjv", "lapjv", load_lapjv, square_only=True),
    Solver("ortools", "ortools", load_ortools, square_only=True, rounds=True),
)

SOLVERS: dict[str, Solver] = {solver.name: solver for solver in _ALL}
"""Every solver by name, ours first."""


def solvers_named(names: list[str] | None) -> list[Solver]:
    """Return the solvers whose name or package is listed (None: all); ValueError names the known ones otherwise."""
    if names is None:
        return list(_ALL)
    known = {*SOLVERS, *(solver.package for solver in _ALL)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown solvers {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    return [solver for solver in _ALL if solver.name in names or solver.package in names]


def use_peer_folder(package: str, peers_dir: Path = PEERS_DIR) -> None:
    """Put a peer's own folder first on the path of this process, before anything is imported from it."""
    if package in REQUIREMENTS:
        sys.path.insert(0, str(peers_dir / package))


def version_of(package: str) -> str:
    """Return the installed version of a package, after `use_peer_folder`."""
    try:
        return importlib.metadata.version(_DISTRIBUTION.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def versions_in(peers_dir: Path, packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the peers that are installed, in their own folders or in this environment."""
    found = {}
    for package in dict.fromkeys(packages):
        where = {"path": [str(peers_dir / package)]} if package in REQUIREMENTS else {}
        for distribution in importlib.metadata.distributions(name=package, **where):
            found.setdefault(package, distribution.version)
    found.pop(OURS, None)
    return found
