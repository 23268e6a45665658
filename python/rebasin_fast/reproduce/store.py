"""What is finished stays: trained networks and measured cases on disk, each written whole under what determines it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rebasin_fast._arrays import Parameters
from rebasin_fast._checkpoint import load_parameters
from rebasin_fast._extras import require
from rebasin_fast._files import whole_files
from rebasin_fast._torch_file import load_torch_file
from rebasin_fast._version import __version__

_STATE_SECONDS = 60.0
"""A training that takes longer keeps its state as often, so that no more is lost when it is ended."""


class Store:
    """Networks and numbers in a folder, found again by their keys.

    A key is a mapping that JSON can write; with the version of this package it names the file. Folders are created
    when the first file is written.

    Parameters
    ----------
    folder : Path
        Networks go into ``folder/models``, numbers into ``folder/cases``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has_network(self, name: str, key: Mapping[str, Any]) -> bool:
        """Return whether the network of that key is there."""
        return self._network_file(name, key).is_file()

    def network(self, name: str, key: Mapping[str, Any]) -> Parameters:
        """Return the state dict of that key, mapped from its file; ValueError, naming the file, if it is broken."""
        return load_parameters(self._network_file(name, key), name, mapped=True)

    def keep_network(self, name: str, key: Mapping[str, Any], params: Parameters) -> None:
        """Write a state dict."""
        torch = require("torch", "torch")
        on_cpu = {param: tensor.detach().cpu() for param, tensor in params.items()}
        with whole_files([self._network_file(name, key)], overwrite=True) as (file,):
            torch.save(on_cpu, file)

    def unfinished(self, name: str, key: Mapping[str, Any]) -> Unfinished:
        """Return where the state of a training is kept as long as that lasts."""
        return Unfinished(self._folder / "models" / f"{name}-{_digest(key)}.unfinished.pt")

    def numbers(self, name: str, key: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """Return the numbers of that key: read if they are there, else measured and written.

        Raises
        ------
        ValueError
            The file is broken.
        """
        file = self._folder / "cases" / f"{name}-{_digest(key)}.json"
        if not file.is_file():
            content = json.dumps({"key": dict(key), "numbers": measure()}, indent=1) + "\n"
            with whole_files([file], overwrite=True) as (temporary,):
                temporary.write_text(content, encoding="utf-8")
        # Read also when just written, so that a run and its continuation work on the same values.
        try:
            return json.loads(file.read_text(encoding="utf-8"))["numbers"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is broken ({error}); remove it to have it measured anew") from error

    def _network_file(self, name: str, key: Mapping[str, Any]) -> Path:
        return self._folder / "models" / f"{name}-{_digest(key)}.pt"


class Unfinished:
    """The state of a training that has begun, on disk.

    Parameters
    ----------
    file : Path
        Where it is, or will be.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kept = time.monotonic()

    def load(self) -> Mapping[str, Any] | None:
        """Return what a run that was ended has left, or None; ValueError, naming the file, if it is broken."""
        if not self._file.is_file():
            return None
        state: Any = load_torch_file(self._file, str(self._file))
        return dict(state)

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state, if it is time to."""
        if time.monotonic() - self._kept < _STATE_SECONDS:
            return
        torch = require("torch", "torch")
        with whole_files([self._file], overwrite=True) as (temporary,):
            torch.save(state(), temporary)
        self._kept = time.monotonic()

    def discard(self) -> None:
        """Remove it."""
        self._file.unlink(missing_ok=True)


def _digest(key: Mapping[str, Any]) -> str:
    content = json.dumps({"version": __version__, **key}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
