"""Where the entries of an axis come from when the groups on it are permuted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ._arrays import IndexArray
from .layout import Axis, Blocks, Fixed, Layout, ProductAxis, Structure, SumAxis, Within, offered, wanted


class Entries(NamedTuple):
    """Entries of a layout for each of S contexts: where they come from, and which units the groups on them are at.

    Attributes
    ----------
    old : ndarray of int64, shape (S, n)
        New entry i of context s is old entry ``old[s, i]``.
    at : dict of str to ndarray of int64, shape (S, n)
        For every group on all of the layout, the (new) unit that entry i belongs to.
    """

    old: IndexArray
    at: dict[str, IndexArray]


def entries(
    layout: Layout, structure: Structure, permutation: Mapping[str, IndexArray], at: Mapping[str, IndexArray]
) -> Entries:
    """Return where the entries of a layout come from under a permutation.

    Parameters
    ----------
    layout : Layout
        What lies on the axis.
    structure : Structure
        Sizes and blocks.
    permutation : mapping of str to int64 array of shape (size,)
        For every group.
    at : mapping of str to int64 array of shape (S,)
        The new units of groups outside the layout; ``{}`` counts as one context.

    Raises
    ------
    KeyError
        If the parent of a group in one block is not among them.
    """
    contexts = max(map(len, at.values()), default=1)
    if isinstance(layout, Fixed):
        return Entries(_tiled(np.arange(layout.length), contexts), {})
    if isinstance(layout, Axis):
        return _of_axis(layout, structure, permutation[layout.group], contexts)
    if isinstance(layout, Within):
        return _of_block(layout, structure, permutation[layout.group], at[layout.parent])
    if isinstance(layout, SumAxis):
        return _of_sum(layout, structure, permutation, at, contexts)
    return _of_product(layout, structure, permutation, at, contexts)


def _tiled(row: IndexArray, contexts: int) -> IndexArray:
    return np.broadcast_to(row.astype(np.int64, copy=False), (contexts, len(row)))


def _with_parents(group: str, units: IndexArray, structure: Structure) -> dict[str, IndexArray]:
    at = {group: units}
    parent = structure.blocks.get(group)
    while isinstance(parent, str):
        units = units // structure.own(group)
        at[parent] = units
        group, parent = parent, structure.blocks.get(parent)
    return at


def _of_axis(layout: Axis, structure: Structure, index: IndexArray, contexts: int) -> Entries:
    inside = np.arange(layout.block)
    old = (index.astype(np.int64)[:, None] * layout.block + inside).ravel()
    units = np.repeat(np.arange(len(index)), layout.block)
    at = _with_parents(layout.group, units, structure)
    return Entries(_tiled(old, contexts), {group: _tiled(unit, contexts) for group, unit in at.items()})


def _of_block(layout: Within, structure: Structure, index: IndexArray, parent: IndexArray) -> Entries:
    own = structure.own(layout.group)
    units = parent[:, None] * own + np.arange(own)
    return Entries(index.astype(np.int64)[units] % own, _with_parents(layout.group, units, structure))


def _of_sum(
    layout: SumAxis,
    structure: Structure,
    permutation: Mapping[str, IndexArray],
    at: Mapping[str, IndexArray],
    contexts: int,
) -> Entries:
    olds, start = [], 0
    for term in layout.terms:
        old = entries(term, structure, permutation, at).old
        olds.append(np.broadcast_to(old, (contexts, old.shape[1])) + start)
        start += old.shape[1]
    return Entries(np.concatenate(olds, axis=1), {})


def _of_product(
    layout: ProductAxis,
    structure: Structure,
    permutation: Mapping[str, IndexArray],
    at: Mapping[str, IndexArray],
    contexts: int,
) -> Entries:
    order = _parents_first(layout.factors, structure.blocks)
    known = dict(at)
    olds: list[IndexArray] = []
    inside: dict[str, IndexArray] = {}
    lengths: list[int] = []
    for i in order:
        part = entries(layout.factors[i], structure, permutation, known)
        n = part.old.shape[1]
        rows = contexts * math.prod(lengths)
        lengths.append(n)
        new = {group: np.broadcast_to(units, (rows, n)).ravel() for group, units in part.at.items()}
        known = {group: np.repeat(units, n) for group, units in known.items()} | new
        inside = {group: np.repeat(units, n) for group, units in inside.items()} | new
        olds = [*(np.repeat(old, n) for old in olds), np.broadcast_to(part.old, (rows, n)).ravel()]

    def in_place(flat: IndexArray) -> IndexArray:
        """Bring the factors from the order of evaluation into that of the layout."""
        grid: IndexArray = flat.reshape(contexts, *lengths)
        placed: IndexArray = grid.transpose(0, *(1 + order.index(i) for i in range(len(order)))).reshape(contexts, -1)
        return placed

    total, stride = np.zeros((contexts, math.prod(lengths)), dtype=np.int64), 1
    for i in reversed(range(len(order))):
        total += in_place(olds[order.index(i)]) * stride
        stride *= lengths[order.index(i)]
    return Entries(total, {group: in_place(units) for group, units in inside.items()})


def _parents_first(factors: tuple[Layout, ...], blocks: Blocks) -> list[int]:
    """Return an order of the factors in which those that tell the block come before those that need it."""
    order: list[int] = []
    left = list(range(len(factors)))
    while left:
        told_later = {i: frozenset().union(*(offered(factors[j], blocks) for j in left if j != i)) for i in left}
        ready = [i for i in left if not wanted(factors[i], blocks) & told_later[i]] or left
        order.append(ready[0])
        left.remove(ready[0])
    return order
