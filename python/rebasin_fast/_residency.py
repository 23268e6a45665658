"""How much of mapped files stays in memory."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rebasin_fast._safetensors import MappedFile
from rebasin_fast._torch_file import TorchFile

_PERIOD = 0.005  # seconds, in which some ten megabytes are read
_STATM = Path("/proc/self/statm")


@contextmanager
def resident_within(budget: int, files: Sequence[MappedFile | TorchFile]) -> Iterator[None]:
    """Keep what is read of mapped files within a budget, as long as the block lasts.

    A thread looks every few milliseconds how many pages of files this process holds, and gives those of `files` back to
    the system when they exceed the budget; they are read again when they are needed. By this the code that computes
    knows nothing of files: it is given tensors. Only on Linux is there a need to: elsewhere nothing is done, and the
    system takes pages back when it runs out of others.

    Parameters
    ----------
    budget : int
        Bytes. Files that fit into it as a whole are left alone.
    files : sequence of MappedFile or TorchFile
        What is read in the block.

    Examples
    --------
    >>> with resident_within(1 << 30, []):
    ...     pass
    """
    if sum(file.nbytes for file in files) <= budget or not _STATM.exists():
        yield
        return
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(stop, budget, files), daemon=True, name="resident_within")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(stop: threading.Event, budget: int, files: Sequence[MappedFile | TorchFile]) -> None:
    for file in files:
        file.release()
    others = _file_bytes()  # libraries, above all
    while not stop.wait(_PERIOD):
        if _file_bytes() - others > budget:
            for file in files:
                file.release()
            others = _file_bytes()  # more of the libraries may have been read meanwhile


def _file_bytes() -> int:
    """Return how much memory the process's pages of files take (statm's third number)."""
    return int(_STATM.read_bytes().split()[2]) * mmap.PAGESIZE
