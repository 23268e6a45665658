"""The one file that knows array libraries: numpy always, torch and DLPack exporters when they turn up.

torch is never imported here; a tensor can only reach us if its library is already in ``sys.modules``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = Any
"""A numpy array or a torch tensor. One of them, so no static type says more than this name."""

Parameters: TypeAlias = Mapping[str, Array]
"""A state dict: parameter and buffer names to numpy arrays or torch tensors."""

IndexArray: TypeAlias = npt.NDArray[np.int64]

Index: TypeAlias = Any
"""An index array in kind: an int64 tensor where what it indexes lies on a device, else an `IndexArray`."""


def torch_of(value: object) -> Any | None:
    """Return the torch module when `value` is a torch tensor, else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(value, torch.Tensor) else None


def is_array(value: object) -> bool:
    """Say whether `value` is a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or torch_of(value) is not None


def is_floating(array: Array) -> bool:
    """Say whether the elements are real floating-point numbers (float16, bfloat16, float32, float64, ...)."""
    if torch_of(array) is not None:
        return bool(array.is_floating_point())
    return bool(np.issubdtype(array.dtype, np.floating))


def is_finite(array: Array) -> bool:
    """Say whether an array of floating-point numbers holds neither NaN nor infinity."""
    torch = torch_of(array)
    if torch is not None:
        array = array.detach()
        # A sum is NaN or infinite if one term is, and costs a tenth of testing them all. It may also overflow.
        return bool(torch.isfinite(array.sum())) or bool(torch.isfinite(array).all())
    return bool(np.isfinite(array).all())


def is_remote(array: Array) -> bool:
    """Say whether `array` is a tensor that the CPU cannot read where it lies."""
    return torch_of(array) is not None and array.device.type != "cpu"


def readable(array: Array) -> Array:
    """Return `array` as numpy where that takes no copy between devices, else the tensor itself, without history."""
    return array.detach() if is_remote(array) else to_numpy(array)


def index_beside(index: IndexArray, home: Array | None) -> Index:
    """Return a copy of `index` that indexes what lies where `home` does: in kind."""
    own = np.array(index, dtype=np.int64, order="C")  # torch takes neither negative strides nor read-only arrays
    if home is None or not is_remote(home):
        return own
    return array_beside(own, home)


def array_beside(array: npt.NDArray[Any], home: Array) -> Array:
    """Return a numpy array as a tensor on the device of the tensor `home`."""
    torch: Any = torch_of(home)
    return torch.from_numpy(np.ascontiguousarray(array)).to(home.device)


def positions(size: int, home: Array | None) -> Index:
    """Return the index array 0, ..., size - 1 of what lies where `home` does."""
    if home is None or not is_remote(home):
        return np.arange(size, dtype=np.int64)
    torch: Any = torch_of(home)
    return torch.arange(size, device=home.device)


def index_of_entries(index: Index, block: int) -> Index:
    """Return the index array of single entries from that of units that are `block` entries wide; a copy."""
    torch = torch_of(index)
    if torch is None:
        # A copy: torch takes neither negative strides nor read-only arrays.
        units = np.array(index, dtype=np.int64, order="C")
        return units if block == 1 else (units[:, None] * block + np.arange(block)).ravel()
    return (index[:, None] * block + torch.arange(block, device=index.device)).reshape(-1)


def index_to_numpy(index: Index) -> IndexArray:
    """Return a copy of an index array as numpy."""
    return np.array(to_numpy(index), dtype=np.int64)


def moved_positions(old: Index, new: Index) -> Index:
    """Return the positions at which two index arrays of one kind differ."""
    if torch_of(old) is None:
        return np.flatnonzero(old != new)
    return (old != new).nonzero().flatten()


def cells(matrix: Array, columns: Index) -> Array:
    """Return ``matrix[i, columns[i]]`` for every i, in float64."""
    if torch_of(matrix) is None:
        return matrix[np.arange(len(columns)), columns].astype(np.float64)
    return matrix.gather(1, columns[:, None])[:, 0].double()


def total(array: Array) -> Any:
    """Return the sum in float64: a number, or for a tensor a tensor without axes, which nothing waits for."""
    torch = torch_of(array)
    return float(array.sum(dtype=np.float64)) if torch is None else array.sum(dtype=torch.float64)


def numbers(*scalars: Any) -> list[float]:
    """Return what `total` and arithmetic made as numbers, in one transfer where they lie on a device."""
    torch = next(filter(None, map(torch_of, scalars)), None)
    if torch is None:
        return [float(scalar) for scalar in scalars]
    device = next(scalar.device for scalar in scalars if torch_of(scalar) is not None)
    joined = [torch.as_tensor(scalar, dtype=torch.float64, device=device) for scalar in scalars]
    return list(map(float, torch.stack(joined).tolist()))


def take(array: Array, index: Index, axis: int) -> Array:
    """Return a new array whose slice k along `axis` is slice ``index[k]`` of `array`; same library, dtype, device."""
    torch = torch_of(array)
    if torch is None:
        return np.take(array, index, axis=axis)
    if torch_of(index) is None:
        index = torch.from_numpy(index)
    return array.detach().index_select(axis, index.to(array.device))


def take_along(array: Array, index: IndexArray, axes: Sequence[int]) -> Array:
    """Return a new array reordered along the last of `axes` in a way that depends on the positions along the others.

    Where these are x, y, ..., slice k along the last one is slice ``index[x, y, ..., k]`` of `array`.
    """
    shape = [1] * len(array.shape)
    for axis, length in zip(axes, index.shape, strict=True):
        shape[axis] = length
    index = np.ascontiguousarray(np.transpose(index, np.argsort(axes))).reshape(shape)
    torch = torch_of(array)
    if torch is None:
        return np.take_along_axis(array, index, axis=axes[-1])
    return torch.take_along_dim(array.detach(), torch.from_numpy(index).to(array.device), dim=axes[-1])


def copy(array: Array) -> Array:
    """Return a copy that shares no memory with `array` and carries no autograd history."""
    return array.detach().clone() if torch_of(array) is not None else np.array(array)


def copy_all(params: Parameters) -> dict[str, Array]:
    """Return copies of all arrays as `copy` makes them; names that were one array are one again."""
    done: dict[tuple[Any, ...], tuple[Array, Array]] = {}
    copies: dict[str, Array] = {}
    for name, array in params.items():
        # The original is kept, too: a mapping that loads its arrays one by one may reuse freed memory.
        copies[name] = done.setdefault(memory_key(array), (array, copy(array)))[1]
    return copies


def memory_key(array: Array) -> tuple[Any, ...]:
    """Return a key that arrays share exactly while they are alive and the same view of the same memory."""
    view: tuple[Any, ...]
    if torch_of(array) is not None:
        view = (array.data_ptr(), array.stride(), array.dtype, array.device, array.is_conj(), array.is_neg())
    else:
        view = (array.__array_interface__["data"][0], array.strides, array.dtype)
    # Arrays without memory (meta tensors, empty ones) share the address 0 without sharing anything.
    return (*view, tuple(array.shape)) if view[0] else (id(array),)


def common_home(arrays: Iterable[Array]) -> Array | None:
    """Return an array that all the others can join: the first tensor where all are torch tensors, else None."""
    first = None
    for array in arrays:
        if torch_of(array) is None:
            return None
        first = array if first is None else first
    return first


def brought_home(array: Array, home: Array | None) -> Array:
    """Return `array` on the device of the tensor `home`, or as numpy where that is None; no autograd history."""
    return to_numpy(array) if home is None else array.detach().to(home.device)


def is_wide(array: Array) -> bool:
    """Say whether float32 could not hold the elements of an array of floating-point numbers."""
    return bool(array.dtype.itemsize > 4)


def cast(array: Array, dtype: str) -> Array:
    """Return `array` with elements of `dtype`, without a copy where it has them already."""
    torch = torch_of(array)
    return array.astype(dtype, copy=False) if torch is None else array.to(getattr(torch, dtype))


def dtype_name(array: Array) -> str:
    """Return the name of the elements' type, the same in both libraries."""
    return str(array.dtype).removeprefix("torch.")


def new_beside(array: Array, shape: Sequence[int], dtype: str) -> Array:
    """Return an uninitialised tensor on the device of the tensor `array`."""
    torch: Any = torch_of(array)
    return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=array.device)


def zeros_beside(array: Array, shape: Sequence[int], dtype: str) -> Array:
    """Return a tensor of zeros on the device of the tensor `array`."""
    torch: Any = torch_of(array)
    return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=array.device)


def narrow(array: Array, axis: int, start: int, stop: int) -> Array:
    """Return a view of the slices `start` to `stop` of `array` along `axis`."""
    return array[(slice(None),) * axis + (slice(start, stop),)]


def reorder_axes(array: Array, order: Sequence[int]) -> Array:
    """Return a view whose axis k is axis ``order[k]`` of `array`."""
    return array.permute(*order) if torch_of(array) is not None else array.transpose(order)


def zero_matrix(size: int, like: Array, dtype: str) -> Array:
    """Return a (size, size) matrix of zeros in the library and on the device of `like`."""
    torch = torch_of(like)
    if torch is None:
        return np.zeros((size, size), dtype=dtype)
    return torch.zeros((size, size), dtype=getattr(torch, dtype), device=like.device)


def filled_matrix(size: int, value: float, home: Array | None) -> Array:
    """Return a (size, size) matrix of float32, all cells of one value, where `home` lies (None: as numpy)."""
    if home is None or not is_remote(home):
        return np.full((size, size), value, dtype=np.float32)
    torch: Any = torch_of(home)
    return torch.full((size, size), value, dtype=torch.float32, device=home.device)


def add_to_cells(matrix: Array, columns: Index, value: float) -> None:
    """Add `value` to ``matrix[i, columns[i]]`` for every i, in place."""
    if torch_of(matrix) is None:
        matrix[np.arange(len(columns)), columns] += np.float32(value)
    else:
        matrix.scatter_add_(1, columns[:, None], matrix.new_full((len(columns), 1), value))


def join_columns(panels: Sequence[Array]) -> Array:
    """Return the matrices in `panels`, all with as many rows, side by side in a new one."""
    torch = torch_of(panels[0])
    return np.concatenate(panels, axis=1) if torch is None else torch.cat(list(panels), dim=1)


def add_product(total: Array, a: Array, b: Array) -> None:
    """Add ``a @ b.T`` to `total`, in place. Factors narrower than `total` are multiplied as they are, then widened."""
    if torch_of(total) is None:
        block = max(256, len(total) // 4)  # numpy must make the product before it can add it: not all of it at once
        for start in range(0, len(total), block):
            total[start : start + block] += a[start : start + block] @ b.T
    elif a.dtype == total.dtype:
        total.addmm_(a, b.T)
    else:
        total += a @ b.T


def blend(total: Array, other: Array, weight: float) -> None:
    """Move `total` the share `weight` of the way to `other`, in place."""
    if torch_of(total) is None:
        total += weight * (other - total)
    else:
        total.lerp_(other, weight)


def same_library(a: Array, b: Array) -> tuple[Array, Array]:
    """Return both arrays, as numpy if one of them is numpy and the other is not."""
    return (a, b) if torch_of(a) is torch_of(b) else (to_numpy(a), to_numpy(b))


def to_compute(a: Array, b: Array) -> tuple[Array, Array]:
    """Return both in the precision matching works in: float64 where either has it, else float32; on the device of a."""
    torch = torch_of(a)
    if torch is not None:
        wide = torch.float64 in (a.dtype, b.dtype)
        dtype = torch.float64 if wide else torch.float32
        return a.detach().to(dtype), b.detach().to(device=a.device, dtype=dtype)
    numpy_dtype = np.float64 if np.dtype(np.float64) in (a.dtype, b.dtype) else np.float32
    return np.asarray(a, dtype=numpy_dtype), np.asarray(b, dtype=numpy_dtype)


def widened(array: Array, *, double: bool = False) -> Array:
    """Return a copy in float64 if `array` is float64 or `double` is set, else in float32."""
    torch = torch_of(array)
    if torch is not None:
        wide = torch.float64 if double or array.dtype == torch.float64 else torch.float32
        return array.detach().to(wide, copy=True)
    return np.array(array, dtype=np.float64 if double or array.dtype == np.float64 else np.float32)


def zeros_like(array: Array) -> Array:
    """Return zeros of the shape, dtype and device of `array`, which share the memory of a single one."""
    if torch_of(array) is not None:
        return array.detach().new_zeros(()).expand(array.shape)
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def same(a: Array, b: Array) -> bool:
    """Say whether two arrays of one library are the same object, or have the same shape, dtype and elements."""
    if a is b:
        return True
    if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
        return False
    return bool((a == b).all())


def cast_like(array: Array, like: Array) -> Array:
    """Return `array` in the dtype of `like` (numpy turns results without dimensions into scalars: back to arrays)."""
    return np.asarray(array, dtype=like.dtype) if torch_of(like) is None else array.to(like.dtype)


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """Return `array` as numpy, sharing memory where that is possible (a CPU tensor of a dtype numpy knows)."""
    torch = torch_of(array)
    if torch is None:
        return np.asarray(array)
    array = array.detach().cpu()
    return np.asarray((array.float() if array.dtype == torch.bfloat16 else array).numpy())


def inner(a: Array, b: Array) -> float:
    """Return the inner product of two arrays of one shape, summed in float64."""
    if torch_of(a) is not None:
        return float(a.reshape(-1).double().dot(b.reshape(-1).double()))
    return float(np.dot(a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)))


def inner_total(a: Array, b: Array) -> Any:
    """Return the inner product of `inner`; of tensors on a device as `total` does, so that nothing waits for it."""
    return a.reshape(-1).double().dot(b.reshape(-1).double()) if is_remote(a) else inner(a, b)


_PART = 1 << 18
_PART_REMOTE = 1 << 24


def parts(array: Array) -> Iterator[tuple[int, int]]:
    """Yield ranges of the first axis so short that a copy of one hardly counts beside a large array."""
    width = max(1, math.prod(array.shape[1:]))
    step = max(1, (_PART_REMOTE if is_remote(array) else _PART) // width)
    for start in range(0, int(array.shape[0]), step):
        yield start, min(start + step, int(array.shape[0]))


def squared_norm(array: Array) -> float:
    """Return the sum of squares in float64; a narrower array is widened a part at a time."""
    array = array.detach() if torch_of(array) is not None else array
    if not array.shape:
        return inner(array, array)
    found: Any = 0.0
    for start, stop in parts(array):
        found += inner_total(array[start:stop], array[start:stop])
    return numbers(found)[0]


def add_scaled(total: Array, array: Array, sign: int) -> None:
    """Add `array`, times 1 or -1, to `total`, in place and in the precision of `total`."""
    if torch_of(total) is not None:
        total.add_(array, alpha=sign)
    elif sign > 0:
        total += array
    else:
        total -= array


def summed(array: Array, axis: int, dtype: str) -> Array:
    """Return the sums along `axis`, in `dtype`."""
    torch = torch_of(array)
    return array.sum(axis=axis, dtype=dtype) if torch is None else array.sum(dim=axis, dtype=getattr(torch, dtype))


def as_numpy_cost(cost_matrix: Any) -> npt.NDArray[Any]:
    """Return the caller's cost matrix as a numpy array, without copying where that is possible.

    Raises
    ------
    TypeError
        For a tensor on another device than the CPU.
    """
    torch = torch_of(cost_matrix)
    if torch is not None:
        if cost_matrix.device.type != "cpu":
            raise TypeError(f"cost_matrix is a tensor on {cost_matrix.device}; expected one on the CPU (use .cpu())")
        return to_numpy(cost_matrix.resolve_conj().resolve_neg())
    if lies_on_cuda(cost_matrix):
        raise TypeError("cost_matrix is on a CUDA device; expected an array on the CPU")
    if not hasattr(cost_matrix, "__array__") and hasattr(cost_matrix, "__dlpack__"):
        return np.from_dlpack(cost_matrix)
    return np.asarray(cost_matrix)


_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


@dataclass(frozen=True)
class DeviceArray:
    """An array on a CUDA device as the extension reads it, with the array that keeps it alive.

    Attributes
    ----------
    array : torch tensor or cupy array
    address : int
    dtype : str
        ``"float32"``, ``"bfloat16"``, ...
    shape, strides : tuple of int
        Strides in elements.
    device : int
    stream : int
        The caller's current stream on that device.
    """

    array: Array
    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: int
    stream: int


def lies_on_cuda(value: object) -> bool:
    """Say whether `value` is an array on a CUDA device, of whatever library. Imports nothing."""
    if torch_of(value) is not None:
        return bool(value.device.type == "cuda")  # type: ignore[attr-defined]
    if isinstance(value, np.ndarray | list | tuple | int | float):
        return False
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in _DLPACK_CUDA


def as_device_array(value: Any) -> DeviceArray:
    """Return what lies on a CUDA device as torch or cupy know it, without a copy.

    An array of another library goes through DLPack to torch where that is loaded, else to cupy.
    """
    torch = torch_of(value)
    if torch is not None:
        tensor = value.detach().resolve_conj().resolve_neg()
        return DeviceArray(
            array=tensor,
            address=tensor.data_ptr(),
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            strides=tuple(tensor.stride()),
            device=tensor.device.index or 0,
            stream=_torch_stream(torch, tensor.device),
        )
    cupy = sys.modules.get("cupy")
    if cupy is None or not isinstance(value, cupy.ndarray):
        return as_device_array(_adopted(value))
    size = value.dtype.itemsize
    array = value if all(stride % size == 0 for stride in value.strides) else cupy.ascontiguousarray(value)
    with array.device:
        stream = cupy.cuda.get_current_stream().ptr
    return DeviceArray(
        array=array,
        address=array.data.ptr,
        dtype=array.dtype.name,
        shape=tuple(array.shape),
        strides=tuple(stride // size for stride in array.strides),
        device=array.device.id,
        stream=stream,
    )


def address_of(array: Array) -> int:
    """Return where a new array on a device lies; quicker than `as_device_array`, which tells the rest too."""
    return int(array.data_ptr() if torch_of(array) is not None else array.data.ptr)


def _torch_stream(torch: Any, device: Any) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


def _adopted(value: Any) -> Array:
    """Return an array on a CUDA device that is neither torch's nor cupy's as one of theirs."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.from_dlpack(value) if hasattr(value, "__dlpack__") else torch.as_tensor(value, device="cuda")
    try:
        import cupy
    except ImportError:
        raise TypeError(
            f"a {type(value).__name__} on a CUDA device needs torch or cupy to be read; install rebasin-fast[torch] or "
            "rebasin-fast[cuda]"
        ) from None
    return cupy.from_dlpack(value) if hasattr(value, "__dlpack__") else cupy.asarray(value)


def as_dense_device_array(array: DeviceArray, dtype: str) -> DeviceArray:
    """Return an array with elements of `dtype` and no gaps on the same device; a copy where it is not that already."""
    wanted = cast(array.array, dtype)
    if torch_of(wanted) is not None:
        return as_device_array(wanted.contiguous())
    with array.array.device:
        return as_device_array(sys.modules["cupy"].ascontiguousarray(wanted))


def empty_beside(like: DeviceArray, shape: tuple[int, ...], dtype: str) -> Array:
    """Return a new array on the device of `like`, of its library; its elements are anything."""
    torch = torch_of(like.array)
    if torch is not None:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.array.device)
    with like.array.device:
        return sys.modules["cupy"].empty(shape, dtype=dtype)


def copied_beside(like: DeviceArray, array: npt.NDArray[Any]) -> Array:
    """Return a copy of a numpy array on the device of `like`, of its library."""
    torch = torch_of(like.array)
    if torch is not None:
        return torch.from_numpy(np.ascontiguousarray(array)).to(like.array.device)
    with like.array.device:
        return sys.modules["cupy"].asarray(array)


def device_to_numpy(array: Array) -> npt.NDArray[Any]:
    """Return a copy of a torch tensor or cupy array in the host's memory."""
    return to_numpy(array) if torch_of(array) is not None else np.asarray(array.get())


def give_back_kept_memory() -> None:
    """Have torch and cupy, if they are loaded, give back the device memory that no array uses any more."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None:
        torch.cuda.empty_cache()
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()


def brought_to_host(value: Any) -> Any:
    """Return a numpy copy of an array on a CUDA device; anything else as it is."""
    return device_to_numpy(as_device_array(value).array) if lies_on_cuda(value) else value
