"""Operators that do the same at every position: whatever permutes their arguments alike permutes the result."""

from __future__ import annotations

from ..call import Call, Result, axis_of, rule
from ..values import Value


def pointwise(call: Call) -> Result:
    """The rule of all operators that torch tags as pointwise."""
    values = call.tensors()
    # A single argument is left in factors: what is the same everywhere need not know how the axes are split.
    result = call.value(values[0].axes if len(values) == 1 else call.broadcast(values))
    # What comes besides is kept for the backward pass only, and may be empty.
    return [result, *(call.value(map(call.fixed, shape)) for shape in call.shapes[1:])]


rule(
    "aten::_prelu_kernel", "aten::copy", "aten::masked_fill", "aten::where", "aten::fill", "aten::zero",
    "aten::nan_to_num", "aten::lerp", "aten::isfinite", "aten::gelu", "aten::polar", "aten::complex", "aten::real",
    "aten::imag", "aten::floor_divide", "aten::hardswish", "aten::log_sigmoid_forward", "aten::frexp",
)(pointwise)  # fmt: skip


@rule("aten::native_dropout")
def native_dropout(call: Call) -> Result:
    if call.args.get("train"):
        return None
    return [call.value(call["input"].axes) for _ in call.shapes]


@rule("aten::rrelu_with_noise")
def rrelu(call: Call) -> Result:
    return None if call["training"] else call.value(call["self"].axes)


@rule("aten::glu")
def glu(call: Call) -> Result:
    """The first half of an axis, gated by the second: both halves are permuted alike."""
    value: Value = call["self"]
    axes = call.settled(value)
    axis = call["dim"] % len(axes)
    half = call.shapes[0][axis]
    first, second = call.trace.dims.cut(axes[axis], half)
    call.unify(first, second)
    axes[axis] = first
    return call.value(axes)


@rule(
    "aten::fake_quantize_per_tensor_affine_cachemask",
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)
def fake_quantize(call: Call) -> Result:
    """Rounded to a grid that is one for all; scale and offset have one element, or are numbers."""
    return [call.value(call["self"].axes) for _ in call.shapes]


@rule("aten::fake_quantize_per_channel_affine_cachemask")
def fake_quantize_channels(call: Call) -> Result:
    """Rounded to the grid of the channel."""
    axes = call.settled(call["self"])
    axis = axis_of(call["axis"], len(axes))
    for name in ("scale", "zero_point"):
        call.unify(axes[axis], call.settled(call[name])[0])
    return [call.value(axes) for _ in call.shapes]
