"""Norms: statistics over some axes, in any order, then a scale and a shift for each channel."""

from __future__ import annotations

from collections.abc import Iterator

from ..call import Call, Result, axis_of, rule
from ..dims import ONE, Dim, Sum
from ..values import Value


def _affine(call: Call, dims: list[Dim], names: tuple[str, ...] = ("weight", "bias")) -> None:
    """Line up parameters that have the axes `dims`."""
    for name in names:
        if call.args.get(name) is not None:
            for own, dim in zip(call.settled(call[name]), dims, strict=True):
                call.unify(dim, own)


def _results(call: Call, axes: list[Dim], statistics: list[Dim]) -> list[Value]:
    """The normalised values, and the means and deviations that come with them."""
    results = [call.value(axes)]
    for shape in call.shapes[1:]:
        known = shape[: len(statistics)] == tuple(map(call.size, statistics))
        lead = statistics if known else []
        results.append(call.value([*lead, *map(call.fixed, shape[len(lead) :])]))
    return results


@rule("aten::native_layer_norm")
def layer_norm(call: Call) -> Result:
    axes = call.settled(call["input"])
    count = len(call["normalized_shape"])
    lead, normalised = axes[:-count], axes[-count:]
    _affine(call, normalised)
    call.mix(lead, normalised)
    return _results(call, axes, lead)


@rule("aten::rms_norm", "aten::_fused_rms_norm")
def rms_norm(call: Call) -> Result:
    axes = call.settled(call["input"])
    count = len(call["normalized_shape"])
    lead, normalised = axes[:-count], axes[-count:]
    _affine(call, normalised, ("weight",))
    call.mix(lead, normalised)
    return _results(call, axes, lead)


@rule("aten::native_group_norm")
def group_norm(call: Call) -> Result:
    """Channels are (groups x channels): groups move as blocks, channels within their group.

    Of a concatenation so do the parts, each for itself; what is part of a group only, stays within it.
    """
    batch, channels, *space = call.settled(call["input"])
    _affine(call, [channels])
    size = call.size(channels) // call["group"]
    statistics: list[Dim] = []
    filled = 0
    for piece in _cut_at_groups(call, channels, size):
        filled += call.size(piece)
        if call.size(piece) < size:
            call.mix([batch], [piece, *space])
            statistics += [] if filled % size else [ONE]
        else:
            group, inner = call.factors(piece, call.size(piece) // size, size)
            call.mix([batch, group], [inner, *space])
            statistics.append(group)
    return _results(call, [batch, channels, *space], [batch, Sum(tuple(statistics))])


def _cut_at_groups(call: Call, channels: Dim, size: int) -> Iterator[Dim]:
    """Yield the terms of a sum, cut into whole groups of `size` channels and parts of one group."""
    dims = call.trace.dims
    dim = dims.resolve(channels)
    filled = 0
    for term in dim.terms if isinstance(dim, Sum) else (dim,):
        rest = term
        while left := call.size(rest):
            room = size - filled % size
            piece, rest = dims.cut(rest, left - left % size if room == size <= left else min(room, left))
            filled += call.size(piece)
            yield piece


@rule(
    "aten::native_batch_norm", "aten::_native_batch_norm_legit", "aten::_native_batch_norm_legit_no_training",
    "aten::cudnn_batch_norm", "aten::batch_norm", "aten::_batch_norm_no_update",
)  # fmt: skip
def batch_norm(call: Call) -> Result:
    """A channel is normalised by its own statistics, the running ones or those of the batch."""
    axes = call.settled(call["input"])
    _affine(call, [axes[1]], ("weight", "bias", "running_mean", "running_var"))
    call.mix([axes[1]], [axes[0], *axes[2:]])
    results = [call.value(axes)]
    for shape in call.shapes[1:]:
        channels = shape == call["input"].shape[1:2]
        results.append(call.value([axes[1]] if channels else [call.fixed(size) for size in shape]))
    return results


@rule("aten::_weight_norm", "aten::_weight_norm_interface")
def weight_norm(call: Call) -> Result:
    """Return v scaled to the norms g: one norm for each position of axis `dim`."""
    direction, norms = call.settled(call["v"]), call.settled(call["g"])
    axis = axis_of(call["dim"], len(direction))
    call.unify(direction[axis], norms[axis])
    call.mix([direction[axis]], [dim for i, dim in enumerate(direction) if i != axis])
    return [call.value(direction), *(call.value(norms) for _ in call.shapes[1:])]
