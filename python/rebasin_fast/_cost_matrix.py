"""What callers hand over, made into arrays the core reads: cost matrices and duals."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rebasin_fast._arrays import as_numpy_cost

Duals: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64]

EXACT_DOUBLE = 2**53
"""Up to here float64 holds every integer."""

# From so many elements on float16 is widened a row at a time, by the core, which takes longer but little memory. What
# has fewer is for the core's solver of small problems, which does not read float16.
_LARGE = 640**2 + 1


def as_cost(cost_matrix: Any) -> npt.NDArray[Any]:
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
    elif dtype == np.float16 and array.size < _LARGE:
        array = array.astype(np.float32)
    elif not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    if array.ndim != 2:
        raise ValueError(f"expected a matrix (2-D array), got a {array.ndim} array")
    return addressable(array)


def as_duals(name: str, given: Any, length: int) -> Duals:
    """Return checked duals, int64 where they came as int64, else float64; `name` is for the error messages."""
    duals = np.asarray(given)
    if duals.shape != (length,):
        raise ValueError(f"{name} has shape {duals.shape}; expected ({length},)")
    if duals.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {duals.dtype}; expected real numbers")
    duals = duals.astype(np.int64 if duals.dtype == np.int64 else np.float64)
    if not np.isfinite(duals).all():
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
    return duals


def addressable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy what cannot be addressed by whole elements: unaligned data, fields of structured arrays."""
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    return array if array.flags.aligned and whole else np.array(array, order="C")


def _reread_sequence(source: Any, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert lists and frames of Python objects as SciPy does, but never round an integer in silence."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        converted = np.asarray(source, dtype=np.float64)
    elif array.dtype == np.float64 and not (np.abs(array) < EXACT_DOUBLE).all():
        converted = array
    else:
        return array
    for value in np.asarray(source, dtype=object).flat:
        if isinstance(value, int) and not is_float64(value):
            raise ValueError(
                f"cost_matrix holds the integer {value}, which float64 would round; "
                "expected integers that fit int64 or uint64"
            )
    return converted


def is_float64(value: int) -> bool:
    """Say whether float64 holds an integer exactly."""
    try:
        return int(float(value)) == value
    except OverflowError:
        return False
