"""What of a tensor's axes is left when its memory is looked at with other sizes and strides (`as_strided`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rebasin_fast._arrays import IndexArray

_MOST = 1 << 22
"""Views with more positions on the axes that are new are not looked into."""


class Layout(NamedTuple):
    """Lengths of the axes, steps in memory from one position to the next, and where the first element lies."""

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    start: int

    def wide(self) -> list[tuple[int, int]]:
        """Return lengths and steps, without the steps of axes that have a single position."""
        return [(size, step) for size, step in zip(self.sizes, self.steps, strict=True) if size != 1]

    def same(self, other: Layout) -> bool:
        """Say whether all elements lie where those of the other do."""
        return (self.sizes, self.wide(), self.start) == (other.sizes, other.wide(), other.start)


def kept_axes(old: Layout, new: Layout) -> dict[int, int] | None:
    """Return the axes of `new` that are axes of `old` as they were: they may be permuted as before.

    A kept axis has the length and the step of an old one, and nothing else reaches along it: from its first position
    all other new axes lead to elements at the first position of the old one. None if that cannot be said.

    Examples
    --------
    Windows of four positions, every two, along the second axis of three; the others are kept.

    >>> kept_axes(Layout((5, 8, 3), (24, 3, 1), 0), Layout((5, 3, 4, 3), (24, 6, 3, 1), 0))
    {0: 0, 3: 2}
    """
    kept: dict[int, int] = {}
    for i, axis in enumerate(zip(new.sizes, new.steps, strict=True)):
        for k, other in enumerate(zip(old.sizes, old.steps, strict=True)):
            if axis == other and axis[0] != 1 and k not in kept.values():
                kept[i] = k
                break
    while (positions := _reached(old, new, kept)) is not None:
        crossed = [i for i, k in kept.items() if positions[k].any()]
        if not crossed:
            return kept
        for i in crossed:
            del kept[i]
    return None


def _reached(old: Layout, new: Layout, kept: dict[int, int]) -> list[IndexArray] | None:
    """Return where, on every old axis, the elements lie that the new axes lead to, those kept left out."""
    rest = [axis for i, axis in enumerate(zip(new.sizes, new.steps, strict=True)) if i not in kept]
    if math.prod(size for size, _ in rest) > _MOST or 0 in new.sizes:
        return None
    places = np.array([new.start - old.start])
    for size, step in rest:
        places = (places[:, None] + step * np.arange(size)).ravel()
    return _positions(old, places)


def _positions(layout: Layout, places: IndexArray) -> list[IndexArray] | None:
    """Return where on every axis the elements at places after the first lie; None if some lie nowhere, or twice."""
    found = [np.zeros_like(places) for _ in layout.sizes]
    order = sorted((i for i, size in enumerate(layout.sizes) if size != 1), key=lambda i: -layout.steps[i])
    reach = 0
    for i in reversed(order):
        if layout.steps[i] <= reach:
            return None
        reach += layout.steps[i] * (layout.sizes[i] - 1)
    for i in order:
        found[i], places = np.divmod(places, layout.steps[i])
        if (found[i] < 0).any() or (found[i] >= layout.sizes[i]).any():
            return None
    return None if places.any() else found
