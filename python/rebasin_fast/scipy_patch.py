"""Swap SciPy's solver for ours inside code that cannot be edited."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rebasin_fast.lap import linear_sum_assignment

_lock = threading.Lock()
_depth = 0
_original: Any = None


def _stand_in(cost_matrix: Any, maximize: bool = False) -> Any:
    """Stand in for SciPy's function; an object of its own, so that it alone is put back."""
    return linear_sum_assignment(cost_matrix, maximize)


@contextmanager
def scipy_patched() -> Iterator[None]:
    """Make ``scipy.optimize.linear_sum_assignment`` ours while the context lasts.

    Replaces the function in SciPy and under whatever name a loaded module has imported it, and puts all of them
    back in the end, also in modules first imported inside the context. Contexts nest, and may be entered from
    several threads; the last to leave restores. The swap is seen by the whole process. References kept in closures,
    default arguments or containers are out of reach.

    Raises
    ------
    ImportError
        If SciPy is not installed.

    Examples
    --------
    >>> import numpy as np, scipy.optimize
    >>> from rebasin_fast import scipy_patched
    >>> with scipy_patched():
    ...     row_ind, col_ind = scipy.optimize.linear_sum_assignment(np.eye(3), maximize=True)
    >>> col_ind
    array([0, 1, 2])
    """
    global _depth, _original
    try:
        import scipy.optimize
    except ImportError as error:
        raise ImportError("scipy_patched() needs SciPy: pip install scipy") from error
    with _lock:
        if _depth == 0:
            _original = scipy.optimize.linear_sum_assignment
            _replace(_original, _stand_in)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _replace(_stand_in, _original)


def _replace(old: Any, new: Any) -> None:
    for module in list(sys.modules.values()):
        namespace = getattr(module, "__dict__", None)
        if not isinstance(namespace, dict) or namespace is globals():
            continue
        for name in [name for name, value in list(namespace.items()) if value is old]:
            namespace[name] = new
