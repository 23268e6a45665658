"""Parameters as pieces that have one group, or none, on every axis: what matching works on, whatever the layout.

A sum of groups on an axis gives a piece for each term, a product an axis for each factor; units within blocks have an
axis of their own behind that of their blocks. Every entry of a parameter lies in exactly one piece, so inner products
of parameters are sums over pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._arrays import Array, IndexArray
from .layout import Axis, Fixed, Layout, ProductAxis, Structure, SumAxis, Within
from .spec import PermutationSpec


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a parameter.

    Attributes
    ----------
    param : str
        Which parameter.
    array : array
        A view of it where strides allow, reshaped.
    labels : tuple of (str or None)
        For every axis the group whose units (those of one block, for a group with blocks) lie on it; None for an axis
        that stays; `fixed_blocks` of a group for the axis of its blocks, where those stay.
    """

    param: str
    array: Array
    labels: tuple[str | None, ...]


def fixed_blocks(group: str) -> str:
    """Return the label of the axis of blocks that stay, for the group whose units lie within them."""
    return f"blocks of {group}"


def parent_label(spec: PermutationSpec, group: str) -> str | None:
    """Return the label of the axis that tells the block of a group's units."""
    parent = spec.blocks.get(group)
    return fixed_blocks(group) if isinstance(parent, int) else parent


def pieces_of(spec: PermutationSpec, param: str, array: Array) -> list[Piece]:
    """Return the pieces of one parameter.

    Parameters
    ----------
    spec : PermutationSpec
        With sizes.
    param : str
        The name of the parameter.
    array : array
        Its values, numpy or torch, of the shape that the spec expects.

    Examples
    --------
    >>> import numpy as np
    >>> spec = PermutationSpec.from_axes_to_perm(
    ...     {"qkv": ("q + 3", None)}, sizes={"q": 6, "heads": 2}, blocks={"q": "heads"}
    ... )
    >>> [(piece.labels, piece.array.shape) for piece in pieces_of(spec, "qkv", np.zeros((9, 5)))]
    [(('heads', 'q', None), (2, 3, 5)), ((None, None), (3, 5))]
    """
    found: list[tuple[Any, tuple[str | None, ...]]] = [(array, ())]
    for layout in spec.axes[param]:
        found = [
            (part, (*labels, *new))
            for whole, labels in found
            for part, new in _split(whole, len(labels), layout, spec.structure)
        ]
    return [Piece(param, part, labels) for part, labels in found]


def unit_chain(spec: PermutationSpec, group: str) -> tuple[str | None, ...]:
    """Return the labels of the axes that all units of a group make: its ancestors, then itself."""
    return _chain(group, spec.structure)[0]


def places_of_units(spec: PermutationSpec, layout: Layout) -> Iterator[tuple[str, IndexArray]]:
    """Yield groups of which a layout has all units, and where: positions of shape (units, entries of a unit).

    A group may come several times. One that has other groups on the same entries, not above it but beside it, does not:
    where one of its units lies depends on the order of those.

    Examples
    --------
    >>> spec = PermutationSpec.from_axes_to_perm(
    ...     {"qkv": ("q + 2 * v", None)}, sizes={"q": 4, "v": 2, "heads": 2}, blocks={"q": "heads", "v": "heads"}
    ... )
    >>> for group, places in places_of_units(spec, spec.axes["qkv"][0]):
    ...     print(group, places.tolist())
    q [[0], [1], [2], [3]]
    v [[4, 6], [5, 7]]
    """
    structure = spec.structure
    for labels, places in places_of_pieces(spec, layout):
        own = [i for i, label in enumerate(labels) if label is not None]
        group = labels[own[-1]] if own else None
        if group is not None and tuple(labels[i] for i in own) == _chain(group, structure)[0]:
            rest = [i for i in range(len(labels)) if i not in own]
            yield group, places.transpose([*own, *rest]).reshape(structure.sizes[group], -1)


def places_of_pieces(spec: PermutationSpec, layout: Layout) -> Iterator[tuple[tuple[str | None, ...], IndexArray]]:
    """Yield the labels of the pieces that a layout alone has, and the positions in it that each consists of."""
    for places, labels in _split(np.arange(spec.structure.length(layout)), 0, layout, spec.structure):
        yield labels, places


def _split(
    array: Any, axis: int, layout: Layout | None, structure: Structure
) -> Iterator[tuple[Any, tuple[str | None, ...]]]:
    """Yield the parts of an array by the layout of one axis, and the labels of the axes that take its place."""
    if layout is None or isinstance(layout, Fixed):
        yield array, (None,)
    elif isinstance(layout, Within):
        yield array, (layout.group,)
    elif isinstance(layout, Axis):
        labels, lengths = _chain(layout.group, structure)
        if layout.block > 1:
            labels, lengths = (*labels, None), (*lengths, layout.block)
        yield _unflattened(array, axis, lengths), labels
    elif isinstance(layout, SumAxis):
        start = 0
        for term in layout.terms:
            stop = start + structure.length(term)
            yield from _split(array[(slice(None),) * axis + (slice(start, stop),)], axis, term, structure)
            start = stop
    else:
        yield from _split_product(array, axis, layout, structure)


def _split_product(
    array: Any, axis: int, layout: ProductAxis, structure: Structure
) -> Iterator[tuple[Any, tuple[str | None, ...]]]:
    found: list[tuple[Any, tuple[str | None, ...]]] = [
        (_unflattened(array, axis, tuple(map(structure.length, layout.factors))), ())
    ]
    for factor in layout.factors:
        found = [
            (part, (*labels, *new))
            for whole, labels in found
            for part, new in _split(whole, axis + len(labels), factor, structure)
        ]
    yield from found


def _chain(group: str, structure: Structure) -> tuple[tuple[str | None, ...], tuple[int, ...]]:
    """Return labels and lengths of the axes that all units of a group make: its ancestors, then itself."""
    parent = structure.blocks.get(group)
    own = structure.own(group)
    if parent is None:
        return (group,), (own,)
    if isinstance(parent, int):
        return (fixed_blocks(group), group), (parent, own)
    labels, lengths = _chain(parent, structure)
    return (*labels, group), (*lengths, own)


def _unflattened(array: Any, axis: int, lengths: tuple[int, ...]) -> Any:
    shape = tuple(array.shape)
    return array if len(lengths) == 1 else array.reshape(shape[:axis] + lengths + shape[axis + 1 :])
