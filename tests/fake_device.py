"""A CUDA device for tests of dispatch where there is none: its memory is the host's, its solver the CPU's.

What is real: everything of the package up to the calls of the extension, with their addresses, shapes and strides.
"""

from __future__ import annotations

import contextlib
import ctypes
import types
from typing import Any

import numpy as np

from rebasin_fast import solve_assignment, solve_assignment_factored

_CTYPES = {
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
    "float16": ctypes.c_uint16,
    "bfloat16": ctypes.c_uint16,
    "int8": ctypes.c_int8,
    "uint8": ctypes.c_uint8,
    "bool": ctypes.c_uint8,
    "int16": ctypes.c_int16,
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
}


def _at(address: int, dtype: str, index: int) -> Any:
    kind = _CTYPES[dtype]
    return kind.from_address(address + index * ctypes.sizeof(kind))


def _widened(value: int | float, dtype: str) -> float | int:
    if dtype == "bfloat16":
        return float(np.uint32(int(value) << 16).view(np.float32))
    if dtype == "float16":
        return float(np.uint16(value).view(np.float16))
    return value


def _matrix(address: int, dtype: str, shape: Any, strides: Any) -> np.ndarray:
    n, m = shape
    cells = [
        [_widened(_at(address, dtype, i * strides[0] + j * strides[1]).value, dtype) for j in range(m)]
        for i in range(n)
    ]
    return np.array(cells, dtype=dtype if dtype.startswith(("int", "uint", "float")) else np.float32)


def _write(address: int, dtype: str, values: Any) -> None:
    for k, value in enumerate(values):
        _at(address, dtype, k).value = value


class Extension:
    """Stands for `rebasin_fast._cuda`; `calls` tells what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def solve(self, costs, maximize, col_duals, answer, device, stream):
        self.calls.append("solve")
        assert (device, stream) == (0, 7)
        cost = _matrix(*costs)
        return self._answer(solve_assignment(cost, maximize, duals=self._prices(col_duals, cost.shape[1])), answer)

    def solve_factored(self, a, b, maximize, col_duals, answer, device, stream):
        self.calls.append("solve_factored")
        assert (device, stream) == (0, 7)
        for _, dtype, (_, depth), strides in (a, b):
            assert dtype == a[1]
            assert strides == (depth, 1) or depth == 0  # then any will do
        left, right = _matrix(*a), _matrix(*b)
        start = self._prices(col_duals, len(right))
        return self._answer(solve_assignment_factored(left, right, maximize, duals=start), answer)

    def largest_magnitude(self, numbers, device, stream):
        assert (device, stream) == (0, 7)
        return float(np.abs(_matrix(*numbers)).max(initial=0.0))

    @staticmethod
    def _prices(col_duals, count):
        return [_at(col_duals, "float64", j).value for j in range(count)] if col_duals else None

    @staticmethod
    def _answer(found, answer):
        names = ("row_ind", "col_ind", "row_duals", "col_duals")
        for address, name in zip(answer[:4], names, strict=True):
            if address:
                _write(address, "int64" if name.endswith("ind") else "float64", getattr(found, name).tolist())
        _write(answer[4], "float64", [found.cost])
        _write(answer[5], "float64", [found.gap])
        return {"method": "auction", "row_scans": 3, "augmentations": 0}

    def solve_list(self, costs, maximize, answers, device, stream):
        for b, (cost, answer) in enumerate(zip(costs, answers, strict=True)):
            try:
                self.solve(cost, maximize, 0, answer, device, stream)
            except ValueError as error:
                raise ValueError(f"costs[{b}]: {error}") from None
        self.calls = ["solve_list"]

    def solve_stack(self, costs, maximize, answers, device, stream):
        address, dtype, (problems, n, m), strides = costs
        size, pairs = ctypes.sizeof(_CTYPES[dtype]), min(n, m)
        steps = (8 * pairs, 8 * pairs, 8 * n, 8 * m, 8, 8)
        self.solve_list(
            [(address + b * strides[0] * size, dtype, (n, m), strides[1:]) for b in range(problems)],
            maximize,
            [[at + b * step if at else 0 for at, step in zip(answers, steps, strict=True)] for b in range(problems)],
            device,
            stream,
        )
        self.calls = ["solve_stack"]


def cupy_module() -> types.ModuleType:
    """Return a stand-in for cupy with the little of it that `_arrays` uses."""

    class Device:
        id = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    class Ndarray:
        def __init__(self, host):
            self.host = host
            self.data = types.SimpleNamespace(ptr=host.__array_interface__["data"][0])
            self.shape, self.strides, self.dtype, self.device = host.shape, host.strides, host.dtype, Device()

        __cuda_array_interface__ = property(lambda self: self.host.__array_interface__)

        def __len__(self):
            return len(self.host)

        def __abs__(self):
            return abs(self.host)

        def __getitem__(self, key):
            return self.host[key]

        def __setitem__(self, key, value):
            self.host[key] = value

        def reshape(self, *shape):
            return Ndarray(self.host.reshape(*shape))

        def astype(self, dtype, copy=True):
            return Ndarray(self.host.astype(dtype, copy=copy))

        def get(self):
            return self.host.copy()

    cupy = types.ModuleType("cupy")
    cupy.ndarray = Ndarray
    cupy.empty = lambda shape, dtype: Ndarray(np.full(shape, 99, dtype))
    cupy.asarray = lambda array: Ndarray(np.array(array))
    cupy.ascontiguousarray = lambda array: Ndarray(np.ascontiguousarray(array.host))
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=7))
    return cupy


class Exporter:
    """An array of a library nobody knows, on a CUDA device, that speaks DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("the stand-ins take the array itself")


@contextlib.contextmanager
def installed(monkeypatch, *, library: str):
    """Yield (extension, put): `put` makes a numpy array one that seems to lie on the device."""
    from rebasin_fast import _device_arrays, _on_device, cuda

    extension = Extension()
    monkeypatch.setattr(_on_device, "_extension", lambda: extension)
    monkeypatch.setattr(cuda, "why_unusable", lambda: None)
    if library == "cupy":
        cupy = cupy_module()
        monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
        yield extension, cupy.ndarray
        return
    import torch

    monkeypatch.setattr(_device_arrays, "_torch_stream", lambda _torch, _device: 7)
    monkeypatch.setattr(_device_arrays, "_adopted", lambda exporter: exporter.array)
    yield extension, lambda array: Exporter(torch.from_numpy(array) if isinstance(array, np.ndarray) else array)
