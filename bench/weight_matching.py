"""Weight matching against the paper's algorithm written plainly in torch and SciPy (`plain_matching.py`), in one run.

Usage:
    python bench/weight_matching.py [--networks resnet50,mlp512] [--kinds random,planted,trained] [--seeds 3]
    python bench/weight_matching.py --networks mlp512 --kinds trained --data DIR --dataset mnist
    python bench/weight_matching.py --networks mlp512 --kinds trained --init default,identity,propagate,barycentre

For every seed there is another pair of networks and another visiting order. Both are given the same pair, by turns,
and keep to one thread; figures are medians over the seeds, of CPU seconds, which a busy neighbour does not lengthen.
A ratio is the plain algorithm's time over ours in the same run. Every answer is checked first: it must be a
permutation of every group, the objective reported must be that of the permutation, and on planted and trained networks
it must not be below the plain algorithm's (median over the seeds). `--init identity` starts where the paper starts; of
several starts each has a line, and all are given the same pairs. "lowest" is the gain of the pair that gained least,
"above" counts the pairs whose objective is not below the plain one.
Memory is the rise of the resident set over what it was with both networks loaded; beside it stands what is promised:
max_cache_bytes, or three times all cost matrices if that is less (they, their fixed parts, and the gradients of
Frank-Wolfe steps), and twice the largest.
The C library keeps what small arrays leave behind, some MiB in this column; with MALLOC_MMAP_THRESHOLD_=65536 in the
environment it does not, and the column shows what is allocated. That takes time, so it is a run of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from arguments import add_json, names, positive_int, positive_number
from environment import caption, environment, write_json
from worker import PeakMemory

_INITS = ("default", "propagate", "identity", "barycentre")
_ROUNDING = 1e-6  # of the objective: answers of equal worth
_FAST = ("resnet50", "vgg16", "resnet20x16", "mlp4096", "mlp512")


@dataclass
class Row:
    """One line of the table; a value for every seed. Seconds are CPU seconds."""

    network: str
    kind: str
    init: str = "default"
    plain_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cost_seconds: list[float] = field(default_factory=list)
    lap_seconds: list[float] = field(default_factory=list)
    plain_objective: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    plain_sweeps: list[int] = field(default_factory=list)
    sweeps: list[int] = field(default_factory=list)
    extra_bytes: list[int | None] = field(default_factory=list)
    promised_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Return the plain algorithm's time over ours."""
        return median(p / s for p, s in zip(self.plain_seconds, self.seconds, strict=True))

    @property
    def gains(self) -> list[float]:
        """Return by what share our objective is above the plain algorithm's, pair by pair."""
        return [o / p - 1 for o, p in zip(self.objective, self.plain_objective, strict=True)]

    @property
    def gain(self) -> float:
        """Return the median of the gains."""
        return median(self.gains)

    @property
    def above(self) -> str:
        """Return in how many pairs our objective is not below the plain algorithm's, but for rounding."""
        return f"{sum(gain >= -_ROUNDING for gain in self.gains)}/{len(self.gains)}"


def cpu_seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and the CPU seconds it took."""
    start = time.process_time()
    found = call()
    return found, time.process_time() - start


def check(spec: Any, a: Any, b: Any, found: Any) -> None:
    """Raise RuntimeError unless the answer is permutations, with the objective it says."""
    from plain_matching import objective

    check_permutation(spec, a, found.permutation)
    value = objective(spec, a, b, found.permutation)
    if abs(value - found.objective[-1]) > 1e-9 * abs(value):
        raise RuntimeError(f"the objective is {value}, and was said to be {found.objective[-1]}")


def check_permutation(spec: Any, params: Any, permutation: Any) -> None:
    """Raise RuntimeError unless there is a permutation for every group."""
    for group, size in spec.group_sizes(params).items():
        if not np.array_equal(np.sort(permutation[group]), np.arange(size)):
            raise RuntimeError(f"the answer for group {group!r} is not a permutation")


def measure(rows: list[Row], seed: int, options: argparse.Namespace, dataset: Any) -> None:
    """Add one seed to the rows of a pair of networks, which differ in the start."""
    from networks import pair
    from plain_matching import objective, plain_weight_matching

    spec, a, b = pair(rows[0].network, rows[0].kind, seed, noise=options.noise, trained=dataset)
    for row in rows:
        measure_ours(row, spec, a, b, seed, options)
    if options.no_plain:
        return
    (permutation, sweeps), seconds = cpu_seconds(lambda: plain_weight_matching(spec, a, b, seed))
    value = objective(spec, a, b, permutation)
    for row in rows:
        row.plain_seconds.append(seconds)
        row.plain_objective.append(value)
        row.plain_sweeps.append(sweeps)


def measure_ours(row: Row, spec: Any, a: Any, b: Any, seed: int, options: argparse.Namespace) -> None:
    """Match one pair as the row says, check the answer, and add what was measured."""
    from rebasin_fast import weight_matching

    settings = {
        "init": None if row.init == "default" else row.init,
        "method": options.method,
        "compute_dtype": options.compute_dtype,
        "n_starts": options.n_starts,
        "max_cache_bytes": options.max_cache_mib << 20,
    }
    with PeakMemory() as memory:
        found, seconds = cpu_seconds(lambda: weight_matching(spec, a, b, seed=seed, **settings))
    check(spec, a, b, found)
    matrices = [4 * size * size for size in spec.group_sizes(a).values()]
    row.promised_bytes = min(3 * sum(matrices), options.max_cache_mib << 20) + 2 * max(matrices)
    row.extra_bytes.append(memory.bytes)
    row.seconds.append(seconds)
    row.cost_seconds.append(found.stats.cost_seconds)
    row.lap_seconds.append(found.stats.lap_seconds)
    row.objective.append(found.objective[-1])
    row.sweeps.append(found.sweeps)


def warm_up() -> None:
    """Match once, so that code and the buffers of the matrix products are there before memory is counted."""
    from networks import pair
    from rebasin_fast import weight_matching

    weight_matching(*pair("mlp512", "random", 0), max_sweeps=1)


def line(row: Row) -> str:
    """Return a row as text."""
    mib = [extra / 2**20 for extra in row.extra_bytes if extra is not None]
    memory = f"{max(mib):8.0f} / {row.promised_bytes / 2**20:.0f}" if mib else f"{'-':>8}"
    ours = f"{median(row.seconds):9.3f} {median(row.cost_seconds):8.3f} {median(row.lap_seconds):8.3f}"
    sweeps = f"{median(row.sweeps):6g}"
    if not row.plain_seconds:
        ours_alone = f"{'-':>9} {ours} {'-':>6} {'-':>6} {sweeps} {median(row.objective):14.6g} {'-':>9} {'-':>6}"
        return f"{row.network:12} {row.kind:8} {row.init:10} {ours_alone} {memory}"
    return (
        f"{row.network:12} {row.kind:8} {row.init:10} {median(row.plain_seconds):9.3f} {ours} {row.ratio:6.1f} "
        f"{median(row.plain_sweeps):6g} {sweeps} {100 * row.gain:+13.4f}% "
        f"{100 * min(row.gains):+8.4f}% {row.above:>6} {memory}"
    )


HEADER = (
    f"{'network':12} {'weights':8} {'start':10} {'plain s':>9} {'ours s':>9} {'costs':>8} {'LAPs':>8} "
    f"{'ratio':>6} {'sweeps':>6} {'ours':>6} {'objective':>14} {'lowest':>9} {'above':>6} {'extra / promised MiB'}"
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    from networks import KINDS, NETWORKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--networks", type=names, default=list(_FAST), help=f"comma separated; of {', '.join(NETWORKS)}")
    add("--kinds", type=names, default=list(KINDS), help=f"comma separated; of {', '.join(KINDS)}")
    add("--seeds", type=positive_int, default=3, help="pairs of networks (default: 3)")
    add("--first-seed", type=int, default=0, help="count seeds from here (default: 0)")
    add("--noise", type=positive_number, default=0.5, help="of planted networks, over the weights' (default: 0.5)")
    add("--init", type=names, default=["default"], help=f"comma separated; of {', '.join(_INITS)}")
    add("--method", choices=("coordinate_descent", "frank_wolfe"), default="coordinate_descent")
    add("--compute-dtype", choices=("float32", "bfloat16"), default=None)
    add("--n-starts", type=positive_int, default=1)
    add("--max-cache-mib", type=positive_int, default=1024)
    add("--no-plain", action="store_true", help="time ours alone")
    add("--dataset", default="digits", help="what trained networks learned: digits, mnist, fashion_mnist")
    add("--data", default=None, help="folder with its IDX files")
    add_json(parser)
    options = parser.parse_args(arguments)
    for kind, given, known in (
        ("network", options.networks, NETWORKS),
        ("kind", options.kinds, KINDS),
        ("init", options.init, _INITS),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {kind}: {', '.join(unknown)}; expected some of {', '.join(known)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    import torch

    from rebasin_fast.datasets import load_dataset

    options = parse(arguments)
    torch.set_num_threads(1)
    about = environment(torch=torch.__version__, seeds=options.seeds)
    dataset = load_dataset(options.dataset, options.data) if "trained" in options.kinds else None
    warm_up()
    rows: list[Row] = []
    worse: list[str] = []
    print(HEADER)
    for network in options.networks:
        for kind in options.kinds:
            if kind == "trained" and network != "mlp512":
                continue
            new = [Row(network, kind, init) for init in options.init]
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                measure(new, seed, options, dataset)
            rows += new
            for row in new:
                print(line(row), flush=True)
                if row.plain_seconds and kind != "random" and row.gain < -_ROUNDING:
                    worse.append(f"{network} {kind} from {row.init}")
            if options.json is not None:
                write_json(options.json, {"environment": about, "rows": [asdict(row) for row in rows]})
    print(caption(about))
    if worse:
        print(f"objective below the plain algorithm's: {', '.join(worse)}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
