from typing import Any

import numpy as np
import numpy.typing as npt

COMPILER: str

def active_isa() -> str: ...
def available_isas() -> list[str]: ...
def force_isa(name: str) -> bool: ...
def assign(
    cost: npt.NDArray[Any], maximize: bool, ask_small: bool = True
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
def assign_directly(
    cost: object, maximize: object, /
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None: ...
def solve(
    cost: npt.NDArray[Any],
    maximize: bool,
    method: str,
    threads: int,
    max_gap: float,
    duals: npt.NDArray[np.float64] | None,
) -> dict[str, Any]: ...
def solve_batch(
    costs: npt.NDArray[Any] | list[npt.NDArray[Any]], maximize: bool, with_duals: bool, threads: int
) -> dict[str, npt.NDArray[np.int64]]: ...
def solve_factored(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    maximize: bool,
    threads: int,
    max_gap: float,
    duals: npt.NDArray[np.float64] | None,
) -> dict[str, Any]: ...
def prove(
    cost: npt.NDArray[Any],
    maximize: bool,
    row_ind: npt.NDArray[np.int64],
    col_ind: npt.NDArray[np.int64],
    row_duals: npt.NDArray[np.float64],
    col_duals: npt.NDArray[np.float64],
) -> tuple[float, float]: ...
def prove_exact(
    cost: npt.NDArray[Any],
    maximize: bool,
    row_ind: npt.NDArray[np.int64],
    col_ind: npt.NDArray[np.int64],
    row_duals: npt.NDArray[np.int64],
    col_duals: npt.NDArray[np.int64],
) -> tuple[float, float]: ...
