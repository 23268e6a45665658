"""How much of mapped files stays in memory."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rebasin_fast._safetensors import MappedFile
from rebasin_fast._torch_file import TorchFile

_PERIOD = 0.005  # seconds, in which some ten megabytes are read; on a busy machine it may be many more
_STATM = Path("/proc/self/statm")


@contextmanager
def resident_within(budget: int, files: Sequence[MappedFile | TorchFile]) -> Iterator[Callable[[], None]]:
    """Keep what is read of mapped files within a budget, as long as the block lasts.

    Whenever a tensor of `files` is asked for, and every few milliseconds by a thread, it is looked how many pages of
    files this process holds; those of `files` are given back to the system when they exceed the budget, and read again
    when they are needed. By this the code that computes knows nothing of files: it is given tensors. The thread alone
    would come too late where tensors are read as fast as memory is, or where it has to wait for a processor. Only on
    Linux is there a need to: elsewhere nothing is done, and the system takes pages back when it runs out of others.

    Parameters
    ----------
    budget : int
        Bytes. Files that fit into it as a whole are left alone.
    files : sequence of MappedFile or TorchFile
        What is read in the block.

    Yields
    ------
    callable
        Looks once more, for code that goes on with tensors it was given earlier.

    Examples
    --------
    >>> with resident_within(1 << 30, []) as look:
    ...     look()
    """
    if sum(file.nbytes for file in files) <= budget or not _STATM.exists():
        yield lambda: None
        return
    keeper, stop = _Keeper(budget, files), threading.Event()
    watcher = threading.Thread(target=_watch, args=(stop, keeper), daemon=True, name="resident_within")
    for file in files:
        file.before_read = keeper.look
    watcher.start()
    try:
        yield keeper.look
    finally:
        stop.set()
        watcher.join()
        for file in files:
            file.before_read = None


class _Keeper:
    """Gives pages of files back when there are more than the budget."""

    def __init__(self, budget: int, files: Sequence[MappedFile | TorchFile]) -> None:
        self._budget, self._files = budget, files
        self._one_at_a_time = threading.Lock()
        self._release()
        self._others = _file_bytes()  # libraries, above all

    def look(self) -> None:
        """For the thread that reads: what is left after the release are others, of which more may have been read."""
        if self.release_beyond():
            self._others = _file_bytes()

    def release_beyond(self) -> bool:
        """For any thread: whether there was something to give back. What is left may be read again already."""
        if _file_bytes() - self._others <= self._budget:
            return False
        with self._one_at_a_time:
            self._release()
        return True

    def _release(self) -> None:
        for file in self._files:
            file.release()


def _watch(stop: threading.Event, keeper: _Keeper) -> None:
    while not stop.wait(_PERIOD):
        keeper.release_beyond()


def _file_bytes() -> int:
    """Return how much memory the process's pages of files take (statm's third number)."""
    return int(_STATM.read_bytes().split()[2]) * mmap.PAGESIZE
