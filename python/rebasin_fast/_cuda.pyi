from collections.abc import Sequence
from typing import Any

RUNTIME_VERSION: int

_Given = tuple[int, str, tuple[int, ...], tuple[int, ...]]

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
def solve(
    costs: _Given, maximize: bool, col_duals: int, answer: Sequence[int], device: int, stream: int
) -> dict[str, Any]: ...
def solve_factored(
    a: _Given, b: _Given, maximize: bool, col_duals: int, answer: Sequence[int], device: int, stream: int
) -> dict[str, Any]: ...
def largest_magnitude(numbers: _Given, device: int, stream: int) -> float: ...
def solve_stack(costs: _Given, maximize: bool, answers: Sequence[int], device: int, stream: int) -> None: ...
def solve_list(
    costs: Sequence[_Given], maximize: bool, answers: Sequence[Sequence[int]], device: int, stream: int
) -> None: ...
