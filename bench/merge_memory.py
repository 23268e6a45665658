"""Peak memory of MergeMany on files, beside what it is said to hold: the sum, one model, and twice the largest cost.

Usage:
    python bench/merge_memory.py [--networks mlp4096] [--formats safetensors,pt] [--by merge_many,command] [--models 4]

Networks planted from one (permuted, with noise) are written to files, each forgotten before the next. Then they are
merged from there; the figure is the rise of the resident set over what it was before the call, results and pages of
mapped files included. The C library keeps some of what was freed; with MALLOC_MMAP_THRESHOLD_=65536 in the environment
it does not, and the figure is what was in use. By `merge_many`, or by the command line's `merge --method many`, which
writes the merged model to a file. The merge is checked: it must have found the planted permutations. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arguments import add_json, names, positive_int
from environment import environment, tell
from worker import PeakMemory

_NOISE = 0.1  # over the weights': little enough for every planted unit to be found


@dataclass
class Row:
    """One line of the table."""

    network: str
    format: str
    by: str
    model_bytes: int
    cost_bytes: int
    extra_bytes: int | None
    seconds: float

    @property
    def said(self) -> int:
        """Return what it is said to hold."""
        return 2 * self.model_bytes + 2 * self.cost_bytes


def written(network: str, form: str, models: int, folder: Path) -> tuple[Any, list[Path], int]:
    """Write the files; return the spec, their paths, and the bytes of a model."""
    import torch

    from networks import pair

    files, size = [], 0
    for seed in range(models):
        spec, a, b = pair(network, "planted", 0, noise=_NOISE)
        if seed:  # another permutation of the first, and other noise
            from rebasin_fast import apply_permutation, random_permutation

            generator = torch.Generator().manual_seed(seed)
            b = {
                name: t + _NOISE * t.std() * torch.randn(t.shape, generator=generator) if t.ndim else t
                for name, t in a.items()
            }
            b = apply_permutation(spec, random_permutation(spec, seed), b)
        size = sum(tensor.numel() * tensor.element_size() for tensor in b.values())
        files.append(folder / f"{seed}.{form}")
        if form == "safetensors":
            from safetensors.torch import save_file

            save_file(b, files[-1])
        else:
            torch.save(b, files[-1])
    return spec, files, size


def merge_by_library(spec: Any, files: list[Path], _folder: Path) -> tuple[float, Any]:
    """Merge by the function; return how far the models are from their mean, and the merged parameters."""
    from rebasin_fast import merge_many

    found = merge_many(spec, files, max_sweeps=3)
    return found.distance[-1], found.params


def merge_by_command(spec: Any, files: list[Path], folder: Path) -> tuple[float, Any]:
    """Merge by the command line, into a file; return the same, the parameters as views of it."""
    from rebasin_fast._safetensors import MappedFile
    from rebasin_fast.cli import main as command

    spec.save(folder / "spec.json")
    told = io.StringIO()
    options = ["--spec", folder / "spec.json", "--method", "many", "--max-memory", "1M", "--quiet", "--json"]
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        command([str(argument) for argument in ("merge", *files, "-o", folder / "m.safetensors", *options)])
    return json.loads(told.getvalue())["result"]["distance"][-1], MappedFile(folder / "m.safetensors")


WAYS = {"merge_many": merge_by_library, "command": merge_by_command}


def measure(network: str, form: str, models: int, by: str = "merge_many") -> Row:
    """Return one line; raise RuntimeError if the models were not aligned."""
    with tempfile.TemporaryDirectory() as folder:
        spec, files, size = written(network, form, models, Path(folder))
        began = time.process_time()
        with PeakMemory() as memory:
            distance, params = WAYS[by](spec, files, Path(folder))
        seconds = time.process_time() - began
        # Noise is all that is left between aligned models.
        squares = sum(float(np.square(np.asarray(tensor, dtype=np.float64)).sum()) for tensor in params.values())
    if not distance < 3 * _NOISE**2 * squares:
        raise RuntimeError(f"the models are {distance:.4g} apart, of {squares:.4g}; expected noise alone")
    largest = max(spec.group_sizes().values())
    return Row(network, form, by, size, 4 * largest**2, memory.bytes, seconds)


def warm_up() -> None:
    """Merge once, so that code and the buffers of the matrix products are there before memory is counted."""
    from networks import pair
    from rebasin_fast import merge_many

    spec, a, b = pair("mlp512", "planted", 0)
    merge_many(spec, [a, b], max_sweeps=1)
    measure("tiny", "pt", 2, "command")


def line(row: Row) -> str:
    """Return a row as text."""
    mib = ["-" if bytes_ is None else f"{bytes_ / 2**20:.0f}" for bytes_ in (row.model_bytes, row.cost_bytes)]
    extra = "-" if row.extra_bytes is None else f"{row.extra_bytes / 2**20:.0f}"
    models = "-" if row.extra_bytes is None else f"{(row.extra_bytes - 2 * row.cost_bytes) / row.model_bytes:.2f}"
    return (
        f"{row.network:12} {row.format:12} {row.by:10} {mib[0]:>9} {mib[1]:>9} {extra:>10} {row.said / 2**20:10.0f} "
        f"{models:>8} {row.seconds:8.2f}"
    )


HEADER = (
    f"{'network':12} {'format':12} {'by':10} {'model MiB':>9} {'cost MiB':>9} {'extra MiB':>10} {'said MiB':>10} "
    f"{'models*':>8} {'CPU s':>8}"
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    from networks import NETWORKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=names, default=["mlp4096"], help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--formats", type=names, default=["safetensors", "pt"], help="of safetensors, pt")
    parser.add_argument("--by", type=names, default=list(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--models", type=positive_int, default=4)
    add_json(parser)
    options = parser.parse_args(arguments)
    for kind, given, known in (
        ("network", options.networks, NETWORKS),
        ("format", options.formats, ("safetensors", "pt")),
        ("way", options.by, WAYS),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {kind}: {', '.join(unknown)}; expected some of {', '.join(known)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    import torch

    options = parse(arguments)
    torch.set_num_threads(1)
    about = environment(torch=torch.__version__, models=options.models)
    warm_up()
    print("* peak less twice the largest cost matrix, in models; the sum and one model make 2")
    print(HEADER)
    cases = itertools.product(options.networks, options.formats, options.by)
    rows = (measure(network, form, options.models, by) for network, form, by in cases)
    tell(rows, line, about, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
