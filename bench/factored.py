"""Assignment over inner products, against making their matrix: seconds, and memory beyond the factors.

    python bench/factored.py
    python bench/factored.py --sizes 2000x64,50000x64 --threads 1,2

Each solve runs in a process of its own, for its peak memory. Where the matrix is made too, the costs of all answers
are compared before anything is reported. Two kinds of vectors: unrelated Gaussian ones, and one set of them twice, the
second shuffled and with noise of three times their own size.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

Factor = npt.NDArray[np.float32]

_MATRIX_UP_TO = 20_000
_SCIPY_UP_TO = 2_000
_NOISE = np.float32(3.0)


def factors(kind: str, n: int, d: int) -> tuple[Factor, Factor]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, n, d), dtype=np.float32)
    return (a, b) if kind == "gaussian" else (a, (a + _NOISE * b)[rng.permutation(n)])


def solve(solver: str, a: Factor, b: Factor, threads: int) -> float:
    from rebasin_fast import solve_assignment, solve_assignment_factored

    if solver == "factored":
        return float(solve_assignment_factored(a, b, maximize=True, threads=threads).cost)
    matrix = a @ b.T
    if solver == "matrix":
        found = solve_assignment(matrix, maximize=True, threads=threads)
        rows, cols = found.row_ind, found.col_ind
    else:
        from scipy.optimize import linear_sum_assignment

        rows, cols = linear_sum_assignment(matrix, maximize=True)
    return math.fsum(np.einsum("ik,ik->i", a[rows].astype(float), b[cols].astype(float)))


def peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measured(solver: str, kind: str, n: int, d: int, threads: int, rounds: int) -> tuple[float, float, int]:
    """Return the cost, the fastest of the rounds in seconds, and peak memory beyond what came before, in bytes."""
    a, b = factors(kind, n, d)
    solve(solver, a[:100], b[:100], threads)  # loads what is needed
    before, best, cost = peak(), math.inf, math.nan
    for _ in range(rounds):
        start = time.perf_counter()
        cost = solve(solver, a, b, threads)
        best = min(best, time.perf_counter() - start)
    return cost, best, peak() - before


def apart(*call: Any) -> tuple[float, float, int]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, call)


def compare(kind: str, n: int, d: int, threads: list[int], rounds: int) -> None:
    runs = [("factored", count) for count in threads]
    if n <= _MATRIX_UP_TO:
        runs += [("matrix", count) for count in threads]
    if n <= _SCIPY_UP_TO:
        runs.append(("scipy", 1))
    found = {run: apart(run[0], kind, n, d, run[1], rounds) for run in runs}
    want = found[runs[0]][0]
    for (solver, _), (cost, _, _) in found.items():
        # The matrix is rounded to float32 where it is made.
        if not math.isclose(cost, want, rel_tol=1e-12 if solver == "factored" else 1e-6):
            raise AssertionError(f"{kind} {n}x{d}: {solver} finds {cost}, factored {want}")
    for (solver, count), (_, seconds, memory) in found.items():
        line = f"{kind:9} {n:6} {d:4} {solver:9} {count:2} threads {seconds:9.3f} s {memory / 2**20:9.1f} MiB"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2000x16,2000x64,8000x16,8000x64", help="comma-separated n x d")
    parser.add_argument("--kinds", default="gaussian,planted")
    parser.add_argument("--threads", default="1", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    threads = [int(count) for count in options.threads.split(",")]
    for size in options.sizes.split(","):
        n, d = (int(number) for number in size.split("x"))
        for kind in options.kinds.split(","):
            compare(kind, n, d, threads, options.rounds)


if __name__ == "__main__":
    main()
