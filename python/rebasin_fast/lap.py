"""The linear assignment problem: SciPy's contract, an answer that carries its proof, and the check of any proof."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from rebasin_fast import _core, cuda
from rebasin_fast._arrays import IndexArray, as_numpy_cost
from rebasin_fast._version import __version__

Duals: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64]
Method: TypeAlias = Literal["auto", "jv", "dense", "shortest_path"]

_EXACT_DOUBLE = 2**53


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
        The algorithm that ran: ``"jv"``, ``"dense"`` or ``"shortest_path"``.
    exact_integers : bool
        Whether costs and duals were held in integers because float64 could have rounded them.
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
        Sum of the chosen cells; an exact int for integer and bool matrices.
    row_duals, col_duals : ndarray of float64, shapes (n,) and (m,)
        int64 when the problem was solved in exact integers.
    gap : float
        Proven upper bound on the distance of `cost` from the optimum, in units of cost: 0 up to float64 rounding.
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


class Verification(NamedTuple):
    """What the duals prove about an assignment.

    Attributes
    ----------
    optimal : bool
        Whether `gap` and `violation` are both within `tolerance`.
    gap : float
        Upper bound on the assignment's distance from the optimum, in units of cost. It holds whatever the duals
        are: where they break a constraint the row's dual is lowered for the bound.
    violation : float
        Largest amount by which the given duals break a constraint.
    tolerance : float
        What float64 rounding can account for, or what the caller gave; 0 for exact integers.
    """

    optimal: bool
    gap: float
    violation: float
    tolerance: float


def linear_sum_assignment(cost_matrix: npt.ArrayLike, maximize: bool = False) -> tuple[IndexArray, IndexArray]:
    """Solve the linear sum assignment problem; a drop-in for ``scipy.optimize.linear_sum_assignment``.

    Parameters
    ----------
    cost_matrix : array_like, shape (n, m)
        Bool, any integer, float16, float32 or float64; nested lists, numpy arrays of any layout, CPU torch tensors,
        data frames, and what exports ``__array__`` or ``__dlpack__``. ``inf`` (``-inf`` when maximising) forbids a
        cell. Never modified. A float32 matrix is read where it lies; the duals are float64.
    maximize : bool, default False
        Maximise the sum instead.

    Returns
    -------
    row_ind, col_ind : ndarray of int64, shape (min(n, m),)
        The chosen cells, `row_ind` ascending. A constant matrix gives the identity; up to 48 rows ties are broken
        as SciPy breaks them, beyond that any one of the optima may come.

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
    return _core.assign(_as_cost(cost_matrix), bool(maximize)) if found is None else found


def solve_assignment(cost_matrix: npt.ArrayLike, maximize: bool = False, *, method: Method = "auto") -> Assignment:
    """Solve the linear sum assignment problem and return the duals that prove the answer.

    Parameters
    ----------
    cost_matrix : array_like, shape (n, m)
        As for `linear_sum_assignment`.
    maximize : bool, default False
        Maximise the sum instead.
    method : {"auto", "jv", "dense", "shortest_path"}
        ``"jv"`` is Jonker-Volgenant on short lists of each row's cheapest columns, with proven bounds on the rest, and
        eps-scaled bidding where it helps; ``"dense"`` is Jonker-Volgenant on whole rows, best up to 200 rows and
        where column minima all but decide (planted permutations, few distinct values); ``"shortest_path"``
        augments row by row without any initialisation, best for a few dozen rows. All are exact; ``"auto"`` chooses
        by size and by what the first pass shows.

    Returns
    -------
    Assignment
        Cells, cost, duals, gap and stats.

    Raises
    ------
    ValueError, TypeError
        As `linear_sum_assignment`; ValueError for an unknown `method`.
    OverflowError
        If exact integer duals do not fit int64.

    Examples
    --------
    >>> from rebasin_fast import solve_assignment
    >>> answer = solve_assignment([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
    >>> answer.cost, answer.gap
    (5, 0.0)
    >>> float(answer.row_duals.sum() + answer.col_duals.sum())
    5.0
    """
    if not isinstance(method, str):
        raise ValueError(f"method is {method!r}; expected 'auto', 'jv', 'dense' or 'shortest_path'")
    cost = _as_cost(cost_matrix)
    found = _core.solve(cost, bool(maximize), method)
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
        The matrix the assignment belongs to.
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
    cost = _as_cost(cost_matrix)
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
    u = _as_duals("row_duals", row_duals, cost.shape[0])
    v = _as_duals("col_duals", col_duals, cost.shape[1])
    _require_allowed_cells(cost, rows, cols)
    exact = all(np.issubdtype(x.dtype, np.integer) for x in (cost, u, v))
    if exact:
        found = _core.prove_exact(cost, maximize, rows, cols, u.astype(np.int64), v.astype(np.int64))
    else:
        found = _core.prove(cost, maximize, rows, cols, u.astype(np.float64), v.astype(np.float64))
    gap, violation, scale = found
    if tolerance is None:
        tolerance = 0.0 if exact else 8 * float(np.finfo(np.float64).eps) * scale
    return Verification(gap <= tolerance and violation <= tolerance, gap, violation, tolerance)


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


def _as_cost(cost_matrix: Any) -> npt.NDArray[Any]:
    """Return a two-dimensional array of a dtype the core reads in place, copying only where it must."""
    array = as_numpy_cost(cost_matrix)
    if not (isinstance(cost_matrix, np.ndarray) or hasattr(cost_matrix, "__dlpack__")):
        array = _reread_sequence(cost_matrix, array)
    dtype = array.dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        # Raises numpy's own TypeError, which is also SciPy's, for every dtype that is not safe to cast.
        array = array.astype(np.float64, casting="safe")
    elif dtype.kind == "b":
        array = array.view(np.uint8)
    elif dtype == np.float16:
        array = array.astype(np.float32)
    elif not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    if array.ndim != 2:
        raise ValueError(f"expected a matrix (2-D array), got a {array.ndim} array")
    return _addressable(array)


def _addressable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy what cannot be addressed by whole elements: unaligned data, fields of structured arrays."""
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    return array if array.flags.aligned and whole else np.array(array, order="C")


def _reread_sequence(source: Any, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert lists and frames of Python objects as SciPy does, but never round an integer in silence."""
    if array.dtype.kind not in "biuf":
        converted = np.asarray(source, dtype=np.float64)
    elif array.dtype == np.float64 and not (np.abs(array) < _EXACT_DOUBLE).all():
        converted = array
    else:
        return array
    for value in np.asarray(source, dtype=object).flat:
        if isinstance(value, int) and not _is_float64(value):
            raise ValueError(
                f"cost_matrix holds the integer {value}, which float64 would round; "
                "expected integers that fit int64 or uint64"
            )
    return converted


def _is_float64(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _total(cost: npt.NDArray[Any], rows: IndexArray, cols: IndexArray) -> float | int:
    cells = cost[rows, cols]
    return math.fsum(cells) if cells.dtype.kind == "f" else sum(cells.tolist())


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
        index = np.asarray(given)
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


def _as_duals(name: str, given: Any, length: int) -> Duals:
    duals = np.asarray(given)
    if duals.shape != (length,):
        raise ValueError(f"{name} has shape {duals.shape}; expected ({length},)")
    if duals.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {duals.dtype}; expected real numbers")
    duals = duals.astype(np.int64 if duals.dtype == np.int64 else np.float64)
    if not np.isfinite(duals).all():
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
    return duals
