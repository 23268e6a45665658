"""State dicts from files: safetensors, and what torch saves."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from rebasin_fast._arrays import Parameters, is_array
from rebasin_fast._extras import require

ParametersOrFile: TypeAlias = "Parameters | str | os.PathLike[str]"
"""A state dict, or the file that holds one."""


def load_parameters(source: ParametersOrFile, name: str) -> Parameters:
    """Return the state dict, read from its file if `source` is one.

    A file whose name ends in ``.safetensors`` is read as such, any other by torch with ``weights_only=True``, which
    runs no code that the file brings. Both onto the CPU.

    Parameters
    ----------
    source : mapping of str to array, or path
        A state dict or a file.
    name : str
        What messages call it.

    Raises
    ------
    OSError
        The file cannot be opened.
    TypeError
        `source` is neither, or the file does not hold a mapping of names to tensors.
    ValueError
        The file is broken, or holds more than tensors.
    ImportError
        Without safetensors, or torch.
    """
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"{name} is of type {type(source).__name__}; expected a state dict or the path of a file")
    path = Path(source)
    with path.open("rb"):  # a missing file is an OSError of Python's, whatever the reader makes of it
        pass
    loaded = _load(path, name)
    if not isinstance(loaded, Mapping) or not all(map(is_array, loaded.values())):
        raise TypeError(f"{name}, the file {path}, does not hold a mapping of names to tensors alone")
    return loaded


def load_torch_file(path: Path, name: str) -> object:
    """Return what a file that torch saved holds, on the CPU; code that it brings is not run.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        The file is broken, or holds more than tensors, numbers, texts and containers of these.
    ImportError
        Without torch.
    """
    with path.open("rb"):
        pass
    return _load(path, name)


def _load(path: Path, name: str) -> object:
    torch = require("torch", "torch")
    try:
        if path.suffix == ".safetensors":
            loaded: object = require("safetensors.torch", "demo").load_file(path)
            return loaded
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # the readers' own kinds, none of which they share
        raise ValueError(f"{name}: the file {path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return why a reader failed. Where code would have to be run, torch explains how to have that: left out here."""
    text = str(error).strip()
    if "weights_only" not in text:
        return text.partition("\n")[0]
    foreign = re.search(r"GLOBAL ([\w.]+)", text)
    what = f"it names {foreign[1]}" if foreign else "it holds more than tensors"
    return f"{what}, and code in a file is never run; expected tensors alone"
