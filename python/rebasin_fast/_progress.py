"""How long work reports: the one callback type of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; a `total` of 0 means that it is not known beforehand."""
