"""What every answer of the solver must satisfy, and which of its optional arguments the tests may use."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment as scipy_solver

from rebasin_fast import Assignment, solve_assignment, verify_assignment
from reference import dual_gap


def supports(keyword: str) -> bool:
    return keyword in inspect.signature(solve_assignment).parameters


def _runs(method: str) -> bool:
    try:
        solve_assignment([[1.0]], method=method)
    except ValueError:
        return False
    return True


METHODS = tuple(method for method in ("auto", "jv", "auction", "dense", "shortest_path") if _runs(method))


def total(cost: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> float | int:
    """Sum the chosen cells without rounding: Python integers, or the correctly rounded sum of floats."""
    cells = cost[rows, cols]
    return sum(int(x) for x in cells.tolist()) if cost.dtype.kind in "biu" else math.fsum(cells.tolist())


def scipy_total(cost: np.ndarray, maximize: bool) -> float | int:
    rows, cols = scipy_solver(cost, maximize)
    return total(cost, rows, cols)


def scipy_is_exact(cost: np.ndarray) -> bool:
    """Whether SciPy's float64 holds every sum of these integers it can meet."""
    return cost.dtype.kind in "biu" and (
        cost.size == 0 or 8 * sum(cost.shape) * max(abs(int(cost.max())), abs(int(cost.min()))) < 2**53
    )


def assert_optimal(cost: np.ndarray, answer: Assignment, maximize: bool, want: float | int, where: Any = "") -> None:
    """Check a valid matching, its cost against SciPy's `want`, and its certificate, by our check and in plain NumPy."""
    n, m = cost.shape
    rows, cols = answer.row_ind, answer.col_ind
    assert rows.dtype == cols.dtype == np.int64, where
    assert rows.shape == cols.shape == (min(n, m),), where
    assert (np.diff(rows) > 0).all(), where
    assert len(set(cols.tolist())) == len(cols), where
    assert answer.cost == total(cost, rows, cols), where

    verdict = verify_assignment(cost, answer)
    assert verdict.optimal, (where, verdict)
    worse = answer.cost - want if not maximize else want - answer.cost
    if scipy_is_exact(cost):
        assert worse == 0, where
    elif cost.dtype.kind in "biu":  # SciPy rounds these; ours may only be better
        assert worse <= 0, where
    else:
        # Beyond what float64 prices can tell apart no solver that uses them is to be held to.
        assert worse <= 1e-12 * abs(want) + verdict.tolerance, (where, worse)

    if answer.stats.exact_integers:
        assert verdict[1:] == (0.0, 0.0, 0.0), where
    else:
        sign = -1.0 if maximize else 1.0
        u, v = sign * answer.row_duals, sign * answer.col_duals
        exact = sign * cost.astype(np.float64)
        scale = float(np.abs(exact[rows, cols]).sum() + np.abs(u).sum() + np.abs(v).sum())
        gap, violation = dual_gap(exact, rows, cols, u, v)
        assert abs(gap) <= 1e-13 * scale, (where, gap)
        assert violation <= 1e-13 * scale, (where, violation)
