"""Optional dependencies, imported when first needed; without them the error names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import and return `module`, which comes with the optional dependencies ``rebasin-fast[extra]``.

    Raises
    ------
    ImportError
        When it cannot be imported, naming the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} could not be imported ({error}); install it with: pip install 'rebasin-fast[{extra}]'",
            name=module,
        ) from error
