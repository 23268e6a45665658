"""Peak extra memory of a solve as a share of the matrix: every dtype, either direction, with and without duals.

Usage:
    python bench/memory.py [--sizes 4096] [--families uniform] [--dtypes float32,int64] [--json OUT]

Every figure is had in a process of its own. It reads the matrix from a file into its memory, which touches every page;
solves a problem of its first 800 rows and columns, which loads code; gives freed memory back to the system; resets
Linux's high-water mark of the resident set; and solves. The figure is the mark less the resident set before the solve,
results included and nothing subtracted. The answer is then proved optimal: a wrong one stops the program. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from arguments import add_json, families, names, positive_ints
from environment import caption, environment, write_json
from families import Cost, make
from worker import PeakMemory

ALL_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
)

# Wide enough for few ties, and narrow enough for float64 to hold every sum a solver meets.
_WIDEST_RANGE = 2.0**30

_COLUMNS = tuple(product((False, True), (False, True)))  # (with duals, maximize)


@dataclass(frozen=True)
class Row:
    """One figure: bytes beyond the resident set before the solve, and as a share of the matrix."""

    family: str
    n: int
    dtype: str
    with_duals: bool
    maximize: bool
    extra_bytes: int
    share: float


def instance(family: str, n: int, dtype: str) -> Cost:
    """Return an instance in any dtype: floats rounded, and for integers spread over what the dtype holds."""
    cost = make(family, n, "float64", 0)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return cost.astype(kind)
    low, high = float(cost.min()), float(cost.max())
    share = (cost - low) / (high - low) if high > low else np.zeros_like(cost)
    if kind.kind == "b":
        return share > 0.5
    info = np.iinfo(kind)
    return (max(info.min, -_WIDEST_RANGE) + np.rint(share * min(info.max - info.min, _WIDEST_RANGE))).astype(kind)


def extra_bytes(path: str, with_duals: bool, maximize: bool) -> int:
    """Solve the matrix in the file and return by how much the resident set rose; the process should be a new one."""
    from rebasin_fast import linear_sum_assignment, solve_assignment, verify_assignment

    solve: Any = solve_assignment if with_duals else linear_sum_assignment
    cost = np.load(path)
    solve(cost[:800, :800].copy(), maximize)
    with PeakMemory() as memory:
        answer = solve(cost, maximize)
    if memory.bytes is None:
        raise RuntimeError("the resident set's high-water mark cannot be reset on this system")
    if not verify_assignment(cost, answer, maximize=maximize).optimal:
        raise RuntimeError(f"the answer is wrong on a {cost.shape} {cost.dtype} matrix")
    return memory.bytes


def measure(path: Path, family: str, n: int, dtype: str) -> list[Row]:
    """Return the figures of one instance, each from a process of its own."""
    cost = instance(family, n, dtype)
    nbytes = cost.nbytes
    np.save(path, cost)
    del cost
    rows = []
    for with_duals, maximize in _COLUMNS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            extra = pool.submit(extra_bytes, str(path), with_duals, maximize).result()
        rows.append(Row(family, n, dtype, with_duals, maximize, extra, extra / nbytes))
    return rows


def _dtypes(text: str) -> list[str]:
    if unknown := [name for name in names(text) if name not in ALL_DTYPES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected some of {', '.join(ALL_DTYPES)}")
    return names(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", type=positive_ints, default=[4096], help="comma separated n; little is meant below 1024 (4096)")
    add("--families", type=families, default=["uniform"], help="comma separated (default: uniform)")
    add("--dtypes", type=_dtypes, default=list(ALL_DTYPES), help="comma separated (default: all)")
    add_json(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = parse(arguments)
    about = environment()
    found: list[Row] = []
    heads = [f"{'max' if maximize else 'min'}{', duals' if duals else ''}" for duals, maximize in _COLUMNS]
    print(f"{'family':10} {'n':>6} {'dtype':8}" + "".join(f" {head:>11}" for head in heads))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for family, n, dtype in product(options.families, options.sizes, options.dtypes):
            rows = measure(Path(folder) / "instance.npy", family, n, dtype)
            found += rows
            print(f"{family:10} {n:6} {dtype:8}" + "".join(f" {100 * row.share:9.2f} %" for row in rows), flush=True)
            if options.json is not None:
                write_json(options.json, {"environment": about, "rows": [asdict(row) for row in found]})
    print(caption(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
