"""Which atoms may be permuted in a different way for each unit of another: units within attention heads.

The units of one head may be reordered without those of the next, where every tensor that has the axis of units has the
axis of heads too, and no operator runs along the heads for each unit. An atom that can depend on another so is its
child; the heads are the parent. (The group of all this is a wreath product.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from .call import Trace
from .dims import Atom, Dim, Product, Sum, atoms_of


def parents(trace: Trace, atoms: Iterable[Atom]) -> dict[Atom, Atom]:
    """Return for every atom that may depend on another the one it does; frozen atoms are parents, never children.

    Where several could be, it is the one that leaves the most freedom. The atoms come in order: of two that could
    depend on each other the first is the parent.
    """
    order = {atom: i for i, atom in enumerate(atoms)}
    allowed = _allowed(trace, order)
    for atom, others in allowed.items():
        for other in list(others):
            if atom in allowed.get(other, ()) and order[atom] < order[other]:
                others.discard(other)
    chains: dict[Atom, tuple[Atom, ...]] = {}

    def chain(atom: Atom, above: frozenset[Atom]) -> tuple[Atom, ...]:
        """Return the ancestors of an atom, the oldest first, and itself."""
        if atom.frozen:
            return (atom,)
        if atom not in chains:
            best: tuple[Atom, ...] = ()
            for other in sorted(allowed[atom] - above, key=order.__getitem__):
                candidate = chain(other, above | {atom})
                if set(candidate) <= allowed[atom] and _flat(candidate) > _flat(best):
                    best = candidate
            if above:  # what was ruled out by `above` may be right for others
                return (*best, atom)
            chains[atom] = (*best, atom)
        return chains[atom]

    found = {atom: chain(atom, frozenset()) for atom in order if not atom.frozen}
    return _consistent({atom: ancestors[-2] for atom, ancestors in found.items() if len(ancestors) > 1})


def _flat(chain: tuple[Atom, ...]) -> int:
    return math.prod(atom.size for atom in chain) if chain else 0


def _consistent(parent: dict[Atom, Atom]) -> dict[Atom, Atom]:
    """Leave out what would close a circle."""
    kept: dict[Atom, Atom] = {}
    for child, above in parent.items():
        up: Atom | None = above
        while up is not None and up is not child:
            up = kept.get(up)
        if up is None:
            kept[child] = above
    return kept


def _allowed(trace: Trace, order: dict[Atom, int]) -> dict[Atom, set[Atom]]:
    """For every free atom those it may depend on: present wherever it is, and mixed by no operator."""
    allowed: dict[Atom, set[Atom]] = {}
    told = _told(trace)
    for dims in _all_dims(trace):
        for atom, around in _occurrences(dims, told):
            if atom in order and not atom.frozen:
                around = {other for other in around if other in order and other is not atom}
                allowed[atom] = allowed[atom] & around if atom in allowed else around
    resolve = trace.dims.resolve
    for kept, along in trace.mixed:
        forbidden = {atom for dim in along for atom in trace.dims.leaves(dim)}
        forbidden |= {row for places, rows in told.items() if places & forbidden for row in rows}
        for dim in kept:
            # What lies beside an atom on its very axis goes on telling its block, whatever lies along other axes.
            for atom, beside in _along(resolve(dim), []):
                if atom in allowed:
                    allowed[atom] -= forbidden - beside
    for lookup in trace.lookups:
        # Where indices lie along the very axis that they count, its unit there is not the one that was read.
        rows = set(trace.dims.leaves(lookup.rows))
        if any(atom in rows for dim in lookup.places for atom in trace.dims.leaves(dim)):
            for others in allowed.values():
                others -= rows
    for dim in trace.uniform:
        for atom in trace.dims.leaves(dim):
            if atom in allowed:
                allowed[atom].clear()
    return allowed


def _told(trace: Trace) -> dict[frozenset[Atom], list[Atom]]:
    """Return for sets of (frozen) atoms those whose unit is known wherever all of the set are.

    One is there as often as there are indices that say so, as different ones contradict one another; twice where a
    single one is not enough to know, as its places may be permuted or its positions are parts of a sum.
    """
    if trace.indices_overwritten:
        return {}
    times: dict[tuple[frozenset[Atom], Atom, object], int] = {}
    for lookup in trace.lookups:
        places = [atom for dim in lookup.places for atom in trace.dims.leaves(dim)]
        rows = list(trace.dims.leaves(lookup.rows))
        certain = len(set(places)) == len(places) and all(atom.frozen for atom in places)
        certain = certain and len(rows) == len(set(rows)) and not isinstance(lookup.rows, Sum)
        for row in rows if places else ():
            times[frozenset(places), row, lookup.content] = 1 if certain else 2
    told: dict[frozenset[Atom], list[Atom]] = {}
    for (key, row, _), count in times.items():
        told.setdefault(key, []).extend([row] * count)
    return told


def _all_dims(trace: Trace) -> Iterator[tuple[Dim, ...]]:
    """Yield the dimensions of every tensor; of tensors with the same ones only once."""
    seen: set[tuple[Dim, ...]] = set()
    for value in trace.values:
        dims = tuple(map(trace.dims.resolve, value.dims()))
        if dims not in seen:
            seen.add(dims)
            yield dims


def _occurrences(dims: tuple[Dim, ...], told: dict[frozenset[Atom], list[Atom]]) -> Iterator[tuple[Atom, set[Atom]]]:
    """Yield every atom, and the atoms whose unit is told, by one axis or factor, at each of its positions."""
    tops = [list(_outside_sums(dim)) for dim in dims]
    by_index = list(_by_index(dims, tops, told)) if told else []
    for i, dim in enumerate(dims):
        elsewhere = by_index + [atom for j, top in enumerate(tops) if j != i for atom in top]
        yield from _along(dim, elsewhere)


def _by_index(dims: tuple[Dim, ...], tops: list[list[Atom]], told: dict[frozenset[Atom], list[Atom]]) -> Iterator[Atom]:
    """Yield atoms as often as indices say which unit is where; twice where the places are in the tensor, but not once.

    A set of places may lie in another: what one says holds only if nothing contradicts it, be it of fewer places.
    """
    once = {atom for atom, count in Counter(atom for top in tops for atom in top).items() if count == 1}
    everywhere = {atom for dim in dims for atom in atoms_of(dim)}
    for places, rows in told.items():
        if places <= everywhere:
            yield from rows if places <= once else (*rows, *rows)


def _outside_sums(dim: Dim) -> Iterator[Atom]:
    if isinstance(dim, Atom):
        yield dim
    elif isinstance(dim, Product):
        for factor in dim.factors:
            yield from _outside_sums(factor)


def _along(dim: Dim, elsewhere: list[Atom], beside: tuple[Atom, ...] = ()) -> Iterator[tuple[Atom, set[Atom]]]:
    """Yield every atom with those that tell its block: once on its own axis, or else once in all.

    Where weights lead from blocks to the same blocks, each axis tells the block of its own units.
    """
    if isinstance(dim, Atom):
        own, all_ = Counter(beside), Counter([*beside, *elsewhere])
        yield dim, {atom for atom, count in all_.items() if count == 1 or own[atom] == 1}
    elif isinstance(dim, Sum):
        for term in dim.terms:
            yield from _along(term, elsewhere, beside)
    else:
        tops = [list(_outside_sums(factor)) for factor in dim.factors]
        for i, factor in enumerate(dim.factors):
            siblings = [atom for j, top in enumerate(tops) if j != i for atom in top]
            yield from _along(factor, elsewhere, (*beside, *siblings))
