"""The GPU side: whether it was built, and which devices it sees."""

from __future__ import annotations

import importlib.util
from typing import Any


def is_built() -> bool:
    """Say whether this installation contains the CUDA extension (a build that found nvcc)."""
    return importlib.util.find_spec("rebasin_fast._cuda") is not None


def is_available() -> bool:
    """Say whether the CUDA extension is there and sees a device.

    Never raises: without the extension, a driver or a device the answer is False.

    Examples
    --------
    >>> from rebasin_fast import cuda
    >>> isinstance(cuda.is_available(), bool)
    True
    """
    return bool(devices())


def devices() -> list[dict[str, Any]]:
    """List the CUDA devices this process can use.

    Returns
    -------
    list of dict
        ``name``, ``compute_capability`` (major, minor), ``memory_bytes``, ``multiprocessors``; empty without the
        extension, a driver or a device.
    """
    return _query()[0]


def why_unavailable() -> str | None:
    """Tell in one sentence why there is no device, or None when there is one."""
    return _query()[1] or None


_known_usable = False


def why_unusable() -> str | None:
    """Tell why the extension cannot work here, or None; once there is a device no driver is asked again."""
    global _known_usable
    reason = None if _known_usable else why_unavailable()
    _known_usable = reason is None
    return reason


def _query() -> tuple[list[dict[str, Any]], str]:
    if not is_built():
        return [], "rebasin_fast was built without CUDA (no nvcc was found, or REBASIN_FAST_CUDA is OFF)"
    from rebasin_fast import _cuda

    return _cuda.device_query()
