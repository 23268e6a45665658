"""From models to a merged one: the methods of ``merge``, each by the library's function of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rebasin_fast.cli._checkpoints import Checkpoint, Lazily
from rebasin_fast.cli._data import Examples, loss_of

if TYPE_CHECKING:
    from rebasin_fast._arrays import IndexArray, Parameters
    from rebasin_fast._progress import Progress
    from rebasin_fast.cli._architecture import Network

PAIRWISE = ("weight", "activation", "ste")
"""Methods for two models, which ``--lambda`` weighs."""

METHODS = (*PAIRWISE, "many")
ON_DATA = ("activation", "ste")
"""Methods that look at what models do."""


@dataclass(frozen=True)
class Settings:
    """How to match.

    Attributes
    ----------
    seed : int
    cache_bytes : int
        Of cost matrices that are kept.
    batch_size, epochs : int
        For methods on data.
    """

    seed: int = 0
    cache_bytes: int = 1 << 30
    batch_size: int = 500
    epochs: int = 4


@dataclass(frozen=True)
class Matched:
    """Permutations, one for each model (the first model's first), and what is told of how they came about."""

    permutations: tuple[Mapping[str, IndexArray], ...]
    facts: dict[str, Any]
    merged: Parameters | None = None


def match_pair(
    method: str,
    network: Network,
    a: Parameters,
    b: Parameters,
    examples: Examples | None,
    settings: Settings,
    progress: Progress | None,
) -> Matched:
    """Match B to A."""
    from rebasin_fast.permute import identity_permutation

    if method == "weight":
        permutation, facts = _by_weights(network, a, b, settings, progress)
    else:
        assert examples is not None
        by = _by_activations if method == "activation" else _straight_through
        permutation, facts = by(network, a, b, examples, settings, progress)
    facts["units_moved"] = units_moved(permutation)
    return Matched((identity_permutation(network.spec, a), permutation), facts)


def match_many(
    network: Network, checkpoints: Sequence[Checkpoint], settings: Settings, progress: Progress | None
) -> Matched:
    """Match all models to the mean of the others; held are the sum and, of the files, one model at a time."""
    from rebasin_fast.merge_many import merge_many

    def visited(stage: str, done: int, total: int) -> None:
        for checkpoint in checkpoints:
            for file in checkpoint.mapped:
                file.release()
        if progress is not None:
            progress(stage, done, total)

    models = [checkpoint.params for checkpoint in checkpoints]
    found = merge_many(network.spec, models, seed=settings.seed, max_cache_bytes=settings.cache_bytes, progress=visited)
    facts = {"distance": list(found.distance), "sweeps": found.sweeps, "converged": found.converged}
    return Matched(found.permutations, facts, found.params)


def aligned(
    network: Network, checkpoint: Checkpoint, permutation: Mapping[str, IndexArray], *, whole: bool = False
) -> Parameters:
    """Return a model with its units reordered: tensor by tensor, when they are asked for, or the whole of it now.

    Tensors that are one in the checkpoint are one in the whole model, as torch's files can tell and safetensors cannot.
    """
    from rebasin_fast.permute import apply_permutation, permuted, validate_permutation

    params = checkpoint.params
    if whole:
        # From one reading: whether two tensors are one is told by where they lie.
        return apply_permutation(network.spec, permutation, dict(params.items()))
    network.spec.validate(params, str(checkpoint.path), matching=False)
    validate_permutation(network.spec, permutation, params)
    return Lazily(params, lambda name: permuted(network.spec, permutation, name, params[name]))


def interpolated(a: Parameters, b: Parameters, lam: float, *, whole: bool) -> Parameters:
    """Return the point between two models, as `aligned` does."""
    from rebasin_fast.interpolate import interpolate

    if whole:
        return interpolate(dict(a.items()), b, lam)
    return Lazily(a, lambda name: interpolate({name: a[name]}, {name: b[name]}, lam)[name])


def repaired(
    network: Network,
    merged: Parameters,
    endpoints: Sequence[Parameters],
    weights: Sequence[float],
    examples: Examples,
    batch_size: int,
    progress: Progress | None,
) -> Parameters:
    """Return the merged model with running statistics of batch norm taken anew, and the spread of its units repaired.

    Holds all models in memory, in float32.
    """
    from rebasin_fast._arrays import cast_like
    from rebasin_fast.batch_norm import repair, reset_batch_norm

    model, batches = network.computing, examples.batches(batch_size)
    state = reset_batch_norm(model, computable(network, merged), batches, progress=progress)
    ends = [computable(network, params) for params in endpoints]
    found = repair(network.model_spec, model, state, ends, batches, weights=weights, progress=progress)
    done = network.as_in_checkpoint(found, merged)
    return {name: cast_like(done[name], tensor) for name, tensor in merged.items()}


def computable(network: Network, params: Parameters) -> dict[str, Any]:
    """Return parameters under the model's names, floating-point ones in float32, as the data is."""
    own = network.as_in_model(params)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in own.items()}


def units_moved(permutation: Mapping[str, IndexArray]) -> int:
    """Return how many units a permutation does not leave where they were."""
    return sum(int(np.count_nonzero(index != np.arange(len(index)))) for index in permutation.values())


def _by_weights(
    network: Network, a: Parameters, b: Parameters, settings: Settings, progress: Progress | None
) -> tuple[dict[str, IndexArray], dict[str, Any]]:
    from rebasin_fast.weight_matching import weight_matching

    found = weight_matching(
        network.spec, a, b, seed=settings.seed, max_cache_bytes=settings.cache_bytes, progress=progress
    )
    facts = {
        "objective": [found.objective[0], found.objective[-1]],
        "sweeps": found.sweeps,
        "converged": found.converged,
    }
    return found.permutation, facts


def _by_activations(
    network: Network, a: Parameters, b: Parameters, examples: Examples, settings: Settings, progress: Progress | None
) -> tuple[dict[str, IndexArray], dict[str, Any]]:
    from rebasin_fast.activation_matching import activation_matching

    found = activation_matching(
        network.model_spec,
        network.computing,
        computable(network, a),
        computable(network, b),
        examples.batches(settings.batch_size),
        prove=False,  # it is proven already, or the user said not to
        progress=progress,
    )
    return found.permutation, {"similarity": sum(found.objective.values()), "examples": len(examples)}


def _straight_through(
    network: Network, a: Parameters, b: Parameters, examples: Examples, settings: Settings, progress: Progress | None
) -> tuple[dict[str, IndexArray], dict[str, Any]]:
    from rebasin_fast.straight_through import straight_through

    if examples.labels is None:
        raise ValueError("--method ste needs labels in --data, and there are none")
    learn, held_out = examples.split()
    found = straight_through(
        network.model_spec,
        network.computing,
        computable(network, a),
        computable(network, b),
        learn.batches(settings.batch_size),
        epochs=settings.epochs,
        loss=loss_of,
        validation=held_out.batches(settings.batch_size),
        seed=settings.seed,
        prove=False,
        progress=progress,
    )
    facts = {
        "held_out_loss": [found.validation[0], found.loss],
        "steps": found.stats.steps,
        "examples": [len(learn), len(held_out)],
    }
    return found.permutation, facts
