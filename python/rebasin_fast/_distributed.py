"""The ranks of a `torch.distributed` process group, or this process alone."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rebasin_fast._extras import require

T = TypeVar("T")


class Ranks:
    """What the methods need of a process group.

    Parameters
    ----------
    process_group : torch.distributed.ProcessGroup or None
        Such as ``torch.distributed.group.WORLD``; None for this process alone, which then needs no torch.

    Attributes
    ----------
    rank, size : int
        This process's number within the group, and how many processes there are.

    Raises
    ------
    TypeError
        If `process_group` is no process group.
    ValueError
        If this process does not belong to it.
    """

    def __init__(self, process_group: Any = None) -> None:
        self._group = process_group
        self.rank, self.size = 0, 1
        if process_group is None:
            return
        distributed = require("torch.distributed", "torch")
        if process_group is distributed.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("process_group does not hold this process; expected a group that does")
        if not isinstance(process_group, distributed.ProcessGroup):
            raise TypeError(
                f"process_group is of type {type(process_group).__name__}; expected a torch.distributed.ProcessGroup"
            )
        self.rank, self.size = distributed.get_rank(process_group), distributed.get_world_size(process_group)

    def add_up(self, tensor: Any) -> Any:
        """Return the sum of every rank's `tensor`, which is overwritten."""
        if self._group is not None:
            require("torch.distributed", "torch").all_reduce(tensor, group=self._group)
        return tensor

    def overwrite(self, tensor: Any, source: int) -> None:
        """Overwrite `tensor` on every rank by that of rank `source`."""
        if self._group is not None:
            require("torch.distributed", "torch").broadcast(tensor, self._global(source), group=self._group)

    def joined(self, tensors: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return tensors to send, one a dtype, and copies of `tensors` as views of them; alone, just `tensors`."""
        if self._group is None:
            return [], dict(tensors)
        torch = require("torch", "torch")
        sent: list[Any] = []
        views: dict[str, Any] = {}
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
            named = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
            flat = torch.cat([tensor.reshape(-1) for tensor in named.values()])
            parts = flat.split([tensor.numel() for tensor in named.values()])
            views |= {name: part.view(tensor.shape) for (name, tensor), part in zip(named.items(), parts, strict=True)}
            sent.append(flat)
        return sent, {name: views[name] for name in tensors}

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order; anything that can be pickled."""
        if self._group is None:
            return [value]
        found: list[Any] = [None] * self.size
        require("torch.distributed", "torch").all_gather_object(found, value, group=self._group)
        return found

    def together(self, work: Callable[[], T]) -> T:
        """Do `work`, which sends nothing, on every rank; what it raises on one is raised on all: they would wait."""
        if self._group is None:
            return work()
        result, error = _outcome(work)
        errors = self.gather(error)
        if (first := next((one for one in errors if one is not None), None)) is not None:
            raise error or first
        found: T = result
        return found

    def on(self, owner: int, work: Callable[[], T]) -> T:
        """Do `work` on rank `owner` alone, and return there and on all others what came of it.

        An exception is raised on all ranks, as none of them could go on alone.
        """
        if self._group is None:
            return work()
        outcome: list[Any] = list(_outcome(work)) if self.rank == owner else [None, None]
        distributed = require("torch.distributed", "torch")
        distributed.broadcast_object_list(outcome, self._global(owner), group=self._group)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def _global(self, rank: int) -> int:
        number: int = require("torch.distributed", "torch").get_global_rank(self._group, rank)
        return number


def _outcome(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Return what `work` returns, and what it raises, as something that can be sent."""
    try:
        return work(), None
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception may hold anything, and may not be made from its message alone
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error
