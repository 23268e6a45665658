"""How much memory a merge of sharded checkpoints takes, against their size: each merge is a process of its own.

Networks of dense layers are made, a shard for each layer, B being A with its units reordered and noise. What is told is
the peak of the resident set (VmHWM, pages of mapped files included) above that of a merge of tiny models. Before it
counts, the merged tensors are compared with those that the library's functions make of the whole models.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from arguments import add_json, positive_int
from environment import environment, tell
from rebasin_fast import apply_permutation, interpolate, mlp, random_permutation, weight_matching

INDEX = "model.safetensors.index.json"
PROGRAM = """
import pathlib, re, sys
from rebasin_fast.cli import main
try:
    main(sys.argv[1:])
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print(re.search(r"VmHWM:\\s+(\\d+)", status)[1], file=sys.stderr)
"""


def write(folder: Path, params: dict[str, Any]) -> None:
    """Write a model, a shard for each tensor."""
    folder.mkdir()
    where = {name: f"model-{number:05d}.safetensors" for number, name in enumerate(params)}
    for name, shard in where.items():
        save_file({name: params[name]}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def loaded(folder: Path) -> dict[str, Any]:
    """Return all tensors of a folder."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def merge_peak(folder: Path, budget: str, dtype: torch.dtype, width: int, layers: int) -> tuple[int, int]:
    """Return the bytes of a model, and the peak of the process that merges two of them; the answer is checked."""
    spec = mlp((width,) * (layers + 1), bias=False)
    generator = torch.Generator().manual_seed(0)
    a = {f"layer{layer}.weight": torch.randn(width, width, generator=generator) for layer in range(layers)}
    b = apply_permutation(spec, random_permutation(spec, 1), a)
    for name, params in (("a", a), ("b", b)):
        noisy = {key: tensor + 0.5 * torch.randn(width, width, generator=generator) for key, tensor in params.items()}
        write(folder / name, {key: tensor.to(dtype) for key, tensor in noisy.items()})
    del a, b, noisy
    spec.save(folder / "spec.json")
    paths = [str(folder / name) for name in ("a", "b")]
    command = ["merge", *paths, "--spec", str(folder / "spec.json"), "-o", str(folder / "merged")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command, "--max-memory", budget, "--quiet", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    a, b = loaded(folder / "a"), loaded(folder / "b")
    expected = interpolate(a, apply_permutation(spec, weight_matching(spec, a, b).permutation, b), 0.5)
    for name, tensor in loaded(folder / "merged").items():
        torch.testing.assert_close(tensor, expected[name])
    size = sum(path.stat().st_size for path in (folder / "a").glob("*.safetensors"))
    return size, 1024 * int(done.stderr.split()[-1])


def measure(budget: str, dtype: torch.dtype, width: int, layers: int) -> dict[str, Any]:
    """Return one row of the table."""
    with tempfile.TemporaryDirectory() as tiny:
        base = merge_peak(Path(tiny), budget, dtype, 8, 2)[1]
    with tempfile.TemporaryDirectory() as folder:
        size, peak = merge_peak(Path(folder), budget, dtype, width, layers)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "width": width,
        "layers": layers,
        "max_memory": budget,
        "model_mib": size / 2**20,
        "peak_mib": (peak - base) / 2**20,
    }


def line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    return (
        f"{row['dtype']:9} {row['model_mib']:10.0f} {row['max_memory']:>12} {row['peak_mib']:10.0f} "
        f"{row['peak_mib'] / row['model_mib']:12.2f}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=positive_int, default=1024)
    parser.add_argument("--layers", type=positive_int, default=96)
    parser.add_argument("--budgets", nargs="+", default=["64M", "8G"])
    add_json(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = parse(arguments)
    torch.set_num_threads(1)
    about = environment(versions={"torch": torch.__version__})
    print(f"{'dtype':9} {'model, MiB':>10} {'--max-memory':>12} {'peak, MiB':>10} {'peak / model':>12}")
    cases = itertools.product((torch.float32, torch.bfloat16), options.budgets)
    rows = (measure(budget, dtype, options.width, options.layers) for dtype, budget in cases)
    tell(rows, line, about, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
