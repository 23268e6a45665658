"""Which axes of which parameters move together: the permutation symmetries of one architecture, as data.

A *group* is a set of hidden units that can be reordered without changing the function the network computes, as long as
every array that touches them is reordered alike. A `PermutationSpec` names the groups and, for every axis of every
parameter, the group that lies on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ._arrays import Parameters
from ._spec_parts import (
    AxisEntry,
    Member,
    axes_of_entries,
    check_layouts,
    checked_axes,
    checked_blocks,
    checked_fixed_lengths,
    checked_moved_only,
    checked_sizes,
    entry_of_axis,
    members_by_group,
)
from ._spec_validation import axis_mismatches, name_mismatches, read_sizes, unmatchable
from .layout import (
    Axis,
    Blocks,
    Layout,
    Structure,
    described,
    groups_in,
    positive_integer,
    renamed,
)
from .report import Origin, SpecReport, report_of, table_of
from .spec_file import from_json, to_json

if TYPE_CHECKING:
    from .prove import Proof

__all__ = ["Axis", "Member", "PermutationSpec", "positive_integer"]


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
        self._axes = MappingProxyType(checked_axes(axes))
        self._groups = MappingProxyType(members_by_group(self._axes, blocks or {}))
        sizes = sizes if sizes is not None or self._groups else {}
        self._sizes = None if sizes is None else MappingProxyType(checked_sizes(sizes, self._groups))
        self._blocks = MappingProxyType(checked_blocks(blocks or {}, self._groups, self._sizes))
        self._moved_only = checked_moved_only(moved_only, self._axes)
        self._fixed_lengths = MappingProxyType(checked_fixed_lengths(fixed_lengths or {}, self._axes))
        self._origin = None
        check_layouts(self)

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
        axes = {param: axes_of_entries(param, entries) for param, entries in axes_to_perm.items()}
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
            If the model cannot be traced: the operator and module where it stopped, and why. If it holds modules of
            TorchScript.
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
        return {param: tuple(entry_of_axis(axis) for axis in axes) for param, axes in self._axes.items()}

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
        return not any(True for param, axes in self._axes.items() for _ in unmatchable(self, axes, param))

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
        return {group: size for group, (size, _) in read_sizes(self, params).items()}

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
        found = [*name_mismatches(self, state_dict, name), *axis_mismatches(self, state_dict, name, matching)]
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
        ValueError
            If it holds no spec, naming the file and what is wrong with it.
        """
        return from_json(Path(path).read_bytes(), str(path))

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

        While the model runs, torch's default dtype is the one computed in, and the CPU's generator is seeded; both are
        put back afterwards, also after an error. They belong to the whole process: other threads see them meanwhile,
        so none should make tensors, or draw numbers, at the same time.

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
        return table_of(self)

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
