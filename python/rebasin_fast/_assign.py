"""Assignment problems of matching, solved where their matrices lie: on a device nothing but answers leaves it."""

from __future__ import annotations

from typing import Any

from rebasin_fast import cuda
from rebasin_fast._arrays import Array, Index, array_beside, index_beside, is_remote, lies_on_cuda, to_numpy
from rebasin_fast.lap import linear_sum_assignment, solve_assignment


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
    if is_remote(similarity) and not (lies_on_cuda(similarity) and cuda.why_unusable() is None):
        columns, found = _solved(to_numpy(similarity), None if duals is None else to_numpy(duals))
        return index_beside(columns, similarity), None if found is None else array_beside(found, similarity)
    return _solved(similarity, duals)


def _solved(similarity: Array, duals: Any) -> tuple[Index, Any]:
    try:
        answer = solve_assignment(similarity, maximize=True, duals=duals)
    except OverflowError:  # the duals of costs near float64's end do not fit; the answer does
        return linear_sum_assignment(similarity, maximize=True)[1], None
    return answer.col_ind, answer.col_duals
