"""Many linear assignment problems in one call, shared by threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rebasin_fast import _core, _on_device
from rebasin_fast._arrays import IndexArray, as_numpy_cost, lies_on_cuda
from rebasin_fast._cost_matrix import Duals, addressable, as_cost
from rebasin_fast.lap import as_thread_count


@dataclass(frozen=True, eq=False)
class AssignmentBatch:
    """Optimal assignments of many cost matrices. What came as one array comes back as arrays, a list as tuples.

    Where one array (B, n, m) was given, the shapes below hold, k = min(n, m); where a list or tuple of matrices was,
    every field is a tuple whose entry b is what row b of the array would be. Entry b of `row_ind` is the assignment of
    ``costs[b]`` in both cases.

    Dtypes follow from the dtype of the costs, never from their values.

    Attributes
    ----------
    row_ind, col_ind : ndarray of int64, shape (B, k), or tuple of ndarray
        The chosen cells, rows ascending.
    cost : ndarray, shape (B,), or tuple of float and int
        Sums of the chosen cells: float64, or exact int64 for integers and bool.
    row_duals, col_duals : ndarray, shapes (B, n) and (B, m), or tuple of ndarray, or None
        The duals that prove the assignments optimal, as in `Assignment`; None if they were not asked for. float64, or
        int64 for int64 and uint64 costs.
    gap : ndarray of float64, shape (B,), or tuple of float, or None
        Proven upper bounds on the distance of `cost` from the optimum; None without duals.
    maximize : bool
        Whether costs were maximised.
    """

    row_ind: IndexArray | tuple[IndexArray, ...]
    col_ind: IndexArray | tuple[IndexArray, ...]
    cost: npt.NDArray[Any] | tuple[float | int, ...]
    row_duals: Duals | tuple[Duals, ...] | None
    col_duals: Duals | tuple[Duals, ...] | None
    gap: npt.NDArray[np.float64] | tuple[float, ...] | None
    maximize: bool


def solve_assignment_batch(
    costs: npt.ArrayLike | Sequence[npt.ArrayLike],
    maximize: bool = False,
    *,
    with_duals: bool = False,
    threads: int | None = 1,
) -> AssignmentBatch:
    """Solve many linear sum assignment problems: one call, no Python in between, on several threads if wanted.

    Parameters
    ----------
    costs : array_like, shape (B, n, m), or list or tuple of array_like
        One array of problems of one shape: numpy, a CPU torch tensor, or what exports ``__array__`` or ``__dlpack__``;
        any strides, read where it lies. On a CUDA device (torch, cupy, DLPack) problems are solved there, and answered
        by arrays of the same library there. Or a list or tuple of matrices, each of its own shape and dtype, each as
        `linear_sum_assignment` takes it.
    maximize : bool, default False
        Maximise the sums instead.
    with_duals : bool, default False
        Return the duals that prove the answers, and the proven gaps; costs a pass over the matrices.
    threads : int or None, default 1
        How many threads may work; None for as many cores as this process may run on. Fewer are used when the problems
        are not worth them. The answers do not depend on it.

    Returns
    -------
    AssignmentBatch
        Arrays for an array, tuples for a list or tuple, even if its matrices are all of one shape: the type of the
        answer can be read off the call.

    Raises
    ------
    ValueError, TypeError
        As `linear_sum_assignment`, the text preceded by the problem's place: ``costs[17]: cost matrix is infeasible``.
        All problems are looked at, and the first that is wrong is named.
    OverflowError
        If the cost of 64-bit integers does not fit int64 or, when asked for, duals fit neither int64 nor float64.

    Notes
    -----
    The entries of a tuple of arrays are views of one block of memory; copy what is to outlive the others.

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import solve_assignment_batch
    >>> costs = np.array([[[4, 1, 3], [2, 0, 5], [3, 2, 2]], [[1, 2, 3], [3, 1, 2], [2, 3, 1]]])
    >>> answer = solve_assignment_batch(costs)
    >>> answer.col_ind
    array([[1, 0, 2],
           [0, 1, 2]])
    >>> answer.cost
    array([5, 3])
    >>> [cols.tolist() for cols in solve_assignment_batch([np.eye(2), np.eye(2, 3)]).col_ind]
    [[1, 0], [1, 0]]
    """
    crew = as_thread_count(threads)
    if lies_on_cuda(costs):
        return _stack_on_device(costs, bool(maximize), with_duals=bool(with_duals), threads=crew)
    if isinstance(costs, list | tuple) and any(map(lies_on_cuda, costs)):
        return _list_on_device(costs, bool(maximize), with_duals=bool(with_duals))
    if isinstance(costs, list | tuple):
        matrices = [_as_problem(b, cost) for b, cost in enumerate(costs)]
        return _ragged(matrices, bool(maximize), _core.solve_batch(matrices, bool(maximize), bool(with_duals), crew))
    stack = _as_stack(costs)
    return _stacked(stack, bool(maximize), _core.solve_batch(stack, bool(maximize), bool(with_duals), crew))


def _stack_on_device(costs: Any, maximize: bool, *, with_duals: bool, threads: int) -> AssignmentBatch:
    stack = _on_device.cost_on_device("costs", costs)
    if _on_device.is_solved_there(stack):
        return _answered(_on_device.solve_stack(stack, maximize, with_duals), maximize, with_duals)
    found = solve_assignment_batch(_on_device.on_host(stack), maximize, with_duals=with_duals, threads=threads)
    back = _on_device.brought_back(stack)
    arrays = {field.name: getattr(found, field.name) for field in fields(found)}
    return replace(found, **{name: back(x) for name, x in arrays.items() if isinstance(x, np.ndarray)})


def _list_on_device(costs: Sequence[Any], maximize: bool, *, with_duals: bool) -> AssignmentBatch:
    matrices = []
    for b, cost in enumerate(costs):
        if not lies_on_cuda(cost):
            raise TypeError(
                f"costs[{b}] is a {type(cost).__name__} on the CPU; expected all of them on one CUDA device"
            )
        matrix = _on_device.cost_on_device(f"costs[{b}]", cost)
        if not _on_device.is_solved_there(matrix):
            raise TypeError(
                f"costs[{b}] has dtype {matrix.dtype}; in a list on a CUDA device expected floats or integers of at "
                "most 32 bits"
            )
        matrices.append(matrix)
    found = _on_device.solve_list(matrices, maximize, with_duals)
    return _answered({name: tuple(entries) for name, entries in found.items()}, maximize, with_duals)


def _answered(found: dict[str, Any], maximize: bool, with_duals: bool) -> AssignmentBatch:
    return AssignmentBatch(
        row_ind=found["row_ind"],
        col_ind=found["col_ind"],
        cost=found["cost"],
        row_duals=found.get("row_duals"),
        col_duals=found.get("col_duals"),
        gap=found["gap"] if with_duals else None,
        maximize=maximize,
    )


def _as_problem(b: int, cost: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return as_cost(cost)
    except (TypeError, ValueError, OverflowError) as error:
        kind = next(kind for kind in (TypeError, ValueError, OverflowError) if isinstance(error, kind))
        raise kind(f"costs[{b}]: {error}") from None


def _as_stack(costs: Any) -> npt.NDArray[Any]:
    array = as_numpy_cost(costs)
    # What becomes of a dtype, or that it is refused, is decided where single matrices are read.
    readable = as_cost(np.empty((0, 0), array.dtype)).dtype
    array = array.view(readable) if array.dtype.kind == "b" else array.astype(readable, copy=False)
    if array.ndim != 3:
        raise ValueError(f"costs has shape {array.shape}; expected (B, n, m), or a list of matrices")
    return addressable(array)


def _cost_dtype(costs: npt.NDArray[Any]) -> type[np.generic]:
    return np.float64 if costs.dtype.kind == "f" else np.int64


def _dual_dtype(costs: npt.NDArray[Any]) -> type[np.generic]:
    return np.int64 if costs.dtype.kind in "iu" and costs.dtype.itemsize == 8 else np.float64


def _stacked(stack: npt.NDArray[Any], maximize: bool, found: dict[str, npt.NDArray[Any]]) -> AssignmentBatch:
    problems, n, m = stack.shape

    def shaped(name: str, length: int, dtype: type[np.generic]) -> Any:
        return found[name].view(dtype).reshape(problems, length) if name in found else None

    return AssignmentBatch(
        row_ind=shaped("row_ind", min(n, m), np.int64),
        col_ind=shaped("col_ind", min(n, m), np.int64),
        cost=found["cost"].view(_cost_dtype(stack)),
        row_duals=shaped("row_duals", n, _dual_dtype(stack)),
        col_duals=shaped("col_duals", m, _dual_dtype(stack)),
        gap=found.get("gap"),
        maximize=maximize,
    )


def _ragged(matrices: list[npt.NDArray[Any]], maximize: bool, found: dict[str, npt.NDArray[Any]]) -> AssignmentBatch:
    pairs = [min(matrix.shape) for matrix in matrices]
    duals = [_dual_dtype(matrix) for matrix in matrices]

    def pieces(name: str, lengths: Iterable[int], dtypes: Iterable[type[np.generic]]) -> Any:
        if name not in found:
            return None
        cells, start, out = found[name], 0, []
        for length, dtype in zip(lengths, dtypes, strict=True):
            out.append(cells[start : start + length].view(dtype))
            start += length
        return tuple(out)

    indices = [np.int64] * len(matrices)
    costs = pieces("cost", [1] * len(matrices), [_cost_dtype(matrix) for matrix in matrices])
    return AssignmentBatch(
        row_ind=pieces("row_ind", pairs, indices),
        col_ind=pieces("col_ind", pairs, indices),
        cost=tuple(cost.item() for cost in costs),
        row_duals=pieces("row_duals", [matrix.shape[0] for matrix in matrices], duals),
        col_duals=pieces("col_duals", [matrix.shape[1] for matrix in matrices], duals),
        gap=tuple(found["gap"].tolist()) if "gap" in found else None,
        maximize=maximize,
    )
