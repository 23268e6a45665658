"""The other end of worker.py: start a worker, ask it something, wait no longer than the limit."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

WORKER = Path(__file__).with_name("worker.py")

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "REBASIN_FAST_NUM_THREADS",
)


class WorkerError(Exception):
    """A request got no result; the message says why."""


class OverLimitError(WorkerError):
    """No answer within the limit. The worker was ended."""


class DiedError(WorkerError):
    """The worker's process ended before it answered."""


class RaisedError(WorkerError):
    """The solver raised; `kind` is the exception's type."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Worker:
    """A worker process for one package. A context manager: leaving it ends the process.

    Parameters
    ----------
    package : str
        Key of `peers.REQUIREMENTS`, or a package of this environment.
    threads : int
        What the thread-count variables of the process's environment are set to.
    peers_dir : Path
        Where the peers' folders are.
    limit_gib : float or None
        Address space the process may have.
    """

    def __init__(self, package: str, threads: int, peers_dir: Path, limit_gib: float | None = None) -> None:
        self.package = package
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), package, str(threads), str(peers_dir), str(limit_gib or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        )
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Say whether the process still runs."""
        return self._process.poll() is None

    def ask(self, op: str, limit: float, **arguments: Any) -> dict[str, Any]:
        """Send one request and return its answer; raises a `WorkerError` when there is none within `limit` seconds."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=limit)
        except BrokenPipeError:
            line = ""
        except queue.Empty:
            self.close()
            raise OverLimitError(f"more than {limit:g} s") from None
        if not line:
            raise DiedError(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        if not reply.pop("ok"):
            raise RaisedError(reply["kind"], reply["error"])
        return reply

    def close(self) -> None:
        """End the process at once; safe to call twice."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                _close_quietly(stream)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")  # the end, for whoever waits

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"exit status {code}" + (f": {lines[-1]}" if lines else "")


def _close_quietly(stream: Any) -> None:
    try:
        stream.close()
    except BrokenPipeError:  # unsent bytes for a process that is gone
        return
