"""State dicts from files: safetensors, and what torch saves."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeAlias

from rebasin_fast._arrays import Parameters, is_array
from rebasin_fast._extras import require

ParametersOrFile: TypeAlias = "Parameters | str | os.PathLike[str]"
"""A state dict, or the file that holds one."""


def load_parameters(source: ParametersOrFile, name: str, *, mapped: bool = False) -> Parameters:
    """Return the state dict, read from its file if `source` is one.

    A file whose name ends in ``.safetensors`` is read as such, any other by torch with ``weights_only=True``, which
    runs no code that the file brings. Both onto the CPU.

    Parameters
    ----------
    source : mapping of str to array, or path
        A state dict or a file.
    name : str
        What messages call it.
    mapped : bool, default False
        Whether a file of torch's may be mapped into memory, as safetensors always are: pages are read when they are
        first looked at, and need no memory of this process's own. The file has to stay as it is meanwhile.

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
    loaded = _load(path, name, mapped)
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
    return _load(path, name, mapped=False)


def _load(path: Path, name: str, mapped: bool) -> object:
    torch = require("torch", "torch")
    try:
        if path.suffix == ".safetensors":
            loaded: object = require("safetensors.torch", "demo").load_file(path)
            return loaded
        # Files of before torch 1.6 are no archives, and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except ImportError:
        raise
    except Exception as error:  # the readers' own kinds, none of which they share
        raise _unreadable(path, name, error) from error


def _unreadable(path: Path, name: str, error: Exception) -> ValueError:
    return ValueError(f"{name}: the file {path} cannot be read: {_reason(error)}")


def load_some(source: ParametersOrFile, names: Collection[str], name: str) -> Parameters:
    """Return the parameters called `names` alone; of a file no others are read, where its format allows that.

    Parameters, errors and reading as in `load_parameters`.
    """
    if isinstance(source, Mapping):
        return {param: source[param] for param in names}
    path = Path(source)
    with path.open("rb"):
        pass
    loaded = _load_some(path, names, name)
    if not isinstance(loaded, Mapping) or any(param not in loaded for param in names):
        raise TypeError(f"{name}, the file {path}, does not hold a mapping of names to tensors alone")
    return {param: loaded[param] for param in names}


def _load_some(path: Path, names: Collection[str], name: str) -> object:
    if path.suffix != ".safetensors":
        return _load(path, name, mapped=True)
    try:
        with require("safetensors", "demo").safe_open(path, framework="pt") as file:
            return {param: file.get_tensor(param) for param in names}
    except ImportError:
        raise
    except Exception as error:
        raise _unreadable(path, name, error) from error


def _reason(error: Exception) -> str:
    """Return why a reader failed. Where code would have to be run, torch explains how to have that: left out here."""
    text = str(error).strip()
    if "weights_only" not in text:
        return text.partition("\n")[0]
    foreign = re.search(r"GLOBAL ([\w.]+)", text)
    what = f"it names {foreign[1]}" if foreign else "it holds more than tensors"
    return f"{what}, and code in a file is never run; expected tensors alone"
