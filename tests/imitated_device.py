"""A device that is not there: tensors that say they lie on ``cuda:0``, computed by the CPU, and counted on their way.

What a GPU would refuse is refused here (operands on two devices, NumPy reading a tensor), and every transfer between
host and device is recorded with its number of elements. So it is tested without a GPU that nothing the size of a weight
or a cost matrix goes to the host. The calls of the CUDA extension are imitated on the memory at the addresses they are
given; what they stand for, solver and kernel, is tested by itself on an emulated device.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rebasin_fast import _device_arrays, _on_device, cuda, solve_assignment, solve_assignment_batch

DEVICE = torch.device("cuda:0")
_STREAM = 7

_SCALARS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default}
_MIXED = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}


class FakeTensor(torch.Tensor):
    """A tensor on the device; `under` is the CPU tensor that does the work. Torch's core takes it for a meta tensor."""

    @staticmethod
    def __new__(cls, under):
        return torch.Tensor._make_wrapper_subclass(
            cls, under.shape, strides=under.stride(), storage_offset=under.storage_offset(), dtype=under.dtype,
            device="meta",
        )  # fmt: skip

    def __init__(self, under):
        self.under = under

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)

    def data_ptr(self):
        return self.under.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"FakeTensor({self.under})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of the fake device")


@dataclass
class Transfers(TorchDispatchMode):
    """Watches a real device; `to_host` and `to_device` hold the elements of every transfer."""

    to_host: list[int] = field(default_factory=list)
    to_device: list[int] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self._count(function, args, _stays(args, kwargs))
        return function(*args, **kwargs)

    def _count(self, function, args, stays):
        there = [_is_there(leaf) for leaf in args]
        if function in _SCALARS and there[0]:
            self.to_host.append(1)
        elif function is torch.ops.aten.copy_.default and there[0] != there[1]:
            (self.to_device if there[0] else self.to_host).append(args[1].numel())
        elif function is torch.ops.aten._to_copy.default and stays != there[0]:
            (self.to_device if stays else self.to_host).append(args[0].numel())

    def put(self, state):
        """Return a state dict on the device; names that are one tensor stay one."""
        done = {}
        return {name: done.setdefault(id(tensor), self.tensor(tensor)) for name, tensor in state.items()}

    def tensor(self, tensor):
        """Return a tensor on the device."""
        with _unwatched():
            return tensor.to(DEVICE)

    def back(self, state):
        """Return a state dict on the CPU; names that are one tensor stay one."""
        done = {}
        with _unwatched():
            return {name: done.setdefault(id(tensor), self._cpu(tensor)) for name, tensor in state.items()}

    def _cpu(self, tensor):
        return tensor.cpu()


class FakeDevice(Transfers):
    """Runs what is asked of fake tensors, on the memory under them; stands for the extension, and counts its calls."""

    packed = solved = stacks = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        stays = _stays(args, kwargs)
        self._count(function, args, stays)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        on_host = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor) and tensor.ndim]
        if fakes and on_host and function not in _MIXED:
            raise RuntimeError(f"{function}: expected all tensors to be on the same device")
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        found = function(*tree_map(_under, args), **tree_map(_under, kwargs))
        same = {id(fake.under): fake for fake in fakes}  # an operation in place returns the tensor itself

        def placed(value):
            if not (stays and isinstance(value, torch.Tensor)):
                return value
            return same[id(value)] if id(value) in same else FakeTensor(value)

        return tree_map(placed, found)

    def tensor(self, tensor):
        return FakeTensor(tensor)

    def _cpu(self, tensor):
        return tensor.under

    def solve(self, costs, maximize, col_duals, answer, device, stream):
        """Stand in for the extension's solver: the core's, on the memory at those addresses."""
        assert (device, stream) == (0, _STREAM)
        self.solved += 1
        address, dtype, (n, m), strides = costs
        with _unwatched():
            duals = _memory(col_duals, "float64", [m], [1]).numpy() if col_duals else None
            found = solve_assignment(_memory(address, dtype, [n, m], strides).numpy(), maximize, duals=duals)
            values = (found.row_ind, found.col_ind, found.row_duals, found.col_duals, [found.cost], [found.gap])
            for at, value in zip(answer, values, strict=True):
                if at:
                    written = torch.as_tensor(value)
                    _memory(at, str(written.dtype)[6:], [len(written)], [1]).copy_(written)
        return {"method": "auction", "row_scans": 0, "augmentations": 0}

    def solve_stack(self, costs, maximize, answers, device, stream):
        """Stand in for the extension's batch solver, likewise."""
        assert (device, stream) == (0, _STREAM)
        self.stacks += 1
        address, dtype, shape, strides = costs
        with _unwatched():
            found = solve_assignment_batch(_memory(address, dtype, list(shape), strides).numpy(), maximize)
            for at, value in zip(answers, (found.row_ind, found.col_ind, None, None, found.cost, None), strict=True):
                if at and value is not None:
                    written = torch.as_tensor(value).flatten()
                    _memory(at, str(written.dtype)[6:], [len(written)], [1]).copy_(written)

    def gather_panel(self, pointer, dtype, strides, indices, before, to, to_dtype, shape, device, stream):
        """Stand in for the extension's kernel: written down from what its header says, address by address."""
        assert (device, stream) == (0, _STREAM)
        self.packed += 1
        with _unwatched():
            lists = [at and _memory(at, "int64", [n], [1]) for at, n in zip(indices, shape, strict=True)]
            found = _gathered(pointer, dtype, strides, lists, shape)
            wide = torch.float64 if "float64" in (dtype, to_dtype) else torch.float32
            found = found.to(wide)
            if before is not None:
                axis, at = before
                lists[axis] = _memory(at, "int64", [shape[axis]], [1])
                found -= _gathered(pointer, dtype, strides, lists, shape)
            contiguous = [int(np.prod(shape[k + 1 :])) for k in range(len(shape))]
            _memory(to, to_dtype, shape, contiguous).copy_(found)


def _gathered(pointer, dtype, strides, lists, shape):
    extents = [n if index is None else int(index.max()) + 1 for index, n in zip(lists, shape, strict=True)]
    array = _memory(pointer, dtype, extents, strides)
    for axis, index in enumerate(lists):
        array = array if index is None else array.index_select(axis, index)
    return array


def _memory(pointer, dtype, shape, strides):
    """Return the tensor that lies at an address."""
    elements = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    size = getattr(torch, dtype).itemsize
    raw = (ctypes.c_uint8 * (elements * size)).from_address(pointer)
    return torch.frombuffer(raw, dtype=getattr(torch, dtype)).as_strided(shape, strides)


def _is_there(value):
    return isinstance(value, torch.Tensor) and value.device == DEVICE


def _stays(args, kwargs):
    """Say whether the results of an operation lie on the device (which torch's core takes for "meta")."""
    wanted = kwargs.get("device")
    if wanted is None:
        return any(map(_is_there, tree_leaves((args, kwargs))))
    return torch.device(wanted).type != "cpu"


def _under(value):
    return value.under if isinstance(value, FakeTensor) else value


@contextmanager
def _unwatched():
    with torch.utils._python_dispatch._disable_current_modes():
        yield


@contextmanager
def imitated_device():
    """Make ``cuda:0`` something to compute on, with the calls of the extension; yield the `FakeDevice`."""
    device = FakeDevice()
    with pytest.MonkeyPatch.context() as patch, device:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)  # torch without CUDA would refuse the device's name
        patch.setattr(cuda, "why_unusable", lambda: None)
        patch.setattr(_on_device, "_extension", lambda: device)
        patch.setattr(_device_arrays, "_torch_stream", lambda torch, device: _STREAM)
        yield device
