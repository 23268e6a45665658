"""Concatenation, stacking, padding, and writing a part of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from ..call import Call, Result, axis_of, rule
from ..dims import Dim, Sum
from ..values import Axis, Base, Factor, Value


@rule("aten::cat", "aten::concat", indices=True)
def cat(call: Call) -> Result:
    # A tensor of shape (0,) goes with anything, for the sake of old code.
    values: list[Value] = [value for value in call["tensors"] if value.shape != (0,)]
    if not values:
        return call.value([call.fixed(0)])
    axis = axis_of(call["dim"], len(values[0].axes))
    rows = [call.settled(value) for value in values]
    out = list(rows[0])
    for i, dim in enumerate(out):
        if i != axis:
            for row in rows[1:]:
                call.unify(dim, row[i])
    out[axis] = Sum(tuple(row[axis] for row in rows))
    counted = [value.index_of for value in values if value.index_of is not None]
    if counted and (len(counted) < len(values) or len({call.size(dim) for dim in counted}) > 1):
        return None
    for dim in counted[1:]:
        call.unify(counted[0], dim)
    return call.value(out, counted[0] if counted else None)


@rule("aten::stack")
def stack(call: Call) -> Result:
    """The new axis and the one axis in which the tensors differ, if it is one, are the factors of a sum.

    So nothing is tied by stacking alone: what selects one of them again gets it back as it was.
    """
    rows = [call.settled(value) for value in call["tensors"]]
    out: list[Axis] = list(rows[0])
    resolve = call.trace.dims.resolve
    differing = [i for i, dim in enumerate(rows[0]) if any(resolve(row[i]) != resolve(dim) for row in rows[1:])]
    if len(differing) > 1:
        for i in differing:
            for row in rows[1:]:
                call.unify(rows[0][i], row[i])
    axis = axis_of(call["dim"], len(out) + 1)
    if len(differing) == 1 and len(rows) > 1:
        base = Base(Sum(tuple(row[differing[0]] for row in rows)), (len(rows), call.size(rows[0][differing[0]])))
        out[differing[0]] = Factor(base, 1)
        out.insert(axis, Factor(base, 0))
    else:
        out.insert(axis, call.fixed(len(rows)))
    return call.value(out)


@rule("aten::constant_pad_nd")
def constant_pad(call: Call) -> Result:
    """Padding is the same everywhere, so it may be permuted as others need it."""
    return _padded(call, call["self"], call["pad"])


@rule("aten::pad")
def pad(call: Call) -> Result:
    return _padded(call, call["self"], call["pad"]) if call["mode"] == "constant" else None


def _padded(call: Call, value: Value, pads: Sequence[int]) -> Result:
    for k in range(len(pads) // 2):
        before, after = (max(0, -pad) for pad in pads[2 * k : 2 * k + 2])
        axis = len(value.axes) - 1 - k
        if before or after:  # a negative width cuts
            value = call.trace.views.part(value, axis, before, value.shape[axis] - after, call.reason)
    axes = call.settled(value)
    for k in range(len(pads) // 2):
        before, after = (max(0, pad) for pad in pads[2 * k : 2 * k + 2])
        ends: list[tuple[Dim, ...]] = [(call.free(size),) if size else () for size in (before, after)]
        if before or after:
            axes[-1 - k] = Sum((*ends[0], axes[-1 - k], *ends[1]))
    return call.value(axes)


@rule("aten::slice_scatter", "aten::select_scatter")
def scatter_part(call: Call) -> Result:
    """`self` with a part replaced by `src`."""
    value: Value = call["self"]
    axis = axis_of(call["dim"], len(value.axes))
    axes, source = call.settled(value), call.settled(call["src"])
    call.freeze(axes[axis])
    if call.name == "aten::slice_scatter":
        call.freeze(source.pop(axis))
    for dim, own in zip((d for i, d in enumerate(axes) if i != axis), source, strict=True):
        call.unify(dim, own)
    return call.value(axes)
