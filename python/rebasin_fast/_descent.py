"""Coordinate descent over groups, and the start it grows outward from the fixed axes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rebasin_fast._arrays import Array, Index, cells, numbers, positions, total
from rebasin_fast._assign import best_columns
from rebasin_fast._cost_cache import CostCache
from rebasin_fast._progress import Progress
from rebasin_fast.permute import Permutation


@dataclass
class SolverCounts:
    """Assignment problems solved, and the time they took."""

    solves: int = 0
    seconds: float = 0.0


@dataclass
class Solver:
    """Solves the assignment problems of all groups, each from the column duals of its last one."""

    counts: SolverCounts = field(default_factory=SolverCounts)
    _duals: dict[str, Any] = field(default_factory=dict)

    def best(self, group: str, similarity: Array) -> Index:
        """Return the permutation p that maximises the sum of ``similarity[i, p[i]]``, in the kind of `similarity`."""
        began = time.perf_counter()
        new, duals = best_columns(similarity, self._duals.get(group))
        if duals is not None:
            self._duals[group] = duals
        self.counts.solves += 1
        self.counts.seconds += time.perf_counter() - began
        return new


@dataclass
class Descent:
    """Coordinate descent from a start: with all other groups fixed, a group's best permutation is an assignment.

    Attributes
    ----------
    permutation : dict of str to index array
        Where it stands; index arrays where the networks lie.
    dirty : set of str
        Groups that a neighbour's move may have given something to gain.
    gains : list of float
        What every sweep gained, by its cost matrices.
    skipped : int
        Visits to groups with nothing new to gain.
    confirmations : int
        Solves on matrices made anew after there was nothing left to do on updated ones.
    """

    cache: CostCache
    solver: Solver
    neighbours: dict[str, frozenset[str]]
    permutation: dict[str, Index]
    rtol: float
    progress: Progress | None = None
    dirty: set[str] = field(default_factory=set)
    gains: list[float] = field(default_factory=list)
    skipped: int = 0
    confirmations: int = 0

    def __post_init__(self) -> None:
        self.dirty = set(self.permutation)

    def run(
        self,
        rng: np.random.Generator,
        max_sweeps: int,
        *,
        confirm: bool = True,
        value_of: Callable[[Permutation], float] | None = None,
    ) -> None:
        """Sweep until no group is dirty.

        Parameters
        ----------
        rng : numpy.random.Generator
            Order of the visits.
        max_sweeps : int
            At most so many.
        confirm : bool, default True
            Go on until cost matrices made afresh have nothing to gain either.
        value_of : callable, optional
            The true objective of a permutation, where cost matrices are too coarse to be trusted: a sweep that lowers
            it is undone, and the last.
        """
        value = None if value_of is None else value_of(self.permutation)
        while self.dirty and len(self.gains) < max_sweeps:
            before = dict(self.permutation)
            self.sweep(rng)
            if confirm and not self.dirty:
                self._confirm()
            if value_of is not None and value is not None:
                now = value_of(self.permutation)
                self.gains[-1] = max(0.0, now - value)
                if now < value:
                    self.permutation = before
                    self.dirty.clear()
                value = max(value, now)

    def sweep(self, rng: np.random.Generator) -> None:
        """Visit every group once, in random order, and solve those with something new to gain."""
        groups = list(self.permutation)
        self.gains.append(0.0)
        for done, k in enumerate(rng.permutation(len(groups)), start=1):
            if groups[k] in self.dirty:
                self._visit(groups[k], afresh=False)
            else:
                self.skipped += 1
            if self.progress is not None:
                self.progress(f"weight matching, sweep {len(self.gains)}", done, len(groups))

    def _confirm(self) -> None:
        """Solve every group again whose cost matrix carries the rounding of updates, on one that does not."""
        for group in self.permutation:
            if self.cache.is_updated(group):
                self.confirmations += 1
                self._visit(group, afresh=True)

    def _visit(self, group: str, *, afresh: bool) -> None:
        self.dirty.discard(group)
        similarity = self.cache.readable(group, self.permutation, afresh=afresh)
        new, gain = improved(similarity, self.permutation[group], self.solver.best(group, similarity), self.rtol)
        if new is not None:
            self.permutation[group] = new
            self.gains[-1] += gain
            self.dirty |= self.neighbours[group]


def improved(similarity: Array, old: Index, new: Index, rtol: float) -> tuple[Index | None, float]:
    """Return `new` and what it gains over `old`; None in its place where that is within rounding, or nothing."""
    gained = cells(similarity, new)
    gain, scale = numbers(total(gained) - total(cells(similarity, old)), total(abs(gained)))
    return (None, 0.0) if gain <= rtol * scale else (new, gain)


def propagated(cache: CostCache, solver: Solver, sizes: dict[str, int], progress: Progress | None) -> dict[str, Index]:
    """Return the start that is solved outward from the fixed axes, group by group.

    Each group is solved once, on the terms whose other axes are settled already: fixed ones, and groups solved
    before. Next comes the group with the largest settled share of its columns, so that little is decided on little.
    """
    permutation = {group: positions(size, cache.home) for group, size in sizes.items()}
    settled: set[str] = set()
    while len(settled) < len(sizes):
        rest = (group for group in sizes if group not in settled)
        group = max(rest, key=lambda group: cache.columns(group, settled) / max(1, cache.columns(group)))
        permutation[group] = solver.best(group, cache.readable(group, permutation, settled))
        settled.add(group)
        if progress is not None:
            progress("weight matching, start", len(settled), len(sizes))
    return permutation
