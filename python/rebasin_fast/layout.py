"""What lies on one axis of an array: a group, or sums and products of groups and fixed positions.

======================  ============================================================================================
notation                meaning
======================  ============================================================================================
``None``                an axis that stays as it is
``"P"``                 the units of group P, one entry each
``("P", 49)``           the units of P, 49 contiguous entries each; also written ``"P * 49"``
``"4 * P"``             four copies of P, one after the other (the gates of an LSTM)
``"P + Q + 3"``         the units of P, then those of Q, then three entries that stay (a concatenation)
``"heads * (q + k)"``   for every unit of `heads` the units of q, then those of k
``"d@heads"``           the units of d in one block only, where the unit of its parent `heads` is given by another
                        factor of a product, or by another axis of the array
======================  ============================================================================================

A group d whose units are permuted within the blocks of another, its *parent* (units within attention heads), counts all
its units, parent-major: ``"d"`` is the same as ``"heads * d@heads"``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ._arrays import IndexArray

Blocks: TypeAlias = "Mapping[str, str | int]"
"""Groups whose units are permuted within blocks, to their parent: a group, or the number of blocks that stay."""


def described(value: object) -> str:
    """Return what a message says of a value: its text, shortened, and its type."""
    text = repr(value)
    return f"{text if len(text) <= 100 else text[:97] + '...'} of type {type(value).__name__}"


def positive_integer(value: Any, what: str) -> int:
    """Return `value` as an int; raise a TypeError or a ValueError that calls it `what` if it is no integer above 0."""
    # bool passes for an integer in Python, and is always a mistake here.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} is {described(value)}; expected an integer")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{what} is {number}; expected at least 1")
    return number


@dataclass(frozen=True)
class Axis:
    """What lies on one axis of a parameter: the units of `group`, each `block` contiguous entries wide."""

    group: str
    block: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.group, str):
            raise TypeError(f"group is {described(self.group)}; expected a string")
        object.__setattr__(self, "block", positive_integer(self.block, f"the block of group {self.group!r}"))

    def __str__(self) -> str:
        return self.group if self.block == 1 else f"{self.group} * {self.block}"


@dataclass(frozen=True)
class Within:
    """The units of `group` in one block of its parent; which block, another axis or an earlier factor says."""

    group: str
    parent: str

    def __str__(self) -> str:
        return f"{self.group}@{self.parent}"


@dataclass(frozen=True)
class Fixed:
    """Entries that stay where they are."""

    length: int

    def __str__(self) -> str:
        return str(self.length)


@dataclass(frozen=True)
class ProductAxis:
    """Row-major: the first factor is the slowest."""

    factors: tuple[Layout, ...]

    def __str__(self) -> str:
        return " * ".join(f"({part})" if isinstance(part, SumAxis) else str(part) for part in self.factors)


@dataclass(frozen=True)
class SumAxis:
    """One term after the other."""

    terms: tuple[Layout, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


Layout: TypeAlias = "Axis | Within | Fixed | ProductAxis | SumAxis"


def simplified(layout: Layout) -> Layout:
    """Return the one way a layout is written: no nesting that does nothing, neighbours joined where they can be.

    Examples
    --------
    >>> str(simplified(parsed("(P * 7) * 7 + (3 + 4)")))
    'P * 49 + 7'
    >>> str(simplified(parsed("P + P + P + P")))
    '4 * P'
    """
    if isinstance(layout, ProductAxis):
        return _simplified_product(layout)
    if isinstance(layout, SumAxis):
        return _simplified_sum(layout)
    return layout


def _simplified_product(layout: ProductAxis) -> Layout:
    flat: list[Layout] = []
    for factor in map(simplified, layout.factors):
        for part in factor.factors if isinstance(factor, ProductAxis) else (factor,):
            last = flat[-1] if flat else None
            if isinstance(part, Fixed) and part.length == 1:
                continue
            if isinstance(part, Fixed) and isinstance(last, Fixed):
                flat[-1] = Fixed(last.length * part.length)
            elif isinstance(part, Fixed) and isinstance(last, Axis):
                flat[-1] = Axis(last.group, last.block * part.length)
            elif isinstance(part, Within) and last == Axis(part.parent):
                flat[-1] = Axis(part.group)
            else:
                flat.append(part)
    if not flat:
        return Fixed(1)
    return flat[0] if len(flat) == 1 else ProductAxis(tuple(flat))


def _simplified_sum(layout: SumAxis) -> Layout:
    flat: list[Layout] = []
    for term in map(simplified, layout.terms):
        for part in term.terms if isinstance(term, SumAxis) else (term,):
            last = flat[-1] if flat else None
            if isinstance(part, Fixed) and isinstance(last, Fixed):
                flat[-1] = Fixed(last.length + part.length)
            else:
                flat.append(part)
    if all(part == flat[0] for part in flat[1:]):
        return simplified(ProductAxis((Fixed(len(flat)), flat[0])))
    return SumAxis(tuple(flat))


def groups_in(layout: Layout) -> Iterator[str]:
    """Yield the groups a layout names, from the first to the last, as often as it does."""
    if isinstance(layout, Axis | Within):
        yield layout.group
    elif isinstance(layout, ProductAxis | SumAxis):
        for part in layout.factors if isinstance(layout, ProductAxis) else layout.terms:
            yield from groups_in(part)


def renamed(layout: Layout, names: Mapping[str, str]) -> Layout:
    """Return the layout with other names for its groups."""
    if isinstance(layout, Axis):
        return Axis(names[layout.group], layout.block)
    if isinstance(layout, Within):
        return Within(names[layout.group], names[layout.parent])
    if isinstance(layout, ProductAxis):
        return ProductAxis(tuple(renamed(factor, names) for factor in layout.factors))
    if isinstance(layout, SumAxis):
        return SumAxis(tuple(renamed(term, names) for term in layout.terms))
    return layout


# ---- notation -------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(?:([+*()])|([^\s+*()@]+)(?:@([^\s+*()@]+))?)")


def is_composite(text: str) -> bool:
    """Say whether a string is more than the name of a group."""
    return any(sign in text for sign in "+*()@")


def parsed(text: str) -> Layout:
    """Return the layout that a string describes.

    Raises
    ------
    ValueError
        If the string is not in the notation; the message shows where it ends to be.
    """
    tokens = list(_tokens(text))
    parser = _Parser(text, tokens)
    layout = parser.sum()
    if parser.position != len(tokens):
        raise parser.error()
    return simplified(layout)


class _Token(NamedTuple):
    sign: str
    name: str
    parent: str


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise ValueError(f"{text!r} is not in the notation for axes from {stripped[position:]!r} on")
        yield _Token(*(part or "" for part in match.groups()))
        position = match.end()


class _Parser:
    """Recursive descent over sums, products and names."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self.position = 0

    def error(self) -> ValueError:
        rest = " ".join(token.sign or token.name for token in self._tokens[self.position :])
        return ValueError(f"{self._text!r} is not in the notation for axes: unexpected {rest or 'end'!r}")

    def sum(self) -> Layout:
        terms = self._chain("+", self._product)
        return terms[0] if len(terms) == 1 else SumAxis(terms)

    def _product(self) -> Layout:
        factors = self._chain("*", self._factor)
        return factors[0] if len(factors) == 1 else ProductAxis(factors)

    def _chain(self, sign: str, part: Callable[[], Layout]) -> tuple[Layout, ...]:
        parts = [part()]
        while self._next().sign == sign:
            self.position += 1
            parts.append(part())
        return tuple(parts)

    def _factor(self) -> Layout:
        token = self._next()
        self.position += 1
        if token.sign == "(":
            inside = self.sum()
            if self._next().sign != ")":
                raise self.error()
            self.position += 1
            return inside
        if not token.name:
            self.position -= 1
            raise self.error()
        if token.parent:
            return Within(token.name, token.parent)
        if token.name.isdecimal():
            return Fixed(positive_integer(int(token.name), f"the length in {self._text!r}"))
        return Axis(token.name)

    def _next(self) -> _Token:
        return self._tokens[self.position] if self.position < len(self._tokens) else _Token("", "", "")


# ---- positions ------------------------------------------------------------------------------------------------------


class Structure(NamedTuple):
    """Sizes and block structure of the groups: what it takes to lay positions out."""

    sizes: Mapping[str, int]
    blocks: Blocks

    def count(self, parent: str | int) -> int:
        """Return how many blocks a parent makes."""
        return parent if isinstance(parent, int) else self.sizes[parent]

    def own(self, group: str) -> int:
        """Return the number of units of a group in one block of its parent; all of them without one."""
        parent = self.blocks.get(group)
        return self.sizes[group] // (1 if parent is None else self.count(parent))

    def length(self, layout: Layout) -> int:
        """Return the number of entries."""
        if isinstance(layout, Axis):
            return self.sizes[layout.group] * layout.block
        if isinstance(layout, Within):
            return self.own(layout.group)
        if isinstance(layout, Fixed):
            return layout.length
        if isinstance(layout, SumAxis):
            return sum(map(self.length, layout.terms))
        length = 1
        for factor in layout.factors:
            length *= self.length(factor)
        return length


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


# ---- who depends on whom --------------------------------------------------------------------------------------------


def offered(layout: Layout, blocks: Blocks) -> frozenset[str]:
    """Return the groups whose unit is known at every entry of a layout, parents included."""
    if isinstance(layout, Within):
        return frozenset({layout.group})
    if isinstance(layout, Axis):
        chain = [layout.group]
        while isinstance(parent := blocks.get(chain[-1]), str):
            chain.append(parent)
        return frozenset(chain)
    if isinstance(layout, ProductAxis):
        return frozenset().union(*(offered(factor, blocks) for factor in layout.factors))
    return frozenset()


def wanted(layout: Layout, blocks: Blocks) -> frozenset[str]:
    """Return the parents that a layout leaves for other axes to tell."""
    if isinstance(layout, Within):
        return frozenset({layout.parent})
    if isinstance(layout, SumAxis):
        return frozenset().union(*(wanted(term, blocks) for term in layout.terms))
    if isinstance(layout, ProductAxis):
        open_: set[str] = set()
        for i, factor in enumerate(layout.factors):
            others = layout.factors[:i] + layout.factors[i + 1 :]
            told = frozenset().union(*(offered(other, blocks) for other in others))
            open_ |= wanted(factor, blocks) - told
        return frozenset(open_)
    return frozenset()


def withins(layout: Layout) -> Iterator[Within]:
    """Yield the units of one block that a layout mentions."""
    if isinstance(layout, Within):
        yield layout
    elif isinstance(layout, ProductAxis | SumAxis):
        for part in layout.factors if isinstance(layout, ProductAxis) else layout.terms:
            yield from withins(part)


def untold(axes: Sequence[Layout | None], blocks: Blocks) -> Iterator[tuple[int, str]]:
    """Yield the parents that no axis tells, with the number of the axis that needs them.

    A parent is told by one other axis (if it were two, nobody could say which), which needs no parent itself.
    """
    for i, axis in enumerate(axes):
        for parent in () if axis is None else sorted(wanted(axis, blocks)):
            others = [other for j, other in enumerate(axes) if j != i and other is not None]
            telling = [other for other in others if parent in offered(other, blocks)]
            if len(telling) != 1 or wanted(telling[0], blocks):
                yield i, parent
