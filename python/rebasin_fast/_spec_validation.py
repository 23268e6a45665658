"""How a state dict differs from what a specification says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ._arrays import Parameters, is_array
from ._spec_parts import Member
from .layout import Axis, Layout, groups_in

if TYPE_CHECKING:
    from .spec import PermutationSpec


def _units(spec: PermutationSpec, state_dict: Parameters, member: Member) -> int | None:
    """How many units the member's axis holds, or None where the array does not allow to say."""
    array = state_dict.get(member.param)
    if (
        array is None
        or member.inside is not None
        or not is_array(array)
        or len(array.shape) != len(spec.axes[member.param])
    ):
        return None
    units, rest = divmod(int(array.shape[member.axis]), member.block)
    return units if rest == 0 else None


def read_sizes(spec: PermutationSpec, state_dict: Parameters) -> dict[str, tuple[int, str]]:
    """For every group its size, as most members have it (the first wins a tie), and the member that says so."""
    sizes: dict[str, tuple[int, str]] = {}
    for group, members in spec.groups.items():
        votes = [(_units(spec, state_dict, member), member) for member in members]
        counts = Counter(units for units, _ in votes if units is not None)
        if counts:
            size = counts.most_common(1)[0][0]
            sizes[group] = size, f"as {next(member for units, member in votes if units == size)}"
    return sizes


def name_mismatches(spec: PermutationSpec, state_dict: Parameters, name: str) -> Iterator[str]:
    for param, axes in spec.axes.items():
        if param not in state_dict:
            yield f"{name}[{param!r}] is missing; expected an array with {counted(len(axes), 'axis', 'axes')}"
    for key in state_dict:
        if key not in spec.axes:
            yield f"{name}[{key!r}] is unknown to the specification; expected only the names it holds"


def axis_mismatches(spec: PermutationSpec, state_dict: Parameters, name: str, matching: bool) -> Iterator[str]:
    sizes = read_sizes(spec, state_dict)
    if spec.sizes is not None:
        sizes = {group: (size, "as the specification says") for group, size in spec.sizes.items()}
    for param, axes in spec.axes.items():
        if param not in state_dict:
            continue
        array, where = state_dict[param], f"{name}[{param!r}]"
        if matching:
            yield from unmatchable(spec, axes, where)
        if not is_array(array):
            yield f"{where} is of type {type(array).__name__}; expected a numpy array or a torch tensor"
        elif len(array.shape) != len(axes):
            yield f"{where} has shape {tuple(array.shape)}; expected {counted(len(axes), 'axis', 'axes')}"
        else:
            yield from _length_mismatches(spec, param, tuple(array.shape), sizes, where)


def unmatchable(spec: PermutationSpec, axes: tuple[Layout | None, ...], where: str) -> Iterator[str]:
    for i, axis in enumerate(axes):
        if axis is not None and not isinstance(axis, Axis):
            yield f"{where} has {str(axis)!r} on axis {i}; expected one group (matching sums and products: unsupported)"
    on_axes = [dict.fromkeys(groups_in(axis)) for axis in axes if axis is not None]
    for group, times in Counter(group for groups in on_axes for group in groups).items():
        if times > 1:
            yield f"{where} has group {group!r} on {times} axes; expected each group once on an array (unsupported)"
        if group in spec.blocks:
            yield f"{where} has group {group!r}, which moves in blocks; expected one without (matching it: unsupported)"


def _length_mismatches(
    spec: PermutationSpec, param: str, shape: tuple[int, ...], sizes: Mapping[str, tuple[int, str]], where: str
) -> Iterator[str]:
    for i, (axis, length) in enumerate(zip(spec.axes[param], shape, strict=True)):
        came = f"{where} has shape {shape}: axis {i} has length {length}"
        if axis is None:
            expected = spec.fixed_lengths.get((param, i), length)
            if length != expected:
                yield f"{came}; expected {expected}, as the specification says"
            continue
        if not isinstance(axis, Axis):
            expected = spec.structure.length(axis)
            if length != expected:
                yield f"{came}; expected {expected}, the length of {str(axis)!r}, as the specification says"
            continue
        size, witness = sizes.get(axis.group, (None, ""))
        if size is None or (length % axis.block and spec.sizes is None):
            yield f"{came}; expected a multiple of {axis.block}, the block of group {axis.group!r}"
        elif size == 0:
            yield f"{came}; expected at least one unit in group {axis.group!r}"
        elif length != size * axis.block:
            units = f"{size} units in blocks of {axis.block}" if axis.block > 1 else "the size"
            yield f"{came}; expected {size * axis.block}, {units} of group {axis.group!r}, {witness}"


def counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
