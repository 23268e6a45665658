"""No spec is matched by before it has been proven: permutations of it must not change what the model computes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast.cli._architecture import Network
    from rebasin_fast.prove import Proof

_UNPROVEN = "Nothing was matched or merged"

NO_MODEL = "a --spec alone gives no model to compute with; --arch, --model-class or --config beside it do"
"""Why there is no proof where none was refused."""


def prove(network: Network, params: Parameters | None, max_memory: int) -> tuple[Proof, str] | None:
    """Return the proof and in words what it was made on, or None where there is no model to compute with.

    On the parameters of a checkpoint, in float64 or else float32, where that fits into `max_memory` bytes; of a larger
    configuration of transformers on a model of its first layers, which is traced alike.

    Raises
    ------
    ValueError
        It does not fit; or the model cannot be run.
    TypeError
        Parameters of the checkpoint are no floating-point numbers, and the model's are.
    """
    if network.model is None:
        return None
    double, needed = _precision(network.model, max_memory)
    if needed <= max_memory:
        own = None if params is None else _computable(network, params)
        made_on = "the model, drawn at random" if params is None else "the first checkpoint"
        spec, model = network.model_spec, network.computing
        try:
            return spec.prove(model, network.inputs, params=own, double=double), made_on
        except (RuntimeError, IndexError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"the model cannot be run on {made_on}, to prove the specification: {first}") from error
    small = _of_few_layers(network, max_memory)
    if small is not None:
        return small
    raise ValueError(
        f"the proof of the specification takes {_size(needed)}, and --max-memory is {_size(max_memory)}; "
        "expected more, or --no-prove"
    )


def require_proof(network: Network, params: Parameters, max_memory: int) -> dict[str, Any] | None:
    """Return the proof for a record, or None where there is no model.

    Raises
    ------
    ValueError
        It does not hold, with the groups that do not; or it does not fit into `max_memory`.
    """
    found = prove(network, params, max_memory)
    if found is None:
        return None
    proof, made_on = found
    if not proof:
        raise ValueError(f"spec is not one of model: {proof}. {_UNPROVEN}")
    return as_record(proof, made_on)


def as_record(proof: Proof, made_on: str) -> dict[str, Any]:
    """Return a proof as JSON has it."""
    change = proof.change if math.isfinite(proof.change) else str(proof.change)
    return {
        "holds": proof.holds,
        "change": change,
        "dtype": proof.dtype,
        "on": made_on,
        "broken_groups": list(proof.broken_groups),
    }


def _computable(network: Network, params: Parameters) -> Parameters:
    """Return the parameters under the model's names; all that are to be computed with are floats, not quantized."""
    own = network.as_in_model(params)
    for name, tensor in network.model.state_dict().items():
        if name in own and tensor.is_floating_point() and not own[name].is_floating_point():
            raise TypeError(f"the first checkpoint's {name!r} is {own[name].dtype}; expected floating-point numbers")
    return own


def _of_few_layers(network: Network, max_memory: int) -> tuple[Proof, str] | None:
    """Return the proof of a shortened configuration, traced anew, if there is one and it fits."""
    if network.config is None:
        return None
    from rebasin_fast.cli import _transformers as hub
    from rebasin_fast.spec import PermutationSpec

    config = hub.shortened(network.config)
    if config is None:
        return None
    meta = hub.made(config, "meta")
    double, needed = _precision(meta, max_memory)
    if needed > max_memory:
        return None
    model = hub.made(config, "cpu")
    spec = PermutationSpec.from_module(model, network.inputs)
    layers = config.get_text_config().num_hidden_layers
    return spec.prove(model, network.inputs, double=double), f"a model of {layers} layers, drawn at random"


def _precision(model: Any, max_memory: int) -> tuple[bool, int]:
    """Return whether to prove in float64, and the bytes that takes: the model, its parameters cast, and permuted."""
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    double = numbers * (4 + 8 + 8)
    return (True, double) if double <= max_memory else (False, numbers * (4 + 4 + 4))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
