"""The linear assignment problem whose costs are inner products, without a matrix of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rebasin_fast import _core, _on_device
from rebasin_fast._arrays import Array, lies_on_cuda, to_numpy, torch_of
from rebasin_fast._cost_matrix import as_duals
from rebasin_fast._device_arrays import DeviceArray
from rebasin_fast.lap import Assignment, AssignmentStats, as_gap, as_thread_count

Factor = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_MOST_IN_FLOAT32 = 1e37  # beyond, sums in float32, which show what matters, could overflow


def solve_assignment_factored(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    maximize: bool = False,
    *,
    threads: int | None = 1,
    duals: npt.ArrayLike | None = None,
    max_gap: float = 0.0,
) -> Assignment:
    """Solve the linear sum assignment problem with costs ``a @ b.T``, which are never stored.

    Rows of costs are computed when the solver asks for them, a few at a time, so that memory grows with n + m where
    the matrix would grow with n m: beside `a` and `b` about (n + m) (d + 100) numbers.

    Parameters
    ----------
    a : array_like, shape (n, d)
        float16, float32, float64, bool or integers; numpy arrays of any layout, torch tensors (bfloat16 too), nested
        lists, arrays on a CUDA device (torch, cupy, DLPack). Finite. Never modified; copied unless C-contiguous float32
        or float64.
    b : array_like, shape (m, d)
        Likewise, on the same device. Unless both `a` and `b` are exact in float32 by their dtypes (float16, bfloat16,
        float32, bool, and integers of up to 16 bits), both are taken as float64.
    maximize : bool, default False
        Maximise the sum instead, for example of similarities.
    threads : int or None, default 1
        Upper limit on the threads used; None for as many processors as this process may run on. The answer does not
        depend on it.
    duals : array_like, shape (m,), optional
        Column duals to start from, as in `solve_assignment`.
    max_gap : float, default 0.0
        Stop as soon as the answer is proven to be within `max_gap` of the optimum, as in `solve_assignment`.

    Returns
    -------
    Assignment
        Cells, cost, duals, gap and stats; `Assignment.gap` is proven over all n m products. Of factors on a CUDA device
        cells and duals are arrays of the same library there, and `threads` and `max_gap` change nothing.

    Raises
    ------
    ValueError
        If `a` or `b` is not two-dimensional, they differ in d, hold NaN or infinity, or numbers so large that sums of
        products overflow float64; for `threads` below 1, `duals` of another shape or not finite, or a `max_gap` that
        is negative or not finite.
    TypeError
        For complex numbers, strings and objects, tensors on devices other than CPU and CUDA, factors on two devices,
        and as `solve_assignment`.
    KeyboardInterrupt
        On Ctrl-C, also in the middle of a large problem.

    Notes
    -----
    Exact means exact over these costs: c_ij is the float64 number that adding up a_ik b_jk in ascending k gives, each
    product and each addition rounded to float64; of float32 numbers the products are exact. It does not depend on the
    processor or on threads, and differs from ``a.astype(float) @ b.astype(float).T`` by a few roundings, for numpy
    adds in another order. Where sums in float32 show which columns of a row cannot matter, by a bound on their error
    [1]_, the float64 ones are formed for the others only; the bound is part of the proof.

    Small problems (up to 2^18 products) are solved as matrices. float64 is several times slower than float32. On a
    CUDA device all sums are formed in float64, about 256 MiB of rows at a time, in as many passes as a matrix would be
    read; the products, and so what is exact, are those of the CPU to the bit.

    References
    ----------
    .. [1] N. J. Higham (2002). Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1. SIAM.
       doi:10.1137/1.9780898718027

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import solve_assignment_factored
    >>> rng = np.random.default_rng(0)
    >>> a = rng.standard_normal((1000, 16), dtype=np.float32)
    >>> shuffled = rng.permutation(1000)
    >>> answer = solve_assignment_factored(a[shuffled], a, maximize=True)
    >>> bool((answer.col_ind == shuffled).all())
    True
    """
    crew, gap = as_thread_count(threads), as_gap(max_gap)
    if lies_on_cuda(a) or lies_on_cuda(b):
        found = _solve_on_device(a, b, bool(maximize), duals)
        return _assignment(found, found["cost"], bool(maximize))
    left, right = _as_factors(a, b)
    start = None
    if duals is not None:
        start = np.ascontiguousarray(as_duals("duals", duals, right.shape[0]), dtype=np.float64)
    found = _core.solve_factored(left, right, bool(maximize), crew, gap, start)
    return _assignment(found, math.fsum(found["products"]), bool(maximize))


def _assignment(found: dict[str, Any], cost: float, maximize: bool) -> Assignment:
    return Assignment(
        row_ind=found["row_ind"],
        col_ind=found["col_ind"],
        cost=cost,
        row_duals=found["row_duals"],
        col_duals=found["col_duals"],
        gap=found["gap"],
        maximize=maximize,
        stats=AssignmentStats(found["method"], found["exact_integers"], found["row_scans"], found["augmentations"]),
    )


def _solve_on_device(a: Any, b: Any, maximize: bool, duals: Any) -> dict[str, Any]:
    left, right = _on_one_device(a, b)
    wide = not (_is_narrow(left) and _is_narrow(right))
    left, right = (_on_device.factor_on_device(name, x, wide) for name, x in (("a", left), ("b", right)))
    _check_depths(left.shape, right.shape)
    largest = [_checked_magnitude(name, _on_device.largest_magnitude(x)) for name, x in (("a", left), ("b", right))]
    _check_products(largest, left.shape, right.shape)
    return _on_device.solve_factored(left, right, maximize, duals)


def _on_one_device(a: Any, b: Any) -> tuple[DeviceArray, DeviceArray]:
    for name, factor, other in (("a", a, "b"), ("b", b, "a")):
        if not lies_on_cuda(factor):
            raise TypeError(f"{other} is on a CUDA device, {name} is not; expected both on one device")
    left, right = _on_device.cost_on_device("a", a), _on_device.cost_on_device("b", b)
    if left.device != right.device:
        raise TypeError(f"a is on CUDA device {left.device}, b on {right.device}; expected both on one device")
    return left, right


def _is_narrow(factor: DeviceArray) -> bool:
    """Say whether float32 holds every number of a factor's dtype."""
    return factor.dtype == "bfloat16" or np.can_cast(factor.dtype, np.float32, "safe")


def _as_factors(a: Any, b: Any) -> tuple[Factor, Factor]:
    """Return both as C-contiguous arrays of one dtype, float32 or float64, checked."""
    left, right = _as_real_matrix("a", a), _as_real_matrix("b", b)
    _check_depths(left.shape, right.shape)
    narrow = all(np.can_cast(factor.dtype, np.float32, "safe") for factor in (left, right))
    left, right = (np.require(factor, np.float32 if narrow else np.float64, ["C", "A"]) for factor in (left, right))
    largest = [_largest_magnitude("a", left), _largest_magnitude("b", right)]
    product = _check_products(largest, left.shape, right.shape)
    if narrow and not product < _MOST_IN_FLOAT32:
        left, right = left.astype(np.float64), right.astype(np.float64)
    return left, right


def _check_depths(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    if left[1] != right[1]:
        raise ValueError(f"a has {left[1]} columns, b has {right[1]}; expected equally many")


def _check_products(largest: list[float], left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Return a bound on the products of factors, whose largest magnitudes are given; ValueError where sums overflow."""
    lengths = [magnitude * math.sqrt(left[1]) for magnitude in largest]
    product = lengths[0] * lengths[1]
    # What the core adds up: products of as many rows as there are pairs, and squares.
    if not math.isfinite(max(8.0 * min(left[0], right[0]) * product, *(length * length for length in lengths))):
        raise ValueError(
            f"a and b hold magnitudes up to {largest[0]:.4g} and {largest[1]:.4g}; "
            "expected factors whose products, added up, fit float64"
        )
    return product


def _as_real_matrix(name: str, given: Array) -> npt.NDArray[Any]:
    if torch_of(given) is not None and given.device.type != "cpu":
        raise TypeError(f"{name} is a tensor on {given.device}; expected one on the CPU (use .cpu())")
    array = to_numpy(given)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers of at most 64 bits")
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; expected two dimensions, one row per vector")
    limit = 2**31
    if array.shape[0] >= limit:
        raise ValueError(f"{name} has {array.shape[0]} rows; expected fewer than 2**31")
    return array


def _largest_magnitude(name: str, factor: Factor) -> float:
    if factor.size == 0:
        return 0.0
    low, high = float(factor.min()), float(factor.max())
    return _checked_magnitude(name, max(-low, high) if math.isfinite(low) else low)


def _checked_magnitude(name: str, magnitude: float) -> float:
    if not math.isfinite(magnitude):
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
    return magnitude
