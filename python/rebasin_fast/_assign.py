"""Assignment problems of matching, solved where their matrices lie: on a device nothing but answers leaves it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rebasin_fast import cuda
from rebasin_fast._arrays import (
    Array,
    Index,
    array_beside,
    index_beside,
    is_finite,
    is_remote,
    lies_on_cuda,
    positions,
    reorder_axes,
    to_numpy,
    zeros_beside,
)
from rebasin_fast.batch import solve_assignment_batch
from rebasin_fast.lap import linear_sum_assignment, solve_assignment

_COPIED_AT_ONCE = 1 << 24
"""Elements of a device's cost matrices that are brought together for one batch: so many keep it busy."""


def best_columns(similarity: Array, duals: Any = None) -> tuple[Index, Any]:
    """Return the permutation p that maximises the sum of ``similarity[i, p[i]]``, and column duals to start from.

    Parameters
    ----------
    similarity : array of shape (n, n)
        Numpy, or a tensor on any device.
    duals : array of shape (n,), optional
        Those of a similar problem, as returned.

    Returns
    -------
    columns : int64 array of shape (n,)
        In the kind of `similarity`: on its device.
    duals : float64 array of shape (n,), or None
        In the same kind; None where they would not fit float64.

    Notes
    -----
    Where this installation has no solver for devices, a matrix that lies on one is copied to the CPU and solved there.
    """
    if is_remote(similarity) and not _is_solved_there(similarity):
        columns, found = _solved(to_numpy(similarity), None if duals is None else to_numpy(duals))
        return index_beside(columns, similarity), None if found is None else array_beside(found, similarity)
    return _solved(similarity, duals)


def _solved(similarity: Array, duals: Any) -> tuple[Index, Any]:
    try:
        answer = solve_assignment(similarity, maximize=True, duals=duals)
    except OverflowError:  # the duals of costs near float64's end do not fit; the answer does
        return linear_sum_assignment(similarity, maximize=True)[1], None
    except ValueError as error:
        if is_finite(similarity):
            raise
        raise ValueError(
            f"inner products of weights leave the range of {str(similarity.dtype).removeprefix('torch.')}; expected "
            "smaller weights, or compute_dtype='float64'"
        ) from error
    return answer.col_ind, answer.col_duals


def best_columns_within(similarity: Array, *, fixed_blocks: bool) -> tuple[Array, Index]:
    """Return what `wreath.best_units` does, where the similarities lie: on a device.

    Parameters
    ----------
    similarity : tensor of shape (n, d, n, d)
        ``similarity[i, u, j, v]`` is that of unit u in block i with unit v in block j.
    fixed_blocks : bool
        Whether every block is asked about with itself alone; the rest is zeros.

    Returns
    -------
    values : float64 tensor of shape (n, n)
        What the best order of the units is worth, for every pair of blocks.
    columns : int64 tensor of shape (n, n, d)
        That order.
    """
    n, d = similarity.shape[:2]
    values, columns = zeros_beside(similarity, (n, n), "float64"), zeros_beside(similarity, (n, n, d), "int64")
    if fixed_blocks:
        at = positions(n, similarity)
        columns[at, at], values[at, at] = _solved_each(similarity[at, :, at])
        return values, columns
    rows = max(1, _COPIED_AT_ONCE // max(1, n * d * d))
    for i in range(0, n, rows):
        pairs = reorder_axes(similarity[i : i + rows], (0, 2, 1, 3)).reshape(-1, d, d)
        order, value = _solved_each(pairs)
        columns[i : i + rows] = order.reshape(-1, n, d)
        values[i : i + rows] = value.reshape(-1, n)
    return values, columns


def _solved_each(stack: Array) -> tuple[Index, Array]:
    if _is_solved_there(stack):
        answer = solve_assignment_batch(stack, maximize=True)
        return answer.col_ind, answer.cost
    answer = solve_assignment_batch(to_numpy(stack), maximize=True)
    return index_beside(np.asarray(answer.col_ind), stack), array_beside(np.asarray(answer.cost), stack)


def _is_solved_there(costs: Array) -> bool:
    return lies_on_cuda(costs) and cuda.why_unusable() is None
