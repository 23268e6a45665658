"""Exact linear assignment, and on top of it the merging of neural networks modulo permutation symmetries."""

from rebasin_fast import cuda
from rebasin_fast.lap import (
    Assignment,
    AssignmentStats,
    Verification,
    build_info,
    linear_sum_assignment,
    solve_assignment,
    verify_assignment,
)
from rebasin_fast.scipy_patch import scipy_patched

__version__ = "0.1.0"

__all__ = [
    "Assignment",
    "AssignmentStats",
    "Verification",
    "build_info",
    "cuda",
    "linear_sum_assignment",
    "scipy_patched",
    "solve_assignment",
    "verify_assignment",
]
