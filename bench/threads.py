"""One thread against several: `solve_assignment` alone on the machine, and beside a process that keeps a core busy.

Usage:
    python bench/threads.py [--sizes 16384] [--families uniform,lowrank64] [--threads 1,2] [--json OUT]

The answer with the fewest threads is proved optimal from its duals first, and the others must cost as much: a wrong one
stops the program. Samples are taken in rounds, every number of threads once a round, first alone and then beside the
busy process, which is bound to one core where the system allows it. Figures are medians; a speed-up is the time with
the fewest threads over the time with more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from arguments import add_json, families, positive_int, positive_ints
from checking import objective, reference_from, why_wrong
from environment import caption, environment, write_json
from families import DTYPES, FAMILIES, Cost, make

THREAD_FAMILIES = ("uniform", "unrelated", "lowrank64", "euclidean", "int10n", "planted64")

# Says that it runs, then never stops by itself.
_BUSY = "import os, sys\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {CORE})\nprint(flush=True)\n"
_BUSY += "while True: pass"

BESIDE = ("alone", "beside a busy process")


@dataclass(frozen=True)
class Row:
    """One line of the table: `samples` seconds by company and number of threads, in the orders asked for."""

    family: str
    n: int
    dtype: str
    beside: str
    threads: int
    samples: list[float]


@contextmanager
def busy_core() -> Iterator[int]:
    """Keep one core busy in another process; yields that process's number."""
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    command = [sys.executable, "-c", _BUSY.replace("CORE", str(core))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def check(cost: Cost, threads: list[int], integral: bool) -> None:
    """Raise RuntimeError unless the answers are the optimum with every number of threads."""
    from rebasin_fast import solve_assignment

    first, *others = (solve_assignment(cost, threads=count) for count in threads)
    reference = reference_from(cost, first.row_ind, first.col_ind, (first.row_duals, first.col_duals), integral)
    if reference is None:
        raise RuntimeError(f"the answer with {threads[0]} threads is not proved by its duals")
    for count, answer in zip(threads[1:], others, strict=True):
        if reason := why_wrong(objective(cost, answer.row_ind, answer.col_ind), reference):
            raise RuntimeError(f"the answer with {count} threads is wrong: {reason}")


def seconds(cost: Cost, threads: int) -> float:
    """Return how long one solve took."""
    from rebasin_fast import solve_assignment

    start = time.perf_counter()
    solve_assignment(cost, threads=threads)
    return time.perf_counter() - start


def measure(family: str, n: int, dtype: str, threads: list[int], repeats: int) -> list[Row]:
    """Return an instance's lines of the table, the answers checked first."""
    cost = make(family, n, dtype, 0)
    check(cost, threads, FAMILIES[family].integral)
    samples: dict[tuple[str, int], list[float]] = {(beside, count): [] for beside in BESIDE for count in threads}
    for _ in range(repeats):
        for beside in BESIDE:
            company: Any = nullcontext() if beside == BESIDE[0] else busy_core()
            with company:
                for count in threads:
                    samples[beside, count].append(seconds(cost, count))
    return [Row(family, n, dtype, beside, count, taken) for (beside, count), taken in samples.items()]


def lines(rows: list[Row]) -> Iterator[str]:
    """Yield the table of one instance: a line for each company."""
    for beside in BESIDE:
        times = [median(row.samples) for row in rows if row.beside == beside]
        cells = "".join(f" {1e3 * value:12.2f}" for value in times)
        ups = " ".join(f"{times[0] / value:.2f}" for value in times[1:])
        yield f"{rows[0].family:10} {rows[0].n:6} {beside:22}{cells}  {ups}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", type=positive_ints, default=[16384], help="comma separated n (default: 16384)")
    add("--families", type=families, default=list(THREAD_FAMILIES), help="comma separated")
    add("--threads", type=positive_ints, default=[1, 2], help="comma separated numbers of threads (default: 1,2)")
    add("--dtype", choices=DTYPES, default="float32")
    add("--repeats", type=positive_int, default=3, help="samples, of which the median counts (default: 3)")
    add_json(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = parse(arguments)
    about = environment(repeats=options.repeats)
    found: list[Row] = []
    header = "".join(f" {f'{count} threads ms':>12}" for count in options.threads)
    print(f"{'family':10} {'n':>6} {'':22}{header}  speed-up")
    for family in options.families:
        for n in options.sizes:
            rows = measure(family, n, options.dtype, options.threads, options.repeats)
            found += rows
            print("\n".join(lines(rows)), flush=True)
            if options.json is not None:
                write_json(options.json, {"environment": about, "rows": [asdict(row) for row in found]})
    print(caption(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
