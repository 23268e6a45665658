"""Models and permutations as files: what is written says how it was made, and is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_fast._extras import require
from rebasin_fast._files import check_folder_writable, check_regular, check_writable, told_as, whole_files, whole_folder
from rebasin_fast._safetensors import form_of, write_tensors
from rebasin_fast._version import __version__
from rebasin_fast.cli._checkpoints import INDEX, open_checkpoint

if TYPE_CHECKING:
    from rebasin_fast._arrays import IndexArray, Parameters
    from rebasin_fast._progress import Progress
    from rebasin_fast.cli._checkpoints import Checkpoint
    from rebasin_fast.permute import Permutation
    from rebasin_fast.spec import PermutationSpec

_RECORD, _SPEC = "rebasin_fast", "rebasin_fast.spec"
"""Keys in the metadata of a safetensors file: how it was made, and, for a permutation, of which spec it is."""

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def model_kind(out: Path, like: Path) -> str:
    """Return what writing a model to `out` makes: "folder", "safetensors" or "torch".

    The suffix decides; without one of those known, the model is written as the one it was made from.
    """
    suffix = out.suffix.lower()
    if suffix == ".safetensors":
        return "safetensors"
    if suffix in _TORCH_SUFFIXES:
        return "torch"
    return "folder" if like.is_dir() else "safetensors" if like.suffix == ".safetensors" else "torch"


def check_model_output(out: Path, like: Path, inputs: Sequence[Path], *, force: bool) -> None:
    """Check, before any work, that a model can be written to `out`, and that no input is touched by it."""
    _check_apart(out, inputs)
    if model_kind(out, like) == "folder":
        check_folder_writable(out, overwrite=force)
    else:
        check_outputs(_targets(out, like), inputs, force=force)


def check_outputs(targets: Sequence[Path], inputs: Sequence[Path], *, force: bool) -> None:
    """Check, before any work, that all of `targets` can be written and that none of them is an input."""
    for target in targets:
        _check_apart(target, inputs)
    check_writable(targets, overwrite=force)


def record(
    command: str, inputs: Sequence[Path], options: Mapping[str, Any], progress: Progress | None = None
) -> dict[str, Any]:
    """Return how a file was made: command, version, options, and the inputs with the SHA-256 of their bytes."""
    found = []
    for done, path in enumerate(inputs, start=1):
        found.append({"file": path.name, **_digests(path)})
        if progress is not None:
            progress("hash inputs", done, len(inputs))
    return {"command": command, "version": __version__, "options": dict(options), "inputs": found}


def write_model(params: Parameters, out: Path, like: Checkpoint, made: Mapping[str, Any], *, force: bool) -> None:
    """Write a state dict as `model_kind` says, tensor by tensor where the format allows it."""
    kind = model_kind(out, like.path)
    if kind == "folder":
        _write_folder(params, out, like, made, force=force)
        return
    with whole_files(_targets(out, like.path), overwrite=force) as temporary:
        if kind == "safetensors":
            metadata = _metadata(like, made)
            _write_tensors(temporary[0], like.forms(), params, metadata, out)
            return
        _save(dict(params) if like.key is None else {like.key: dict(params)}, temporary[0], out)
        temporary[1].write_text(json.dumps(made) + "\n", encoding="utf-8")


def write_permutation(
    permutation: Permutation, spec: PermutationSpec, out: Path, made: Mapping[str, Any], *, force: bool
) -> None:
    """Write a permutation, an int64 array for each group, and the spec it is one of."""
    from rebasin_fast.spec_file import to_json

    torch = require("torch", "torch")
    tensors = {group: torch.as_tensor(index) for group, index in permutation.items()}
    forms = {group: form_of(tensor) for group, tensor in tensors.items()}
    with whole_files([out], overwrite=force) as (temporary,):
        _write_tensors(temporary, forms, tensors, {_RECORD: json.dumps(made), _SPEC: to_json(spec)}, out)


def read_permutation(path: Path) -> tuple[dict[str, IndexArray], PermutationSpec]:
    """Return a permutation and its spec as `write_permutation` wrote them."""
    from rebasin_fast.spec_file import from_json

    check_regular(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} ends in {path.suffix!r}; expected a .safetensors file that `rebasin-fast match` wrote"
        )
    held = open_checkpoint(path)
    text = held.metadata().get(_SPEC)
    if text is None:
        raise ValueError(f"{path} holds no specification; expected a file that `rebasin-fast match` wrote")
    return {group: tensor.numpy() for group, tensor in held.params.items()}, from_json(
        text, f"the specification in {path}"
    )


def _write_folder(params: Parameters, out: Path, like: Checkpoint, made: Mapping[str, Any], *, force: bool) -> None:
    """Write shards, index and what lies beside them as in the folder the model was made from."""
    forms, metadata = like.forms(), _metadata(like, made)
    with whole_folder(out, overwrite=force) as folder:
        for shard, names in like.shards.items():
            held = {name: form for name, form in forms.items() if name in names}
            _write_tensors(folder / shard, held, params, metadata, out)
        if like.index is not None:
            content = json.loads(like.index.read_text(encoding="utf-8"))
            content["metadata"] = {**(content.get("metadata") or {}), _RECORD: dict(made)}
            shard_of = {name: shard for shard, names in like.shards.items() for name in names}
            content["weight_map"] = {name: shard_of[name] for name in content["weight_map"]}
            (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for path in like.companions():
            shutil.copyfile(path, folder / path.name)


def _write_tensors(path: Path, forms: Any, params: Parameters, metadata: Mapping[str, str], out: Path) -> None:
    with told_as(out):
        write_tensors(path, forms, params, metadata)


def _save(content: Mapping[str, Any], path: Path, out: Path) -> None:
    torch = require("torch", "torch")
    try:
        with told_as(out), path.open("wb") as file:  # the name itself torch refuses where nothing is before its dot
            torch.save(content, file)
    except RuntimeError as error:  # what torch makes of a disk that is full
        raise OSError(f"{out} cannot be written: {str(error).partition(chr(10))[0]}") from error


def _metadata(like: Checkpoint, made: Mapping[str, Any]) -> dict[str, str]:
    return (like.metadata() or {"format": "pt"}) | {_RECORD: json.dumps(made)}


def _targets(out: Path, like: Path) -> list[Path]:
    """Return the files that writing a model to a file makes: torch files have no room for a record of their own."""
    return [out, out.with_name(f"{out.name}.json")] if model_kind(out, like) == "torch" else [out]


def _check_apart(target: Path, inputs: Sequence[Path]) -> None:
    for path in inputs:
        if target.exists() and path.exists() and target.samefile(path):
            raise ValueError(f"{target} is an input; expected another file to write")
        place, source = Path(os.path.realpath(target)), Path(os.path.realpath(path))  # also of links that go in circles
        if (path.is_dir() and source in place.parents) or place in source.parents:
            raise ValueError(f"{target} and the input {path} lie one within the other; expected another place to write")


def _digests(path: Path) -> dict[str, Any]:
    """Return the SHA-256 of a file, or of all files of a model's folder that are read."""
    if not path.is_dir():
        return {"sha256": _sha256(path)}
    checkpoint = open_checkpoint(path)
    files = [*checkpoint.files, *(file for file in checkpoint.companions() if file.name == "config.json")]
    return {"sha256": {file.name: _sha256(file) for file in files}}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
