"""``rebasin-fast info``."""

import os
import platform
from importlib import metadata
from typing import Annotated, Any

from typer import Option, Typer

from rebasin_fast.cli._common import expected_errors, print_json
from rebasin_fast.cli._options import Quiet

_PACKAGES = ("numpy", "torch", "safetensors", "typer", "rich")

_EXAMPLES = "[bold]Examples[/bold]\n\nrebasin-fast info\n\nrebasin-fast info --json > environment.json\n"


def add_to(app: Typer) -> None:
    """Register the command."""
    app.command(epilog=_EXAMPLES)(info)


def info(
    quiet: Quiet = False,
    as_json: Annotated[bool, Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Show versions, how the extension was built, the instruction set in use, and CUDA devices."""
    with expected_errors():
        found = _facts()
        if as_json:
            print_json(found)
        else:
            _show(found)


def _facts() -> dict[str, Any]:
    from rebasin_fast import build_info, cuda

    return {
        "rebasin-fast": _version("rebasin-fast"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "CPUs": os.cpu_count(),
        **{package: _version(package) for package in _PACKAGES},
        "build": dict(build_info()),
        "cuda": {"available": cuda.is_available(), "devices": cuda.devices(), "reason": cuda.why_unavailable()},
    }


def _show(found: dict[str, Any]) -> None:
    rows: dict[str, str] = {}
    for name, value in found.items():
        nested = value if isinstance(value, dict) else {}
        rows |= {f"{name}: {key}": _text(entry) for key, entry in nested.items()} or {name: _text(value)}
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "not installed" if value is None else str(value)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
