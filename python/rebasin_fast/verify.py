"""The check of any assignment: duals prove it optimal, whichever solver it came from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rebasin_fast import _core
from rebasin_fast._arrays import IndexArray
from rebasin_fast._cost_matrix import as_cost, as_duals
from rebasin_fast._device_arrays import brought_to_host
from rebasin_fast.lap import Assignment, solve_assignment


class Verification(NamedTuple):
    """What the duals prove about an assignment.

    Attributes
    ----------
    optimal : bool
        Whether `gap` and `violation` are both within `tolerance`.
    gap : float
        Upper bound on the assignment's distance from the optimum, in units of cost; ``inf`` only when it exceeds
        float64. It holds whatever the duals are: where they break a constraint the row's dual is lowered for the
        bound.
    violation : float
        Largest amount by which the given duals break a constraint.
    tolerance : float
        What float64 rounding can account for, or what the caller gave; 0 for exact integers.
    """

    optimal: bool
    gap: float
    violation: float
    tolerance: float


def verify_assignment(
    cost_matrix: npt.ArrayLike,
    assignment: Assignment | tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    maximize: bool | None = None,
    row_duals: npt.ArrayLike | None = None,
    col_duals: npt.ArrayLike | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Prove from duals that an assignment is optimal, whichever solver it came from.

    One pass over the matrix, independent of how the answer was found: by weak duality no assignment costs less than
    the sum of feasible duals.

    Parameters
    ----------
    cost_matrix : array_like, shape (n, m)
        The matrix the assignment belongs to. What is on a CUDA device is copied to the host and checked there, by
        nothing that the device's solver uses.
    assignment : Assignment or (row_ind, col_ind)
        A complete assignment: min(n, m) cells, no row or column twice.
    maximize : bool, optional
        Whether the assignment is meant to maximise. Default: as the `Assignment` says, else False.
    row_duals, col_duals : array_like, shapes (n,) and (m,), optional
        Duals to check. Default: those of the `Assignment`; for a bare pair of index arrays the problem is solved
        here, and its duals are used.
    tolerance : float, optional
        What still counts as zero, in units of cost. Default: a bound on float64 rounding, 0 for exact integers.

    Returns
    -------
    Verification
        ``optimal``, ``gap``, ``violation`` and ``tolerance``.

    Raises
    ------
    ValueError
        If the assignment is not a complete matching, uses a forbidden cell, or duals have the wrong shape or are
        not finite; and as `linear_sum_assignment`.

    Examples
    --------
    >>> from scipy.optimize import linear_sum_assignment as scipy_solver
    >>> from rebasin_fast import verify_assignment
    >>> cost = [[4, 1, 3], [2, 0, 5], [3, 2, 2]]
    >>> verify_assignment(cost, scipy_solver(cost)).optimal
    True
    >>> verify_assignment(cost, ([0, 1, 2], [0, 1, 2])).gap
    1.0
    """
    cost = as_cost(brought_to_host(cost_matrix))
    if isinstance(assignment, Assignment):
        rows, cols = _as_matching(cost, assignment.row_ind, assignment.col_ind)
        maximize = assignment.maximize if maximize is None else bool(maximize)
        row_duals = assignment.row_duals if row_duals is None else row_duals
        col_duals = assignment.col_duals if col_duals is None else col_duals
    else:
        rows, cols = _as_matching(cost, *_pair(assignment))
        maximize = bool(maximize)
    if (row_duals is None) != (col_duals is None):
        raise ValueError("row_duals and col_duals must be given together")
    if row_duals is None:
        solved = solve_assignment(cost, maximize)
        row_duals, col_duals = solved.row_duals, solved.col_duals
    u = as_duals("row_duals", brought_to_host(row_duals), cost.shape[0])
    v = as_duals("col_duals", brought_to_host(col_duals), cost.shape[1])
    _require_allowed_cells(cost, rows, cols)
    exact = all(np.issubdtype(x.dtype, np.integer) for x in (cost, u, v))
    if exact:
        found = _core.prove_exact(cost, maximize, rows, cols, u.astype(np.int64), v.astype(np.int64))
    else:
        found = _core.prove(cost, maximize, rows, cols, u.astype(np.float64), v.astype(np.float64))
    gap, violation = found
    if tolerance is None:
        tolerance = 0.0 if exact else _rounding(cost[rows, cols], u, v)
    return Verification(gap <= tolerance and violation <= tolerance, gap, violation, tolerance)


def _rounding(*added: npt.NDArray[Any]) -> float:
    """Bound what rounding does to a sum: a few ulps of the magnitudes' sum, which itself may exceed float64."""
    ulps = 8 * float(np.finfo(np.float64).eps)
    return sum(float(np.abs(ulps * numbers.astype(np.float64)).sum()) for numbers in added)


def _pair(assignment: Any) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    try:
        rows, cols = assignment
    except (TypeError, ValueError):
        raise TypeError(
            f"assignment is {type(assignment).__name__}; expected an Assignment or a pair (row_ind, col_ind)"
        ) from None
    return rows, cols


def _as_matching(
    cost: npt.NDArray[Any], row_ind: npt.ArrayLike, col_ind: npt.ArrayLike
) -> tuple[IndexArray, IndexArray]:
    length = min(cost.shape)
    checked = []
    for name, given, limit in (("row_ind", row_ind, cost.shape[0]), ("col_ind", col_ind, cost.shape[1])):
        index = np.asarray(brought_to_host(given))
        if index.shape != (length,):
            raise ValueError(f"{name} has shape {index.shape}; expected ({length},) for a {cost.shape} cost matrix")
        if length and not np.issubdtype(index.dtype, np.integer):
            raise TypeError(f"{name} has dtype {index.dtype}; expected integers")
        index = index.astype(np.int64)
        if length and (index.min() < 0 or index.max() >= limit):
            raise ValueError(f"{name} holds an index outside 0 ... {limit - 1}")
        if len(np.unique(index)) != length:
            raise ValueError(f"{name} holds an index twice; expected each at most once")
        checked.append(index)
    return checked[0], checked[1]


def _require_allowed_cells(cost: npt.NDArray[Any], rows: IndexArray, cols: IndexArray) -> None:
    cells = cost[rows, cols]
    if cells.dtype.kind == "f" and not np.isfinite(cells).all():
        k = int(np.flatnonzero(~np.isfinite(cells))[0])
        raise ValueError(
            f"assignment uses cell ({rows[k]}, {cols[k]}), whose cost is {cells[k]}; expected finite costs"
        )
