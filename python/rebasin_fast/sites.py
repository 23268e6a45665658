"""Where in a torch model the units of a group show: modules whose input or output carries them, found from a spec.

`torch.nn.MultiheadAttention` projects queries, keys and values inside one function, out of the reach of hooks: what it
projects is computed once more, from its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rebasin_fast._extras import require
from rebasin_fast.layout import Layout
from rebasin_fast.pieces import places_of_pieces, places_of_units
from rebasin_fast.spec import Axis, PermutationSpec

if TYPE_CHECKING:
    import torch

Side: TypeAlias = Literal["input", "output"]

Place: TypeAlias = Literal["input", "output", "query", "key", "value"]

_PROJECTIONS: tuple[Place, ...] = ("query", "key", "value")

Sites: TypeAlias = "Side | Literal['both'] | Mapping[str, Sequence[str | ActivationSite]]"
"""Sites to look for on one side of the modules or on both; or for every group sites, and names of modules (outputs)."""


@dataclass(frozen=True)
class ActivationSite:
    """One tensor that carries the units of a group.

    Attributes
    ----------
    module : str
        The module's name within the model.
    group : str
        The group of the spec.
    side : {"output", "input", "query", "key", "value"}
        Whether it is the module's output, or its (first) input; or what a `torch.nn.MultiheadAttention` projects its
        query, key or value to.
    axis : int, optional
        The tensor's axis on which the units lie, never the first; negative numbers count from the end. None: the only
        one of the right length; it is an error if there are several.
    block : int
        Entries that every unit takes on that axis: contiguous ones, if `entries` does not say otherwise.
    entries : tuple of int, optional
        Where the units lie on the axis, if they do not fill it: the entries of the first unit, then those of the next.
        Needs `axis`.

    Raises
    ------
    ValueError
        If `side` is unknown; if `axis` is 0: the examples lie there; if there are `entries` without an `axis`.
    """

    module: str
    group: str
    side: Place = "output"
    axis: int | None = None
    block: int = 1
    entries: tuple[int, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.side not in ("input", "output", *_PROJECTIONS):
            raise ValueError(f"side is {self.side!r}; expected 'input' or 'output', or 'query', 'key' or 'value'")
        if self.axis == 0:
            raise ValueError(f"axis is 0 at {self.module!r}; expected another one, as the examples lie on the first")

        if self.entries is not None and self.axis is None:
            raise ValueError(f"axis is None at {self.module!r}; expected a number, as entries says where on it to look")

    @property
    def written(self) -> bool:
        """Whether it is what the module writes, not what it reads."""
        return self.side != "input"

    def axis_in(self, tensor: Any, units: int) -> int:
        """Return the axis of `tensor` on which the units lie, as a number from 1 on.

        Raises
        ------
        TypeError
            If `tensor` is no torch tensor.
        ValueError
            If the units do not lie where the site says; or, if it does not say, if several axes have room for them.
        """
        torch = require("torch", "torch")
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"the {self} is a {type(tensor).__name__}; expected a torch tensor")
        length = units * self.block
        if self.entries is not None:
            return self._axis_of_entries(tensor, length)
        fits = [axis for axis in range(1, tensor.ndim) if tensor.shape[axis] == length]
        if self.axis is not None:
            fits = [axis for axis in fits if axis in (self.axis, self.axis + tensor.ndim)]
        if len(fits) == 1:
            return fits[0]
        where = "one axis after the first, or a site that names it," if self.axis is None else f"axis {self.axis}"
        raise ValueError(
            f"the {self} has shape {tuple(tensor.shape)}; expected {where} of length {length}, "
            f"for {units} units of group {self.group!r}"
        )

    def _axis_of_entries(self, tensor: Any, length: int) -> int:
        entries, axis = self.entries or (), self.axis or 0
        axis += tensor.ndim if axis < 0 else 0
        least = max(entries, default=-1) + 1
        if len(entries) == length and 0 < axis < tensor.ndim and tensor.shape[axis] >= least:
            return axis
        raise ValueError(
            f"the {self} has shape {tuple(tensor.shape)}; expected axis {self.axis} of length {least} or more, with "
            f"{length} entries of group {self.group!r} on it (the site names {len(entries)})"
        )

    def samples(self, tensor: Any, units: int) -> Any:
        """Return what `tensor` holds as a matrix of shape (samples, units); a view where strides allow.

        Every example, every position of a feature map and every entry of a block is a sample. Errors as `axis_in`.
        """
        axis = self.axis_in(tensor, units)
        last = tensor.detach().movedim(axis, -1)
        if self.entries is not None:
            last = last[..., list(self.entries)]
        if self.block > 1:
            last = last.unflatten(-1, (units, self.block)).movedim(-2, -1)
        return last.reshape(-1, units)

    def __str__(self) -> str:
        return f"{self.side} of {self.module!r}"


def activation_sites(spec: PermutationSpec, model: torch.nn.Module, side: Side = "input") -> tuple[ActivationSite, ...]:
    """Find the module inputs, or outputs, that carry the groups of a spec.

    A dense or convolutional layer reads a group's units where its weight has the group on the axis of its inputs, and
    writes them where it has it on the axis of its outputs; norms and embeddings write theirs too. Of a group whose
    units pass a norm only the norms' outputs are taken: what they come from may have another scale and sign.

    A group in blocks (units of attention heads) is looked at as a whole; where groups share an axis, as queries, keys
    and values of one layer do, each at its entries. Groups whose units lie on one array with those of another group in
    a product, and not in its blocks, have no sites: which of them a tensor shows depends on the order of the others.

    Inputs are what the next layers see: after the norm, the nonlinearity and the sum of a residual stream. Outputs are
    before them.

    Parameters
    ----------
    spec : PermutationSpec
        Which group lies on which axis of which parameter.
    model : torch.nn.Module
        A model whose parameters have the names of `spec`.
    side : {"input", "output"}
        Which to look for.

    Returns
    -------
    tuple of ActivationSite
        In the order of the model's modules. A group whose units no known kind of module reads or writes has none.

    Raises
    ------
    TypeError, ValueError
        If `spec` is no spec, `model` no module, or `side` unknown.

    Examples
    --------
    >>> from rebasin_fast import mlp
    >>> from rebasin_fast.training import make_mlp
    >>> [str(site) for site in activation_sites(mlp((4, 8, 8, 2)), make_mlp((4, 8, 8, 2)))]
    ["input of 'layer1'", "input of 'layer2'"]
    """
    torch = require("torch", "torch")
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"spec is of type {type(spec).__name__}; expected a PermutationSpec")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if side not in ("input", "output"):
        raise ValueError(f"side is {side!r}; expected 'input' or 'output'")
    tangled = _tangled(spec)
    found = [
        (site, module)
        for name, module in model.named_modules()
        for site in _sites_of(spec, model, name, module, side)
        if site.group not in tangled
    ]
    normed = {site.group for site, module in found if side == "output" and _is_norm(module)}
    return tuple(site for site, module in found if site.group not in normed or _is_norm(module))


def sites_by_group(
    spec: PermutationSpec, model: torch.nn.Module, sites: Sites
) -> dict[str, tuple[ActivationSite, ...]]:
    """Return for every group of `spec` its sites in `model`, found or as given; some may have none if they are found.

    Raises
    ------
    TypeError, ValueError
        If `sites` is not as described, names unknown modules or groups, or leaves a group without a site. Groups with
        units in their blocks need none: they are told by those.
    """
    if isinstance(sites, str):
        if sites not in ("input", "output", "both"):
            raise ValueError(f"sites is {sites!r}; expected 'input', 'output', 'both' or a mapping of groups")
        every = *activation_sites(spec, model, "input"), *activation_sites(spec, model, "output")
        chosen = [site for site in every if sites in ("output" if site.written else "input", "both")]
        by_group = {group: _of_group(chosen, group) or _of_group(every, group) for group in spec.groups}
    else:
        by_group = _given(spec, sites)
        known = dict(model.named_modules())
        unknown = [site.module for given in by_group.values() for site in given if site.module not in known]
        if unknown:
            raise ValueError(f"sites names the modules {unknown}, which the model does not have; it has {list(known)}")
    if not isinstance(sites, str):
        require_sites(spec, by_group)
    return by_group


def bare_groups(spec: PermutationSpec, by_group: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the groups that have no site and need one."""
    parents = set(spec.blocks.values())
    return [group for group in spec.groups if not by_group[group] and group not in parents]


def require_sites(spec: PermutationSpec, by_group: Mapping[str, Sequence[Any]]) -> None:
    """Raise a ValueError if a group has no site and needs one."""
    if bare := bare_groups(spec, by_group):
        raise ValueError(
            f"sites leaves the groups {bare} without a tensor that carries them; expected one or more. What no known "
            "kind of module reads or writes, a mapping can name"
        )


def watch(
    model: torch.nn.Module, sites: Iterable[ActivationSite], seen: Callable[[ActivationSite, Any], Any]
) -> list[Any]:
    """Call ``seen(site, tensor)`` whenever a site's tensor passes by; return the handles that remove the hooks.

    What `seen` returns for an output takes that output's place, unless it is None.
    """
    return [_watch(model.get_submodule(site.module), site, seen) for site in sites]


def _watch(module: torch.nn.Module, site: ActivationSite, seen: Callable[[ActivationSite, Any], Any]) -> Any:
    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen(site, args[0] if args else next(iter(kwargs.values()), None))

    def projected(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        k = _PROJECTIONS.index(site.side)
        seen(site, _projected(module, args[k] if k < len(args) else kwargs[site.side], k))

    def after(_module: Any, _args: tuple[Any, ...], output: Any) -> Any:
        return seen(site, output)

    if site.side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    if site.side in _PROJECTIONS:
        return module.register_forward_pre_hook(projected, with_kwargs=True)
    return module.register_forward_hook(after)


def _projected(module: Any, tensor: Any, k: int) -> Any:
    """Return what a `torch.nn.MultiheadAttention` projects its k-th input to."""
    rows = slice(k * module.embed_dim, (k + 1) * module.embed_dim)
    packed = module.in_proj_weight is not None
    weight = module.in_proj_weight[rows] if packed else getattr(module, f"{'qkv'[k]}_proj_weight")
    bias = None if module.in_proj_bias is None else module.in_proj_bias[rows]
    return require("torch", "torch").nn.functional.linear(tensor, weight, bias)


def _of_group(sites: Iterable[ActivationSite], group: str) -> tuple[ActivationSite, ...]:
    return tuple(site for site in sites if site.group == group)


def _given(spec: PermutationSpec, sites: Any) -> dict[str, tuple[ActivationSite, ...]]:
    if not isinstance(sites, Mapping):
        raise TypeError(
            f"sites is of type {type(sites).__name__}; expected 'input', 'output', 'both' or a mapping of groups"
        )
    unknown = [group for group in sites if group not in spec.groups]
    if unknown:
        raise ValueError(f"sites has the groups {unknown}; expected those of the specification: {list(spec.groups)}")
    return {group: tuple(_site(group, entry) for entry in _entries(group, sites)) for group in spec.groups}


def _entries(group: str, sites: Mapping[str, Any]) -> Sequence[Any]:
    entries = sites.get(group, ())
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        raise TypeError(f"sites[{group!r}] is {entries!r}; expected a sequence of module names and sites")
    return entries


def _site(group: str, entry: Any) -> ActivationSite:
    if isinstance(entry, str):
        return ActivationSite(entry, group)
    if not isinstance(entry, ActivationSite):
        raise TypeError(f"sites[{group!r}] holds a {type(entry).__name__}; expected module names and sites")
    if entry.group != group:
        raise ValueError(f"sites[{group!r}] holds a site of group {entry.group!r}; expected {group!r}")
    return entry


# ---- what is known of torch's modules -------------------------------------------------------------------------------


def _sites_of(spec: PermutationSpec, model: Any, name: str, module: Any, side: Side) -> list[ActivationSite]:
    nn = require("torch", "torch").nn
    inside, _, last = name.rpartition(".")
    if isinstance(module, nn.MultiheadAttention):
        return list(_projections(spec, name, module)) if side == "output" else []
    # Attention takes the weight of this layer and never calls it.
    if last == "out_proj" and isinstance(model.get_submodule(inside), nn.MultiheadAttention):
        return []
    axes = spec.axes.get(_joined(name, "weight"))
    found = None if axes is None else _reads(module) if side == "input" else _writes(module)
    if axes is None or found is None or found[0] >= len(axes) or axes[found[0]] is None:
        return []
    return list(_on_axis(spec, axes[found[0]], name, side, found[1]))


def _reads(module: Any) -> tuple[int, int | None] | None:
    """Return the axis of a module's weight, and that of its input, on which lies what it reads."""
    nn = require("torch", "torch").nn
    if isinstance(module, nn.Linear):
        return 1, -1
    # With groups, the axis of a convolution's inputs has only those of one group.
    if _is_conv(module) and module.groups == 1:
        return 0 if module.transposed else 1, 1
    return None


def _writes(module: Any) -> tuple[int, int | None] | None:
    """Return the axis of a module's weight, and that of its output, on which lies what it writes."""
    nn = require("torch", "torch").nn
    if isinstance(module, nn.Linear):
        return 0, -1
    if isinstance(module, nn.Embedding):
        return 1, -1
    if _is_conv(module) and (module.groups == 1 or not module.transposed):
        return 1 if module.transposed else 0, 1
    if isinstance(module, _channel_norms()):
        return 0, 1
    # Classes derived from layer norm may normalise another axis than the last: its place is read off the tensor.
    if type(module) in _last_axis_norms():
        return 0, -module.weight.ndim
    return (0, None) if isinstance(module, _last_axis_norms()) else None


def _on_axis(
    spec: PermutationSpec, layout: Layout, name: str, side: Side, of_tensor: int | None
) -> Iterator[ActivationSite]:
    if isinstance(layout, Axis):
        yield ActivationSite(name, layout.group, side, of_tensor, layout.block)
    elif of_tensor is not None:
        for group, places in places_of_units(spec, layout):
            yield ActivationSite(name, group, side, of_tensor, places.shape[1], tuple(map(int, places.ravel())))


def _projections(spec: PermutationSpec, name: str, module: Any) -> Iterator[ActivationSite]:
    """Yield the sites of what a `torch.nn.MultiheadAttention` projects; its weights are one array or three."""
    for k, side in enumerate(_PROJECTIONS):
        packed = module.in_proj_weight is not None
        axes = spec.axes.get(_joined(name, "in_proj_weight" if packed else f"{'qkv'[k]}_proj_weight"), (None,))
        start = k * module.embed_dim if packed else 0
        for layout in axes[:1] if axes[0] is not None else ():
            for group, places in places_of_units(spec, layout):
                inside = (places >= start) & (places < start + module.embed_dim)
                block = int(inside[0].sum())
                if block and (inside.sum(axis=1) == block).all():
                    yield ActivationSite(name, group, side, -1, block, tuple(map(int, places[inside] - start)))


def _tangled(spec: PermutationSpec) -> frozenset[str]:
    """Return the groups that lie beside one another in a product, neither in the blocks of the other."""
    found: set[str] = set()
    composite = {layout for axes in spec.axes.values() for layout in axes if not isinstance(layout, Axis | None)}
    for layout in composite:
        for labels, _ in places_of_pieces(spec, layout):
            groups = [label for label in labels if label is not None and label in spec.groups]
            for one, other in combinations(groups, 2):
                if one not in _above(spec, other) and other not in _above(spec, one):
                    found |= {one, other}
    return frozenset(found)


def _above(spec: PermutationSpec, group: str) -> Iterator[str]:
    parent = spec.blocks.get(group)
    while isinstance(parent, str):
        yield parent
        parent = spec.blocks.get(parent)


def _joined(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _is_conv(module: Any) -> bool:
    nn = require("torch", "torch").nn
    return isinstance(
        module,
        (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    )


def _is_norm(module: Any) -> bool:
    return isinstance(module, (*_channel_norms(), *_last_axis_norms()))


def _channel_norms() -> tuple[type, ...]:
    nn = require("torch", "torch").nn
    batch = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
    return *batch, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm


def _last_axis_norms() -> tuple[type, ...]:
    nn = require("torch", "torch").nn
    # RMSNorm came with torch 2.4.
    return (nn.LayerNorm, nn.RMSNorm) if hasattr(nn, "RMSNorm") else (nn.LayerNorm,)
