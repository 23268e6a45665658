"""A device that is not there: tensors that say they lie on ``cuda:0``, computed by the CPU, and counted on their way.

What a GPU would refuse is refused here (operands on two devices, NumPy reading a tensor), and every transfer between
host and device is recorded with its number of elements. So it is tested without a GPU that nothing the size of a weight
or a cost matrix goes to the host. The assignment problems are injected: solved by the core on the memory underneath, in
the place of the solver for devices, which is tested by itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rebasin_fast import _assign, cuda, lap

DEVICE = torch.device("cuda:0")

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
class FakeDevice(TorchDispatchMode):
    """Runs what is asked of fake tensors; `to_host` and `to_device` hold the elements of every transfer."""

    to_host: list[int] = field(default_factory=list)
    to_device: list[int] = field(default_factory=list)
    solved: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        wanted = kwargs.get("device")
        stays = bool(fakes) if wanted is None else torch.device(wanted).type == "cuda"
        self._count(function, args, tensors, fakes, stays)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        found = function(*tree_map(_under, args), **tree_map(_under, kwargs))
        same = {id(fake.under): fake for fake in fakes}  # an operation in place returns the tensor itself

        def placed(value):
            if not (stays and isinstance(value, torch.Tensor)):
                return value
            return same[id(value)] if id(value) in same else FakeTensor(value)

        return tree_map(placed, found)

    def _count(self, function, args, tensors, fakes, stays):
        if function in _SCALARS and fakes:
            self.to_host.append(1)
        elif function is torch.ops.aten.copy_.default and len(fakes) == 1:
            (self.to_device if isinstance(args[0], FakeTensor) else self.to_host).append(args[1].numel())
        elif function is torch.ops.aten._to_copy.default and stays != bool(fakes):
            (self.to_device if stays else self.to_host).append(args[0].numel())
        on_host = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor) and tensor.ndim]
        if fakes and on_host and function not in _MIXED:
            raise RuntimeError(f"{function}: expected all tensors to be on the same device")

    def put(self, state):
        """Return a state dict on the device; names that are one tensor stay one."""
        done = {}
        return {name: done.setdefault(id(tensor), FakeTensor(tensor)) for name, tensor in state.items()}

    def solve_assignment(self, cost, maximize=False, *, duals=None):
        """Stand in for the solver on the device: what it is given and returns lies there."""
        assert isinstance(cost, FakeTensor)
        assert duals is None or isinstance(duals, FakeTensor)
        self.solved.append(tuple(cost.shape))
        with _unwatched():
            under = None if duals is None else duals.under.numpy()
            found = lap.solve_assignment(cost.under.numpy(), maximize, duals=under)
            arrays = ("row_ind", "col_ind", "row_duals", "col_duals")
            return replace(found, **{name: FakeTensor(torch.from_numpy(getattr(found, name))) for name in arrays})


def _under(value):
    return value.under if isinstance(value, FakeTensor) else value


@contextmanager
def _unwatched():
    with torch.utils._python_dispatch._disable_current_modes():
        yield


@contextmanager
def fake_device(monkeypatch):
    """Make ``cuda:0`` something to compute on, with a solver of assignment problems; yield the `FakeDevice`."""
    device = FakeDevice()
    with monkeypatch.context() as patch, device:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)  # torch without CUDA would refuse the device's name
        patch.setattr(cuda, "is_available", lambda: True)
        patch.setattr(_assign, "solve_assignment", device.solve_assignment)
        yield device
