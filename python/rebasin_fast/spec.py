"""Which axes of which parameters move together: the permutation symmetries of one architecture, as data.

A *group* is a set of hidden units that can be reordered without changing the function the network computes, as long as
every array that touches them is reordered alike. A `PermutationSpec` names the groups and, for every axis of every
parameter, the group that lies on it.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from ._arrays import Parameters, is_array

AxisEntry: TypeAlias = "str | tuple[str, int] | None"
"""One axis in the notation of the paper's code: a group, a group and its block, or None for a fixed axis."""

AxesToPerm: TypeAlias = Mapping[str, "tuple[AxisEntry, ...]"]
"""Parameter names to one `AxisEntry` per axis."""

_RUNNING_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_MEMBERS_SHOWN = 4


@dataclass(frozen=True)
class Axis:
    """What lies on one axis of a parameter: the units of `group`, each `block` contiguous entries wide."""

    group: str
    block: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.group, str):
            raise TypeError(f"group is {_described(self.group)}; expected a string")
        object.__setattr__(self, "block", positive_integer(self.block, f"the block of group {self.group!r}"))


@dataclass(frozen=True)
class Member:
    """One place where a group lies: axis `axis` of `param`, unit k on the entries [k * block, (k + 1) * block)."""

    param: str
    axis: int
    block: int = 1

    def __str__(self) -> str:
        return f"{self.param}[{self.axis}]" if self.block == 1 else f"{self.param}[{self.axis}, block {self.block}]"


class PermutationSpec:
    """The permutation symmetries of an architecture. Immutable, comparable, hashable and picklable.

    Parameters
    ----------
    axes : mapping of str to tuple of (Axis or None)
        For every parameter one entry per axis: the group on it, or None for an axis that stays as it is (inputs,
        outputs, kernel positions).
    sizes : mapping of str to int, optional
        The number of units of every group. Without it the sizes are read off a state dict when one is at hand.
    moved_only : iterable of str, optional
        Parameters that are moved with their groups but are no terms of the matching objective. By default the running
        statistics of batch norm: names that end in ``running_mean``, ``running_var`` or ``num_batches_tracked``.
    fixed_lengths : mapping of (str, int) to int, optional
        Lengths of fixed axes, keyed by (parameter, axis), for `validate` to check; for instance the number of classes.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, or names what the others do not know.

    See Also
    --------
    PermutationSpec.from_axes_to_perm : the same from plain strings, in the notation of the paper's code.

    Examples
    --------
    >>> spec = PermutationSpec.from_axes_to_perm(
    ...     {"hidden.weight": ("P", None), "hidden.bias": ("P",), "out.weight": (None, "P")}, sizes={"P": 512}
    ... )
    >>> spec
    PermutationSpec: 1 group, 3 parameters
    group  size  members
    P       512  hidden.weight[0], hidden.bias[0], out.weight[1]

    References
    ----------
    Ainsworth, S. K., Hayase, J. & Srinivasa, S. (2023). Git Re-Basin: Merging Models modulo Permutation Symmetries.
    ICLR 2023, arXiv:2209.04836.
    """

    __slots__ = ("_axes", "_fixed_lengths", "_groups", "_moved_only", "_sizes")

    _axes: Mapping[str, tuple[Axis | None, ...]]
    _groups: Mapping[str, tuple[Member, ...]]
    _sizes: Mapping[str, int] | None
    _moved_only: frozenset[str]
    _fixed_lengths: Mapping[tuple[str, int], int]

    def __init__(
        self,
        axes: Mapping[str, tuple[Axis | None, ...]],
        *,
        sizes: Mapping[str, int] | None = None,
        moved_only: Iterable[str] | None = None,
        fixed_lengths: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self._axes = MappingProxyType(_checked_axes(axes))
        self._groups = MappingProxyType(_members_by_group(self._axes))
        self._sizes = None if sizes is None else MappingProxyType(_checked_sizes(sizes, self._groups))
        self._moved_only = _checked_moved_only(moved_only, self._axes)
        self._fixed_lengths = MappingProxyType(_checked_fixed_lengths(fixed_lengths or {}, self._axes))

    @classmethod
    def from_axes_to_perm(
        cls,
        axes_to_perm: Mapping[str, Any],
        *,
        sizes: Mapping[str, int] | None = None,
        moved_only: Iterable[str] | None = None,
        fixed_lengths: Mapping[tuple[str, int], int] | None = None,
    ) -> PermutationSpec:
        """Return the spec written down in the notation of the paper's code.

        Parameters
        ----------
        axes_to_perm : mapping of str to tuple
            For every parameter one entry per axis: None, ``"group"``, or ``("group", block)`` where every unit takes
            `block` contiguous entries (a dense layer behind a flattened convolution: block = height * width).
        sizes, moved_only, fixed_lengths
            As in `PermutationSpec`.

        Raises
        ------
        TypeError, ValueError
            If an entry is none of the three, naming the parameter.

        Examples
        --------
        >>> axes_to_perm = {"conv.weight": ("P", None, None, None), "fc.weight": (None, ("P", 49))}
        >>> spec = PermutationSpec.from_axes_to_perm(axes_to_perm)
        >>> spec.groups["P"][1]
        Member(param='fc.weight', axis=1, block=49)
        """
        if not isinstance(axes_to_perm, Mapping):
            raise TypeError(f"axes_to_perm is {_described(axes_to_perm)}; expected a mapping of names to tuples")
        axes = {param: _axes_of_entries(param, entries) for param, entries in axes_to_perm.items()}
        return cls(axes, sizes=sizes, moved_only=moved_only, fixed_lengths=fixed_lengths)

    def to_axes_to_perm(self) -> dict[str, tuple[AxisEntry, ...]]:
        """Return the axes in the notation that `from_axes_to_perm` reads."""
        return {param: tuple(_entry_of_axis(axis) for axis in axes) for param, axes in self._axes.items()}

    @property
    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        """For every parameter one entry per axis: an `Axis`, or None for a fixed axis."""
        return self._axes

    @property
    def params(self) -> tuple[str, ...]:
        """The names of all parameters, in the order they were given."""
        return tuple(self._axes)

    @property
    def groups(self) -> Mapping[str, tuple[Member, ...]]:
        """For every group its members; groups and members in the order in which `axes` mentions them."""
        return self._groups

    @property
    def sizes(self) -> Mapping[str, int] | None:
        """The number of units of every group, or None where the spec leaves that to the state dict."""
        return self._sizes

    @property
    def moved_only(self) -> frozenset[str]:
        """Parameters that move with their groups but are no terms of the matching objective."""
        return self._moved_only

    @property
    def fixed_lengths(self) -> Mapping[tuple[str, int], int]:
        """Lengths of fixed axes that `validate` checks, keyed by (parameter, axis)."""
        return self._fixed_lengths

    def matched(self, param: str) -> bool:
        """Say whether `param` is a term of the matching objective (running statistics are only moved).

        Raises
        ------
        KeyError
            If the spec does not know `param`.
        """
        if param not in self._axes:
            raise KeyError(f"param is {param!r}, which the specification does not know")
        return param not in self._moved_only

    def group_sizes(self, params: Parameters | None = None) -> dict[str, int]:
        """Return the number of units of every group: the sizes the spec holds, else those of a state dict.

        Parameters
        ----------
        params : mapping of str to array, optional
            A state dict that fits the spec; needed only when `sizes` is None.

        Raises
        ------
        ValueError
            If the sizes are unknown and `params` is None, or `params` does not fit.
        """
        if self._sizes is not None:
            return dict(self._sizes)
        if params is None:
            raise ValueError("params is None and the specification holds no group sizes; expected a state dict")
        self.validate(params, "params")
        return {group: size for group, (size, _) in _read_sizes(self, params).items()}

    def validate(self, state_dict: Parameters, name: str = "state_dict") -> None:
        """Check that a state dict fits the spec.

        Parameters
        ----------
        state_dict : mapping of str to array
            Parameters and buffers, numpy arrays or torch tensors.
        name : str, optional
            What the message calls `state_dict`.

        Raises
        ------
        TypeError
            If `state_dict` is not a mapping.
        ValueError
            If anything disagrees. The one message lists every mismatch: missing and unknown names, values that are not
            arrays, wrong numbers of axes, axes whose length is not what their group or `fixed_lengths` says, empty
            groups, and groups that lie twice on one array (matching would be quadratic in them: unsupported).
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name} is of type {type(state_dict).__name__}; expected a mapping of names to arrays")
        found = [*_name_mismatches(self, state_dict, name), *_axis_mismatches(self, state_dict, name)]
        if found:
            count = f"{len(found)} mismatch{'es' if len(found) > 1 else ''}"
            raise ValueError("\n  ".join([f"{name} does not fit the specification ({count}):", *found]))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, PermutationSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash((frozenset(self._axes.items()), self._moved_only))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, self._key()

    def __repr__(self) -> str:
        return _table(self)

    def _key(self) -> tuple[Any, ...]:
        sizes = None if self._sizes is None else dict(self._sizes)
        return dict(self._axes), sizes, self._moved_only, dict(self._fixed_lengths)


def _rebuilt(axes: Any, sizes: Any, moved_only: Any, fixed_lengths: Any) -> PermutationSpec:
    return PermutationSpec(axes, sizes=sizes, moved_only=moved_only, fixed_lengths=fixed_lengths)


# ---- construction ---------------------------------------------------------------------------------------------------


def _described(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 100 else text[:97] + '...'} of type {type(value).__name__}"


def positive_integer(value: Any, what: str) -> int:
    """Return `value` as an int; raise a TypeError or a ValueError that calls it `what` if it is no integer above 0."""
    # bool passes for an integer in Python, and is always a mistake here.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} is {_described(value)}; expected an integer")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{what} is {number}; expected at least 1")
    return number


def _axes_of_entries(param: object, entries: Any) -> tuple[Axis | None, ...]:
    if not isinstance(entries, tuple | list):
        raise TypeError(f"axes_to_perm[{param!r}] is {_described(entries)}; expected a tuple with one entry per axis")
    return tuple(_axis_of_entry(f"axes_to_perm[{param!r}][{i}]", entry) for i, entry in enumerate(entries))


def _axis_of_entry(where: str, entry: Any) -> Axis | None:
    if entry is None:
        return None
    if isinstance(entry, str):
        return Axis(entry)
    if isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str):
        return Axis(entry[0], positive_integer(entry[1], f"the block in {where}"))
    raise TypeError(f"{where} is {_described(entry)}; expected None, a group name, or a tuple (group name, block)")


def _entry_of_axis(axis: Axis | None) -> AxisEntry:
    if axis is None or axis.block == 1:
        return None if axis is None else axis.group
    return axis.group, axis.block


def _checked_axes(axes: Any) -> dict[str, tuple[Axis | None, ...]]:
    if not isinstance(axes, Mapping):
        raise TypeError(f"axes is {_described(axes)}; expected a mapping of names to tuples")
    if not axes:
        raise ValueError("axes is empty; expected at least one parameter")
    for param, entries in axes.items():
        if not isinstance(param, str):
            raise TypeError(f"axes has the key {_described(param)}; expected parameter names as strings")
        if not isinstance(entries, tuple) or not all(axis is None or isinstance(axis, Axis) for axis in entries):
            raise TypeError(f"axes[{param!r}] is {_described(entries)}; expected a tuple of Axis or None")
    return dict(axes)


def _members_by_group(axes: Mapping[str, tuple[Axis | None, ...]]) -> dict[str, tuple[Member, ...]]:
    groups: dict[str, tuple[Member, ...]] = {}
    for param, entries in axes.items():
        for i, axis in enumerate(entries):
            if axis is not None:
                groups[axis.group] = (*groups.get(axis.group, ()), Member(param, i, axis.block))
    return groups


def _checked_sizes(sizes: Any, groups: Iterable[str]) -> dict[str, int]:
    if not isinstance(sizes, Mapping):
        raise TypeError(f"sizes is {_described(sizes)}; expected a mapping of group names to integers")
    known = list(groups)
    unknown = [group for group in sizes if group not in known]
    missing = [group for group in known if group not in sizes]
    if unknown or missing:
        raise ValueError(
            f"sizes has unknown groups {unknown} and lacks {missing}; expected one size for each of the groups {known}"
        )
    return {group: positive_integer(sizes[group], f"sizes[{group!r}]") for group in known}


def _checked_moved_only(moved_only: Any, axes: Mapping[str, Any]) -> frozenset[str]:
    if moved_only is None:
        return frozenset(param for param in axes if param.rpartition(".")[2] in _RUNNING_STATISTICS)
    if isinstance(moved_only, str) or not isinstance(moved_only, Iterable):
        raise TypeError(f"moved_only is {_described(moved_only)}; expected an iterable of parameter names")
    names = frozenset(moved_only)
    unknown = sorted(map(repr, names.difference(axes)))
    if unknown:
        raise ValueError(f"moved_only names {', '.join(unknown)}; expected parameters of the specification")
    return names


def _checked_fixed_lengths(fixed_lengths: Any, axes: Mapping[str, tuple[Axis | None, ...]]) -> dict[Any, int]:
    if not isinstance(fixed_lengths, Mapping):
        raise TypeError(
            f"fixed_lengths is {_described(fixed_lengths)}; expected a mapping of (param, axis) to integers"
        )
    fixed = {(param, i) for param, entries in axes.items() for i, axis in enumerate(entries) if axis is None}
    for key in fixed_lengths:
        if key not in fixed:
            raise ValueError(f"fixed_lengths has the key {key!r}; expected (param, axis) of an axis without a group")
    return {key: positive_integer(length, f"fixed_lengths[{key!r}]") for key, length in fixed_lengths.items()}


# ---- validation -----------------------------------------------------------------------------------------------------


def _units(spec: PermutationSpec, state_dict: Parameters, member: Member) -> int | None:
    """How many units the member's axis holds, or None where the array does not allow to say."""
    array = state_dict.get(member.param)
    if array is None or not is_array(array) or len(array.shape) != len(spec.axes[member.param]):
        return None
    units, rest = divmod(int(array.shape[member.axis]), member.block)
    return units if rest == 0 else None


def _read_sizes(spec: PermutationSpec, state_dict: Parameters) -> dict[str, tuple[int, str]]:
    """For every group its size, as most members have it (the first wins a tie), and the member that says so."""
    sizes: dict[str, tuple[int, str]] = {}
    for group, members in spec.groups.items():
        votes = [(_units(spec, state_dict, member), member) for member in members]
        counts = Counter(units for units, _ in votes if units is not None)
        if counts:
            size = counts.most_common(1)[0][0]
            sizes[group] = size, f"as {next(member for units, member in votes if units == size)}"
    return sizes


def _name_mismatches(spec: PermutationSpec, state_dict: Parameters, name: str) -> Iterator[str]:
    for param, axes in spec.axes.items():
        if param not in state_dict:
            yield f"{name}[{param!r}] is missing; expected an array with {_count(len(axes), 'axis', 'axes')}"
    for key in state_dict:
        if key not in spec.axes:
            yield f"{name}[{key!r}] is unknown to the specification; expected only the names it holds"


def _axis_mismatches(spec: PermutationSpec, state_dict: Parameters, name: str) -> Iterator[str]:
    sizes = _read_sizes(spec, state_dict)
    if spec.sizes is not None:
        sizes = {group: (size, "as the specification says") for group, size in spec.sizes.items()}
    for param, axes in spec.axes.items():
        if param not in state_dict:
            continue
        array, where = state_dict[param], f"{name}[{param!r}]"
        yield from _repeated_groups(axes, where)
        if not is_array(array):
            yield f"{where} is of type {type(array).__name__}; expected a numpy array or a torch tensor"
        elif len(array.shape) != len(axes):
            yield f"{where} has shape {tuple(array.shape)}; expected {_count(len(axes), 'axis', 'axes')}"
        else:
            yield from _length_mismatches(spec, param, tuple(array.shape), sizes, where)


def _repeated_groups(axes: tuple[Axis | None, ...], where: str) -> Iterator[str]:
    for group, times in Counter(axis.group for axis in axes if axis is not None).items():
        if times > 1:
            yield f"{where} has group {group!r} on {times} axes; expected each group once on an array (unsupported)"


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
        size, witness = sizes.get(axis.group, (None, ""))
        if size is None or (length % axis.block and spec.sizes is None):
            yield f"{came}; expected a multiple of {axis.block}, the block of group {axis.group!r}"
        elif size == 0:
            yield f"{came}; expected at least one unit in group {axis.group!r}"
        elif length != size * axis.block:
            units = f"{size} units in blocks of {axis.block}" if axis.block > 1 else "the size"
            yield f"{came}; expected {size * axis.block}, {units} of group {axis.group!r}, {witness}"


# ---- what a person sees ---------------------------------------------------------------------------------------------


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _table(spec: PermutationSpec) -> str:
    groups = _count(len(spec.groups), "group", "groups")
    title = f"PermutationSpec: {groups}, {_count(len(spec.axes), 'parameter', 'parameters')}"
    if spec.moved_only:
        title += f" ({len(spec.moved_only)} moved only)"
    if not spec.groups:
        return title
    width = max(len("group"), *map(len, spec.groups))
    lines = [f"{'group':<{width}}  size  members"]
    for group, members in spec.groups.items():
        size = "?" if spec.sizes is None else spec.sizes[group]
        lines.append(f"{group:<{width}}  {size:>4}  {_shown_members(members)}")
    return "\n".join([title, *lines])


def _shown_members(members: tuple[Member, ...]) -> str:
    shown = ", ".join(map(str, members[:_MEMBERS_SHOWN]))
    left_out = len(members) - _MEMBERS_SHOWN
    return f"{shown}, and {left_out} more" if left_out > 0 else shown
