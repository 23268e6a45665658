"""How long tracing takes and how much memory, on models without weights (the meta device)."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from arguments import add_json, positive_int
from environment import environment, tell
from rebasin_fast import PermutationSpec


def encoder(layers: int) -> tuple[nn.Module, Any]:
    """Build encoder layers of width 4096 with 32 heads."""
    body = [nn.TransformerEncoderLayer(4096, 32, 16384, batch_first=True, norm_first=True) for _ in range(layers)]
    return nn.Sequential(nn.Linear(7, 4096), *body, nn.Linear(4096, 3)), torch.zeros(2, 3, 7)


def perceptron(layers: int) -> tuple[nn.Module, Any]:
    """Build dense layers of 4096 units."""
    body = [layer for _ in range(layers) for layer in (nn.ReLU(), nn.Linear(4096, 4096))]
    return nn.Sequential(nn.Linear(7, 4096), *body, nn.Linear(4096, 3)), torch.zeros(2, 7)


def llama(layers: int) -> tuple[nn.Module, Any]:
    """Build the Llama of transformers, 4096 wide."""
    import transformers

    config = transformers.LlamaConfig(num_hidden_layers=layers)
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.zeros(2, 7, dtype=torch.int64, device="cpu")}


MODELS: dict[str, Callable[[int], tuple[nn.Module, Any]]] = {
    "encoder": encoder,
    "perceptron": perceptron,
    "llama": llama,
}


def measure(name: str, layers: int, repeats: int) -> dict[str, Any]:
    """Return seconds, the growth of the peak resident set in MiB, and what was found; the size is checked first."""
    with torch.device("meta"):
        model, inputs = MODELS[name](layers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        spec = PermutationSpec.from_module(model, inputs)
        seconds.append(time.perf_counter() - start)
    if not len(spec.groups) >= layers or spec.report().unknown_operators:
        raise RuntimeError(f"{name}: {len(spec.groups)} groups in {layers} layers; expected at least one each")
    return {
        "model": name,
        "layers": layers,
        "parameters": sum(p.numel() for p in model.parameters()),
        "groups": len(spec.groups),
        "seconds": median(seconds),
        "mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    return (
        f"{row['model']:12} {row['layers']:6} {row['parameters']:14,} {row['groups']:6} {row['seconds']:8.2f} "
        f"{row['mebibytes']:6.0f}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["encoder", "perceptron"])
    parser.add_argument("--layers", type=positive_int, default=100)
    parser.add_argument("--repeats", type=positive_int, default=5)
    add_json(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = parse(arguments)
    torch.set_num_threads(1)
    measure("perceptron", 1, 1)  # loads what is imported when first needed
    about = environment(repeats=options.repeats, versions={"torch": torch.__version__})
    print(f"{'model':12} {'layers':>6} {'parameters':>14} {'groups':>6} {'seconds':>8} {'MiB':>6}")
    tell((measure(name, options.layers, options.repeats) for name in options.models), line, about, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
