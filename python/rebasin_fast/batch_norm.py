"""After the merge: running statistics of batch norm estimated anew, and the variance of hidden units repaired.

A mean of networks has smaller activations than either: what of two units does not agree cancels out. Its batch norms
still divide by the statistics of the networks it came from.

References
----------
K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur, "REPAIR: REnormalizing Permuted Activations for Interpolation
Repair", ICLR 2023, arXiv:2211.08403.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

from rebasin_fast._arrays import Array, Parameters, copy_all, torch_of
from rebasin_fast._distributed import Ranks
from rebasin_fast._extras import require
from rebasin_fast._modules import call, in_mode, inputs_of, removed_afterwards, state_for
from rebasin_fast._moments import Moments
from rebasin_fast._progress import Progress
from rebasin_fast.sites import ActivationSite, activation_sites, watch
from rebasin_fast.spec import PermutationSpec

if TYPE_CHECKING:
    import torch


def reset_batch_norm(
    model: torch.nn.Module,
    params: Parameters,
    batches: Iterable[Any],
    *,
    process_group: Any = None,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """Return parameters whose batch norms have their running statistics estimated anew.

    The model runs once over the batches, its batch norms normalising by each batch, as in training, everything else
    as in evaluation. Mean and variance over all that passes become the running statistics: pooled, so that batches of
    different sizes count as they should. Batches as large as in training or larger are best, in random order.

    Parameters
    ----------
    model : torch.nn.Module
        The architecture; afterwards as it was.
    params : mapping of str to array
        A state dict of `model`, such as a merged one. Never modified.
    batches : iterable
        Inputs, or tuples that begin with them, on the model's device. Read once.
    process_group : torch.distributed.ProcessGroup, optional
        Each rank passes its own share of the batches, and gets the statistics of all.
    progress : callable, optional
        Called after each batch as ``progress("reset batch norm", done, total)``; total is 0 when `batches` has no
        length.

    Returns
    -------
    dict of str to array
        As `params`, with new arrays for ``running_mean`` and ``running_var`` (unbiased, as torch keeps it) of all batch
        norms that track them; ``num_batches_tracked`` counts the batches seen.

    Raises
    ------
    TypeError
        An argument, or a batch, is of the wrong type.
    ValueError
        `params` does not fit `model`; `batches` is empty, or gives a batch norm a single value a channel.

    References
    ----------
    .. [1] K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur (2023). REPAIR: REnormalizing Permuted Activations
       for Interpolation Repair. ICLR 2023, arXiv:2211.08403.
    .. [2] P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov, A. G. Wilson (2018). Averaging Weights Leads to Wider
       Optima and Better Generalization. UAI 2018, arXiv:1803.05407.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
    >>> params = reset_batch_norm(model, model.state_dict(), [torch.tensor([[0.0], [2.0], [4.0]])])
    >>> params["0.running_mean"].tolist(), params["0.running_var"].tolist()
    ([2.0], [4.0])
    """
    torch = require("torch", "torch")
    state, ranks = state_for(model, params), Ranks(process_group)
    norms = {name: module for name, module in model.named_modules() if _tracks_statistics(module)}
    moments = {
        name: Moments(norm.num_features, state[_joined(name, "running_mean")].device) for name, norm in norms.items()
    }

    def take_in(name: str) -> Callable[..., None]:
        def before(_module: Any, args: tuple[Any, ...]) -> None:
            moments[name].update(args[0].detach().movedim(1, -1).reshape(-1, args[0].shape[1]))

        return before

    handles = [module.register_forward_pre_hook(take_in(name)) for name, module in norms.items()]
    with in_mode(model, training=False), removed_afterwards(handles):
        for module in norms.values():
            module.training = True
        seen = ranks.together(lambda: _run(model, state, batches, "reset batch norm", progress))
    seen = int(ranks.add_up(torch.tensor([seen], dtype=torch.int64, device=_device(state))))
    if seen == 0:
        raise ValueError("batches is empty; expected at least one")
    reset = copy_all(params)
    for name, found in moments.items():
        found.add_up(ranks)
        _put(reset, _joined(name, "running_mean"), found.mean)
        _put(reset, _joined(name, "running_var"), found.variance(unbiased=True))
        _put(reset, _joined(name, "num_batches_tracked"), torch.tensor(seen))
    return reset


def repair(
    spec: PermutationSpec,
    model: torch.nn.Module,
    merged: Parameters,
    endpoints: Sequence[Parameters],
    batches: Iterable[Any],
    *,
    weights: Sequence[float] | None = None,
    sites: Sequence[ActivationSite] | None = None,
    process_group: Any = None,
    progress: Progress | None = None,
) -> dict[str, Array]:
    r"""Return merged parameters whose hidden units have the mean and spread of the networks they were merged from.

    REPAIR (Jordan et al. 2023): every hidden unit's output :math:`x` in the merged network is replaced by
    :math:`\sigma (x - \hat\mu) / \hat\sigma + \mu`, where :math:`\hat\mu, \hat\sigma` are its mean and standard
    deviation there, and :math:`\mu, \sigma` the means of those in the endpoints. That is linear, and goes into the
    weight and bias of the module it leaves. While the statistics are taken every unit is already corrected by its
    batch, so that later layers see what they will see; large batches in random order are best.

    Parameters
    ----------
    spec : PermutationSpec
        Which axes of which parameters move together; the units of its groups are repaired.
    model : torch.nn.Module
        The architecture. Runs in evaluation mode; afterwards as it was.
    merged : mapping of str to array
        A state dict of `model`: the mean of the endpoints.
    endpoints : sequence of mappings of str to array
        The aligned state dicts it was merged from. None of them is modified.
    batches : iterable
        Inputs, or tuples that begin with them, on the model's device. Read once for every endpoint and once for
        the merged network; an iterator is read into a list first.
    weights : sequence of float, optional
        The endpoints' shares in the merge; they add up to 1. By default equal ones.
    sites : sequence of ActivationSite, optional
        Module outputs to repair; by default those of `activation_sites`: norms where there are any, dense and
        convolutional layers elsewhere, at their entries where units lie in blocks or groups share an axis, but not what
        `torch.nn.MultiheadAttention` projects inside. A batch norm is repaired on top of its running statistics.
    process_group : torch.distributed.ProcessGroup, optional
        Each rank passes its own share of the batches; all get the same parameters.
    progress : callable, optional
        ``progress("repair", done, total)`` after every pass over the batches.

    Returns
    -------
    dict of str to array
        As `merged`, with new arrays; a unit that never changes in the merged network is only shifted.

    Raises
    ------
    TypeError
        An argument, or a batch, is of the wrong type.
    ValueError
        State dicts that do not fit `model`; a site whose module has no weight and bias, or that is no output; weights
        that do not add up to 1; no batches.

    Examples
    --------
    >>> import torch
    >>> from rebasin_fast import interpolate, mlp, repair
    >>> from rebasin_fast.training import make_mlp
    >>> spec, model = mlp((4, 16, 3)), make_mlp((4, 16, 3))
    >>> a, b = model.state_dict(), make_mlp((4, 16, 3)).state_dict()
    >>> repaired = repair(spec, model, interpolate(a, b, 0.5), [a, b], [torch.randn(200, 4)])
    >>> list(repaired) == list(a)
    True
    """
    shares = _shares(endpoints, weights)
    spec.validate(merged, "merged", matching=False)
    chosen = _sites_to_correct(spec, model) if sites is None else tuple(sites)
    axes = {site: _output_axis(model, site) for site in chosen}
    sizes, ranks = spec.group_sizes(merged), Ranks(process_group)
    given = batches  # read under `together` on every rank, of whatever kind its batches are
    batches = ranks.together(lambda: list(given) if isinstance(given, Iterator) else given)
    passes = len(endpoints) + 1

    def report(done: int) -> None:
        if progress is not None:
            progress("repair", done, passes)

    target: dict[ActivationSite, tuple[Any, Any]] = {}
    for done, (params, share) in enumerate(zip(endpoints, shares, strict=True), start=1):
        state = state_for(model, params, f"endpoints[{done - 1}]")
        for site, moments in _observed(model, state, axes, sizes, batches, ranks).items():
            mean, deviation = target.get(site, (0.0, 0.0))
            target[site] = mean + share * moments.mean, deviation + share * moments.deviation()
        report(done)
    state = state_for(model, merged, "merged")
    found = _observed(model, state, axes, sizes, batches, ranks, target)
    report(passes)
    repaired = copy_all(merged)
    for site, moments in found.items():
        _fold(repaired, state, site, axes[site], *_correction(moments.mean, moments.deviation(), *target[site]))
    return repaired


def _run(
    model: torch.nn.Module,
    state: Mapping[str, Any],
    batches: Iterable[Any],
    stage: str = "",
    progress: Progress | None = None,
) -> int:
    """Run the model over the batches for what its hooks see; return how many there were."""
    total, done = len(batches) if isinstance(batches, Sized) else 0, 0
    with require("torch", "torch").no_grad():
        for done, batch in enumerate(batches, start=1):
            call(model, state, inputs_of(batch, done - 1))
            if progress is not None:
                progress(stage, done, total)
    return done


def _observed(
    model: torch.nn.Module,
    state: Mapping[str, Any],
    sites: Iterable[ActivationSite],
    sizes: Mapping[str, int],
    batches: Iterable[Any],
    ranks: Ranks,
    target: Mapping[ActivationSite, tuple[Any, Any]] | None = None,
) -> dict[ActivationSite, Moments]:
    """Return mean and spread at every site; with a target, each batch leaves the sites corrected to it."""
    moments = {site: Moments(sizes[site.group], _device(state)) for site in sites}

    def seen(site: ActivationSite, tensor: Any) -> Any:
        units = sizes[site.group]
        samples = site.samples(tensor, units)
        moments[site].update(samples)
        if target is None or not len(samples):
            return None
        batch = Moments(units, samples.device)
        batch.update(samples)
        axis = site.axis_in(tensor, units)
        scale, shift = (
            values.to(tensor.dtype)
            for values in _spread(site, tensor.shape[axis], *_correction(batch.mean, batch.deviation(), *target[site]))
        )
        shape = [1] * tensor.ndim
        shape[axis] = -1
        return tensor * scale.view(shape) + shift.view(shape)

    with in_mode(model, training=False), removed_afterwards(watch(model, moments, seen)):
        ranks.together(lambda: _run(model, state, batches))
    for site, found in moments.items():
        found.add_up(ranks)
        if found.count == 0:
            raise ValueError(f"batches gave no samples at the {site}; expected at least one example")
    return moments


def _correction(mean: Any, deviation: Any, wanted_mean: Any, wanted_deviation: Any) -> tuple[Any, Any]:
    """Return scale and shift that take units of one mean and spread to another; what never changes is only shifted."""
    scale = (wanted_deviation / deviation).where(deviation > 0, 1.0)
    return scale, wanted_mean - scale * mean


def _spread(site: ActivationSite, length: int, scale: Any, shift: Any) -> tuple[Any, Any]:
    """Return scale and shift of every entry on a site's axis, from those of its units; other entries stay."""
    torch = require("torch", "torch")
    scale, shift = scale.repeat_interleave(site.block), shift.repeat_interleave(site.block)
    if site.entries is None:
        return scale, shift
    places = torch.tensor(site.entries, device=scale.device)
    return scale.new_ones(length).index_copy(0, places, scale), shift.new_zeros(length).index_copy(0, places, shift)


def _sites_to_correct(spec: PermutationSpec, model: torch.nn.Module) -> tuple[ActivationSite, ...]:
    """Return the outputs of modules; projections inside attention are none, their weights lie in one array."""
    return tuple(site for site in activation_sites(spec, model, "output") if site.side == "output")


def _fold(params: Parameters, state: dict[str, Any], site: ActivationSite, axis: int, scale: Any, shift: Any) -> None:
    """Put scale and shift of a module's output into its weight, whose outputs lie on `axis`, and its bias."""
    weight, bias = (state[_joined(site.module, part)].double() for part in ("weight", "bias"))
    scale, shift = _spread(site, weight.shape[axis], scale, shift)
    shape = [1] * weight.ndim
    shape[axis] = -1
    # Into `state` as well: several groups may lie on one module's output, each at entries of its own.
    for part, value in (("weight", weight * scale.view(shape)), ("bias", bias * scale + shift)):
        state[_joined(site.module, part)] = value
        _put(params, _joined(site.module, part), value)


def _output_axis(model: torch.nn.Module, site: ActivationSite) -> int:
    """Return the axis of the weight on which the outputs of a site's module lie."""
    nn = require("torch", "torch").nn
    if site.side != "output":
        raise ValueError(f"sites holds the {site}; expected outputs of modules, which their weights can correct")
    module = model.get_submodule(site.module)
    if getattr(module, "weight", None) is None or getattr(module, "bias", None) is None:
        raise ValueError(f"the {site} cannot be corrected: the module has no weight and bias to take it up")
    transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    return 1 if transposed else 0


def _shares(endpoints: Any, weights: Any) -> list[float]:
    if isinstance(endpoints, Mapping) or not isinstance(endpoints, Sequence):
        raise TypeError(f"endpoints is of type {type(endpoints).__name__}; expected a sequence of state dicts")
    if not endpoints:
        raise ValueError("endpoints is empty; expected at least one")
    if weights is None:
        return [1.0 / len(endpoints)] * len(endpoints)
    shares = [float(weight) for weight in weights]
    if len(shares) != len(endpoints) or not math.isclose(math.fsum(shares), 1.0, rel_tol=1e-6):
        raise ValueError(f"weights is {shares}; expected {len(endpoints)} numbers that add up to 1")
    return shares


def _tracks_statistics(module: Any) -> bool:
    nn = require("torch", "torch").nn
    kinds = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
    return isinstance(module, kinds) and module.running_mean is not None


def _put(params: Parameters, name: str, value: Any) -> None:
    """Overwrite an array of `params`, in its own dtype, by a tensor."""
    array = params[name]
    if torch_of(array) is not None:
        array.copy_(value)
    else:
        array[...] = value.cpu().numpy()


def _joined(module: str, part: str) -> str:
    return f"{module}.{part}" if module else part


def _device(state: Mapping[str, Any]) -> Any:
    return next(iter(state.values())).device
