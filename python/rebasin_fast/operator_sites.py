"""Where the units of a group show inside a module: tensors that its operators make, found by tracing the model.

Hooks see what modules take and return. Query heads that share keys, layers within a recurrent module, experts in one
array and layers that people write themselves show their units to nobody but the operators, so these are watched: the
trace says what lies on the axes of every tensor that an operator makes, and the run counts the operators of a module.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rebasin_fast._arrays import IndexArray
from rebasin_fast._extras import require
from rebasin_fast._modules import call, in_mode, state_for
from rebasin_fast.layout import Axis, Layout, ProductAxis, groups_in, simplified
from rebasin_fast.pieces import places_of_pieces, unit_chain
from rebasin_fast.sites import ActivationSite
from rebasin_fast.spec import PermutationSpec

if TYPE_CHECKING:
    import torch

    from rebasin_fast.tracing.capture import Capture
    from rebasin_fast.tracing.recorder import Produced

_SHOWING = frozenset(
    f"aten::{name}"
    for name in (
        "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "convolution", "mkldnn_rnn_layer", "einsum",
        "native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit_no_training",
        "_fused_rms_norm", "embedding",
    )
)  # fmt: skip
"""Operators whose results are looked at first: the units as layers make them, each with a scale of its own."""


@dataclass(frozen=True)
class OperatorSite:
    """One tensor made by an operator within a module, that carries the units of a group.

    Attributes
    ----------
    module : str
        The module in which the operator runs, within no other below it.
    group : str
        The group of the spec.
    operator : str
        The ATen operator, such as ``"aten::addmm"``.
    number : int
        How many times the operator ran in that module before, in one forward pass.
    position : int
        Which of its results.
    axes : tuple of int
        The axes that hold units, those of other groups included; all others count samples.
    shape : tuple of int
        The lengths of `axes`.
    times : tuple of (str, int), optional
        A parameter, and one of its axes: the tensor's last axis gives way to the others of the parameter when both are
        multiplied. So experts are asked for their answer to every token, not to those alone that they are sent.
    places : ndarray of int64, shape (units, entries, others)
        Where on these axes, taken as one, the units lie. The mean over `others` is looked at: units of groups that
        stand beside this one, of which nothing is known.
    """

    module: str
    group: str
    operator: str
    number: int
    position: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    times: tuple[str, int] | None = None
    places: IndexArray = field(repr=False, compare=False, default_factory=lambda: np.zeros((0, 0, 0), np.int64))

    @property
    def where(self) -> tuple[Any, ...]:
        """What stays the same when the inputs have another shape."""
        return self.module, self.group, self.operator, self.number, self.position, self.axes, self.times

    @property
    def block(self) -> int:
        """Entries that every unit takes."""
        return int(self.places.shape[1])

    def samples(self, tensor: Any, units: int) -> Any:
        """Return what `tensor` holds as a matrix of shape (samples, units).

        Raises
        ------
        ValueError
            If the tensor does not have the shape of the one that was traced.
        """
        found = tuple(tensor.shape[axis] if axis < tensor.ndim else None for axis in self.axes)
        if found != self.shape or len(self.places) != units:
            raise ValueError(
                f"the {self} has shape {tuple(tensor.shape)}; expected axes {self.axes} of lengths {self.shape}, for "
                f"{units} units of group {self.group!r}, as in the trace"
            )
        flat = tensor.detach().movedim(self.axes, tuple(range(-len(self.axes), 0))).flatten(-len(self.axes))
        places = require("torch", "torch").from_numpy(self.places).to(flat.device)
        return flat[..., places].mean(-1).movedim(-2, -1).reshape(-1, units)

    def __str__(self) -> str:
        times = f" times {self.times[0]!r}" if self.times else ""
        return f"result of {self.operator} ({self.number}) in {self.module!r}{times}"


class TracedSites:
    """What a trace says of the tensors of a model, for inputs of one shape.

    Parameters
    ----------
    spec : PermutationSpec
        Which group lies on which axis of which parameter; traced, or written by hand.
    model : torch.nn.Module
        The model.
    inputs : tensor or mapping
        What it is called with, as one argument.

    Raises
    ------
    ValueError
        If the model cannot be traced.
    """

    def __init__(self, spec: PermutationSpec, model: torch.nn.Module, inputs: Any) -> None:
        from rebasin_fast.tracing.assemble import written
        from rebasin_fast.tracing.capture import captured

        self._model = model
        self._capture = captured(model, (inputs,), {})
        self._traced, layout_of = written(self._capture)
        self._names = _names_in(spec, self._traced)
        self._finder = _Finder(self._traced, layout_of)

    def shown(self, site: ActivationSite) -> ActivationSite | None:
        """Return a site of a module with its axis; None if the units there have another order for every sample.

        Where the trace does not tell, the site is returned as it is.
        """
        module = site.module or type(self._model).__name__
        if not any((module, side) in self._capture.passed for side in ("input", "output")):
            return None  # its parameters are used, but it is never called
        value = self._capture.passed.get((module, site.side))
        carrying = None if value is None else self._finder.carrying(value)
        if value is None or carrying is None or site.group not in self._names.values():
            return site
        if len(carrying[0]) == 1 and site.axis is None:
            return replace(site, axis=carrying[0][0])
        return site if site.axis is not None and carrying[0] == (site.axis % len(value.axes),) else None

    def find(self, groups: Iterable[str], inputs: Any) -> dict[str, tuple[OperatorSite, ...]]:
        """Find for groups of the spec tensors that operators make, with inputs of the traced shape.

        Best is a tensor on whose other axes nothing is permuted, made by a layer; then any such tensor; then what such
        a tensor gives when multiplied by a parameter (experts in one array); then one with other groups on it, of
        which the mean is taken. There is at most one site a group.
        """
        among = set(groups)
        wanted = {theirs for theirs, ours in self._names.items() if ours in among}
        really = _shapes_of_a_run(self._model, inputs)
        found: dict[str, OperatorSite] = {}
        ranked: dict[str, int] = {}
        results = [made for made in self._capture.results if really.get(_key(made)) == made.value.shape]
        for made in results:
            for rank, site in self._finder.sites(made, wanted):
                if rank < ranked.get(site.group, 99):
                    ranked[site.group], found[site.group] = rank, site
        for site in self._finder.products(self._capture, results, {g for g in wanted if ranked.get(g, 99) > 3}):
            if ranked.get(site.group) != 2:
                ranked[site.group], found[site.group] = 2, site
        return {self._names[group]: (replace(site, group=self._names[group]),) for group, site in found.items()}


@contextlib.contextmanager
def watch_operators(
    model: torch.nn.Module, sites: Sequence[OperatorSite], seen: Callable[[OperatorSite, Any], Any]
) -> Iterator[None]:
    """Call ``seen(site, tensor)`` whenever an operator of a site has made its tensor, within a context."""
    wanted: dict[tuple[str, str, int, int], list[OperatorSite]] = {}
    for site in sites:
        wanted.setdefault(_key(site), []).append(site)

    def made(key: tuple[str, str, int, int], tensor: Any) -> None:
        for site in wanted.get(key, ()):
            seen(site, _multiplied(model, tensor, site))

    with _operators(model, made) if sites else contextlib.nullcontext():
        yield


def _key(site: Any) -> tuple[str, str, int, int]:
    return site.module, site.operator, site.number, site.position


def _multiplied(model: Any, tensor: Any, site: OperatorSite) -> Any:
    if site.times is None:
        return tensor
    name, axis = site.times
    module, _, own = name.rpartition(".")
    weight = getattr(model.get_submodule(module), own)  # what stands in for it in this call
    return require("torch", "torch").tensordot(tensor.to(weight.dtype), weight, dims=([-1], [axis]))


@contextlib.contextmanager
def _operators(model: Any, made: Callable[[tuple[str, str, int, int], Any], None]) -> Iterator[None]:
    """Call ``made(key, tensor)`` for every tensor that an operator makes while `model` runs, counted as in a trace."""
    from rebasin_fast.tracing.surroundings import module_names, plain_operators

    torch = require("torch", "torch")
    dispatch = require("torch.utils._python_dispatch", "torch")
    modules: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()

    def entered(_module: str, _args: Any, _kwargs: Any) -> None:
        if len(modules) == 1:  # a forward pass begins
            counts.clear()

    class Mode(dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if modules:
                key = modules[-1], func._schema.name
                for position, tensor in enumerate(out if isinstance(out, tuple | list) else [out]):
                    if isinstance(tensor, torch.Tensor):
                        made((*key, counts[key], position), tensor)
                counts[key] += 1
            return out

    with module_names(torch, model, modules, entered), plain_operators(torch, model), Mode():
        yield


def _shapes_of_a_run(model: Any, inputs: Any) -> dict[tuple[str, str, int, int], tuple[int, ...]]:
    """Return the shapes of what operators make for real: a trace without values may take other operators."""
    shapes: dict[tuple[str, str, int, int], tuple[int, ...]] = {}
    torch = require("torch", "torch")
    state = state_for(model, model.state_dict())
    with (
        in_mode(model, training=False),
        torch.no_grad(),
        _operators(model, lambda key, t: shapes.update({key: tuple(t.shape)})),
    ):
        call(model, state, inputs)
    return shapes


class _Finder:
    """Reads off a trace what tensors carry."""

    def __init__(self, spec: PermutationSpec, layout_of: Callable[[Sequence[Any]], Layout]) -> None:
        self._spec = spec
        self._layout_of = layout_of

    def carrying(self, value: Any) -> tuple[tuple[int, ...], Layout] | None:
        """Return the axes on which there are units, and what is on them, taken as one; None if that is not clear."""
        runs = _runs(value.axes)
        if runs is None:
            return None
        found = [(axes, dim) for axes, dim in runs if not self._stays(dim)]
        return tuple(axis for axes, _ in found for axis in axes), self._layout_of([dim for _, dim in found])

    def sites(self, made: Produced, wanted: Iterable[str]) -> Iterator[tuple[int, OperatorSite]]:
        """Yield what one tensor shows, with a rank: 0 best."""
        carrying = self.carrying(made.value)
        if carrying is None or not carrying[0] or len(carrying[0]) == len(made.value.axes):
            return
        axes, layout = carrying
        lengths = tuple(made.value.shape[axis] for axis in axes)
        for group, places, alone in self._places(layout):
            if group in wanted:
                rank = (0 if made.operator in _SHOWING else 1) + (0 if alone else 4)
                yield rank, OperatorSite(made.module, group, *_key(made)[1:], axes, lengths, places=places)

    def products(self, capture: Capture, results: Sequence[Produced], wanted: Iterable[str]) -> Iterator[OperatorSite]:
        """Yield what tensors times parameters show, for groups whose blocks the tensors tell by indices only."""
        number = {id(made): i for i, made in enumerate(capture.results)}
        for param, value in capture.params.items():
            layouts = self._spec.axes[param]
            until = capture.used_at.get(id(value), 0)
            if (
                len(layouts) < 2
                or param in capture.buffers
                or not any(group in wanted for layout in layouts if layout is not None for group in groups_in(layout))
            ):
                continue
            before = [made for made in results if number[id(made)] < until]
            for axis in reversed(range(len(layouts))):
                yield from self._products(before, param, layouts, axis, wanted)

    def _products(
        self, before: Sequence[Produced], param: str, layouts: Sequence[Layout | None], axis: int, wanted: Iterable[str]
    ) -> Iterator[OperatorSite]:
        rest = [layout for i, layout in enumerate(layouts) if i != axis and layout is not None]
        shown = [entry for entry in self._places(ProductAxis(tuple(rest))) if entry[2] and entry[0] in wanted]
        made = next((made for made in reversed(before) if self._last_is(made, layouts[axis])), None) if shown else None
        if made is None or len(rest) < len(layouts) - 1:
            return
        lead = len(made.value.axes) - 1
        axes = tuple(range(lead, lead + len(rest)))
        lengths = tuple(map(self._spec.structure.length, rest))
        for group, places, _ in shown:
            yield OperatorSite(made.module, group, *_key(made)[1:], axes, lengths, (param, axis), places)

    def _last_is(self, made: Produced, layout: Layout | None) -> bool:
        carrying = self.carrying(made.value)
        if carrying is None or layout is None or len(made.value.axes) < 2:
            return False
        return carrying[0] == (len(made.value.axes) - 1,) and simplified(carrying[1]) == simplified(layout)

    def _stays(self, dim: Any) -> bool:
        return next(groups_in(self._layout_of([dim])), None) is None

    def _places(self, layout: Layout) -> Iterator[tuple[str, IndexArray, bool]]:
        """Yield the groups a layout has all units of, the places (units, entries, others), whether it is alone."""
        for labels, places in places_of_pieces(self._spec, layout):
            for group in (label for label in dict.fromkeys(labels) if label is not None and label in self._spec.groups):
                chain = unit_chain(self._spec, group)
                if all(labels.count(label) == 1 for label in chain):
                    own = [labels.index(label) for label in chain]
                    still = [i for i, label in enumerate(labels) if label is None]
                    other = [i for i in range(len(labels)) if i not in own and i not in still]
                    sizes = [math.prod(places.shape[i] for i in part) for part in (own, still, other)]
                    yield group, np.ascontiguousarray(places.transpose(own + still + other).reshape(sizes)), not other


def _runs(axes: Sequence[Any]) -> list[tuple[tuple[int, ...], Any]] | None:
    """Return axes with their dimensions; neighbouring axes that are factors of one, in order, together; else None."""
    from rebasin_fast.tracing.values import Factor

    runs: list[tuple[tuple[int, ...], Any]] = []
    i = 0
    while i < len(axes):
        axis = axes[i]
        if not isinstance(axis, Factor):
            runs.append(((i,), axis))
            i += 1
            continue
        count = len(axis.base.sizes)
        run = axes[i : i + count]
        if any(not isinstance(f, Factor) or f.base is not axis.base or f.position != k for k, f in enumerate(run)):
            return None
        runs.append((tuple(range(i, i + count)), axis.base.dim))
        i += count
    return runs


def _names_in(spec: PermutationSpec, traced: PermutationSpec) -> dict[str, str]:
    """Return for groups of a traced spec what another calls them, where both mean the same units."""
    if spec.axes == traced.axes:
        return {group: group for group in traced.groups}
    pairs: dict[str, set[str | None]] = {}
    for param, axes in traced.axes.items():
        for theirs, ours in zip(axes, spec.axes.get(param, ()), strict=False):
            if isinstance(theirs, Axis):
                same = isinstance(ours, Axis) and ours.block == theirs.block
                pairs.setdefault(theirs.group, set()).add(ours.group if same and isinstance(ours, Axis) else None)
    found = {theirs: next(iter(names)) for theirs, names in pairs.items() if len(names) == 1}
    names = {theirs: ours for theirs, ours in found.items() if ours is not None}

    def parent_of(group: str) -> str | int | None:
        parent = traced.blocks.get(group)
        return names.get(parent, "") if isinstance(parent, str) else parent

    return {theirs: ours for theirs, ours in names.items() if spec.blocks.get(ours) == parent_of(theirs)}
