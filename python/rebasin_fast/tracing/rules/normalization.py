"""Norms: statistics over some axes, in any order, then a scale and a shift for each channel."""

from __future__ import annotations

from ..call import Call, Result, axis_of, rule
from ..dims import Dim
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
    """Channels are (groups x channels): groups move as blocks, channels within their group."""
    batch, channels, *space = call.settled(call["input"])
    _affine(call, [channels])
    groups = call["group"]
    group, inner = call.factors(channels, groups, call.size(channels) // groups)
    call.mix([batch, group], [inner, *space])
    return _results(call, [batch, channels, *space], [batch, group])


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
