"""Which axes of which parameters move together: the permutation symmetries of one architecture, as data.

A *group* is a set of hidden units that can be reordered without changing the function the network computes, as long as
every array that touches them is reordered alike. A `PermutationSpec` names the groups and, for every axis of every
parameter, the group that lies on it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from ._arrays import Parameters, is_array
from .layout import (
    Axis,
    Blocks,
    Fixed,
    Layout,
    ProductAxis,
    Structure,
    SumAxis,
    Within,
    described,
    groups_in,
    is_composite,
    parsed,
    positive_integer,
    renamed,
    simplified,
    untold,
    withins,
)
from .report import Origin, SpecReport, report_of
from .spec_file import from_json, to_json

if TYPE_CHECKING:
    from .prove import Proof

__all__ = ["Axis", "Member", "PermutationSpec", "positive_integer"]

AxisEntry: TypeAlias = "str | tuple[str, int] | None"
"""One axis in the notation of the paper's code: a group, a group and its block, or None for a fixed axis; and sums and
products of groups, as `rebasin_fast.layout` describes them."""

AxesToPerm: TypeAlias = Mapping[str, "tuple[AxisEntry, ...]"]
"""Parameter names to one `AxisEntry` per axis."""

_RUNNING_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_MEMBERS_SHOWN = 4


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


class PermutationSpec:
    """The permutation symmetries of an architecture. Immutable, comparable, hashable and picklable.

    Parameters
    ----------
    axes : mapping of str to tuple of (Layout or None)
        For every parameter one entry per axis: the group on it (`Axis`), a sum or product of groups (see
        `rebasin_fast.layout`), or None for an axis that stays as it is (inputs, outputs, kernel positions).
    sizes : mapping of str to int, optional
        The number of units of every group. Without it the sizes are read off a state dict when one is at hand.
    moved_only : iterable of str, optional
        Parameters that are moved with their groups but are no terms of the matching objective. By default the running
        statistics of batch norm: names that end in ``running_mean``, ``running_var`` or ``num_batches_tracked``.
    fixed_lengths : mapping of (str, int) to int, optional
        Lengths of fixed axes, keyed by (parameter, axis), for `validate` to check; for instance the number of classes.
    blocks : mapping of str to (str or int), optional
        Groups whose units only move within blocks, and with them: the parent group, one unit of which is one block, or
        the number of blocks that stay. ``{"units": "heads"}`` with sizes 768 and 12: 12 blocks of 64. Needs `sizes`.

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

    __slots__ = ("_axes", "_blocks", "_fixed_lengths", "_groups", "_moved_only", "_origin", "_sizes")

    _axes: Mapping[str, tuple[Any, ...]]
    _blocks: Blocks
    _groups: Mapping[str, tuple[Member, ...]]
    _sizes: Mapping[str, int] | None
    _moved_only: frozenset[str]
    _fixed_lengths: Mapping[tuple[str, int], int]
    _origin: Origin | None

    def __init__(
        self,
        axes: Mapping[str, tuple[Layout | None, ...]],
        *,
        sizes: Mapping[str, int] | None = None,
        moved_only: Iterable[str] | None = None,
        fixed_lengths: Mapping[tuple[str, int], int] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        self._axes = MappingProxyType(_checked_axes(axes))
        self._groups = MappingProxyType(_members_by_group(self._axes, blocks or {}))
        sizes = sizes if sizes is not None or self._groups else {}
        self._sizes = None if sizes is None else MappingProxyType(_checked_sizes(sizes, self._groups))
        self._blocks = MappingProxyType(_checked_blocks(blocks or {}, self._groups, self._sizes))
        self._moved_only = _checked_moved_only(moved_only, self._axes)
        self._fixed_lengths = MappingProxyType(_checked_fixed_lengths(fixed_lengths or {}, self._axes))
        self._origin = None
        _check_layouts(self)

    @classmethod
    def from_axes_to_perm(
        cls,
        axes_to_perm: Mapping[str, Any],
        *,
        sizes: Mapping[str, int] | None = None,
        moved_only: Iterable[str] | None = None,
        fixed_lengths: Mapping[tuple[str, int], int] | None = None,
        blocks: Blocks | None = None,
    ) -> PermutationSpec:
        """Return the spec written down in the notation of the paper's code.

        Parameters
        ----------
        axes_to_perm : mapping of str to tuple
            For every parameter one entry per axis: None, ``"group"``, or ``("group", block)`` where every unit takes
            `block` contiguous entries (a dense layer behind a flattened convolution: block = height * width). Beyond
            the paper's code also sums and products, ``"P + Q"`` or ``"4 * P"``: see `rebasin_fast.layout`.
        sizes, moved_only, fixed_lengths, blocks
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
            raise TypeError(f"axes_to_perm is {described(axes_to_perm)}; expected a mapping of names to tuples")
        axes = {param: _axes_of_entries(param, entries) for param, entries in axes_to_perm.items()}
        return cls(axes, sizes=sizes, moved_only=moved_only, fixed_lengths=fixed_lengths, blocks=blocks)

    @classmethod
    def from_module(cls, model: Any, example_inputs: Any) -> PermutationSpec:
        """Return the spec of a torch model, traced.

        The model runs once on tensors without data. Every ATen operator says which dimensions have to be permuted
        alike, and which cannot be permuted at all; inputs and outputs stay as they are. An operator that is not known
        freezes all it touches: what the spec says is a symmetry, is one. `report` tells what is frozen, and why.

        Parameters
        ----------
        model : torch.nn.Module
            On any device, the meta device included; not modified. It is traced in evaluation mode. Where its path
            through the code depends on the values of tensors, it runs with its own and those of the example.
        example_inputs : tensor, tuple, list or mapping
            What it is called with: one tensor, positional arguments, or keyword arguments. Values do not matter, shapes
            do: lengths that may differ in use are best not 1, and not equal to one another.

        Returns
        -------
        PermutationSpec
            Sizes, blocks and lengths of fixed axes included; groups are called after the first parameter they lie on.

        Notes
        -----
        The spec is one of the path the example takes; `report` warns where values decided on it. Parameters that it
        does not use are frozen, and listed in the report as such; what another path would do with them, nobody has
        seen. Tensors of a key/value cache of transformers are not counted among the outputs. Where equal values are
        ranked (``argmax``, ``topk``), the first of them wins, so hidden units whose activations tie exactly may be
        chosen otherwise after a permutation.

        Raises
        ------
        TypeError
            If `model` is no torch module.
        ValueError
            If the model cannot be traced: the operator and module where it stopped, and why.
        ImportError
            Without torch.

        Examples
        --------
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> PermutationSpec.from_module(model, torch.zeros(5, 8))
        PermutationSpec: 1 group, 4 parameters
        group  size  members
        0        32  0.weight[0], 0.bias[0], 2.weight[1]
        """
        from .tracing import trace  # which needs this module

        return trace(model, example_inputs)

    def to_axes_to_perm(self) -> dict[str, tuple[AxisEntry, ...]]:
        """Return the axes in the notation that `from_axes_to_perm` reads."""
        return {param: tuple(_entry_of_axis(axis) for axis in axes) for param, axes in self._axes.items()}

    @property
    def axes(self) -> Mapping[str, tuple[Any, ...]]:
        """For every parameter one entry per axis: an `Axis` or another layout, or None for a fixed axis."""
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
    def blocks(self) -> Blocks:
        """Groups whose units move within blocks only, to their parent: a group, or the number of blocks that stay."""
        return self._blocks

    @property
    def plain(self) -> bool:
        """Whether every axis holds one group or none, no group lies twice on one array, and none moves in blocks.

        Such specs `weight_matching` matches by an engine of their own, see `WeightMatcher`; others by `match_blocks`.
        """
        return not any(True for param, axes in self._axes.items() for _ in _unmatchable(self, axes, param))

    @property
    def structure(self) -> Structure:
        """Sizes and blocks together, to lay positions out with; for a spec that holds its sizes."""
        return Structure(self._sizes or {}, self._blocks)

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
        self.validate(params, "params", matching=False)
        return {group: size for group, (size, _) in _read_sizes(self, params).items()}

    def validate(self, state_dict: Parameters, name: str = "state_dict", *, matching: bool = True) -> None:
        """Check that a state dict fits the spec.

        Parameters
        ----------
        state_dict : mapping of str to array
            Parameters and buffers, numpy arrays or torch tensors.
        name : str, optional
            What the message calls `state_dict`.
        matching : bool, optional
            Whether the spec is for `WeightMatcher`: then it is also a mismatch what that does not support, groups that
            lie twice on one array (matching is quadratic in them), groups with blocks, sums and products.

        Raises
        ------
        TypeError
            If `state_dict` is not a mapping.
        ValueError
            If anything disagrees. The one message lists every mismatch: missing and unknown names, values that are not
            arrays, wrong numbers of axes, axes whose length is not what their group or `fixed_lengths` says, empty
            groups, and with `matching` what that does not support.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name} is of type {type(state_dict).__name__}; expected a mapping of names to arrays")
        found = [*_name_mismatches(self, state_dict, name), *_axis_mismatches(self, state_dict, name, matching)]
        if found:
            count = f"{len(found)} mismatch{'es' if len(found) > 1 else ''}"
            raise ValueError("\n  ".join([f"{name} does not fit the specification ({count}):", *found]))

    def report(self) -> SpecReport:
        """Return what the groups are and, of a traced spec, which axes are frozen, by which operator in which module.

        Examples
        --------
        >>> print(PermutationSpec.from_axes_to_perm({"a": ("P", None), "b": (None, "P")}, sizes={"P": 3}).report())
        groups: 1
          P (3 units)
            a[0]
            b[1]
        frozen axes: 0
        """
        return report_of(self, self._origin)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the spec to a small JSON file that a person can read: a line for each group and each parameter.

        Parameters
        ----------
        path : str or path-like
            Written over if it exists. The report of a traced spec is kept too.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> spec = PermutationSpec.from_axes_to_perm({"a": ("P", None), "b": (None, "P")}, sizes={"P": 3})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     spec.save(pathlib.Path(folder) / "spec.json")
        ...     PermutationSpec.load(pathlib.Path(folder) / "spec.json") == spec
        True
        """
        Path(path).write_text(to_json(self), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PermutationSpec:
        """Return the spec that `save` wrote to a file.

        Raises
        ------
        OSError
            If the file cannot be read.
        TypeError, ValueError
            If it holds no spec, naming the file and what is wrong with it.
        """
        return from_json(Path(path).read_text(encoding="utf-8"), str(path))

    @property
    def origin(self) -> Origin | None:
        """What froze the fixed axes of a traced spec; None for one that was written down."""
        return self._origin

    def prove(
        self,
        model: Any,
        inputs: Any,
        *,
        params: Parameters | None = None,
        trials: int = 3,
        seed: int = 0,
        rtol: float | None = None,
        double: bool = True,
    ) -> Proof:
        """Permute a model at random, and compare what it computes.

        Parameters
        ----------
        model : torch.nn.Module
            Not modified; run in evaluation mode, without gradients.
        inputs : tensor, tuple, list or mapping
            One tensor, positional arguments, or keyword arguments, for which the outputs are compared.
        params : mapping of str to array, optional
            A state dict to compute with; by default the model's own parameters.
        trials : int, optional
            Random permutations to try.
        seed : int, optional
            Equal seeds try equal permutations.
        rtol : float, optional
            The relative change of an output, norm of the difference over norm, that passes for rounding; by default
            1e-6 in float64 and 1e-3 in float32.
        double : bool, optional
            Whether to compute in float64 where the model lets one (with a copy of its parameters), else in float32.

        Returns
        -------
        Proof
            True in a condition if it holds; names the groups that do not if not.

        Raises
        ------
        TypeError, ValueError
            If the model is none, has no values (meta device), or does not fit the spec.

        Examples
        --------
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
        >>> x = torch.linspace(-1, 1, 40).reshape(5, 8)
        >>> bool(PermutationSpec.from_module(model, x).prove(model, x))
        True
        """
        from .prove import prove  # which needs this module

        return prove(self, model, inputs, params=params, trials=trials, seed=seed, rtol=rtol, double=double)

    def with_origin(self, origin: Origin | None) -> PermutationSpec:
        """Return an equal spec whose report tells of `origin`."""
        spec = _rebuilt(*self._key())
        spec._origin = origin
        return spec

    def equivalent(self, other: PermutationSpec) -> bool:
        """Say whether two specs describe the same symmetries: equal but for the names of groups and fixed lengths.

        Examples
        --------
        >>> ours = PermutationSpec.from_axes_to_perm({"a": ("P", None), "b": (None, "P")})
        >>> ours.equivalent(PermutationSpec.from_axes_to_perm({"b": (None, "hidden"), "a": ("hidden", None)}))
        True
        """
        return _anonymous(self) == _anonymous(other)

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
        return dict(self._axes), sizes, self._moved_only, dict(self._fixed_lengths), dict(self._blocks)


def _anonymous(spec: PermutationSpec) -> tuple[Any, ...]:
    """Everything but the names of groups, which are numbered as parameters in alphabetical order mention them."""
    number: dict[str, str] = {}
    for param in sorted(spec.axes):
        for axis in spec.axes[param]:
            for group in () if axis is None else groups_in(axis):
                number.setdefault(group, str(len(number)))
    for child in sorted(spec.blocks, key=lambda child: number.get(child, child)):
        parent = spec.blocks[child]
        while isinstance(parent, str):
            number.setdefault(parent, str(len(number)))
            parent = spec.blocks.get(parent, 0)
    axes = {
        param: tuple(None if axis is None else renamed(axis, number) for axis in axes)
        for param, axes in spec.axes.items()
    }
    sizes = None if spec.sizes is None else {number[group]: size for group, size in spec.sizes.items()}
    blocks = {number[group]: number.get(parent, parent) for group, parent in spec.blocks.items()}  # type: ignore[arg-type]
    return axes, sizes, blocks, spec.moved_only


def _rebuilt(axes: Any, sizes: Any, moved_only: Any, fixed_lengths: Any, blocks: Any) -> PermutationSpec:
    return PermutationSpec(axes, sizes=sizes, moved_only=moved_only, fixed_lengths=fixed_lengths, blocks=blocks)


# ---- construction ---------------------------------------------------------------------------------------------------


def _axes_of_entries(param: object, entries: Any) -> tuple[Layout | None, ...]:
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


def _entry_of_axis(axis: Layout | None) -> AxisEntry:
    if isinstance(axis, Axis) and axis.block > 1:
        return axis.group, axis.block
    return None if axis is None else str(axis)


_LAYOUTS = (Axis, Within, Fixed, ProductAxis, SumAxis)


def _checked_axes(axes: Any) -> dict[str, tuple[Layout | None, ...]]:
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


def _members_by_group(axes: Mapping[str, tuple[Layout | None, ...]], blocks: Any) -> dict[str, tuple[Member, ...]]:
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


def _checked_blocks(blocks: Any, groups: Mapping[str, Any], sizes: Mapping[str, int] | None) -> dict[str, str | int]:
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


def _check_layouts(spec: PermutationSpec) -> None:
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


def _checked_sizes(sizes: Any, groups: Iterable[str]) -> dict[str, int]:
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


def _checked_moved_only(moved_only: Any, axes: Mapping[str, Any]) -> frozenset[str]:
    if moved_only is None:
        return frozenset(param for param in axes if param.rpartition(".")[2] in _RUNNING_STATISTICS)
    if isinstance(moved_only, str) or not isinstance(moved_only, Iterable):
        raise TypeError(f"moved_only is {described(moved_only)}; expected an iterable of parameter names")
    names = frozenset(moved_only)
    unknown = sorted(map(repr, names.difference(axes)))
    if unknown:
        raise ValueError(f"moved_only names {', '.join(unknown)}; expected parameters of the specification")
    return names


def _checked_fixed_lengths(fixed_lengths: Any, axes: Mapping[str, tuple[Layout | None, ...]]) -> dict[Any, int]:
    if not isinstance(fixed_lengths, Mapping):
        raise TypeError(f"fixed_lengths is {described(fixed_lengths)}; expected a mapping of (param, axis) to integers")
    fixed = {(param, i) for param, entries in axes.items() for i, axis in enumerate(entries) if axis is None}
    for key in fixed_lengths:
        if key not in fixed:
            raise ValueError(f"fixed_lengths has the key {key!r}; expected (param, axis) of an axis without a group")
    return {key: positive_integer(length, f"fixed_lengths[{key!r}]") for key, length in fixed_lengths.items()}


# ---- validation -----------------------------------------------------------------------------------------------------


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


def _axis_mismatches(spec: PermutationSpec, state_dict: Parameters, name: str, matching: bool) -> Iterator[str]:
    sizes = _read_sizes(spec, state_dict)
    if spec.sizes is not None:
        sizes = {group: (size, "as the specification says") for group, size in spec.sizes.items()}
    for param, axes in spec.axes.items():
        if param not in state_dict:
            continue
        array, where = state_dict[param], f"{name}[{param!r}]"
        if matching:
            yield from _unmatchable(spec, axes, where)
        if not is_array(array):
            yield f"{where} is of type {type(array).__name__}; expected a numpy array or a torch tensor"
        elif len(array.shape) != len(axes):
            yield f"{where} has shape {tuple(array.shape)}; expected {_count(len(axes), 'axis', 'axes')}"
        else:
            yield from _length_mismatches(spec, param, tuple(array.shape), sizes, where)


def _unmatchable(spec: PermutationSpec, axes: tuple[Layout | None, ...], where: str) -> Iterator[str]:
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
