"""Operators along axes: sums and other reductions that no order can change, softmax, and scans that it does change."""

from __future__ import annotations

from ..call import Call, Result, axes_of, axis_of, rule
from ..dims import ONE, Dim


@rule(
    "aten::sum", "aten::mean", "aten::amax", "aten::amin", "aten::aminmax", "aten::var", "aten::std", "aten::var_mean",
    "aten::std_mean", "aten::logsumexp", "aten::any", "aten::all", "aten::prod", "aten::linalg_vector_norm",
    "aten::norm", "aten::nansum", "aten::count_nonzero", "aten::_is_all_true", "aten::_is_any_true",
)  # fmt: skip
def reduction(call: Call) -> Result:
    value = call.tensors()[0]
    axes = call.settled(value)
    chosen = axes_of(call.args.get("dim"), len(axes))
    kept = [dim for i, dim in enumerate(axes) if i not in chosen]
    call.mix(kept, [axes[i] for i in chosen])
    if call.args.get("keepdim"):
        kept = [ONE if i in chosen else dim for i, dim in enumerate(axes)]
    return [call.value(kept) for _ in call.shapes]


@rule(
    "aten::mse_loss", "aten::smooth_l1_loss", "aten::huber_loss", "aten::binary_cross_entropy",
    "aten::soft_margin_loss",
)  # fmt: skip
def loss(call: Call) -> Result:
    """A number for each position, or their sum or mean."""
    axes = call.broadcast(call.tensors())
    if call.shapes[0]:
        return call.value(axes)
    call.mix([], axes)
    return call.value([])


@rule("aten::max", "aten::min", "aten::median", "aten::nanmedian", "aten::argmax", "aten::argmin", "aten::mode")
def selection(call: Call) -> Result:
    """The largest value is the largest in any order; where it lies counts the positions of the axis."""
    if call.args.get("other") is not None:  # the overload of two tensors
        return call.value(call.broadcast([call["self"], call["other"]]))
    axes = call.settled(call["self"])
    chosen = axes_of(call.args.get("dim"), len(axes))
    names_places = call.name.rpartition("::")[2].startswith("arg") or len(call.shapes) == 2
    if names_places and len(chosen) > 1:  # counts the elements of the whole tensor
        call.freeze(*axes)
    kept = [dim for i, dim in enumerate(axes) if i not in chosen]
    call.mix(kept, [axes[i] for i in chosen])
    if call.args.get("keepdim"):
        kept = [ONE if i in chosen else dim for i, dim in enumerate(axes)]
    place = axes[chosen[0]] if chosen and names_places else None
    return [*(call.value(kept) for _ in call.shapes[1:]), call.value(kept, place)]


@rule("aten::topk", "aten::sort")
def ranking(call: Call) -> Result:
    """Ranks do not depend on the order (where values differ); the places count the positions of the axis."""
    axes = call.settled(call["self"])
    axis = axis_of(call.args.get("dim", -1), len(axes))
    along = axes[axis]
    call.mix([dim for i, dim in enumerate(axes) if i != axis], [along])
    axes[axis] = call.fixed(call.shapes[0][axis])
    return [call.value(axes), call.value(axes, along)]


@rule("aten::_softmax", "aten::_log_softmax", "aten::_safe_softmax", "aten::softmax", "aten::log_softmax")
def softmax(call: Call) -> Result:
    axes = call.settled(call["self"])
    _mix_along(call, axes, [axis_of(call["dim"], len(axes))])
    return call.value(axes)


@rule(
    "aten::cumsum", "aten::cumprod", "aten::cummax", "aten::cummin", "aten::logcumsumexp", "aten::flip", "aten::roll",
    "aten::diff",
)  # fmt: skip
def ordered(call: Call) -> Result:
    """The order along the axes matters: they are frozen, the others are not touched."""
    axes = call.settled(call["self"])
    chosen = call.args.get("dim", call.args.get("dims"))
    if chosen == []:  # rolls the flattened tensor
        return None
    for axis in axes_of(chosen, len(axes)):
        call.freeze(axes[axis])
        axes[axis] = call.fixed(call.shapes[0][axis])
    return [call.value(axes) for _ in call.shapes]


def _mix_along(call: Call, axes: list[Dim], along: list[int]) -> None:
    call.mix([dim for i, dim in enumerate(axes) if i not in along], [axes[i] for i in along])
