"""Transforms along whole axes in which every position has a part of its own."""

from __future__ import annotations

from ..call import Call, Result, axes_of, rule


@rule("aten::_fft_c2c", "aten::_fft_r2c", "aten::_fft_c2r")
def fourier(call: Call) -> Result:
    """The transformed axes are frozen, the others not touched."""
    axes = call.settled(call["self"])
    for axis in axes_of(call["dim"], len(axes)):
        call.freeze(axes[axis])
        axes[axis] = call.fixed(call.shapes[0][axis])
    return call.value(axes)
