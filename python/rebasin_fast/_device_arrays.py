"""Arrays on CUDA devices, of torch, cupy or whoever exports them: as the extension reads them, and made beside them.

Neither library is imported before an array of its own, or of one that only it can read, has turned up.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rebasin_fast._arrays import Array, cast, lies_on_cuda, to_numpy, torch_of


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
