"""pytest-benchmark suite: our solver and SciPy in one process, each answer proved optimal before it is timed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from scipy.optimize import linear_sum_assignment

from checking import Reference, objective, reference_from, why_invalid, why_wrong
from families import FAMILIES, make
from peers import Cost, Solver


@lru_cache(maxsize=1)
def instance(family: str, n: int, dtype: str, seed: int) -> tuple[Cost, Reference]:
    """Return a matrix and its optimum by SciPy; kept while the solvers take their turns on it."""
    cost = make(family, n, dtype, seed)
    cost.flags.writeable = False
    reference = reference_from(cost, *linear_sum_assignment(cost), None, FAMILIES[family].integral)
    assert reference is not None
    return cost, reference


def test_solve(benchmark: Any, request: pytest.FixtureRequest, family: str, n: int, solver: Solver) -> None:
    option = request.config.getoption
    if option("--lap-dtype").startswith("int") and not FAMILIES[family].integral:
        pytest.skip(f"the costs of family {family!r} are not integers")
    try:
        solve = solver.load(option("--lap-threads"))
    except ImportError as error:
        pytest.skip(f"{solver.name} is not installed here: {error}")
    cost, reference = instance(family, n, option("--lap-dtype"), option("--lap-seed"))
    rows, cols = solve(cost)
    assert why_invalid(cost.shape, rows, cols) is None
    assert why_wrong(objective(cost, rows, cols), reference) is None
    benchmark.group = f"{family} n={n}"
    benchmark.extra_info |= {"shape": cost.shape, "dtype": cost.dtype.name, "objective": reference.value}
    benchmark(solve, cost)
