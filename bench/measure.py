"""Measure every solver on one instance: reference first, then each answer checked, then the timings, interleaved."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from checking import Reference, why_wrong
from client import OverLimitError, RaisedError, Worker, WorkerError
from families import FAMILIES, make
from peers import SOLVERS, Solver

OK, WRONG, NOT_APPLICABLE, NOT_INSTALLED = "ok", "wrong", "n/a", "not installed"
OVER_LIMIT, SKIPPED, FAILED = "over limit", "skipped", "failed"

Say = Callable[[str], None]
"""Hears of each step, as one short line."""

_SHORTEST_SAMPLE = 0.02  # seconds; quicker solves are timed several at a time
_SOLVER_BUDGET = 3.0  # seconds of timing per solver and instance; slower solvers get fewer samples than `repeats`
_PATIENCE = 600.0  # seconds for what is not a solve under test: loading, the reference


@dataclass(frozen=True)
class Task:
    """One instance: the arguments of `families.make`."""

    family: str
    n: int
    dtype: str
    seed: int


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    threads : int
    repeats : int
        Timed samples per solver, of which the median counts.
    limit : float
        Seconds one solve may take.
    peers_dir : Path
        Where the peers' folders are.
    limit_gib : float or None
        Memory the process of one solver may have, so that none takes the machine's.
    """

    threads: int
    repeats: int
    limit: float
    peers_dir: Path
    limit_gib: float | None = None


@dataclass
class Outcome:
    """What one solver did on one instance; times in seconds per solve, memory in multiples of the matrix."""

    solver: str
    package: str
    status: str = OK
    detail: str = ""
    version: str = ""
    samples: list[float] = field(default_factory=list)
    cpu_samples: list[float] = field(default_factory=list)
    seconds: float | None = None
    extra_memory: float | None = None
    objective: float | None = None


@dataclass(frozen=True)
class Record:
    """One instance measured: its shape, the optimum, the cost of one pass over it, and every solver's outcome."""

    family: str
    n: int
    shape: tuple[int, int]
    dtype: str
    seed: int
    reference: Reference | None
    pass_seconds: float | None
    outcomes: list[Outcome]


class _Workers(ExitStack):
    """One worker per package with the instance loaded; one that ended is started anew when next asked for."""

    def __init__(self, instance: Path, integral: bool, settings: Settings) -> None:
        super().__init__()
        self._load = {"path": str(instance), "integral": integral}
        self._settings = settings
        self._running: dict[str, Worker] = {}

    def of(self, package: str) -> Worker:
        worker = self._running.get(package)
        if worker is None or not worker.alive:
            settings = self._settings
            worker = Worker(package, settings.threads, settings.peers_dir, settings.limit_gib)
            self._running[package] = self.enter_context(worker)
            worker.ask("load", _PATIENCE, **self._load)
        return worker


def measure(task: Task, solvers: list[Solver], settings: Settings, skip: set[str], say: Say) -> Record:
    """Make the instance and measure the solvers on it, but for those named in `skip`; `say` hears of each step."""
    integral = FAMILIES[task.family].integral
    outcomes = [Outcome(solver.name, solver.package) for solver in solvers]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        instance = Path(folder) / "instance.npy"
        say("making the instance")
        cost = make(task.family, task.n, task.dtype, task.seed)
        np.save(instance, cost)
        shape, nbytes = cost.shape, cost.nbytes
        del cost
        with _Workers(instance, integral, settings) as workers:
            say("reference")
            reference = _reference(workers)
            for outcome in outcomes:
                _rule_out(outcome, shape, reference, skip)
                if outcome.status == OK:
                    say(f"checking {outcome.solver}")
                    _attempt(outcome, lambda o: _check(o, workers, reference, settings.limit, nbytes))
            passes = _time_all([o for o in outcomes if o.status == OK], workers, settings, say)
    fastest_pass = statistics.median(passes) if passes else None
    return Record(task.family, task.n, shape, task.dtype, task.seed, reference, fastest_pass, outcomes)


def _reference(workers: _Workers) -> Reference | None:
    try:
        return Reference(**workers.of("reference").ask("reference", _PATIENCE))
    except WorkerError:
        return None


def _rule_out(outcome: Outcome, shape: tuple[int, int], reference: Reference | None, skip: set[str]) -> None:
    """Settle what needs no run."""
    if reference is None:
        outcome.status, outcome.detail = FAILED, "no reference to hold answers to"
    elif SOLVERS[outcome.solver].square_only and shape[0] != shape[1]:
        outcome.status, outcome.detail = NOT_APPLICABLE, "square matrices only"
    elif outcome.solver in skip:
        outcome.status, outcome.detail = SKIPPED, "over the limit at a smaller size"


def _attempt(outcome: Outcome, step: Callable[[Outcome], None]) -> None:
    """Run a step that asks a worker; turn what can go wrong into a status."""
    try:
        step(outcome)
    except OverLimitError as error:
        outcome.status, outcome.detail = OVER_LIMIT, str(error)
    except RaisedError as error:
        missing = error.kind in ("ModuleNotFoundError", "ImportError")
        outcome.status, outcome.detail = (NOT_INSTALLED if missing else FAILED), str(error)
    except WorkerError as error:
        outcome.status, outcome.detail = FAILED, str(error)


def _check(outcome: Outcome, workers: _Workers, reference: Reference, limit: float, nbytes: int) -> None:
    worker = workers.of(outcome.package)
    outcome.version = worker.ask("hello", _PATIENCE)["version"]
    reply = worker.ask("check", limit, solver=outcome.solver)
    _hold_to(outcome, reply, reference)
    if outcome.status != OK:
        return
    outcome.objective = reply["objective"]
    outcome.seconds = reply["seconds"]  # a first guess, for the planning of samples; the median replaces it
    outcome.extra_memory = None if reply["memory"] is None else reply["memory"] / nbytes


def _hold_to(outcome: Outcome, reply: dict[str, Any], reference: Reference) -> None:
    """Mark an answer that is not optimal; it then gets no timing."""
    reason = reply["invalid"] or why_wrong(reply["objective"], reference)
    if reason is None:
        return
    excused = reply["invalid"] is None and SOLVERS[outcome.solver].rounds
    outcome.status, outcome.detail = (NOT_APPLICABLE if excused else WRONG), reason


def _time_all(outcomes: list[Outcome], workers: _Workers, settings: Settings, say: Say) -> list[float]:
    """Time in rounds, every solver once a round, so that a noisy minute hits all alike; return the pass times."""
    plans = [(outcome, *_plan(outcome.seconds or 0.0, settings.repeats)) for outcome in outcomes]
    passes: list[float] = []
    for turn in range(settings.repeats):
        say(f"timing, round {turn + 1} of {settings.repeats}")
        passes += _pass_seconds(workers)
        for outcome, number, samples in plans:
            if outcome.status == OK and turn < samples:
                _attempt(outcome, partial(_sample, workers=workers, number=number, limit=settings.limit))
    for outcome in outcomes:
        right = outcome.status == OK and outcome.samples
        outcome.seconds = statistics.median(outcome.samples) if right else None
    return passes


def _plan(guess: float, repeats: int) -> tuple[int, int]:
    """Return (solves per sample, samples) for a solver that took `guess` seconds."""
    guess = max(guess, 1e-6)
    number = min(1000, math.ceil(_SHORTEST_SAMPLE / guess))
    return number, min(repeats, max(1, int(_SOLVER_BUDGET / (number * guess))))


def _sample(outcome: Outcome, workers: _Workers, number: int, limit: float) -> None:
    reply = workers.of(outcome.package).ask("time", 2 * limit + 1, solver=outcome.solver, number=number)
    if reply["invalid"] or reply["objective"] != outcome.objective:
        outcome.status, outcome.detail = WRONG, f"a second run gave another answer: {reply['objective']}"
        return
    outcome.samples.append(reply["seconds"])
    outcome.cpu_samples.append(reply["cpu_seconds"])


def _pass_seconds(workers: _Workers) -> list[float]:
    """Return one measured pass over the matrix, or nothing."""
    try:
        return [float(workers.of("reference").ask("pass", _PATIENCE)["seconds"])]
    except WorkerError:
        return []
