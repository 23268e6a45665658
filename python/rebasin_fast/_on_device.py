"""Assignment of costs that lie on a CUDA device: solved there, answered in kind on the same device and stream.

Element types the device does not solve (64-bit and unsigned integers) go through the host, which solves them exactly.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rebasin_fast import cuda
from rebasin_fast._arrays import Array, cast, lies_on_cuda
from rebasin_fast._cost_matrix import as_duals
from rebasin_fast._device_arrays import (
    DeviceArray,
    address_of,
    as_dense_device_array,
    as_device_array,
    copied_beside,
    device_to_numpy,
    empty_beside,
    give_back_kept_memory,
)

Found = dict[str, Any]

_INTEGERS = ("int8", "uint8", "int16", "int32", "bool")
_SOLVED_THERE = ("float16", "bfloat16", "float32", "float64", *_INTEGERS)


def cost_on_device(name: str, cost: Any) -> DeviceArray:
    """Return `cost`, which lies on a CUDA device, ready to be solved there; TypeError where that is not possible."""
    reason = cuda.why_unusable()
    if reason is not None:
        raise TypeError(f"{name} is on a CUDA device, and {reason}; expected an array on the CPU (use .cpu())")
    return as_device_array(cost)


def is_solved_there(cost: DeviceArray) -> bool:
    """Say whether the device solves costs of this dtype."""
    return cost.dtype in _SOLVED_THERE


def on_host(cost: DeviceArray) -> Any:
    """Return the costs as numpy, for a dtype that the host solves."""
    return device_to_numpy(cost.array)


def solve(cost: DeviceArray, maximize: bool, duals: Any = None, *, with_duals: bool = True) -> Found:
    """Solve one problem; the entries of `_core.solve`, and `cost`. Arrays lie on the device."""
    if len(cost.shape) != 2:
        raise ValueError(f"expected a matrix (2-D array), got a {len(cost.shape)} array")
    places = _Places(cost, cost.shape, 1, with_duals)
    stats = {"method": "auto", "row_scans": 0, "augmentations": 0}
    if min(cost.shape) > 0:
        start = None if duals is None else _start_prices(cost, duals, cost.shape[1])
        stats = _called(
            "solve",
            _given(cost),
            maximize,
            0 if start is None else start.address,
            places.addresses(),
            cost.device,
            cost.stream,
        )
    else:
        places.clear()
    if with_duals and cost.dtype == "float64":
        _check_finite(places)
    found = _found(places, stats)
    return {**found, "cost": int(found["cost"])} if cost.dtype in _INTEGERS else found


def factor_on_device(name: str, factor: DeviceArray, wide: bool) -> DeviceArray:
    """Return a factor as the device multiplies it: without gaps, in float32 or if `wide` in float64."""
    if factor.dtype not in (*_SOLVED_THERE, "int64", "uint16", "uint32", "uint64"):
        raise TypeError(f"{name} has dtype {factor.dtype}; expected real numbers of at most 64 bits")
    if len(factor.shape) != 2:
        raise ValueError(f"{name} has shape {factor.shape}; expected two dimensions, one row per vector")
    return as_dense_device_array(factor, "float64" if wide else "float32")


def largest_magnitude(factor: DeviceArray) -> float:
    """Return the largest magnitude in a factor; infinity or NaN where it holds one."""
    return float(_called("largest_magnitude", _given(factor), factor.device, factor.stream))


def solve_factored(a: DeviceArray, b: DeviceArray, maximize: bool, duals: Any) -> Found:
    """Solve the problem whose costs are ``a @ b.T``, of factors that were checked; as `solve`."""
    shape = (a.shape[0], b.shape[0])
    places = _Places(a, shape, 1, True)
    stats = {"method": "auto", "row_scans": 0, "augmentations": 0}
    start = None if duals is None else _start_prices(a, duals, shape[1])
    if min(shape) > 0:
        address = 0 if start is None else start.address
        stats = _called(
            "solve_factored", _given(a), _given(b), maximize, address, places.addresses(), a.device, a.stream
        )
    else:
        places.clear()
    return _found(places, stats)


def _found(places: _Places, stats: dict[str, Any]) -> Found:
    found = places.arrays()
    numbers = {name: float(found[name][0]) for name in ("cost", "gap")}
    return {**found, **numbers, "exact_integers": False, **stats}


def solve_stack(stack: DeviceArray, maximize: bool, with_duals: bool) -> Found:
    """Solve problems of one shape; arrays as in `AssignmentBatch`."""
    if len(stack.shape) != 3:
        raise ValueError(f"costs has shape {stack.shape}; expected (B, n, m), or a list of matrices")
    problems, *shape = stack.shape
    places = _Places(stack, tuple(shape), problems, with_duals)
    if problems > 0 and min(shape) > 0:
        _called("solve_stack", _given(stack), maximize, places.addresses(), stack.device, stack.stream)
    else:
        places.clear()
    found = places.arrays(stacked=True)
    if with_duals and stack.dtype == "float64":
        _check_finite(places)
    if stack.dtype in _INTEGERS:
        found["cost"] = cast(found["cost"], "int64")
    return found


def solve_list(costs: Sequence[DeviceArray], maximize: bool, with_duals: bool) -> Found:
    """Solve problems of any shapes on one device; every entry a list, as in `AssignmentBatch`."""
    for b, cost in enumerate(costs):
        if len(cost.shape) != 2:
            raise ValueError(f"costs[{b}]: expected a matrix (2-D array), got a {len(cost.shape)} array")
        if cost.device != costs[0].device:
            raise ValueError(f"costs[{b}] is on CUDA device {cost.device}, costs[0] on {costs[0].device}; expected one")
    places = [_Places(cost, cost.shape, 1, with_duals) for cost in costs]
    solved = [(cost, place) for cost, place in zip(costs, places, strict=True) if min(cost.shape) > 0]
    for cost, place in zip(costs, places, strict=True):
        if min(cost.shape) == 0:
            place.clear()
    _called(
        "solve_list",
        [_given(cost) for cost, _ in solved],
        maximize,
        [place.addresses() for _, place in solved],
        costs[0].device,
        costs[0].stream,
    )
    found = [place.arrays() for place in places]
    out: Found = {name: [one[name] for one in found] for name in found[0]}
    totals = [float(total[0]) for total in out["cost"]]
    out["cost"] = [int(total) if cost.dtype in _INTEGERS else total for total, cost in zip(totals, costs, strict=True)]
    out["gap"] = [float(gap[0]) for gap in out["gap"]]
    return out


class _Places:
    """Arrays for the answers to `problems` problems of one shape."""

    def __init__(self, like: DeviceArray, shape: tuple[int, ...], problems: int, with_duals: bool) -> None:
        n, m = shape
        self._problems = problems
        self._lengths = {"row_ind": min(n, m), "col_ind": min(n, m)}
        if with_duals:
            self._lengths |= {"row_duals": n, "col_duals": m}
        self._arrays = {
            name: empty_beside(like, (problems * length,), "int64" if name.endswith("ind") else "float64")
            for name, length in self._lengths.items()
        }
        for name in ("cost", "gap"):
            self._arrays[name] = empty_beside(like, (problems,), "float64")

    def addresses(self) -> list[int]:
        names = ("row_ind", "col_ind", "row_duals", "col_duals", "cost", "gap")
        return [address_of(self._arrays[name]) if name in self._arrays else 0 for name in names]

    def clear(self) -> None:
        for array in self._arrays.values():
            array[...] = 0

    def arrays(self, *, stacked: bool = False) -> Found:
        if not stacked:
            return dict(self._arrays)
        shaped = {name: self._arrays[name].reshape(self._problems, n) for name, n in self._lengths.items()}
        return {**self._arrays, **shaped}


def _given(cost: DeviceArray) -> tuple[int, str, tuple[int, ...], tuple[int, ...]]:
    return cost.address, cost.dtype, cost.shape, cost.strides


def _start_prices(beside: DeviceArray, duals: Any, length: int) -> DeviceArray:
    if not lies_on_cuda(duals):
        return as_device_array(copied_beside(beside, as_duals("duals", duals, length).astype(np.float64)))
    # A few numbers beside the matrix: checked, and brought together, on the host.
    checked = as_duals("duals", device_to_numpy(as_device_array(duals).array), length).astype(np.float64)
    return as_device_array(copied_beside(beside, checked))


def _check_finite(places: _Places) -> None:
    arrays = places.arrays()
    for name in ("row_duals", "col_duals"):
        total = abs(arrays[name]).sum() if len(arrays[name]) else 0.0
        if not np.isfinite(float(total)) and not np.isfinite(device_to_numpy(arrays[name])).all():
            raise OverflowError("the duals of these costs do not fit float64; linear_sum_assignment solves them")


def _called(name: str, *arguments: Any) -> Any:
    """Call the extension; if it finds no memory, once more when array libraries have given back what they only keep."""
    call = getattr(_extension(), name)
    try:
        return call(*arguments)
    except MemoryError:
        give_back_kept_memory()
        return call(*arguments)


def _extension() -> Any:
    return importlib.import_module("rebasin_fast._cuda")


def brought_back(cost: DeviceArray) -> Callable[[Any], Array]:
    """Return what makes a numpy array one on the device of `cost`."""
    return lambda array: copied_beside(cost, array)
