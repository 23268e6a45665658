from collections.abc import Sequence
from typing import Any

RUNTIME_VERSION: int

def device_query() -> tuple[list[dict[str, Any]], str]: ...
def gather_panel(
    source: int,
    dtype: str,
    strides: Sequence[int],
    indices: Sequence[int | None],
    before: tuple[int, int] | None,
    panel: int,
    panel_dtype: str,
    shape: Sequence[int],
    device: int,
    stream: int,
) -> None: ...
