"""What a traced spec knows of its origin: which axes are frozen, and what froze them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._spec_validation import counted

if TYPE_CHECKING:
    from .spec import Member, PermutationSpec


_MEMBERS_SHOWN = 4


@dataclass(frozen=True)
class FrozenAxis:
    """An axis of a parameter that is fixed, all of it or in part.

    Attributes
    ----------
    param : str
        The parameter.
    axis : int
        Its axis.
    length : int
        The length of the axis.
    operator : str
        The ATen operator that froze it, or "input", "output...", and other reasons in words.
    module : str
        The module the operator ran in; empty where none did.
    """

    param: str
    axis: int
    length: int
    operator: str
    module: str = ""

    @property
    def reason(self) -> str:
        """Operator and module as one text."""
        return f"{self.operator} in {self.module}" if self.module else self.operator


@dataclass(frozen=True)
class Origin:
    """Where a traced spec comes from: its frozen axes, the operators (with modules) that had no rule, and warnings."""

    frozen: tuple[FrozenAxis, ...] = ()
    unknown_operators: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupReport:
    """One group: its name, number of units, parent (or number of fixed blocks) and members."""

    name: str
    size: int | None
    parent: str | int | None
    members: tuple[Member, ...]


@dataclass(frozen=True)
class SpecReport:
    """What `PermutationSpec.report` returns; prints as tables.

    Attributes
    ----------
    groups : tuple of GroupReport
        Every group with all its members.
    frozen : tuple of FrozenAxis
        Every fixed axis of a traced spec with what froze it; empty for specs that were written down.
    unknown_operators : tuple of (str, str)
        ATen operators that the tracer has no rule for, and the modules they ran in. They froze what they touched.
    warnings : tuple of str
        What to know before the spec is used with other inputs.
    """

    groups: tuple[GroupReport, ...]
    frozen: tuple[FrozenAxis, ...]
    unknown_operators: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"groups: {len(self.groups)}"
        for group in self.groups:
            size = "?" if group.size is None else group.size
            parent = "" if group.parent is None else f", in the blocks of {group.parent}"
            if isinstance(group.parent, int):
                parent = f", in {group.parent} blocks that stay"
            yield f"  {group.name} ({size} units{parent})"
            for member in group.members:
                yield f"    {member}" if member.inside is None else f"    {member}: {member.inside}"
        by_reason: dict[str, list[FrozenAxis]] = {}
        for axis in self.frozen:
            by_reason.setdefault(axis.reason, []).append(axis)
        yield f"frozen axes: {len(self.frozen)}"
        for reason, axes in by_reason.items():
            yield f"  {reason}"
            yield from (f"    {axis.param}[{axis.axis}] ({axis.length})" for axis in axes)
        if self.unknown_operators:
            yield f"operators without a rule: {len(self.unknown_operators)}"
            yield from (f"  {operator} in {module or '?'}" for operator, module in self.unknown_operators)
        yield from (f"warning: {warning}" for warning in self.warnings)


def report_of(spec: PermutationSpec, origin: Origin | None) -> SpecReport:
    """Return the report of a spec."""
    sizes = spec.sizes or {}
    groups = tuple(
        GroupReport(name, sizes.get(name), spec.blocks.get(name), members) for name, members in spec.groups.items()
    )
    origin = origin or Origin()
    return SpecReport(groups, origin.frozen, origin.unknown_operators, origin.warnings)


def table_of(spec: PermutationSpec) -> str:
    """Return the groups with their first members, a line each."""
    groups = counted(len(spec.groups), "group", "groups")
    title = f"PermutationSpec: {groups}, {counted(len(spec.axes), 'parameter', 'parameters')}"
    if spec.moved_only:
        title += f" ({len(spec.moved_only)} moved only)"
    if not spec.groups:
        return title
    width = max(len("group"), *map(len, spec.groups))
    lines = [f"{'group':<{width}}  size  members"]
    for group, members in spec.groups.items():
        size = "?" if spec.sizes is None else spec.sizes[group]
        parent = spec.blocks.get(group)
        within = "" if parent is None else f"(in {parent if isinstance(parent, str) else f'{parent} blocks'}) "
        lines.append(f"{group:<{width}}  {size:>4}  {within}{_shown_members(members) or _shown_children(spec, group)}")
    return "\n".join([title, *lines])


def _shown_children(spec: PermutationSpec, group: str) -> str:
    return f"the blocks of {', '.join(child for child, parent in spec.blocks.items() if parent == group)}"


def _shown_members(members: tuple[Member, ...]) -> str:
    shown = ", ".join(map(str, members[:_MEMBERS_SHOWN]))
    left_out = len(members) - _MEMBERS_SHOWN
    return f"{shown}, and {left_out} more" if left_out > 0 else shown
