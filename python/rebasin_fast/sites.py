"""Where in a torch model the units of a group show: modules whose input or output carries them, found from a spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rebasin_fast._extras import require
from rebasin_fast.spec import Axis, PermutationSpec

if TYPE_CHECKING:
    import torch

Side: TypeAlias = Literal["input", "output"]

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
    side : {"output", "input"}
        Whether it is the module's output, or its (first) input.
    axis : int, optional
        The tensor's axis on which the units lie, never the first; negative numbers count from the end. None: the only
        one of the right length; it is an error if there are several.
    block : int
        Contiguous entries that every unit takes on that axis.

    Raises
    ------
    ValueError
        If `side` is unknown, or `axis` is 0: the examples lie there.
    """

    module: str
    group: str
    side: Side = "output"
    axis: int | None = None
    block: int = 1

    def __post_init__(self) -> None:
        if self.side not in ("input", "output"):
            raise ValueError(f"side is {self.side!r}; expected 'input' or 'output'")
        if self.axis == 0:
            raise ValueError(f"axis is 0 at {self.module!r}; expected another one, as the examples lie on the first")

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

    def samples(self, tensor: Any, units: int) -> Any:
        """Return what `tensor` holds as a matrix of shape (samples, units); a view where strides allow.

        Every example, every position of a feature map and every entry of a block is a sample. Errors as `axis_in`.
        """
        axis = self.axis_in(tensor, units)
        last = tensor.detach().movedim(axis, -1)
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
    find = _reads if side == "input" else _writes
    found = [
        (site, module)
        for name, module in model.named_modules()
        if (axes := spec.axes.get(f"{name}.weight" if name else "weight")) is not None
        for site in find(name, module, axes)
    ]
    normed = {site.group for site, module in found if side == "output" and _is_norm(module)}
    return tuple(site for site, module in found if site.group not in normed or _is_norm(module))


def sites_by_group(
    spec: PermutationSpec, model: torch.nn.Module, sites: Sites
) -> dict[str, tuple[ActivationSite, ...]]:
    """Return for every group of `spec` its sites in `model`, found or as given; every group has at least one.

    Raises
    ------
    TypeError, ValueError
        If `sites` is not as described, names unknown modules or groups, or leaves a group without a site.
    """
    if isinstance(sites, str):
        if sites not in ("input", "output", "both"):
            raise ValueError(f"sites is {sites!r}; expected 'input', 'output', 'both' or a mapping of groups")
        every = *activation_sites(spec, model, "input"), *activation_sites(spec, model, "output")
        chosen = [site for site in every if sites in (site.side, "both")]
        by_group = {group: _of_group(chosen, group) or _of_group(every, group) for group in spec.groups}
    else:
        by_group = _given(spec, sites)
        known = dict(model.named_modules())
        unknown = [site.module for given in by_group.values() for site in given if site.module not in known]
        if unknown:
            raise ValueError(f"sites names the modules {unknown}, which the model does not have; it has {list(known)}")
    bare = [group for group in spec.groups if not by_group[group]]
    if bare:
        raise ValueError(f"sites leaves the groups {bare} without a tensor that carries them; expected one or more")
    return by_group


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

    def after(_module: Any, _args: tuple[Any, ...], output: Any) -> Any:
        return seen(site, output)

    if site.side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


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


def _reads(name: str, module: Any, axes: tuple[Axis | None, ...]) -> list[ActivationSite]:
    nn = require("torch", "torch").nn
    if isinstance(module, nn.Linear):
        return _site_at(name, axes, 1, "input", -1)
    # With groups, the axis of a convolution's inputs has only those of one group.
    if _is_conv(module) and module.groups == 1:
        return _site_at(name, axes, 0 if module.transposed else 1, "input", 1)
    return []


def _writes(name: str, module: Any, axes: tuple[Axis | None, ...]) -> list[ActivationSite]:
    nn = require("torch", "torch").nn
    if isinstance(module, nn.Linear):
        return _site_at(name, axes, 0, "output", -1)
    if isinstance(module, nn.Embedding):
        return _site_at(name, axes, 1, "output", -1)
    if _is_conv(module) and (module.groups == 1 or not module.transposed):
        return _site_at(name, axes, 1 if module.transposed else 0, "output", 1)
    if isinstance(module, _channel_norms()):
        return _site_at(name, axes, 0, "output", 1)
    # Classes derived from layer norm may normalise another axis than the last: its place is read off the tensor.
    if type(module) in _last_axis_norms():
        return _site_at(name, axes, 0, "output", -1)
    return _site_at(name, axes, 0, "output", None) if isinstance(module, _last_axis_norms()) else []


def _site_at(
    name: str, axes: tuple[Axis | None, ...], of_weight: int, side: Side, of_tensor: int | None
) -> list[ActivationSite]:
    axis = axes[of_weight] if of_weight < len(axes) else None
    return [ActivationSite(name, axis.group, side, of_tensor, axis.block)] if isinstance(axis, Axis) else []


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
