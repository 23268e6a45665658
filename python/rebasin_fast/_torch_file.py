"""Files that torch saved, mapped into memory where they can be: a model need not fit into it.

Such a file is a pickle with tensors beside it. Torch's restricted reader (``weights_only=True``) rebuilds tensors,
numbers, texts and containers of these, and refuses everything else: no code that a file brings is run.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_fast._extras import require
from rebasin_fast._files import check_regular
from rebasin_fast._safetensors import Form, form_of

if TYPE_CHECKING:
    import torch


def load_torch_file(path: Path, name: str, *, mapped: bool = False) -> object:
    """Return what a file that torch saved holds, on the CPU; code that it brings is not run.

    Parameters
    ----------
    path : Path
    name : str
        What messages call it.
    mapped : bool, default False
        Whether its tensors may be views of the file, which then has to stay as it is. Files of before torch 1.6, which
        are no archives, and compressed ones are always read whole.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        It is no regular file, or broken, or holds more than tensors, numbers, texts and containers of these.
    ImportError
        Without torch.
    """
    check_regular(path)
    with path.open("rb"):  # one that may not be read is an OSError of Python's, whatever torch makes of it
        pass
    torch = require("torch", "torch")
    try:
        with warnings.catch_warnings():
            # That a file was pickled by something else: if it cannot be read for that, the error says so.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and _is_mappable(path))
    except ImportError:
        raise
    except Exception as error:  # torch's, pickle's and zipfile's own kinds, none of which they share
        what = str(path) if name == str(path) else f"{name}: the file {path}"
        raise ValueError(f"{what} cannot be read: {_reason(path, error)}") from error


class TorchFile(Mapping[str, Any]):
    """The tensors of a file that torch saved, by name, as views of the file; see `MappedFile` for safetensors.

    Parameters
    ----------
    path : Path
        The file. It must not change while it is mapped.
    key : str, optional
        Which entry of the file holds the tensors, if it holds more than them.
    loaded : mapping of str to Tensor, optional
        What is there, if it has just been read.

    Attributes
    ----------
    path : Path
    nbytes : int
        Bytes of all tensors; of those that share memory each.
    before_read : callable or None
        Called whenever a tensor is asked for: see `rebasin_fast._residency`.

    Raises
    ------
    OSError, ValueError, ImportError
        As `load_torch_file`; and ValueError for a tensor that is more than numbers in a row, such as a sparse one.
    """

    def __init__(self, path: Path, key: str | None = None, loaded: Mapping[str, Any] | None = None) -> None:
        self.path, self._key, self._kept = path, key, loaded
        self.before_read: Callable[[], None] | None = None
        self._forms = {name: _form(path, name, tensor) for name, tensor in self._loaded().items()}
        self.nbytes = sum(tensor.numel() * tensor.element_size() for tensor in self._loaded().values())

    def __getitem__(self, name: str) -> torch.Tensor:
        if self.before_read is not None:
            self.before_read()
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)

    # All from one reading: whether two tensors are one is told by where they lie.
    def items(self) -> ItemsView[str, Any]:
        """Return names and tensors."""
        return self._loaded().items()

    def values(self) -> ValuesView[Any]:
        """Return the tensors."""
        return self._loaded().values()

    def form(self, name: str) -> Form:
        """Return dtype and shape of a tensor, without reading it."""
        return self._forms[name]

    def release(self) -> None:
        """Let go of what has been read, but for tensors that somebody holds; what is needed again, is read again."""
        self._kept = None

    def _loaded(self) -> Mapping[str, Any]:
        kept = self._kept  # which another thread may let go
        if kept is None:
            whole: Any = load_torch_file(self.path, str(self.path), mapped=True)
            kept = self._kept = whole if self._key is None else whole[self._key]
        return kept


def _is_mappable(path: Path) -> bool:
    """Say whether tensors lie in the file as in memory: an archive packed again may be compressed."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _form(path: Path, name: str, tensor: torch.Tensor) -> Form:
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized or tensor.device.type != "cpu":
        what = "quantized" if tensor.is_quantized else f"{str(tensor.layout).removeprefix('torch.')}"
        raise ValueError(f"{path}: {name!r} is a {what} tensor on {tensor.device}; expected a dense one with numbers")
    try:
        return form_of(tensor)
    except ValueError as error:
        raise ValueError(f"{path}: {name!r}: {error}") from None


def _reason(path: Path, error: Exception) -> str:
    """Return why torch failed. Where code would have to be run, it explains how to have that: left out here."""
    text = str(error).strip()
    if "weights_only" not in text:
        told = text.partition("\n")[0] or type(error).__name__
        return told if zipfile.is_zipfile(path) else f"it is no file that torch saved, or is truncated ({told})"
    foreign = re.search(r"GLOBAL ([\w.]+)", text)
    what = f"it names {foreign[1]}" if foreign else "it holds more than tensors"
    return f"{what}, and code in a file is never run; expected tensors alone"
