"""One peer in a process of its own: reads requests from standard input, answers each with one line of JSON.

Started as ``python worker.py PACKAGE THREADS PEERS_DIR [LIMIT_GIB]``. Requests:
    {"op": "load", "path": "x.npy", "integral": true}   keep a private copy of the matrix in memory
    {"op": "reference"}                                 the optimum: see `reference`
    {"op": "pass"}                                      seconds for one pass over the matrix (its minimum)
    {"op": "check", "solver": "scipy"}                  solve once, untimed: validity, objective, extra memory
    {"op": "time", "solver": "scipy", "number": 3}      solve `number` times: seconds and CPU seconds per solve

Every answer has "ok"; when it is false, "error" and "kind" (exception type) say why. The process ends with its input.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from checking import objective, reference_from, why_invalid
from peers import SOLVERS, Cost, Solve, use_peer_folder, version_of

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures by how many bytes the resident set rises above its size at entry: Linux's own high-water mark, reset.

    Memory that was freed but is still held by the C library goes back to the system first: a solver that got it would
    use it unseen. `bytes` is None where the mark cannot be reset (other systems). The kernel counts pages in batches
    per core, so a few hundred KiB either way mean nothing.
    """

    bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        _return_freed_memory()
        try:
            _CLEAR_REFS.write_text("5")
            self._before = _status_bytes("VmRSS")
        except (OSError, KeyError):
            self._before = None
        return self

    def __exit__(self, *exc: object) -> None:
        if self._before is not None:
            self.bytes = max(0, _status_bytes("VmHWM") - self._before)


def _return_freed_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:  # glibc
        trim(0)


def _limit_memory(gib: float) -> None:
    import resource  # not on Windows

    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _status_bytes(field: str) -> int:
    """Return a field of /proc/self/status, which counts in KiB."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


class Session:
    """The state between requests: the matrix and the solvers imported so far."""

    def __init__(self, package: str, threads: int) -> None:
        self._package, self._threads = package, threads
        self._solvers: dict[str, Solve] = {}
        self._cost: Cost = np.empty((0, 0))
        self._integral = False

    def hello(self) -> dict[str, Any]:
        return {"package": self._package, "version": version_of(self._package)}

    def load(self, path: str, integral: bool) -> dict[str, Any]:
        self._cost, self._integral = np.load(path), integral
        return {"nbytes": self._cost.nbytes}

    def reference(self) -> dict[str, Any]:
        """Return the optimum: our solver's if its duals prove it here and now, else SciPy's."""
        for answer in (_certified_answer, _scipy_answer):
            try:
                rows, cols, duals = answer(self._cost)
            except (ImportError, AttributeError):  # not installed, or not built yet
                continue
            found = reference_from(self._cost, rows, cols, duals, self._integral)
            if found is not None:
                return asdict(found)
        raise RuntimeError("no reference: neither a certified answer nor SciPy's")

    def measure_pass(self) -> dict[str, Any]:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            self._cost.min()
            seconds.append(time.perf_counter() - start)
        return {"seconds": min(seconds)}

    def check(self, solver: str) -> dict[str, Any]:
        solve, cost = self._solver(solver), self._cost
        solve(cost[:8, :8].copy())  # fault in code and buffers, so that the mark below counts the problem alone
        before = zlib.crc32(cost)
        with PeakMemory() as memory:
            start = time.perf_counter()
            rows, cols = solve(cost)
            seconds = time.perf_counter() - start
        reason = why_invalid(cost.shape, rows, cols)
        if zlib.crc32(cost) != before:
            reason = "the input was modified"
        value = None if reason else objective(cost, rows, cols)
        return {"invalid": reason, "objective": value, "seconds": seconds, "memory": memory.bytes}

    def time(self, solver: str, number: int) -> dict[str, Any]:
        solve, cost = self._solver(solver), self._cost
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(number):
            rows, cols = solve(cost)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        reason = why_invalid(cost.shape, rows, cols)
        value = None if reason else objective(cost, rows, cols)
        return {"invalid": reason, "objective": value, "seconds": seconds / number, "cpu_seconds": cpu / number}

    def _solver(self, name: str) -> Solve:
        if name not in self._solvers:
            self._solvers[name] = SOLVERS[name].load(self._threads)
        return self._solvers[name]


def _certified_answer(cost: Cost) -> tuple[Any, Any, tuple[Any, Any]]:
    import rebasin_fast

    answer = rebasin_fast.solve_assignment(cost)
    return answer.row_ind, answer.col_ind, (answer.row_duals, answer.col_duals)


def _scipy_answer(cost: Cost) -> tuple[Any, Any, None]:
    from scipy.optimize import linear_sum_assignment

    return (*linear_sum_assignment(cost), None)


def _answer(handler: Callable[..., dict[str, Any]], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": True, **handler(**arguments)}
    except Exception as error:  # whatever a peer raises is its result, and the caller's to show
        return {"ok": False, "kind": type(error).__name__, "error": str(error)}


def main(package: str, threads: str, peers_dir: str, limit_gib: str = "") -> None:
    """Serve until standard input ends."""
    if limit_gib:
        _limit_memory(float(limit_gib))
    use_peer_folder(package, Path(peers_dir))
    session = Session(package, int(threads))
    operations = {
        "hello": session.hello,
        "load": session.load,
        "reference": session.reference,
        "pass": session.measure_pass,
        "check": session.check,
        "time": session.time,
    }
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a solver that prints must not spoil the protocol
    for line in sys.stdin:
        request = json.loads(line)
        handler = operations[request.pop("op")]
        print(json.dumps(_answer(handler, request)), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
