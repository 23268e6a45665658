"""Is an answer right? Validity, objective, and a lower bound proved from duals: nothing here trusts any solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Cost = npt.NDArray[Any]

RELATIVE_TOLERANCE = {"float32": 1e-6, "float64": 1e-9, "int32": 0.0, "int64": 0.0}
"""How far above the optimum an answer may be, as a fraction of the sum of the matched costs' absolute values."""

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Reference:
    """The value every answer is held to.

    Attributes
    ----------
    value : float
        The optimal objective.
    slack : float
        How far above `value` an answer may be and still count as optimal.
    source : str
        Who says so: ``"certified"`` (duals proved by `dual_bound`) or ``"scipy"``.
    gap : float or None
        Objective less the proven lower bound; None without duals.
    """

    value: float
    slack: float
    source: str
    gap: float | None


def why_invalid(shape: tuple[int, int], rows: npt.ArrayLike, cols: npt.ArrayLike) -> str | None:
    """Say why (rows, cols) is no complete assignment of a matrix of that shape; None when it is one."""
    rows, cols = np.asarray(rows), np.asarray(cols)
    size = min(shape)
    for what, index, bound in (("row", rows, shape[0]), ("column", cols, shape[1])):
        if index.ndim != 1 or index.dtype.kind not in "iu":
            return f"{what} indices have ndim {index.ndim} and dtype {index.dtype}; expected one axis of integers"
        if len(index) != size:
            return f"{len(index)} {what} indices; expected {size}"
        if index.min() < 0 or index.max() >= bound:
            return f"{what} indices span [{index.min()}, {index.max()}]; expected [0, {bound - 1}]"
        if len(np.unique(index)) != size:
            return f"{size - len(np.unique(index))} {what} indices repeat"
    return None


def objective(cost: Cost, rows: npt.ArrayLike, cols: npt.ArrayLike) -> float:
    """Return the sum of the chosen costs, added up in float64 whatever the matrix's dtype."""
    return float(cost[np.asarray(rows), np.asarray(cols)].sum(dtype=np.float64))


def slack_for(cost: Cost, rows: npt.ArrayLike, cols: npt.ArrayLike, integral: bool) -> float:
    """Return how far above the optimum an answer may be: 0.5 for integers (so: not at all), else relative."""
    if integral:
        return 0.5
    magnitude = np.abs(cost[np.asarray(rows), np.asarray(cols)]).sum(dtype=np.float64)
    return float(RELATIVE_TOLERANCE[cost.dtype.name] * magnitude)


def dual_bound(cost: Cost, row_duals: npt.ArrayLike, col_duals: npt.ArrayLike) -> float:
    """Return a lower bound on every assignment's objective that holds whatever the duals are.

    For any column duals v the best row duals are u_i = min_j (c_ij - v_j), and sum u + sum v bounds the optimum from
    below (linear-programming duality). Only the duals of the longer side are used; with more columns than rows a
    column may stay free, which asks for v_j <= 0, so positive ones are clipped.
    """
    if cost.shape[0] > cost.shape[1]:
        return dual_bound(cost.T, col_duals, row_duals)
    v = np.array(col_duals, dtype=np.float64)
    if cost.shape[0] < cost.shape[1]:
        v = np.minimum(v, 0.0)
    step = max(1, _BLOCK_BYTES // (8 * cost.shape[1]))
    starts = range(0, cost.shape[0], step)
    return float(v.sum() + sum((cost[i : i + step] - v).min(axis=1).sum(dtype=np.float64) for i in starts))


def reference_from(
    cost: Cost, rows: npt.ArrayLike, cols: npt.ArrayLike, duals: tuple[Any, Any] | None, integral: bool
) -> Reference | None:
    """Make a reference of an answer: certified by `duals` when given; None if the answer is invalid or unproved."""
    if why_invalid(cost.shape, rows, cols) is not None:
        return None
    value, slack = objective(cost, rows, cols), slack_for(cost, rows, cols, integral)
    if duals is None:
        return Reference(value, slack, "scipy", None)
    gap = value - dual_bound(cost, *duals)
    return Reference(value, slack, "certified", gap) if gap <= slack else None


def why_wrong(value: float, reference: Reference) -> str | None:
    """Say why an objective is not the optimum; None when it is, to the reference's slack, on either side."""
    excess = value - reference.value
    if abs(excess) <= reference.slack:
        return None
    relative = excess / abs(reference.value) if reference.value else excess
    side = "above" if excess > 0 else "BELOW"
    return f"objective {value:.9g} is {side} the optimum {reference.value:.9g} ({relative:+.1e})"
