"""Checkpoints as the commands read them: safetensors, torch files, and folders as Hugging Face lays them out.

Tensors of safetensors files are views of the mapped file: opening one reads its header alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_fast._arrays import is_array
from rebasin_fast._checkpoint import load_torch_file
from rebasin_fast._safetensors import Form, MappedFile, form_of

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
"""Names in a Hugging Face folder: which tensor lies in which shard; the one file of a model without shards."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_FLOATS_TOO_NARROW = ("F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model as it was read.

    Attributes
    ----------
    path : Path
        File or folder.
    params : mapping of str to Tensor
        Its parameters and buffers.
    files : tuple of Path
        What they were read from: hashed for the record.
    mapped : tuple of MappedFile
        Those of `files` that are mapped.
    shards : dict of str to tuple of str
        For a folder: shards, and the names in each.
    key : str or None
        For a torch file with more in it: the entry that holds the parameters.
    left_out : tuple of str
        Its other entries.
    """

    path: Path
    params: Parameters
    files: tuple[Path, ...]
    mapped: tuple[MappedFile, ...] = ()
    shards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    key: str | None = None
    left_out: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of shards."""
        return bool(self.shards)

    def forms(self) -> dict[str, Form]:
        """Return dtype and shape of every tensor."""
        return {name: form_of(tensor) for name, tensor in self.params.items()}

    def metadata(self) -> dict[str, str]:
        """Return what the header of a safetensors file says beside the tensors."""
        return dict(self.mapped[0].metadata) if self.mapped else {}

    def companions(self) -> list[Path]:
        """Return the files beside the weights in a folder, such as configuration and tokenizer."""
        if not self.is_folder:
            return []
        beside = [path for path in sorted(self.path.iterdir()) if path.is_file() and not path.name.startswith(".")]
        return [path for path in beside if not path.name.endswith((*_WEIGHTS, ".index.json"))]


class Lazily(Mapping[str, Any]):
    """Tensors that are made when they are asked for, and kept by nobody here.

    Parameters
    ----------
    names : iterable of str
        Which there are.
    make : callable
        Name to tensor.
    """

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], Any]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Return a checkpoint; of safetensors files the headers alone are read.

    Parameters
    ----------
    path : Path
        A .safetensors file, a folder with config.json and safetensors, or a file that torch saved.
    key : str, optional
        Which entry of a torch file holds the parameters, if it holds more.

    Raises
    ------
    OSError
        A file that cannot be opened, or is missing.
    TypeError, ValueError
        A file that is broken, or holds something else: the message names it.
    ImportError
        Without torch.
    """
    if path.is_dir() or path.suffix == ".safetensors":
        if key is not None:
            raise ValueError(f"--key is {key!r}, but {path} is no torch file; expected that with torch files alone")
        return _folder(path) if path.is_dir() else _file(path)
    return _torch_file(path, key)


def _file(path: Path) -> Checkpoint:
    mapped = _readable(MappedFile(path))
    return Checkpoint(path, mapped, (path,), (mapped,))


def _folder(path: Path) -> Checkpoint:
    index = path / INDEX
    if not index.exists():
        if not (path / SINGLE).exists():
            found = ", ".join(sorted(file.name for file in path.glob("*.bin*"))) or "no weights"
            raise ValueError(
                f"{path} holds {found}; expected {SINGLE}, or shards and {INDEX} "
                "(a pickle is read only as a single file, tensors alone)"
            )
        single = _readable(MappedFile(path / SINGLE))
        return Checkpoint(path, single, (single.path,), (single,), {SINGLE: tuple(single)})
    where = _weight_map(index)
    missing = [name for name in dict.fromkeys(where.values()) if not (path / name).is_file()]
    if missing:
        raise ValueError(f"{index} names the shard {missing[0]}, which {path} does not hold")
    shards = {name: _readable(MappedFile(path / name)) for name in sorted(set(where.values()))}
    for name, shard in where.items():
        if name not in shards[shard]:
            raise ValueError(f"{index} has {name!r} in the shard {shard}, which does not hold it")
    for shard, mapped in shards.items():
        unknown = [name for name in mapped if where.get(name) != shard]
        if unknown:
            raise ValueError(f"{path / shard} holds {unknown[0]!r}, of which {index.name} does not know")
    files = (index, *(mapped.path for mapped in shards.values()))
    params = Lazily(where, lambda name: shards[where[name]][name])
    return Checkpoint(
        path, params, files, tuple(shards.values()), {name: tuple(mapped) for name, mapped in shards.items()}
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        where = content["weight_map"]
        pairs = all(isinstance(name, str) and isinstance(shard, str) for name, shard in where.items())
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} cannot be read: {type(error).__name__}: {error}") from None
    if not where or not pairs:
        raise ValueError(f"{index} cannot be read: its weight_map is no mapping of names to shards")
    for shard in set(where.values()):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{index} names the shard {shard!r}; expected a .safetensors file in the same folder")
    return dict(where)


def _readable(mapped: MappedFile) -> MappedFile:
    for name, entry in mapped.entries.items():
        if entry.dtype in _FLOATS_TOO_NARROW:
            raise ValueError(
                f"{mapped.path}: {name!r} is of dtype {entry.dtype}; expected floating-point numbers of 16 bits or more"
            )
    return mapped


def _torch_file(path: Path, key: str | None) -> Checkpoint:
    loaded = load_torch_file(path, str(path))
    if not isinstance(loaded, Mapping):
        raise TypeError(f"{path} does not hold a mapping of names to tensors, but a {type(loaded).__name__}")
    if _are_parameters(loaded):
        if key is not None:
            raise ValueError(f"--key is {key!r}, but {path} holds parameters alone; expected no --key")
        return Checkpoint(path, loaded, (path,))
    candidates = [name for name, value in loaded.items() if _are_parameters(value)]
    if key is None:
        entries = ", ".join(f"{name} ({_described(value)})" for name, value in loaded.items())
        hint = f"; expected --key with one of: {', '.join(map(str, candidates))}" if candidates else ""
        raise TypeError(f"{path} does not hold a mapping of names to tensors alone, but {entries}{hint}")
    if key not in candidates:
        raise ValueError(
            f"--key is {key!r}; expected an entry of {path} with parameters: {candidates or 'it has none'}"
        )
    return Checkpoint(path, loaded[key], (path,), key=key, left_out=tuple(str(name) for name in loaded if name != key))


def _are_parameters(value: object) -> bool:
    """Say whether something is a state dict: names to tensors, and at least one."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and is_array(tensor) for name, tensor in value.items())
    )


def _described(value: object) -> str:
    if isinstance(value, Mapping):
        tensors = sum(map(is_array, value.values()))
        return f"{tensors} tensors" if tensors == len(value) else f"mapping of {len(value)}"
    return type(value).__name__
