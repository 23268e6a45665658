"""Checkpoints as the commands read them: safetensors, torch files, and folders of either as Hugging Face lays them out.

Tensors are views of the mapped files: opening one reads no numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rebasin_fast._arrays import is_array
from rebasin_fast._safetensors import Form, MappedFile, in_file_order
from rebasin_fast._torch_file import TorchFile, load_torch_file

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
"""Names in a Hugging Face folder: which tensor lies in which shard; the one file of a model without shards."""

_TORCH_INDEX, _TORCH_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
"""The same of older folders, whose shards torch saved."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_FLOATS_TOO_NARROW = ("F8_E4M3", "F8_E5M2")

_Held = TypeVar("_Held", MappedFile, TorchFile)


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
    mapped : tuple of MappedFile or TorchFile
        Those of `files` that hold tensors.
    shards : dict of str to tuple of str
        For a folder: shards, as they are called when it is written (as safetensors), and the names in each.
    index : Path or None
        For a folder: the file that says which tensor lies in which shard, if there is one.
    key : str or None
        For a torch file with more in it: the entry that holds the parameters.
    left_out : tuple of str
        Its other entries.
    """

    path: Path
    params: Parameters
    files: tuple[Path, ...]
    mapped: tuple[MappedFile | TorchFile, ...]
    shards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    index: Path | None = None
    key: str | None = None
    left_out: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of shards."""
        return bool(self.shards)

    def forms(self) -> dict[str, Form]:
        """Return dtype and shape of every tensor, in the order in which they are best written as safetensors."""
        found = {name: file.form(name) for file in self.mapped for name in file}
        as_read = {name: found[name] for name in self.params}
        return as_read if isinstance(self.mapped[0], MappedFile) else in_file_order(as_read)

    def metadata(self) -> dict[str, str]:
        """Return what the header of a safetensors file says beside the tensors."""
        first = self.mapped[0]
        return dict(first.metadata) if isinstance(first, MappedFile) else {}

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
    """Return a checkpoint; of its files no more is read than what says where the tensors lie.

    Parameters
    ----------
    path : Path
        A .safetensors file, a file that torch saved, or a folder with one or shards of either, and config.json.
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
    for index in (path / INDEX, path / _TORCH_INDEX):
        if index.exists():
            return _sharded(path, index)
        single = path / (SINGLE if index.name == INDEX else _TORCH_SINGLE)
        if single.exists():
            held = _shard(single)
            return Checkpoint(path, held, (single,), (held,), {SINGLE: tuple(held)})
    raise ValueError(
        f"{path} holds no weights; expected {SINGLE}, or shards and {INDEX}, or {_TORCH_SINGLE}, or shards and "
        f"{_TORCH_INDEX}"
    )


def _sharded(path: Path, index: Path) -> Checkpoint:
    where = _weight_map(index)
    missing = [name for name in dict.fromkeys(where.values()) if not (path / name).is_file()]
    if missing:
        raise ValueError(f"{index} names the shard {missing[0]}, which {path} does not hold")
    shards = {name: _shard(path / name) for name in sorted(set(where.values()))}
    for name, shard in where.items():
        if name not in shards[shard]:
            raise ValueError(f"{index} has {name!r} in the shard {shard}, which does not hold it")
    for shard, held in shards.items():
        unknown = [name for name in held if where.get(name) != shard]
        if unknown:
            raise ValueError(f"{path / shard} holds {unknown[0]!r}, of which {index.name} does not know")
    files = (index, *(held.path for held in shards.values()))
    params = Lazily(where, lambda name: shards[where[name]][name])
    names = _written_as(shards)
    return Checkpoint(
        path, params, files, tuple(shards.values()), {names[name]: tuple(held) for name, held in shards.items()}, index
    )


def _shard(path: Path) -> MappedFile | TorchFile:
    if path.suffix == ".safetensors":
        return _readable(MappedFile(path))
    loaded: Any = load_torch_file(path, str(path), mapped=True)
    if not _are_parameters(loaded):
        raise TypeError(f"{path} does not hold a mapping of names to tensors alone")
    return _readable(TorchFile(path, loaded=loaded))


def _written_as(shards: Iterable[str]) -> dict[str, str]:
    """Return what shards are called as safetensors: as transformers calls them, where the names stay apart."""
    plain = {name: str(Path(name).with_suffix(".safetensors")) for name in shards}
    usual = {name: new.replace("pytorch_model", "model", 1) for name, new in plain.items()}
    return usual if len(set(usual.values())) == len(usual) else plain


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        where = content["weight_map"]
        pairs = all(isinstance(name, str) and isinstance(shard, str) for name, shard in where.items())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} cannot be read: {type(error).__name__}: {error}") from None
    if not where or not pairs:
        raise ValueError(f"{index} cannot be read: its weight_map is no mapping of names to shards")
    suffix = ".safetensors" if index.name == INDEX else ".bin"
    for shard in set(where.values()):
        if Path(shard).name != shard or Path(shard).suffix != suffix:
            raise ValueError(f"{index} names the shard {shard!r}; expected a {suffix} file in the same folder")
    return dict(where)


def _readable(held: _Held) -> _Held:
    for name in held:
        dtype = held.form(name)[0]
        if dtype in _FLOATS_TOO_NARROW:
            raise ValueError(
                f"{held.path}: {name!r} is of dtype {dtype}; expected floating-point numbers of 16 bits or more"
            )
    return held


def _torch_file(path: Path, key: str | None) -> Checkpoint:
    loaded = load_torch_file(path, str(path), mapped=True)
    if not isinstance(loaded, Mapping):
        raise TypeError(f"{path} does not hold a mapping of names to tensors, but a {type(loaded).__name__}")
    if _are_parameters(loaded):
        if key is not None:
            raise ValueError(f"--key is {key!r}, but {path} holds parameters alone; expected no --key")
        return _of_torch(TorchFile(path, loaded=loaded))
    candidates = [name for name, value in loaded.items() if _are_parameters(value)]
    if key is None:
        entries = ", ".join(f"{name} ({_described(value)})" for name, value in loaded.items()) or "nothing"
        hint = f"; expected --key with one of: {', '.join(map(str, candidates))}" if candidates else ""
        raise TypeError(f"{path} does not hold a mapping of names to tensors alone, but {entries}{hint}")
    if key not in candidates:
        raise ValueError(
            f"--key is {key!r}; expected an entry of {path} with parameters: {candidates or 'it has none'}"
        )
    left_out = tuple(str(name) for name in loaded if name != key)
    return replace(_of_torch(TorchFile(path, key, loaded[key])), key=key, left_out=left_out)


def _of_torch(file: TorchFile) -> Checkpoint:
    return Checkpoint(file.path, _readable(file), (file.path,), (file,))


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
