"""What is left of a dimension that is read at positions known when the model is traced.

Whole parts, copies and reorderings of whole factors keep their symmetries; positions picked one by one have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rebasin_fast._arrays import IndexArray

from .call import Call
from .dims import Dim, Product, Sum
from .values import Value

_FEW = 2
"""So many single positions are cut out one by one."""

_MANY = 64
"""Of an axis that is read in more runs than these nothing worth the search is left: tables of relative positions."""

Digit = tuple[int, int]
"""How often, and how many positions further each time."""


def read_at(call: Call, value: Value, axis: int, positions: IndexArray) -> Dim | None:
    """Return the dimension of the positions read, in their order; None where they follow no rule.

    Parts that are cut out are cut out of `value`, whose axes know of it afterwards.
    """
    size = value.shape[axis]
    positions = np.where(positions < 0, positions + size, positions)
    if len(positions) == 0:
        return call.fixed(0)
    if (digits := digits_of(positions)) is not None:
        found = _by_digits(call, value, axis, int(positions[0]), digits)
        if found is not None:
            return found
    ends = np.flatnonzero(np.diff(positions) != 1) + 1
    runs = np.split(positions, ends)
    if len(runs) > min(_MANY, max(_FEW, len(positions) // 2)):
        return None
    return Sum(tuple(_part(call, value, axis, int(run[0]), int(run[-1]) + 1) for run in runs))


def digits_of(positions: IndexArray) -> list[Digit] | None:
    """Return sizes and strides, the slowest first, of which positions are the row-major sums; None if they are not.

    Examples
    --------
    >>> digits_of(np.array([4, 6, 5, 7])), digits_of(np.array([0, 0, 1, 1, 2, 2])), digits_of(np.array([0, 1, 3]))
    ([(2, 1), (2, 2)], [(3, 1), (2, 0)], None)
    """
    digits: list[Digit] = []
    while len(positions) > 1:
        step = int(positions[1] - positions[0])
        changes = np.flatnonzero(np.diff(positions) != step)
        count = int(changes[0]) + 1 if len(changes) else len(positions)
        while len(positions) % count:
            count -= 1
        rows = positions.reshape(-1, count)
        if count == 1 or (rows != rows[:, :1] + step * np.arange(count)).any():
            return None
        digits.insert(0, (count, step))
        positions = rows[:, 0]
    return digits


def _by_digits(call: Call, value: Value, axis: int, base: int, digits: Sequence[Digit]) -> Dim | None:
    size = value.shape[axis]
    moving = sorted((digit for digit in digits if digit[1]), key=lambda digit: -digit[1])
    reach = 1
    for count, step in reversed(moving):
        if step < 0 or (step != reach and reach > 1):
            return None
        reach = step * count
    if len(moving) == 1 and moving[0][1] == 1:
        dims = [_part(call, value, axis, base, base + moving[0][0])]
    elif not moving:
        dims = []
        _part(call, value, axis, base, base + 1)
    elif base == 0 and reach == size and moving[-1][1] == 1:
        dims = call.factors(call.settled(value)[axis], *(count for count, _ in moving))
    elif len(moving) == 1 and reach == size and base < moving[0][1]:
        dims = [call.settled(call.trace.views.every(value, axis, base, moving[0][1], call.reason))[axis]]
    else:
        return None
    by_step = {step: dim for (_, step), dim in zip(moving, dims, strict=True)}
    return Product(tuple(by_step[step] if step else call.free(count) for count, step in digits))


def _part(call: Call, value: Value, axis: int, start: int, stop: int) -> Dim:
    return call.settled(call.trace.views.part(value, axis, start, stop, call.reason))[axis]
