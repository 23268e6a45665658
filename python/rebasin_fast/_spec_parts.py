"""What a specification is made of, as callers hand it over: entries read, everything checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ._notation import is_composite, parsed
from .layout import (
    Axis,
    Fixed,
    Layout,
    ProductAxis,
    SumAxis,
    Within,
    described,
    groups_in,
    integer_from,
    positive_integer,
    simplified,
    untold,
    withins,
)

if TYPE_CHECKING:
    from .spec import PermutationSpec

AxisEntry: TypeAlias = "str | tuple[str, int] | None"
"""One axis in the notation of the paper's code: a group, a group and its block, or None for a fixed axis; and sums and
products of groups, as `rebasin_fast.layout` describes them."""

_RUNNING_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})


@dataclass(frozen=True)
class Member:
    """One place where a group lies: axis `axis` of `param`, unit k on the entries [k * block, (k + 1) * block).

    Where the group is only a part of what lies on the axis, `inside` is the whole of it and says where its entries are.
    """

    param: str
    axis: int
    block: int = 1
    inside: Layout | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.inside is not None:
            return f"{self.param}[{self.axis}, part]"
        return f"{self.param}[{self.axis}]" if self.block == 1 else f"{self.param}[{self.axis}, block {self.block}]"


def axes_of_entries(param: object, entries: Any) -> tuple[Layout | None, ...]:
    if not isinstance(entries, tuple | list):
        raise TypeError(f"axes_to_perm[{param!r}] is {described(entries)}; expected a tuple with one entry per axis")
    return tuple(_axis_of_entry(f"axes_to_perm[{param!r}][{i}]", entry) for i, entry in enumerate(entries))


def _axis_of_entry(where: str, entry: Any) -> Layout | None:
    if entry is None:
        return None
    if isinstance(entry, str):
        return parsed(entry) if is_composite(entry) else Axis(entry)
    if isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str):
        return Axis(entry[0], positive_integer(entry[1], f"the block in {where}"))
    raise TypeError(f"{where} is {described(entry)}; expected None, a group name, or a tuple (group name, block)")


def entry_of_axis(axis: Layout | None) -> AxisEntry:
    if isinstance(axis, Axis) and axis.block > 1:
        return axis.group, axis.block
    return None if axis is None else str(axis)


_LAYOUTS = (Axis, Within, Fixed, ProductAxis, SumAxis)


def checked_axes(axes: Any) -> dict[str, tuple[Layout | None, ...]]:
    if not isinstance(axes, Mapping):
        raise TypeError(f"axes is {described(axes)}; expected a mapping of names to tuples")
    if not axes:
        raise ValueError("axes is empty; expected at least one parameter")
    for param, entries in axes.items():
        if not isinstance(param, str):
            raise TypeError(f"axes has the key {described(param)}; expected parameter names as strings")
        if not isinstance(entries, tuple) or not all(axis is None or isinstance(axis, _LAYOUTS) for axis in entries):
            raise TypeError(f"axes[{param!r}] is {described(entries)}; expected a tuple of Axis or None")
    return {param: tuple(map(_simplified, entries)) for param, entries in axes.items()}


def _simplified(axis: Layout | None) -> Layout | None:
    simple = None if axis is None else simplified(axis)
    return None if isinstance(simple, Fixed) else simple


def members_by_group(axes: Mapping[str, tuple[Layout | None, ...]], blocks: Any) -> dict[str, tuple[Member, ...]]:
    # Lists first: a residual stream has hundreds of members.
    groups: dict[str, list[Member]] = {}
    for param, entries in axes.items():
        for i, axis in enumerate(entries):
            if isinstance(axis, Axis):
                groups.setdefault(axis.group, []).append(Member(param, i, axis.block))
            elif axis is not None:
                for group in dict.fromkeys(groups_in(axis)):
                    groups.setdefault(group, []).append(Member(param, i, inside=axis))
    # A group may lie nowhere itself and still move: heads whose units are groups of their own.
    parents = blocks.values() if isinstance(blocks, Mapping) else ()
    for parent in parents:
        if isinstance(parent, str):
            groups.setdefault(parent, [])
    return {group: tuple(members) for group, members in groups.items()}


def checked_blocks(blocks: Any, groups: Mapping[str, Any], sizes: Mapping[str, int] | None) -> dict[str, str | int]:
    if not isinstance(blocks, Mapping):
        raise TypeError(f"blocks is {described(blocks)}; expected a mapping of groups to their parents")
    if blocks and sizes is None:
        raise ValueError("blocks are given without sizes; expected the sizes of all groups")
    checked: dict[str, str | int] = {}
    for group, parent in blocks.items():
        if group not in groups:
            raise ValueError(f"blocks names {group!r}; expected groups of the specification")
        known = parent if isinstance(parent, str) else positive_integer(parent, f"blocks[{group!r}]")
        checked[group] = known
        assert sizes is not None
        count = sizes[known] if isinstance(known, str) else known
        if sizes[group] % count:
            raise ValueError(
                f"sizes[{group!r}] is {sizes[group]}; expected a multiple of {count}, its number of blocks"
            )
    for group in checked:
        seen = {group}
        parent = checked[group]
        while isinstance(parent, str) and parent in checked:
            if parent in seen:
                raise ValueError(f"blocks has {group!r} within itself; expected no circles")
            seen.add(parent)
            parent = checked[parent]
    return checked


def check_layouts(spec: PermutationSpec) -> None:
    """Check that sizes are known where they are needed, and that every group in one block can find its parent."""
    for param, axes in spec.axes.items():
        for i, axis in enumerate(axes):
            if axis is None or isinstance(axis, Axis):
                continue
            if spec.sizes is None:
                raise ValueError(
                    f"axes[{param!r}][{i}] is {str(axis)!r}, without sizes; expected the sizes of all groups"
                )
            _check_parents(spec, param, i)


def _check_parents(spec: PermutationSpec, param: str, i: int) -> None:
    axis = spec.axes[param][i]
    for within in withins(axis):
        if spec.blocks.get(within.group) != within.parent:
            raise ValueError(f"axes[{param!r}][{i}] is {str(axis)!r}; expected blocks[{within.group!r}] to say so")
    for j, parent in untold(spec.axes[param], spec.blocks):
        if j == i:
            raise ValueError(
                f"axes[{param!r}][{i}] is {str(axis)!r}; expected {parent!r} beside it, or on one other axis that "
                "needs no parent itself"
            )


def checked_sizes(sizes: Any, groups: Iterable[str]) -> dict[str, int]:
    if not isinstance(sizes, Mapping):
        raise TypeError(f"sizes is {described(sizes)}; expected a mapping of group names to integers")
    known = list(groups)
    unknown = [group for group in sizes if group not in known]
    missing = [group for group in known if group not in sizes]
    if unknown or missing:
        raise ValueError(
            f"sizes has unknown groups {unknown} and lacks {missing}; expected one size for each of the groups {known}"
        )
    return {group: positive_integer(sizes[group], f"sizes[{group!r}]") for group in known}


def checked_moved_only(moved_only: Any, axes: Mapping[str, Any]) -> frozenset[str]:
    if moved_only is None:
        return frozenset(param for param in axes if param.rpartition(".")[2] in _RUNNING_STATISTICS)
    if isinstance(moved_only, str) or not isinstance(moved_only, Iterable):
        raise TypeError(f"moved_only is {described(moved_only)}; expected an iterable of parameter names")
    names = frozenset(moved_only)
    unknown = sorted(map(repr, names.difference(axes)))
    if unknown:
        raise ValueError(f"moved_only names {', '.join(unknown)}; expected parameters of the specification")
    return names


def checked_fixed_lengths(fixed_lengths: Any, axes: Mapping[str, tuple[Layout | None, ...]]) -> dict[Any, int]:
    if not isinstance(fixed_lengths, Mapping):
        raise TypeError(f"fixed_lengths is {described(fixed_lengths)}; expected a mapping of (param, axis) to integers")
    fixed = {(param, i) for param, entries in axes.items() for i, axis in enumerate(entries) if axis is None}
    for key in fixed_lengths:
        if key not in fixed:
            raise ValueError(f"fixed_lengths has the key {key!r}; expected (param, axis) of an axis without a group")
    return {key: integer_from(0, length, f"fixed_lengths[{key!r}]") for key, length in fixed_lengths.items()}
