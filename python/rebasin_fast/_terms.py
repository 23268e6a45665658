"""The terms of a group's cost matrix: one for every place where the group lies, made of a gather and a GEMM.

With the units of the group as rows, a term is A . (B, its other axes permuted)^T (Ainsworth et al. 2023, equation 2).
When another group has changed on the units D only, so have D's columns, and the term changes by
A[:, D] . (B[:, new[D]] - B[:, old[D]])^T.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rebasin_fast._arrays import Array, Index, add_product, join_columns, summed
from rebasin_fast._packing import change, panel
from rebasin_fast.cost import MatchedArray, MatchedPair
from rebasin_fast.permute import Permutation

_BUNDLED_COLUMNS = 64  # fixed terms up to this width are joined: one product instead of many thin ones


@dataclass(frozen=True)
class Precision:
    """In what the products are made.

    Attributes
    ----------
    total : str
        dtype of the cost matrix.
    factors : str
        dtype the factors are rounded to before they are multiplied.
    panel_bytes : int
        The factors are gathered a panel at a time, and the panels of one product take no more than this (but one entry
        of an axis). As large as can be: every product reads and writes the whole cost matrix.
    """

    total: str
    factors: str
    panel_bytes: int


@dataclass(frozen=True, eq=False)
class Term:
    """One place where a group lies.

    Attributes
    ----------
    a, b : array
        The parameter in both networks, one axis for every group on it.
    own : int
        The axis of the group itself.
    others : tuple of (int, str)
        The axes of other groups, and which.
    """

    a: Array
    b: Array
    own: int
    others: tuple[tuple[int, str], ...]

    @property
    def units(self) -> int:
        """Units of the group."""
        return int(self.a.shape[self.own])

    @property
    def columns(self) -> int:
        """Entries of one unit: how long the inner products are."""
        return int(math.prod(self.a.shape)) // max(1, self.units)

    def per_entry(self, axis: int) -> int:
        """Return how many of a unit's entries lie on one entry of another axis."""
        return self.columns // max(1, int(self.a.shape[axis]))

    def add(self, total: Array, permutation: Permutation, precision: Precision) -> None:
        """Add the term to the cost matrix, in place."""
        if not self.columns:
            return
        axis = self._long_axis()
        fixed = [(other, permutation[group]) for other, group in self.others if other != axis]
        index = next((permutation[group] for other, group in self.others if other == axis), None)
        length = int(self.a.shape[axis]) if axis != self.own else 1
        copied = 1 if len(self.a.shape) < 3 or self.own == 0 else 2  # A's panel may be a view
        for start, stop in self._chunks(axis, length, copied, precision):
            entries = (start, stop)
            a = panel(self.a, self.own, axis, entries, [], precision.factors)
            chosen = entries if index is None else index[start:stop]
            b = panel(self.b, self.own, axis, chosen, fixed, precision.factors)
            add_product(total, a, b)
            del a, b  # before the next panels are gathered

    def averaged(self, dtype: str) -> Term:
        """Return the term at the barycentre: every other group's matrix is the mean of all its permutations."""
        a, b, own = self.a, self.b, self.own
        for axis, _ in sorted(self.others, reverse=True):
            a, b = summed(a, axis, dtype), summed(b, axis, dtype) / int(b.shape[axis])
            own -= axis < own
        return Term(a, b, own, ())

    def add_change(
        self,
        total: Array,
        axis: int,
        units: Index,
        old: Index,
        new: Index,
        others: Permutation,
        precision: Precision,
    ) -> None:
        """Add what the term changes by, in place, when the group on `axis` has moved on `units` from `old` to `new`.

        All further axes of B are, before and after, as `others` says.
        """
        fixed = [(other, others[group]) for other, group in self.others if other != axis]
        for start, stop in self._chunks(axis, len(units), 3, precision):
            some = units[start:stop]
            b = change(self.b, self.own, axis, new[some], old[some], fixed, precision.total, precision.factors)
            a = panel(self.a, self.own, axis, some, [], precision.factors)
            add_product(total, a, b)
            del a, b  # before the next panels are gathered

    def _long_axis(self) -> int:
        """Return the axis that is gathered in chunks: that of another group if there is one, else the longest."""
        if self.others:
            return max((axis for axis, _ in self.others), key=lambda axis: int(self.a.shape[axis]))
        rest = [axis for axis in range(len(self.a.shape)) if axis != self.own]
        return max(rest, key=lambda axis: int(self.a.shape[axis]), default=self.own)

    def _chunks(self, axis: int, length: int, panels: int, precision: Precision) -> Iterator[tuple[int, int]]:
        """Yield ranges of an axis so short that so many panels of float32 fit."""
        wide = 1 if axis == self.own else self.per_entry(axis)
        step = max(1, precision.panel_bytes // max(1, 4 * panels * self.units * wide))
        for start in range(0, length, step):
            yield start, min(start + step, length)


def terms_of(pair: MatchedPair, group: str) -> list[Term]:
    """Return the terms of a group; those that no other group touches, and that are thin, as one."""
    terms = [
        Term(matched.a, matched.b, own, _others(matched, own))
        for matched in pair.arrays.values()
        for own, on_it in enumerate(matched.groups)
        if on_it == group
    ]
    thin = [term for term in terms if not term.others and term.columns <= _BUNDLED_COLUMNS]
    if len(thin) < 2:
        return terms
    return [_bundle(thin, pair.dtype), *(term for term in terms if term not in thin)]


def _others(matched: MatchedArray, own: int) -> tuple[tuple[int, str], ...]:
    return tuple((axis, group) for axis, group in enumerate(matched.groups) if group is not None and axis != own)


def _bundle(terms: list[Term], dtype: str) -> Term:
    a, b = (
        join_columns([panel(array, term.own, term.own, (0, 0), [], dtype) for term, array in pairs])
        for pairs in ([(term, term.a) for term in terms], [(term, term.b) for term in terms])
    )
    return Term(a, b, 0, ())
