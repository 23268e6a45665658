"""What a reader needs to judge a figure: processor, versions, date, command; and the JSON files that carry it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Row = TypeVar("Row")


def environment(**settings: Any) -> dict[str, Any]:
    """Return machine, versions, date and command, and the settings given."""
    return {
        "cpu": _cpu_model(),
        "logical_cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "rebasin_fast": _build(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join([f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        **settings,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _build() -> dict[str, Any] | None:
    """Return what our build says of itself, or None when it is not installed."""
    try:
        from rebasin_fast import build_info
    except ImportError:
        return None
    return dict(build_info())


def caption(about: Mapping[str, Any], versions: Mapping[str, str] | None = None) -> str:
    """Return an environment in one line, to stand under a figure or a table.

    Parameters
    ----------
    about : mapping
        What `environment` returned, maybe read from a file.
    versions : mapping, optional
        Of the peers, by name; default: those in `about`, if any.
    """
    ours = about["rebasin_fast"] or {}
    parts = [
        f"{about['cpu']}, {about['logical_cores']} logical cores, {about['system']}",
        f"rebasin_fast {ours.get('version', '?')} ({ours.get('isa', '?')}, {ours.get('compiler', '?')})",
        *(f"{name} {version}" for name, version in (versions or about.get("versions", {})).items()),
        f"Python {about['python']}, NumPy {about['numpy']}",
        about["date"],
        about["command"],
    ]
    return "; ".join(parts)


def tell(
    rows: Iterable[Row], line: Callable[[Row], str], about: Mapping[str, Any], out: Path | None = None
) -> list[Row]:
    """Print rows as they are measured, and write all so far each time: a run that is ended keeps what it measured.

    Parameters
    ----------
    rows : iterable of dataclass or dict
        Measured when they are asked for.
    line : callable
        Row to text.
    about : mapping
        What `environment` returned; told under the rows, and written with them.
    out : Path, optional
        The JSON file.

    Returns
    -------
    list
        The rows.
    """
    told: list[Row] = []
    for row in rows:
        told.append(row)
        print(line(row), flush=True)
        if out is not None:
            plain = [asdict(each) if is_dataclass(each) else each for each in told]  # type: ignore[call-overload]
            write_json(out, {"environment": about, "rows": plain})
    print(caption(about))
    return told


def named_after(folder: Path, what: str, device: str) -> Path:
    """Return the file for what was measured today on a device: ``2026-11-25-gpu-lap-nvidia-h100.json``."""
    day = datetime.now(timezone.utc).date().isoformat()
    plain = "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())
    return folder / f"{day}-{what}-{plain}.json"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
