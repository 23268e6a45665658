"""What one call costs on small matrices: ours and the peers, microseconds per call, everything included.

Usage:
    python bench/small_calls.py [--sizes 4,8,16] [--families uniform,ties] [--dtypes float64] [--again] [--json OUT]

All solvers share one process and take turns, a short burst of calls each, so that a noisy moment hits all of them; a
figure is the median over the bursts. A burst goes through different matrices, one call each. With --again it is the
same matrix over and over, which no program does, but many timings: processors then learn by heart which way every
branch of the search goes, and code with many of them gains up to threefold. Every answer is checked first: a wrong one
stops the program. The last column is the best peer's time divided by ours. Exit status 1 if it is below 1 anywhere.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from statistics import mean, median

import numpy as np

from arguments import add_json, families, names, positive_int, positive_ints
from checking import objective, slack_for, why_invalid
from environment import caption, environment, write_json
from families import FAMILIES, make
from peers import PEERS_DIR, REQUIREMENTS, SOLVERS, Cost, Solve, use_peer_folder, versions_in

NAMES = ("rebasin_fast", "scipy", "lap", "lapx.lapjvs", "lapx.lapjvr", "lapx.lapjvh", "lapjv")
SIZES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 200, 256, 384, 512)
DTYPES = ("float32", "float64", "int64")
SMALL_FAMILIES = ("uniform", "int100", "ties", "constant", "planted")

BURST_SECONDS = 100e-6
ROWS_OF_A_FAMILY = 4096
"""Rows of all matrices of one line of the table together: many small ones, a few large ones."""


def load(name: str, peers_dir: Path) -> Solve | None:
    """Return a solver, or None where its package is not installed.

    lap and lapx share an import name; each is forgotten once a tiny solve has made it import all it needs.
    """
    solver = SOLVERS[name]
    path = list(sys.path)
    use_peer_folder(solver.package, peers_dir)
    try:
        solve = solver.load(1)
        for dtype in DTYPES:
            solve(np.eye(3, dtype=dtype))
        return solve
    except ImportError:
        return None
    finally:
        sys.path[:] = path
        if solver.package in REQUIREMENTS:
            for module in [key for key in sys.modules if key.partition(".")[0] == "lap"]:
                del sys.modules[module]


def check(name: str, solve: Solve, cost: Cost, optimum: float, slack: float) -> None:
    """Raise RuntimeError unless the solver's answer is an optimum."""
    rows, cols = solve(cost)
    reason = why_invalid(cost.shape, rows, cols)
    if reason is None and abs(objective(cost, rows, cols) - optimum) > slack:
        reason = f"objective {objective(cost, rows, cols)!r}; expected {optimum!r}"
    if reason is not None:
        raise RuntimeError(f"{name} is wrong on a {cost.shape} {cost.dtype} matrix: {reason}")


def burst(solve: Solve, costs: list[Cost], number: int) -> float:
    """Return microseconds per call over `number` rounds through the matrices."""
    start = time.perf_counter_ns()
    for _ in range(number):
        for cost in costs:
            solve(cost)
    return (time.perf_counter_ns() - start) / (number * len(costs)) / 1e3


def measure(solvers: dict[str, Solve], costs: list[Cost], bursts: int) -> dict[str, float]:
    """Return microseconds per call of every solver on these matrices, its answers checked first."""
    for cost in costs:
        rows, cols = solvers["scipy"](cost)
        optimum, slack = objective(cost, rows, cols), slack_for(cost, rows, cols, cost.dtype.kind in "iu")
        for name, solve in solvers.items():
            check(name, solve, cost, optimum, slack)
    numbers = {
        name: max(1, round(BURST_SECONDS * 1e6 / (burst(solve, costs, 1) * len(costs))))
        for name, solve in solvers.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(bursts):
        for name, solve in solvers.items():
            samples[name].append(burst(solve, costs, numbers[name]))
    return {name: median(values) for name, values in samples.items()}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=positive_ints, default=list(SIZES), help="comma separated n")
    parser.add_argument("--dtypes", type=names, default=list(DTYPES), help="comma separated")
    parser.add_argument("--families", type=families, default=list(SMALL_FAMILIES), help="comma separated")
    parser.add_argument("--instances", type=positive_int, default=64, help="matrices per row of the table, at most")
    parser.add_argument("--again", action="store_true", help="one matrix over and over, then the next")
    parser.add_argument("--bursts", type=positive_int, default=9, help="samples per solver")
    parser.add_argument("--peers-dir", type=Path, default=PEERS_DIR)
    add_json(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = parse(arguments)
    found = {name: load(name, options.peers_dir) for name in NAMES}
    solvers = {name: solve for name, solve in found.items() if solve is not None}
    print(f"{'dtype':8} {'family':10} {'n':>4}" + "".join(f" {name:>13}" for name in NAMES) + "  best peer / ours")
    versions = versions_in(options.peers_dir, [SOLVERS[name].package for name in solvers])
    about = environment(instances=options.instances, again=options.again, bursts=options.bursts, versions=versions)
    rows = []
    for dtype, family, n in product(options.dtypes, options.families, options.sizes):
        if dtype.startswith("int") and not FAMILIES[family].integral:
            continue
        count = max(1, min(options.instances, ROWS_OF_A_FAMILY // n))
        instances = [make(family, n, dtype, seed) for seed in range(count)]
        together = [[cost] for cost in instances] if options.again else [instances]
        runs = [measure(solvers, costs, options.bursts) for costs in together]
        times = {name: mean(run[name] for run in runs) for name in solvers}
        ratio = min(value for name, value in times.items() if name != NAMES[0]) / times[NAMES[0]]
        rows.append({"dtype": dtype, "family": family, "n": n, "microseconds": times, "ratio": ratio})
        cells = "".join(f" {times[name]:13.2f}" if name in times else f" {'-':>13}" for name in NAMES)
        print(f"{dtype:8} {family:10} {n:4}{cells}  {ratio:.2f}", flush=True)
        if options.json is not None:
            write_json(options.json, {"environment": about, "rows": rows})
    print(caption(about))
    return int(any(row["ratio"] < 1.0 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
