"""Solving again after a few rows have changed: the time from the previous duals over the time from nothing.

Usage:
    python bench/warm_start.py [--sizes 4096] [--families uniform,lowrank64] [--changed 0.01] [--json OUT]

One matrix is solved; then a share of its rows, at random, is replaced by rows of another instance of the family, and
the new matrix is solved with `solve_assignment(cost)` and with `solve_assignment(cost, duals=previous.col_duals)`, by
turns. Both answers are proved optimal from their duals first: a wrong one stops the program. Figures are medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from arguments import add_json, families, positive_int, positive_ints, positive_number
from checking import objective, reference_from, why_wrong
from environment import environment, tell
from families import DTYPES, FAMILIES, Cost, make

WARM_FAMILIES = ("uniform", "unrelated", "lowrank16", "lowrank64", "euclidean", "int10n", "planted64")

Answer = Any
"""A `rebasin_fast.Assignment`."""


@dataclass(frozen=True)
class Row:
    """One line of the table; times in seconds."""

    family: str
    n: int
    dtype: str
    changed_rows: int
    cold_samples: list[float]
    warm_samples: list[float]

    @property
    def ratio(self) -> float:
        """Return the warm time over the cold one."""
        return median(self.warm_samples) / median(self.cold_samples)


def changed(cost: Cost, other: Cost, share: float, rng: np.random.Generator) -> tuple[Cost, int]:
    """Return a copy of `cost` with a share of its rows, one at least, taken from `other`; and how many."""
    count = max(1, round(share * len(cost)))
    rows = rng.choice(len(cost), count, replace=False)
    mixed = cost.copy()
    mixed[rows] = other[rows]
    return mixed, count


def check(cost: Cost, cold: Answer, warm: Answer, integral: bool) -> None:
    """Raise RuntimeError unless both answers are the optimum."""
    reference = reference_from(cost, cold.row_ind, cold.col_ind, (cold.row_duals, cold.col_duals), integral)
    if reference is None:
        raise RuntimeError("the answer without a start is not proved by its duals")
    if reason := why_wrong(objective(cost, warm.row_ind, warm.col_ind), reference):
        raise RuntimeError(f"the answer from the previous duals is wrong: {reason}")
    if reference_from(cost, warm.row_ind, warm.col_ind, (warm.row_duals, warm.col_duals), integral) is None:
        raise RuntimeError("the answer from the previous duals is not proved by its own")


def seconds(call: Callable[[], Answer]) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(family: str, n: int, dtype: str, share: float, repeats: int, seed: int = 0) -> Row:
    """Return one line of the table, the answers checked first."""
    from rebasin_fast import solve_assignment

    before, other = (make(family, n, dtype, k) for k in (seed, seed + 1))
    duals = solve_assignment(before).col_duals
    cost, count = changed(before, other, share, np.random.default_rng(seed))
    del before, other
    check(cost, solve_assignment(cost), solve_assignment(cost, duals=duals), FAMILIES[family].integral)
    cold, warm = [], []
    for _ in range(repeats):
        cold.append(seconds(lambda: solve_assignment(cost)))
        warm.append(seconds(lambda: solve_assignment(cost, duals=duals)))
    return Row(family, n, dtype, count, cold, warm)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", type=positive_ints, default=[4096], help="comma separated n (default: 4096)")
    add("--families", type=families, default=list(WARM_FAMILIES), help="comma separated")
    add("--dtype", choices=DTYPES, default="float32")
    add("--changed", type=positive_number, default=0.01, help="share of the rows that change (default: 0.01)")
    add("--repeats", type=positive_int, default=5, help="samples, of which the median counts (default: 5)")
    add_json(parser)
    options = parser.parse_args(arguments)
    if options.changed > 1.0:
        parser.error(f"--changed is {options.changed:g}; expected a share of the rows, at most 1")
    return options


def line(row: Row) -> str:
    """Return a row as text."""
    times = (1e3 * median(samples) for samples in (row.cold_samples, row.warm_samples))
    cells = "".join(f" {value:10.2f}" for value in times)
    return f"{row.family:10} {row.n:6} {row.changed_rows:12}{cells}  {row.ratio:.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = parse(arguments)
    about = environment(repeats=options.repeats)
    print(f"{'family':10} {'n':>6} {'changed rows':>12} {'cold ms':>10} {'warm ms':>10}  warm / cold")
    cases = product(options.families, options.sizes)
    rows = (measure(family, n, options.dtype, options.changed, options.repeats) for family, n in cases)
    tell(rows, line, about, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
