"""Models and permutations as files: what is written says how it was made, and is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_fast._extras import require
from rebasin_fast._files import check_writable, whole_files
from rebasin_fast._version import __version__

if TYPE_CHECKING:
    from rebasin_fast._arrays import IndexArray, Parameters
    from rebasin_fast.permute import Permutation
    from rebasin_fast.spec import PermutationSpec

_RECORD, _SPEC = "rebasin_fast", "rebasin_fast.spec"
"""Keys in the metadata of a safetensors file: how it was made, and, for a permutation, of which spec it is."""

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def outputs(out: Path, like: Path) -> list[Path]:
    """Return the files that writing a model to `out` makes: torch files have no room for a record of their own."""
    return [out] if _is_safetensors(out, like) else [out, out.with_name(f"{out.name}.json")]


def check_outputs(targets: Sequence[Path], inputs: Sequence[Path], *, force: bool) -> None:
    """Check, before any work, that all of `targets` can be written and that none of them is an input."""
    for target in targets:
        for path in inputs:
            if target.exists() and path.exists() and target.samefile(path):
                raise ValueError(f"{target} is an input; expected another file to write")
    check_writable(targets, overwrite=force)


def record(command: str, inputs: Sequence[Path], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a file was made: command, version, options, and the inputs with the SHA-256 of their bytes."""
    return {
        "command": command,
        "version": __version__,
        "options": dict(options),
        "inputs": [{"file": path.name, "sha256": _sha256(path)} for path in inputs],
    }


def write_model(params: Parameters, out: Path, like: Path, made: Mapping[str, Any], *, force: bool) -> None:
    """Write a state dict in the format that the name of `out` says, else in that of the file `like`."""
    targets = outputs(out, like)
    text = json.dumps(made)
    with whole_files(targets, overwrite=force) as temporary:
        if _is_safetensors(out, like):
            _save_safetensors(_untied(params), temporary[0], _metadata(like) | {_RECORD: text}, out)
            return
        torch = require("torch", "torch")
        try:
            torch.save(dict(params), temporary[0])
        except RuntimeError as error:  # its own kind for a disk that is full
            raise OSError(f"{out} cannot be written: {error}") from error
        temporary[1].write_text(text + "\n", encoding="utf-8")


def write_permutation(
    permutation: Permutation, spec: PermutationSpec, out: Path, made: Mapping[str, Any], *, force: bool
) -> None:
    """Write a permutation, an int64 array for each group, and the spec it is one of."""
    from rebasin_fast.spec_file import to_json

    torch = require("torch", "torch")
    tensors = {group: torch.as_tensor(index) for group, index in permutation.items()}
    with whole_files([out], overwrite=force) as (temporary,):
        _save_safetensors(tensors, temporary, {_RECORD: json.dumps(made), _SPEC: to_json(spec)}, out)


def read_permutation(path: Path) -> tuple[dict[str, IndexArray], PermutationSpec]:
    """Return a permutation and its spec as `write_permutation` wrote them."""
    from rebasin_fast._checkpoint import load_parameters
    from rebasin_fast.spec_file import from_json

    with path.open("rb"):
        pass
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} ends in {path.suffix!r}; expected a .safetensors file that `rebasin-fast match` wrote"
        )
    tensors = load_parameters(path, "the permutation")
    text = _metadata(path).get(_SPEC)
    if text is None:
        raise ValueError(f"{path} holds no specification; expected a file that `rebasin-fast match` wrote")
    return {group: tensor.numpy() for group, tensor in tensors.items()}, from_json(text, f"the specification in {path}")


def _is_safetensors(out: Path, like: Path) -> bool:
    suffix = out.suffix.lower()
    return suffix == ".safetensors" or (suffix not in _TORCH_SUFFIXES and like.suffix == ".safetensors")


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {"format": "pt"}
    with require("safetensors", "demo").safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {"format": "pt"})


def _save_safetensors(tensors: Mapping[str, Any], path: Path, metadata: dict[str, str], out: Path) -> None:
    failure = require("safetensors", "demo").SafetensorError
    try:
        require("safetensors.torch", "demo").save_file(dict(tensors), path, metadata=metadata)
    except failure as error:  # its own kind for a disk that is full
        raise OSError(f"{out} cannot be written: {error}") from error


def _untied(params: Parameters) -> dict[str, Any]:
    """Return tensors that share no memory, which the format has no word for."""
    seen: set[int] = set()
    apart: dict[str, Any] = {}
    for name, tensor in params.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone().contiguous() if place in seen else tensor.contiguous()
        seen.add(place)
    return apart


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
