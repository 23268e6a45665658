"""The linear assignment problem: SciPy's contract, and an answer that carries its proof."""

from __future__ import annotations

import math
import numbers
import operator
import os
import warnings
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rebasin_fast import _core, _on_device, cuda
from rebasin_fast._arrays import IndexArray, lies_on_cuda
from rebasin_fast._cost_matrix import Duals, as_cost, as_duals
from rebasin_fast._version import __version__

Method: TypeAlias = Literal["auto", "jv", "auction", "dense", "shortest_path"]

_MOST_THREADS = 2**31 - 1  # what the core's int holds; it starts no more than it has work for


def _warn_of_unknown_isa() -> None:
    wanted = os.environ.get("REBASIN_FAST_ISA")
    if wanted and wanted not in _core.available_isas():
        warnings.warn(
            f"REBASIN_FAST_ISA is {wanted!r}; this machine has {', '.join(_core.available_isas())}. "
            f"Using {_core.active_isa()}.",
            RuntimeWarning,
            stacklevel=2,
        )


_warn_of_unknown_isa()


@dataclass(frozen=True)
class AssignmentStats:
    """What the solver did.

    Attributes
    ----------
    method : str
        The algorithm that ran, in the words of `solve_assignment`: ``"jv"``, ``"auction"``, ``"dense"`` or
        ``"shortest_path"``. ``"jv"`` also where ``"auto"`` added eps-scaling to it; ``"auto"`` only where nothing ran,
        for an empty matrix.
    exact_integers : bool
        Whether costs and duals were held in integers because float64 would have rounded them.
    row_scans : int
        How many times a whole row (of the shorter side) was read.
    augmentations : int
        Rows that needed a shortest augmenting path.
    """

    method: str
    exact_integers: bool
    row_scans: int
    augmentations: int


@dataclass(frozen=True, eq=False)
class Assignment:
    """An optimal assignment of an (n, m) cost matrix, with the duals that prove it optimal.

    When minimising, ``row_duals[i] + col_duals[j] <= cost[i, j]`` everywhere, with equality on the chosen cells; on
    the longer side of a rectangular matrix all duals are ``<= 0``, and 0 where nothing is assigned. When maximising,
    the same with ``>=``.

    Attributes
    ----------
    row_ind, col_ind : ndarray of int64, shape (min(n, m),)
        The chosen cells, rows ascending.
    cost : float or int
        Sum of the chosen cells; an exact int for integer and bool matrices. ``inf`` or ``-inf`` when the sum of
        floats exceeds float64.
    row_duals, col_duals : ndarray of float64, shapes (n,) and (m,)
        int64 when the problem was solved in exact integers.
    gap : float
        Proven upper bound on the distance of `cost` from the optimum, in units of cost: 0 up to float64 rounding,
        unless `max_gap` allowed more.
    maximize : bool
        Whether `cost` was maximised.
    stats : AssignmentStats
        What the solver did.
    """

    row_ind: IndexArray
    col_ind: IndexArray
    cost: float | int
    row_duals: Duals
    col_duals: Duals
    gap: float
    maximize: bool
    stats: AssignmentStats


def linear_sum_assignment(cost_matrix: npt.ArrayLike, maximize: bool = False) -> tuple[IndexArray, IndexArray]:
    """Solve the linear sum assignment problem; a drop-in for ``scipy.optimize.linear_sum_assignment``.

    Parameters
    ----------
    cost_matrix : array_like, shape (n, m)
        Bool, any integer, float16, float32 or float64; nested lists, numpy arrays of any layout, CPU torch tensors,
        data frames, and what exports ``__array__`` or ``__dlpack__``. ``inf`` (``-inf`` when maximising) forbids a
        cell. Never modified. A float32 matrix is read where it lies; the duals are float64. An array on a CUDA device
        (torch, cupy, DLPack; bfloat16 too) is solved there.
    maximize : bool, default False
        Maximise the sum instead.

    Returns
    -------
    row_ind, col_ind : ndarray of int64, shape (min(n, m),)
        The chosen cells, `row_ind` ascending. A constant matrix gives the identity; up to 24 rows (or columns) ties
        are broken as SciPy breaks them, beyond that any one of the optima may come. Of an array on a CUDA device,
        arrays of the same library on the same device, made on its current stream.

    Raises
    ------
    ValueError
        If the matrix is not two-dimensional, has NaN or an infinity of the wrong sign, or allows no complete
        assignment. Texts as SciPy's.
    TypeError
        If the dtype cannot be cast safely to float64 (complex, strings, objects, long double).

    Notes
    -----
    Integers are solved exactly, also beyond 2**53, where SciPy rounds them to float64 first; Python integers that
    fit neither int64 nor uint64 are refused unless float64 holds them exactly.

    References
    ----------
    .. [1] R. Jonker, A. Volgenant (1987). A shortest augmenting path algorithm for dense and sparse linear
       assignment problems. Computing 38, 325-340. doi:10.1007/BF02278710
    .. [2] D. F. Crouse (2016). On implementing 2D rectangular assignment algorithms. IEEE Transactions on Aerospace
       and Electronic Systems 52(4), 1679-1696. doi:10.1109/TAES.2016.140952

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import linear_sum_assignment
    >>> cost = np.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
    >>> row_ind, col_ind = linear_sum_assignment(cost)
    >>> col_ind
    array([1, 0, 2])
    >>> int(cost[row_ind, col_ind].sum())
    5
    """
    found = _core.assign_directly(cost_matrix, maximize)
    if found is not None:
        return found
    if lies_on_cuda(cost_matrix):
        return _assign_on_device(cost_matrix, bool(maximize))
    return _core.assign(as_cost(cost_matrix), bool(maximize))


def solve_assignment(
    cost_matrix: npt.ArrayLike,
    maximize: bool = False,
    *,
    method: Method = "auto",
    threads: int | None = 1,
    duals: npt.ArrayLike | None = None,
    max_gap: float = 0.0,
) -> Assignment:
    """Solve the linear sum assignment problem and return the duals that prove the answer.

    Parameters
    ----------
    cost_matrix : array_like, shape (n, m)
        As for `linear_sum_assignment`.
    maximize : bool, default False
        Maximise the sum instead.
    method : {"auto", "jv", "auction", "dense", "shortest_path"}
        All are exact. ``"jv"`` and ``"auction"`` work on short lists of each row's cheapest columns, with proven bounds
        on the rest: rows bid for columns, and shortest augmenting paths do what is left. On square problems
        ``"auction"`` always bids with falling eps first (eps-scaling), ``"jv"`` never. ``"dense"`` is Jonker-Volgenant
        on whole rows, ``"shortest_path"`` augments row by row without any initialisation. ``"auto"`` takes one of these
        two for small problems and lists for the others, where it decides by what the first bids leave whether
        eps-scaling pays. Integers that float64 rounds, or could where a method is asked for, are solved in wider ones
        by ``"shortest_path"``.
    threads : int or None, default 1
        Upper limit on the threads used; None for as many processors as this process may run on. They share the passes
        over the matrix. The answer's cost does not depend on their number.
    duals : array_like, shape (m,), optional
        Column duals to start from, as in `Assignment.col_duals`: those of a similar problem make this one cheap. A
        starting point only: any finite real numbers give an exact answer, and bad ones cost time. Square problems
        solved on lists use them; rectangular ones, small ones and the other methods do without.
    max_gap : float, default 0.0
        Stop as soon as the answer is proven to be within `max_gap` of the optimum, in units of cost. It is an upper
        limit: the answer may well be the optimum, and is one wherever eps-scaling does not run.

    Returns
    -------
    Assignment
        Cells, cost, duals, gap and stats. Of an array on a CUDA device, cells and duals are arrays of the same library
        there; `method` is ``"auto"`` or ``"auction"`` then, `threads` and `max_gap` change nothing, and `stats` says
        ``"dense"`` where one block of threads solved a small problem.

    Raises
    ------
    ValueError
        As `linear_sum_assignment`; for an unknown `method`, `threads` below 1, `duals` of another shape or not finite,
        or a `max_gap` that is negative or not finite.
    TypeError
        As `linear_sum_assignment`; for `threads` that are no integer, and `duals` or `max_gap` that are no real
        numbers.
    OverflowError
        If duals do not fit: those of exact integers int64, those of costs within a few powers of ten of overflow
        float64. `linear_sum_assignment` solves both.
    KeyboardInterrupt
        On Ctrl-C, also in the middle of a large problem.

    Examples
    --------
    >>> from rebasin_fast import solve_assignment
    >>> answer = solve_assignment([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
    >>> answer.cost, answer.gap
    (5, 0.0)
    >>> float(answer.row_duals.sum() + answer.col_duals.sum())
    5.0
    >>> again = solve_assignment([[4, 1, 3], [2, 0, 5], [3, 2, 3]], duals=answer.col_duals)
    >>> again.cost
    6
    """
    if not isinstance(method, str):
        raise ValueError(f"method is {method!r}; expected 'auto', 'jv', 'auction', 'dense' or 'shortest_path'")
    threads, max_gap = as_thread_count(threads), as_gap(max_gap)
    if lies_on_cuda(cost_matrix):
        return _solve_on_device(cost_matrix, bool(maximize), method, threads, duals, max_gap)
    cost = as_cost(cost_matrix)
    start = None
    if duals is not None:
        start = np.ascontiguousarray(as_duals("duals", duals, cost.shape[1]), dtype=np.float64)
    found = _core.solve(cost, bool(maximize), method, threads, max_gap, start)
    return Assignment(
        row_ind=found["row_ind"],
        col_ind=found["col_ind"],
        cost=_total(cost, found["row_ind"], found["col_ind"]),
        row_duals=found["row_duals"],
        col_duals=found["col_duals"],
        gap=found["gap"],
        maximize=bool(maximize),
        stats=AssignmentStats(found["method"], found["exact_integers"], found["row_scans"], found["augmentations"]),
    )


def _assign_on_device(cost_matrix: Any, maximize: bool) -> tuple[Any, Any]:
    cost = _on_device.cost_on_device("cost_matrix", cost_matrix)
    if not _on_device.is_solved_there(cost):
        back = _on_device.brought_back(cost)
        row_ind, col_ind = linear_sum_assignment(_on_device.on_host(cost), maximize)
        return back(row_ind), back(col_ind)
    found = _on_device.solve(cost, maximize, with_duals=False)
    return found["row_ind"], found["col_ind"]


def _solve_on_device(
    cost_matrix: Any, maximize: bool, method: str, threads: int, duals: Any, max_gap: float
) -> Assignment:
    cost = _on_device.cost_on_device("cost_matrix", cost_matrix)
    if not _on_device.is_solved_there(cost):
        answer = solve_assignment(
            _on_device.on_host(cost),
            maximize,
            method=method,  # type: ignore[arg-type]
            threads=threads,
            duals=duals,
            max_gap=max_gap,
        )
        back = _on_device.brought_back(cost)
        arrays = {name: back(getattr(answer, name)) for name in ("row_ind", "col_ind", "row_duals", "col_duals")}
        return replace(answer, **arrays)
    if method not in ("auto", "auction"):
        raise ValueError(f"method is {method!r}; on a CUDA device expected 'auto' or 'auction'")
    found = _on_device.solve(cost, maximize, duals)
    return Assignment(
        row_ind=found["row_ind"],
        col_ind=found["col_ind"],
        cost=found["cost"],
        row_duals=found["row_duals"],
        col_duals=found["col_duals"],
        gap=found["gap"],
        maximize=maximize,
        stats=AssignmentStats(found["method"], found["exact_integers"], found["row_scans"], found["augmentations"]),
    )


def build_info() -> dict[str, Any]:
    """Tell how the compiled core was built and what it uses on this machine.

    Returns
    -------
    dict
        ``version``, ``compiler``, ``isa`` (in use; force one with the environment variable ``REBASIN_FAST_ISA``),
        ``available_isas``, ``cuda`` (whether the CUDA extension was built).

    Examples
    --------
    >>> from rebasin_fast import build_info
    >>> build_info()["isa"] in build_info()["available_isas"]
    True
    """
    return {
        "version": __version__,
        "compiler": _core.COMPILER,
        "isa": _core.active_isa(),
        "available_isas": _core.available_isas(),
        "cuda": cuda.is_built(),
    }


def as_thread_count(threads: Any) -> int:
    """Return `threads` checked, None being as many as there are processors for this process."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        count = operator.index(threads)
    except TypeError:
        raise TypeError(f"threads is {threads!r}; expected a positive int, or None for all processors") from None
    if count < 1:
        raise ValueError(f"threads is {threads!r}; expected a positive int, or None for all processors")
    return min(count, _MOST_THREADS)


def as_gap(max_gap: Any) -> float:
    """Return `max_gap` checked."""
    if not isinstance(max_gap, numbers.Real):
        raise TypeError(f"max_gap is {max_gap!r}; expected a finite number >= 0")
    gap = float(max_gap)
    if not 0.0 <= gap < math.inf:
        raise ValueError(f"max_gap is {max_gap!r}; expected a finite number >= 0")
    return gap


def _total(cost: npt.NDArray[Any], rows: IndexArray, cols: IndexArray) -> float | int:
    cells = cost[rows, cols]
    if cells.dtype.kind != "f":
        return int(sum(cells.tolist()))
    try:
        return math.fsum(cells)
    except OverflowError:  # maybe of a partial sum only
        return _as_float(sum(map(Fraction, cells.tolist()), Fraction()))


def _as_float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
