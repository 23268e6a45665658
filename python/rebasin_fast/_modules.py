"""How a torch module is run with other parameters than its own, and left as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rebasin_fast import _arrays
from rebasin_fast._arrays import Parameters
from rebasin_fast._extras import require

if TYPE_CHECKING:
    import torch


def state_for(model: torch.nn.Module, params: Parameters, name: str = "params") -> dict[str, Any]:
    """Return tensors for every parameter and buffer of `model`, named as in its state dict.

    Buffers are copies, those that no state dict holds included: a forward pass may write to them.

    Parameters
    ----------
    model : torch.nn.Module
        What is to be run.
    params : mapping of str to array
        Torch tensors or numpy arrays for all names of ``model.state_dict()``, with the same shapes.
    name : str, optional
        What messages call `params`.

    Raises
    ------
    TypeError, ValueError
        If `model` is no module, or `params` does not fit it: names missing or unknown, other shapes, no arrays.
    """
    torch = require("torch", "torch")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if not isinstance(params, Mapping):
        raise TypeError(f"{name} is of type {type(params).__name__}; expected a state dict")
    own = model.state_dict()
    missing = [key for key in own if key not in params]
    unknown = [key for key in params if key not in own]
    if missing or unknown:
        raise ValueError(f"{name} does not fit the model; missing: {missing}, unknown: {unknown}")
    buffers = dict(model.named_buffers(remove_duplicate=False))
    with torch.inference_mode(False):  # where the caller is in it: methods that learn need tensors of the other kind
        state = {key: buffer.clone() for key, buffer in buffers.items() if key not in own}
        for key, expected in own.items():
            tensor = _as_tensor(f"{name}[{key!r}]", params[key], expected)
            state[key] = tensor.clone() if key in buffers else tensor
    return state


def call(model: torch.nn.Module, state: Mapping[str, Any], inputs: Any) -> Any:
    """Return ``model(inputs)`` computed with `state` in place of its own parameters and buffers."""
    # A tuple, as functional_call unpacks it; tied weights are separate arrays in a state dict.
    return require("torch", "torch").func.functional_call(model, dict(state), (inputs,), tie_weights=False)


def inputs_of(batch: Any, number: int) -> Any:
    """Return what a model takes of one batch: the batch itself, or the first item of a tuple or list.

    Raises
    ------
    TypeError
        If that is neither a tensor nor a mapping.
    """
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if _arrays.torch_of(inputs) is None and not isinstance(inputs, Mapping):
        raise TypeError(
            f"batch {number} is a {type(batch).__name__} with inputs of type {type(inputs).__name__}; expected a "
            "tensor or a mapping of inputs, or a tuple that begins with one"
        )
    return inputs


@contextmanager
def in_mode(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """Switch every submodule to training or to evaluation, and back.

    The flags are set directly, as some modules do more in ``eval()`` and ``train()`` than set a flag.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = training
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def removed_afterwards(handles: list[Any]) -> Iterator[None]:
    """Remove all hooks whose handles are in `handles` at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_tensor(where: str, value: Any, expected: torch.Tensor) -> Any:
    if not _arrays.is_array(value):
        raise TypeError(f"{where} is a {type(value).__name__}; expected a torch tensor or a numpy array")
    torch = require("torch", "torch")
    tensor = value if _arrays.torch_of(value) is not None else torch.tensor(value, device=expected.device)
    if tensor.shape != expected.shape:
        raise ValueError(f"{where} has shape {tuple(tensor.shape)}; expected {tuple(expected.shape)}, as in the model")
    return tensor
