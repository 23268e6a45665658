"""Operators that only look at elements otherwise: no arithmetic, the elements stay what they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ..call import Call, Result, axes_of, axis_of, rule
from ..dims import ONE, Product
from ..strides import kept_axes
from ..values import Axis, Value, length


@rule("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias", "aten::view_copy", indices=True)
def reshape(call: Call) -> Result:
    sizes = call.args.get("size", call.args.get("shape"))
    if sizes is None:  # the overload that looks at the bits as another dtype
        return None
    return _same_content(call, _kept(call, call.trace.views.reshape(call["self"], call.shapes[0], call.reason)))


@rule(
    "aten::detach", "aten::alias", "aten::lift_fresh", "aten::clone", "aten::contiguous", "aten::_to_copy",
    "aten::lift", "aten::positive", "aten::_conj", "aten::resolve_conj", "aten::detach_copy", "aten::alias_copy",
    indices=True,
)  # fmt: skip
def identity(call: Call) -> Result:
    return _same_content(call, call.value(call["self"].axes, call["self"].index_of))


@rule("aten::as_strided", indices=True)
def as_strided(call: Call) -> Result:
    """Memory looked at with other sizes and strides: axes that are still there are kept, the others stay in place."""
    old, new = call["layouts"]
    if new.same(old):
        return identity(call)
    kept = kept_axes(old, new)
    if kept is None:
        return None
    axes = call.settled(call["self"])
    call.freeze(*(dim for i, dim in enumerate(axes) if i not in kept.values()))
    out = [axes[kept[i]] if i in kept else call.fixed(size) for i, size in enumerate(call.shapes[0])]
    return call.value(out, call["self"].index_of)


@rule("aten::permute", "aten::permute_copy", indices=True)
def permute(call: Call) -> Result:
    count = len(call["self"].axes)
    return _reordered(call, [axis_of(i, count) for i in call["dims"]])


@rule("aten::transpose", indices=True)
def transpose(call: Call) -> Result:
    order = list(range(len(call["self"].axes)))
    if order:
        i, j = (axis_of(call[name], len(order)) for name in ("dim0", "dim1"))
        order[i], order[j] = order[j], order[i]
    return _reordered(call, order)


@rule("aten::t", indices=True)
def t(call: Call) -> Result:
    return _reordered(call, list(range(len(call["self"].axes)))[::-1])


@rule("aten::movedim", indices=True)
def movedim(call: Call) -> Result:
    count = len(call["self"].axes)
    sources, targets = ([axis_of(i, count) for i in _listed(call[name])] for name in ("source", "destination"))
    rest = iter([i for i in range(count) if i not in sources])
    placed = dict(zip(targets, sources, strict=True))
    return _reordered(call, [placed[i] if i in placed else next(rest) for i in range(count)])


@rule("aten::squeeze", indices=True)
def squeeze(call: Call) -> Result:
    axes = call["self"].axes
    chosen = axes_of(call.args.get("dim"), len(axes))
    kept = [axis for i, axis in enumerate(axes) if i not in chosen or length(axis) != 1]
    return _same_content(call, call.value(kept, call["self"].index_of))


@rule("aten::unsqueeze", indices=True)
def unsqueeze(call: Call) -> Result:
    axes = list(call["self"].axes)
    axes.insert(axis_of(call["dim"], len(axes) + 1), ONE)
    return _same_content(call, call.value(axes, call["self"].index_of))


@rule("aten::expand", "aten::expand_copy", indices=True)
def expand(call: Call) -> Result:
    """What is repeated is the same at every position of the new axis: any permutation of it will do."""
    shape = call.shapes[0]
    axes: list[Axis] = [ONE] * (len(shape) - len(call["self"].axes)) + list(call["self"].axes)
    wide = [
        call.free(size) if length(axis) == 1 and size != 1 else axis for axis, size in zip(axes, shape, strict=True)
    ]
    return call.value(wide, call["self"].index_of)


@rule("aten::repeat", indices=True)
def repeat(call: Call) -> Result:
    times = list(call["repeats"])
    axes = [ONE] * (len(times) - len(call["self"].axes)) + call.settled(call["self"])
    tiled = [Product((call.free(n), axis)) if n else call.fixed(0) for n, axis in zip(times, axes, strict=True)]
    return call.value(tiled, call["self"].index_of)


@rule("aten::select", indices=True)
def select(call: Call) -> Result:
    value = call["self"]
    axis = axis_of(call["dim"], len(value.axes))
    start = axis_of(call["index"], length(value.axes[axis]))
    one = call.trace.views.part(value, axis, start, start + 1, call.reason)
    return call.value([a for i, a in enumerate(one.axes) if i != axis], value.index_of)


@rule("aten::unbind", indices=True)
def unbind(call: Call) -> Result:
    value = call["self"]
    axis = axis_of(call["dim"], len(value.axes))
    ones = [call.trace.views.part(value, axis, i, i + 1, call.reason) for i in range(length(value.axes[axis]))]
    return [call.value([a for i, a in enumerate(one.axes) if i != axis], value.index_of) for one in ones]


@rule("aten::slice", indices=True)
def slice_(call: Call) -> Result:
    value = call["self"]
    axis = axis_of(call["dim"], len(value.axes))
    size, step = length(value.axes[axis]), call["step"]
    start, stop, _ = slice(call["start"], call["end"], None).indices(size)
    views = call.trace.views
    if step == 1 or stop - start <= 1:
        return _part(call, axis, start, max(start, stop))
    if size % step == 0 and start < step and len(range(start, stop, step)) == size // step:
        return _kept(call, views.every(value, axis, start, step, call.reason))
    axes = call.settled(value)
    call.freeze(axes[axis])
    axes[axis] = call.fixed(call.shapes[0][axis])
    return call.value(axes, value.index_of)


@rule(
    "aten::split", "aten::split_with_sizes", "aten::unsafe_split", "aten::unsafe_split_with_sizes", "aten::chunk",
    "aten::unsafe_chunk", "aten::tensor_split", indices=True,
)  # fmt: skip
def split(call: Call) -> Result:
    axis = axis_of(call["dim"], len(call["self"].axes))
    stops = [0]
    for shape in call.shapes:
        stops.append(stops[-1] + shape[axis])
    return [_part(call, axis, start, stop) for start, stop in itertools.pairwise(stops)]


@rule("aten::narrow", indices=True)
def narrow(call: Call) -> Result:
    axis = axis_of(call["dim"], len(call["self"].axes))
    start = axis_of(call["start"], length(call["self"].axes[axis]))
    return _part(call, axis, start, start + call["length"])


@rule("aten::view_as_complex", indices=False)
def view_as_complex(call: Call) -> Result:
    *axes, parts = call.settled(call["self"])
    call.freeze(parts)
    return call.value(axes)


@rule("aten::view_as_real")
def view_as_real(call: Call) -> Result:
    return call.value([*call["self"].axes, call.fixed(2)])


@rule("aten::pixel_shuffle")
def pixel_shuffle(call: Call) -> Result:
    """Factors of the channels become space: (c r r, h, w) -> (c, h r, w r)."""
    *lead, channels, height, width = call.settled(call["self"])
    call.freeze(height, width)
    factor = call["upscale_factor"]
    outer, inner = call.factors(channels, math.prod(call.shapes[0][-3:-2]), factor**2)
    call.freeze(inner)
    return call.value([*lead, outer, *map(call.fixed, call.shapes[0][-2:])])


@rule("aten::pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Result:
    *lead, channels, height, width = call.settled(call["self"])
    call.freeze(height, width)
    positions = call.fixed(call["downscale_factor"] ** 2)
    return call.value([*lead, Product((channels, positions)), *map(call.fixed, call.shapes[0][-2:])])


@rule("aten::channel_shuffle", "aten::native_channel_shuffle")
def channel_shuffle(call: Call) -> Result:
    """(groups x channels) -> (channels x groups)."""
    lead, channels, *rest = call.settled(call["self"])
    groups, each = call.factors(channels, call["groups"], call.shapes[0][1] // call["groups"])
    return call.value([lead, Product((each, groups)), *rest])


def _part(call: Call, axis: int, start: int, stop: int) -> Value:
    return _kept(call, call.trace.views.part(call["self"], axis, start, stop, call.reason))


def _kept(call: Call, value: Value) -> Value:
    return call.value(value.axes, value.index_of)


def _reordered(call: Call, order: Sequence[int]) -> Value:
    return _same_content(call, _kept(call, call.trace.views.reorder(call["self"], order)))


def _same_content(call: Call, value: Value) -> Value:
    value.content = call["self"].content
    return value


def _listed(value: int | Sequence[int]) -> Sequence[int]:
    return [value] if isinstance(value, int) else value
