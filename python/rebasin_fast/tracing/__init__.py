"""Specs traced from torch models.

`capture` runs the model on fake tensors, and `recorder` hands every ATen operator to its rule (`rules`, in the terms of
`call`).
Rules tie together, split and freeze dimensions (`dims`), which tensors have on their axes (`values`). `blocks` finds
out which groups move within which, and `assemble` writes the spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebasin_fast._extras import require
from rebasin_fast.spec import PermutationSpec

from .assemble import spec_of
from .capture import captured
from .surroundings import refuse_others

__all__ = ["arguments_of", "refuse_others", "trace"]


def trace(model: Any, example_inputs: Any) -> PermutationSpec:
    """Return the spec of a model; see `PermutationSpec.from_module`."""
    refuse_others(require("torch", "torch"), model)
    args, kwargs = arguments_of(example_inputs)
    return spec_of(captured(model, args, kwargs))


def arguments_of(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments: a tuple or list holds positional ones, a mapping keywords."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}
