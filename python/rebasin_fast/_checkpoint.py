"""State dicts from files: safetensors, and what torch saves."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeAlias

from rebasin_fast._arrays import Parameters, is_array
from rebasin_fast._safetensors import MappedFile
from rebasin_fast._torch_file import load_torch_file

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
        Without torch.
    """
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"{name} is of type {type(source).__name__}; expected a state dict or the path of a file")
    path = Path(source)
    loaded = _mapped(path, name) if path.suffix == ".safetensors" else load_torch_file(path, name, mapped=mapped)
    if not isinstance(loaded, Mapping) or not all(map(is_array, loaded.values())):
        raise TypeError(f"{name}, the file {path}, does not hold a mapping of names to tensors alone")
    return loaded


def load_some(source: ParametersOrFile, names: Collection[str], name: str) -> Parameters:
    """Return the parameters called `names` alone; of a file no others are read, where its format allows that.

    Parameters, errors and reading as in `load_parameters`; and ValueError for a file without one of the names.
    """
    if isinstance(source, Mapping):
        return {param: source[param] for param in names}
    loaded = load_parameters(source, name, mapped=True)
    for param in names:
        if param not in loaded:
            raise ValueError(f"{name}: the file {source} holds no parameter {param!r}")
    return {param: loaded[param] for param in names}


def _mapped(path: Path, name: str) -> dict[str, object]:
    try:
        return dict(MappedFile(path))
    except ValueError as error:
        raise ValueError(f"{name}: the file {error}") from None
