"""Weight matching of networks on a GPU, beside the paper's algorithm in plain torch on the same GPU.

Usage:
    python bench/gpu_matching.py [--networks mlp8192,resnet50] [--kinds random] [--repeats 5] [--json OUT]

Both networks lie on the device before the clock starts, and it stops when the permutations are there as numpy arrays
and the device is idle. Ours makes cost matrices and solves the assignment problems on the device. The plain algorithm
makes its cost matrices there, too; its assignment problems are solved by SciPy on the CPU, and where
torch-linear-assignment is installed also by that, on the device. All start at the identity unless `--init` says
otherwise. One call of ours goes before those that count; figures are medians of wall seconds. The plain algorithm is
called once, for it takes minutes, and not where a group has more than `--plain-up-to` units. Every answer is checked:
permutations of every group, and the objective reported is that of the permutation. Where there is an aim for an H100 it
stands under the table. Memory is what torch's allocator
held at most beyond the two networks; the solver's own is not in it. `--device cpu` tries the script where there is no
GPU; what it prints then is no figure of a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from arguments import add_json, add_json_folder, names, positive_int
from environment import caption, environment, named_after, write_json

_AIMS = {("mlp8192", "random"): 3.0, ("resnet50", "random"): 0.5}
"""Seconds on an H100."""


@dataclass
class Row:
    """One line of the table; a value for every repeat."""

    network: str
    kind: str
    solver: str
    seconds: list[float] = field(default_factory=list)
    objective: float = 0.0
    sweeps: int = 0
    extra_bytes: int | None = None


def timed(device: Any, call: Callable[[], Any]) -> tuple[Any, float, int | None]:
    """Return what a call returns, wall seconds until the device is idle, and bytes held at most beyond those before."""
    import torch

    if device.type != "cuda":
        began = time.perf_counter()
        return call(), time.perf_counter() - began, None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    began = time.perf_counter()
    found = call()
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    return found, seconds, torch.cuda.max_memory_allocated(device) - before


def by_torch_linear_assignment(similarity: Any) -> Any:
    """Return the columns of the best assignment, found by that package on the device."""
    from torch_linear_assignment import batch_linear_assignment

    return batch_linear_assignment(-similarity[None])[0].cpu().numpy()


def solvers(options: argparse.Namespace) -> dict[str, Callable[[Any, Any, Any], tuple[Any, int]]]:
    """Return what is measured, by name: functions of spec and networks that return a permutation and sweeps."""
    from plain_matching import by_scipy, plain_weight_matching
    from rebasin_fast import weight_matching

    def ours(spec: Any, a: Any, b: Any) -> tuple[Any, int]:
        found = weight_matching(
            spec, a, b, init=options.init, method=options.method, compute_dtype=options.compute_dtype
        )
        return found, found.sweeps

    found: dict[str, Callable[[Any, Any, Any], tuple[Any, int]]] = {"rebasin_fast": ours}
    if not options.no_plain:
        found["torch + SciPy"] = lambda spec, a, b: plain_weight_matching(spec, a, b, assign=by_scipy)
        if importlib.util.find_spec("torch_linear_assignment") is not None:
            found["torch + torch-linear-assignment"] = lambda spec, a, b: plain_weight_matching(
                spec, a, b, assign=by_torch_linear_assignment
            )
    return found


def measure(row: Row, spec: Any, a: Any, b: Any, solve: Callable[..., Any], options: argparse.Namespace) -> None:
    """Fill a row; raise RuntimeError if an answer is wrong."""
    import torch

    from plain_matching import objective
    from weight_matching import check, check_permutation

    device = torch.device(options.device)
    before = 1 if row.solver == "rebasin_fast" else 0
    for repeat in range(before + (options.repeats if before else 1)):
        (found, row.sweeps), seconds, row.extra_bytes = timed(device, lambda: solve(spec, a, b))
        if hasattr(found, "permutation"):
            check(spec, a, b, found)
            row.objective = found.objective[-1]
        else:
            check_permutation(spec, a, found)
            row.objective = objective(spec, a, b, found)
        if repeat >= before:
            row.seconds.append(seconds)


def line(row: Row) -> str:
    """Return a row as text."""
    memory = "-" if row.extra_bytes is None else f"{row.extra_bytes / 2**20:.0f}"
    return (
        f"{row.network:12} {row.kind:8} {row.solver:32} {median(row.seconds):9.4f} {row.sweeps:6} "
        f"{row.objective:14.8g} {memory:>9}"
    )


HEADER = f"{'network':12} {'weights':8} {'solver':32} {'seconds':>9} {'sweeps':>6} {'objective':>14} {'extra MiB':>9}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    from networks import NETWORKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--networks", type=names, default=["mlp8192", "resnet50"], help=f"of {', '.join(NETWORKS)}")
    add("--kinds", type=names, default=["random"], help="comma separated; of random, planted")
    add("--repeats", type=positive_int, default=5)
    add("--init", choices=("propagate", "identity"), default=None, help="of ours; default: propagate")
    add("--method", choices=("coordinate_descent", "frank_wolfe"), default="coordinate_descent")
    add("--compute-dtype", choices=("float32", "bfloat16"), default=None)
    add("--no-plain", action="store_true", help="time ours alone")
    add("--plain-up-to", type=positive_int, default=2048, help="units of a group (default: %(default)s)")
    add("--device", default="cuda:0")
    add_json(parser)
    add_json_folder(parser)
    options = parser.parse_args(arguments)
    for kind, given, known in (("network", options.networks, NETWORKS), ("kind", options.kinds, ("random", "planted"))):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {kind}: {', '.join(unknown)}; expected some of {', '.join(known)}")
    return options


def device_caption(device: Any) -> dict[str, Any]:
    """Return what a reader needs to know of the device."""
    import torch

    from rebasin_fast import cuda

    if device.type != "cuda":
        return {"device": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {"device": properties.name, "cuda": torch.version.cuda, "solver_on_device": cuda.is_available()}


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    import torch

    from networks import pair

    options = parse(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device; --device cpu tries the script without one", file=sys.stderr)
        return 1
    about = environment(torch=torch.__version__, **device_caption(device))
    out = named_after(options.json_folder, "gpu-matching", about["device"]) if options.json_folder else options.json
    rows = []
    print(HEADER)
    for network in options.networks:
        for kind in options.kinds:
            spec, *both = pair(network, kind, 0)
            a, b = ({name: tensor.to(device) for name, tensor in params.items()} for params in both)
            wide = max(spec.group_sizes(a).values()) > options.plain_up_to
            for name, solve in solvers(options).items():
                if wide and name != "rebasin_fast":
                    continue
                row = Row(network, kind, name)
                measure(row, spec, a, b, solve, options)
                rows.append(row)
                print(line(row), flush=True)
                if out is not None:
                    write_json(out, {"environment": about, "rows": [asdict(row) for row in rows]})
    for (network, kind), aim in _AIMS.items():
        if any((row.network, row.kind) == (network, kind) for row in rows):
            print(f"aim on an H100, {network} {kind}: {aim:g} s")
    print(f"{about['device']}; {caption(about)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
