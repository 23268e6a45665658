"""Safetensors files, mapped into memory and written tensor by tensor: a model need not fit into it.

The format (https://github.com/huggingface/safetensors): the length of the header as a 64-bit little-endian number, the
header (JSON: for every tensor dtype, shape, and first and last byte), the tensors one after the other. Nothing in it is
ever executed.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from rebasin_fast._extras import require
from rebasin_fast._files import check_regular

if TYPE_CHECKING:
    import torch

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}
"""Names of element types in a header, and torch's."""

_BYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_LONGEST_HEADER = 100 << 20  # what the format allows
_PIECE = 1 << 24


class Entry(NamedTuple):
    """What a header says of one tensor: dtype as the format spells it, shape, and where its bytes begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


Form: TypeAlias = "tuple[str, tuple[int, ...]]"
"""dtype, as the format spells it, and shape of a tensor."""


class MappedFile(Mapping[str, Any]):
    """The tensors of a safetensors file, by name, as views of the file: read from the disk when they are computed with.

    Parameters
    ----------
    path : Path
        The file. It must not change while it is mapped.

    Attributes
    ----------
    path : Path
    entries : dict of str to Entry
        Names in the order of their bytes.
    metadata : dict of str to str
        What the header says beside the tensors.
    before_read : callable or None
        Called whenever a tensor is asked for: see `rebasin_fast._residency`.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        It is no regular file, no safetensors file, or is truncated: the message names the file.
    ImportError
        Without torch.
    """

    def __init__(self, path: Path) -> None:
        self._torch = require("torch", "torch")
        self.path = path
        self.before_read: Callable[[], None] | None = None
        check_regular(path)
        with path.open("rb") as file:
            try:
                self.metadata, self.entries, self._start = _read_header(file)
            except ValueError as error:
                raise ValueError(f"{path} cannot be read: {error}") from None
            # Private pages: torch warns of memory that it could not write to, though nobody does.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def __getitem__(self, name: str) -> torch.Tensor:
        entry = self.entries[name]
        if self.before_read is not None:
            self.before_read()
        dtype = getattr(self._torch, DTYPES[entry.dtype])
        count = math.prod(entry.shape)
        if count == 0:
            return self._torch.empty(entry.shape, dtype=dtype)
        start = self._start + entry.begin
        if start % self._torch.empty(0, dtype=dtype).element_size() == 0:
            return self._torch.frombuffer(self._map, dtype=dtype, count=count, offset=start).view(entry.shape)
        piece = bytearray(self._map[start : self._start + entry.end])  # vectors want numbers where they belong
        return self._torch.frombuffer(piece, dtype=dtype).view(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def form(self, name: str) -> Form:
        """Return dtype and shape of a tensor, without reading it."""
        return self.entries[name].dtype, self.entries[name].shape

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.end - entry.begin for entry in self.entries.values())

    def release(self) -> None:
        """Give the memory of what has been read back to the system; what is needed again, is read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def write_tensors(
    path: Path, forms: Mapping[str, Form], tensors: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file; of `tensors` one at a time is asked for, written, and let go.

    Parameters
    ----------
    path : Path
        Written over if it exists.
    forms : mapping of str to (str, tuple of int)
        Which tensors, in this order, with dtype and shape; see `form_of`.
    tensors : mapping of str to Tensor
        Their values.
    metadata : mapping of str to str
        For the header.

    Raises
    ------
    OSError
        The file cannot be written, such as when the disk is full.
    ValueError
        A tensor that is not of the form that was announced.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in forms.items():
        begin, end = end, end + _bytes(dtype) * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that every number lies where the processor wants it
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, form in forms.items():
            tensor = tensors[name]
            if form_of(tensor) != form:
                raise ValueError(f"{name!r} is of {form_of(tensor)}; expected {form}, as announced")
            _write(file, tensor)


def form_of(tensor: torch.Tensor) -> Form:
    """Return dtype, as the format spells it, and shape of a tensor.

    Raises
    ------
    ValueError
        The format has no word for the dtype.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    for dtype, theirs in DTYPES.items():
        if theirs == name:
            return dtype, tuple(tensor.shape)
    raise ValueError(f"safetensors has no word for {tensor.dtype}")


def in_file_order(forms: Mapping[str, Form]) -> dict[str, Form]:
    """Return forms as their tensors are best written: wide elements first, so that all are aligned."""
    return dict(sorted(forms.items(), key=lambda item: (-_bytes(item[1][0]), item[0])))


def _write(file: IO[bytes], tensor: torch.Tensor) -> None:
    torch = require("torch", "torch")
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), _PIECE):
        file.write(memoryview(flat[start : start + _PIECE]))


def _read_header(file: IO[bytes]) -> tuple[dict[str, str], dict[str, Entry], int]:
    """Return metadata, entries and where the tensors begin, everything checked."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
        raise ValueError(f"it is no safetensors file, or is truncated ({size} bytes)")
    try:
        header = json.loads(file.read(length))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no strings")
    entries = {name: _entry(name, value) for name, value in header.items()}
    _check_cover(entries, size - 8 - length)
    return metadata, dict(sorted(entries.items(), key=lambda item: item[1].begin)), 8 + length


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"what its header says of {name!r} is broken") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r} is of dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    if not whole or end - begin != _bytes(dtype) * math.prod(shape):
        raise ValueError(f"{name!r}, {dtype} of shape {shape}, lies at bytes {begin} to {end}")
    return Entry(dtype, shape, begin, end)


def _check_cover(entries: Mapping[str, Entry], size: int) -> None:
    """Check that the tensors are all there is, without overlap."""
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise ValueError(f"{name!r} begins at byte {entry.begin}; expected {place}")
        place = entry.end
    if place != size:
        raise ValueError(f"it holds {size} bytes of tensors, and its header speaks of {place}; it may be truncated")


def _bytes(dtype: str) -> int:
    return _BYTES.get(dtype, 1)
