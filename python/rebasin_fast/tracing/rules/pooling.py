"""Pooling, resampling and the like: space is frozen, channels are not touched."""

from __future__ import annotations

from ..call import Call, Result, rule
from ..dims import Product

_OVER_SPACE = {
    1: ("avg_pool1d", "adaptive_avg_pool1d", "max_pool1d", "upsample_nearest1d", "upsample_linear1d",
        "_upsample_nearest_exact1d", "reflection_pad1d", "replication_pad1d"),
    2: ("avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d_with_indices",
        "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d",
        "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d", "max_pool2d"),
    3: ("avg_pool3d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d", "max_pool3d_with_indices",
        "upsample_nearest3d", "upsample_trilinear3d", "_upsample_nearest_exact3d", "reflection_pad3d",
        "replication_pad3d", "max_pool3d"),
}  # fmt: skip


def _over_space(count: int) -> None:
    @rule(*(f"aten::{name}" for name in _OVER_SPACE[count]))
    def over_space(call: Call) -> Result:
        axes = call.settled(call.tensors()[0])
        lead, space = axes[:-count], axes[-count:]
        out = call.shapes[0][len(lead) :]
        whole = "adaptive" in call.name and len(call.shapes) == 1  # a second result would count positions
        over_all = [i for i in range(count) if whole and out[i] == 1]
        alone = [i for i in range(count) if i not in over_all and _single(call, i, call.size(space[i]) == out[i])]
        call.mix([*lead, *(space[i] for i in alone)], [space[i] for i in over_all])
        call.freeze(*(dim for i, dim in enumerate(space) if i not in over_all and i not in alone))
        # A second result counts positions in space.
        kept = [space[i] if i in alone and len(call.shapes) == 1 else call.fixed(n) for i, n in enumerate(out)]
        if len(call.shapes) > 1:
            call.freeze(*space)
        return [call.value([*lead, *kept]) for _ in call.shapes]


def _single(call: Call, axis: int, same_length: bool) -> bool:
    """Say whether windows hold one position along an axis of space, and none is left out."""
    if "adaptive" in call.name:
        return same_length
    kernel = call.args.get("kernel_size")
    if not kernel or not same_length:
        return False
    stride, padding = call.args.get("stride") or kernel, call.args.get("padding") or [0]
    return [setting[axis % len(setting)] for setting in (kernel, stride, padding)] == [1, 1, 0]


for _count in _OVER_SPACE:
    _over_space(_count)


@rule("aten::max_unpool2d", "aten::max_unpool3d")
def max_unpool(call: Call) -> Result:
    axes, places = call.settled(call["self"]), call.settled(call["indices"])
    count = 2 if call.name.endswith("2d") else 3
    for axis, place in zip(axes, places, strict=True):
        call.unify(axis, place)
    call.freeze(*axes[-count:])
    return call.value([*axes[:-count], *map(call.fixed, call.shapes[0][-count:])])


@rule("aten::im2col")
def im2col(call: Call) -> Result:
    """(..., c, h, w) -> (..., c x kernel positions, places)."""
    *lead, channels, height, width = call.settled(call["self"])
    call.freeze(height, width)
    kernel = call.fixed(call["kernel_size"][0] * call["kernel_size"][1])
    return call.value([*lead, Product((channels, kernel)), call.fixed(call.shapes[0][-1])])


@rule("aten::col2im")
def col2im(call: Call) -> Result:
    *lead, rows, places = call.settled(call["self"])
    positions = call["kernel_size"][0] * call["kernel_size"][1]
    channels, kernel = call.factors(rows, call.shapes[0][-3], positions)
    call.freeze(kernel, places)
    return call.value([*lead, channels, *map(call.fixed, call.shapes[0][-2:])])


@rule("aten::unfold")
def unfold(call: Call) -> Result:
    """Windows along one axis, as a new last one."""
    axes = call.settled(call["self"])
    axis = call["dimension"] % len(axes)
    call.freeze(axes[axis])
    axes[axis] = call.fixed(call.shapes[0][axis])
    return call.value([*axes, call.fixed(call["size"])])


@rule("aten::grid_sampler_2d", "aten::grid_sampler_3d")
def grid_sampler(call: Call) -> Result:
    batch, channels, *space = call.settled(call["input"])
    grid = call.settled(call["grid"])
    call.unify(batch, grid[0])
    call.freeze(*space, *grid[1:])
    return call.value([batch, channels, *(call.fixed(size) for size in call.shapes[0][2:])])


@rule("aten::affine_grid_generator")
def affine_grid(call: Call) -> Result:
    batch, *matrix = call.settled(call["theta"])
    call.freeze(*matrix)
    return call.value([batch, *(call.fixed(size) for size in call.shapes[0][1:])])
