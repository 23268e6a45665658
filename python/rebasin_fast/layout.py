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

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

Blocks: TypeAlias = "Mapping[str, str | int]"
"""Groups whose units are permuted within blocks, to their parent: a group, or the number of blocks that stay."""


def described(value: object) -> str:
    """Return what a message says of a value: its text, shortened, and its type."""
    text = repr(value)
    return f"{text if len(text) <= 100 else text[:97] + '...'} of type {type(value).__name__}"


def positive_integer(value: Any, what: str) -> int:
    """Return `value` as an int; raise a TypeError or a ValueError that calls it `what` if it is no integer above 0."""
    return integer_from(1, value, what)


def integer_from(least: int, value: Any, what: str) -> int:
    """Return `value` as an int; raise a TypeError or a ValueError if it is no integer of at least `least`."""
    # bool passes for an integer in Python, and is always a mistake here.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} is {described(value)}; expected an integer")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{what} is {number}; expected at least {least}")
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
    >>> from rebasin_fast._notation import parsed
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
