"""Cost matrices that are kept and brought up to date, instead of made afresh for every solve."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from rebasin_fast._arrays import Array, Index, copy, readable, zero_matrix
from rebasin_fast._terms import Precision, Term, terms_of
from rebasin_fast.cost import MatchedPair, moved_units
from rebasin_fast.permute import Permutation

_SMALLEST_PANEL = 1 << 20  # bytes
# An update by changed columns gathers twice what making the matrix afresh does, and leaves rounding behind.
_UPDATE_AT_MOST = 0.8
# From so many columns on, terms that nothing permutes are kept beside the matrix: to copy them is quicker than to
# multiply them again.
_WIDE_ENOUGH_TO_KEEP = 128


@dataclass(eq=False)
class _Slot:
    """A group's cost matrix and what is in it."""

    matrix: Array
    # Term number to the permutations, one for each of the term's other axes, at which the matrix holds it.
    included: dict[int, tuple[Index, ...]] = field(default_factory=dict)
    updated: bool = False  # whether the matrix has come about by changes, which leave rounding behind


@dataclass
class CostCounts:
    """How the cost matrices that were asked for came about, and what that took.

    Attributes
    ----------
    made, updated, kept : int
        Matrices made from nothing; brought up to date by changed columns or missing terms; already right.
    multiply_adds : int
        Multiplications in matrix products.
    seconds : float
        Time all that took.
    """

    made: int = 0
    updated: int = 0
    kept: int = 0
    multiply_adds: int = 0
    seconds: float = 0.0


class CostCache:
    """The cost matrix of every group at whatever permutation is asked for.

    S_g[i, j] = <unit i of A, unit j of B>, over all members of g, their other axes permuted (Ainsworth et al. 2023,
    equation 2). A matrix that was asked for before is brought from the old permutation to the new by those columns
    alone that have changed.

    Parameters
    ----------
    pair : MatchedPair
        The two networks.
    max_cache_bytes : int
        Matrices are kept up to this sum, those first that would take the most work per byte to make again; then the
        part of each that no other group has a say in.
    compute_dtype : str, optional
        dtype of the factors of the matrix products; default: that of the pair.
    """

    def __init__(self, pair: MatchedPair, max_cache_bytes: int, compute_dtype: str | None = None) -> None:
        self._pair = pair
        self._terms = {group: terms_of(pair, group) for group in pair.spec.groups}
        width = 8 if pair.dtype == "float64" else 4
        self._bytes = {group: width * size * size for group, size in pair.sizes.items()}
        panel = max(_SMALLEST_PANEL, max(self._bytes.values(), default=0) // 8)
        self._precision = Precision(pair.dtype, compute_dtype or pair.dtype, panel)
        self._kept = self._choose(max_cache_bytes)
        self._slots: dict[str, _Slot] = {}
        self._keeps_fixed = self._choose_fixed(max_cache_bytes)
        self._fixed: dict[str, Array] = {}
        self.counts = CostCounts()

    @property
    def home(self) -> Array | None:
        """A tensor that lies where the cost matrices do; None where that is with numpy."""
        return self._pair.home

    @property
    def all_bytes(self) -> int:
        """Bytes that one matrix for every group takes."""
        return sum(self._bytes.values())

    @property
    def most_bytes(self) -> int:
        """Bytes that may come to be kept."""
        return sum(self._bytes[group] for group in [*self._kept, *self._keeps_fixed])

    @property
    def kept_bytes(self) -> int:
        """Bytes of the matrices that are kept."""
        return sum(self._bytes[group] for group in [*self._slots, *self._fixed])

    def columns(self, group: str, settled: Collection[str] | None = None) -> int:
        """Return the length of the inner products in a group's matrix, counting terms as `at` does."""
        return sum(self._terms[group][k].columns for k in self._wanted(group, settled))

    def at(self, group: str, permutation: Permutation, settled: Collection[str] | None = None) -> Array:
        """Return the (n, n) matrix of `group` at `permutation`; it is the cache's own, and valid until the next call.

        Parameters
        ----------
        group : str
            Whose matrix.
        permutation : mapping of str to int64 array
            Read for the other groups on the group's parameters.
        settled : collection of str, optional
            Leave out the terms that a group not in here touches. Default: leave out none.
        """
        began = time.perf_counter()
        matrix = self._at(group, permutation, settled)
        self.counts.seconds += time.perf_counter() - began
        return matrix

    def _at(self, group: str, permutation: Permutation, settled: Collection[str] | None) -> Array:
        wanted = self._wanted(group, settled)
        slot = self._slots.get(group)
        if slot is None or self._work_to_update(group, slot, wanted, permutation) is None:
            return self._made(group, wanted, permutation).matrix
        self._update(group, slot, wanted, permutation)
        return slot.matrix

    def at_barycentre(self, group: str) -> Array:
        """Return a new matrix of `group`, where every other group is the mean of all its permutations."""
        began = time.perf_counter()
        total, done = self._begun(group)
        for k, term in enumerate(self._terms[group]):
            if k not in done:
                term.averaged(self._precision.total).add(total, {}, self._precision)
        self.counts.seconds += time.perf_counter() - began
        return total

    def readable(
        self,
        group: str,
        permutation: Permutation,
        settled: Collection[str] | None = None,
        *,
        afresh: bool = False,
    ) -> Array:
        """Return the matrix of `at` as numpy, unless it lies on a device; `afresh`: made from nothing in any case."""
        began = time.perf_counter()
        if afresh:
            self._slots.pop(group, None)
        matrix = readable(self._at(group, permutation, settled))
        self.counts.seconds += time.perf_counter() - began
        return matrix

    def is_updated(self, group: str) -> bool:
        """Say whether the group's matrix has come about by updates, so that it carries their rounding."""
        return group in self._slots and self._slots[group].updated

    def forget(self, pair: MatchedPair | None = None) -> None:
        """Let go of all matrices, and go on with the arrays of `pair`, of the same shapes, if one is given."""
        self._slots.clear()
        if pair is not None:
            self._fixed.clear()
            self._pair = pair
            self._terms = {group: terms_of(pair, group) for group in pair.spec.groups}

    def _choose(self, max_cache_bytes: int) -> frozenset[str]:
        kept, left = set(), max_cache_bytes
        for group in sorted(self._bytes, key=lambda group: -self.columns(group)):  # work per byte grows with columns
            if self._bytes[group] <= left:
                kept.add(group)
                left -= self._bytes[group]
        return frozenset(kept)

    def _choose_fixed(self, max_cache_bytes: int) -> frozenset[str]:
        kept, left = set(), max_cache_bytes - sum(self._bytes[group] for group in self._kept)
        for group, terms in self._terms.items():
            fixed = sum(term.columns for term in terms if not term.others)
            if _WIDE_ENOUGH_TO_KEEP <= fixed < self.columns(group) and self._bytes[group] <= left:
                kept.add(group)
                left -= self._bytes[group]
        return frozenset(kept)

    def _wanted(self, group: str, settled: Collection[str] | None) -> list[int]:
        terms = self._terms[group]
        return [k for k, term in enumerate(terms) if settled is None or all(g in settled for _, g in term.others)]

    def _made(self, group: str, wanted: list[int], permutation: Permutation) -> _Slot:
        slot = self._slots.get(group)
        matrix, done = self._begun(group, None if slot is None else slot.matrix)
        if slot is None:
            slot = _Slot(matrix)
            if group in self._kept:
                self._slots[group] = slot
        slot.included = dict.fromkeys(done, ())
        slot.updated = False
        for k in wanted:
            if k not in done:
                self._include(group, slot, k, permutation)
        self.counts.made += 1
        return slot

    def _begun(self, group: str, matrix: Array | None = None) -> tuple[Array, set[int]]:
        """Return a matrix, that given or a new one, with the fixed terms if those are kept, and which they are."""
        if group not in self._keeps_fixed:
            if matrix is None:
                return self._zeros(group), set()
            matrix[:] = 0
            return matrix, set()
        fixed = [k for k, term in enumerate(self._terms[group]) if not term.others]
        if group not in self._fixed:
            made = _Slot(self._zeros(group))
            for k in fixed:
                self._include(group, made, k, {})
            self._fixed[group] = made.matrix
        if matrix is None:
            return copy(self._fixed[group]), set(fixed)
        matrix[:] = self._fixed[group]
        return matrix, set(fixed)

    def _zeros(self, group: str) -> Array:
        like = next((matched.a for matched in self._pair.arrays.values()), None)
        return zero_matrix(self._pair.sizes[group], like, self._precision.total)

    def _include(self, group: str, slot: _Slot, k: int, permutation: Permutation) -> None:
        term = self._terms[group][k]
        term.add(slot.matrix, permutation, self._precision)
        slot.included[k] = tuple(permutation[other] for _, other in term.others)
        self.counts.multiply_adds += term.units**2 * term.columns

    def _work_to_update(self, group: str, slot: _Slot, wanted: list[int], permutation: Permutation) -> int | None:
        """Return how many columns an update has to do, or None where the matrix had better be made afresh."""
        if not slot.included.keys() <= set(wanted):
            return None
        missing = changed = whole = 0
        for k in wanted:
            term = self._terms[group][k]
            whole += term.columns
            if k not in slot.included:
                missing += term.columns
                continue
            for (axis, other), old in zip(term.others, slot.included[k], strict=True):
                changed += term.per_entry(axis) * len(moved_units(old, permutation[other]))
        return None if changed and missing + changed > _UPDATE_AT_MOST * whole else missing + changed

    def _update(self, group: str, slot: _Slot, wanted: list[int], permutation: Permutation) -> None:
        before = self.counts.multiply_adds
        for k in wanted:
            if k in slot.included:
                self._change(group, slot, k, permutation)
            else:
                self._include(group, slot, k, permutation)
        if self.counts.multiply_adds > before:
            self.counts.updated += 1
        else:
            self.counts.kept += 1

    def _change(self, group: str, slot: _Slot, k: int, permutation: Permutation) -> None:
        """Bring one term to `permutation`: axis by axis, so that each step changes columns of one axis only."""
        term: Term = self._terms[group][k]
        now = dict(zip((other for _, other in term.others), slot.included[k], strict=True))
        for axis, other in term.others:
            old, new = now[other], permutation[other]
            units = moved_units(old, new)
            if len(units):
                term.add_change(slot.matrix, axis, units, old, new, now, self._precision)
                slot.updated = True
                self.counts.multiply_adds += term.units**2 * term.per_entry(axis) * len(units)
            now[other] = new
        slot.included[k] = tuple(now.values())
