"""Barriers between trained pairs after weight matching, activation matching (without and with a loss) and STE.

Usage:
    python bench/method_barriers.py [--data DIR] [--dataset fashion_mnist] [--seeds 3] [--first-seed 0] [--json OUT]

For every seed two multilayer perceptrons with three hidden layers of 512 are trained apart (5 epochs), and B is
matched to A by each method on the same training examples, drawn at random. A line is the highest test loss on the way
(five points from 0.3 to 0.7) above the mean of the ends, then by how much the other methods are above weight matching.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

from arguments import add_json, names, positive_int
from environment import caption, environment, write_json

LAMBDAS = (0.3, 0.4, 0.5, 0.6, 0.7)
BATCH = 500

Find = Callable[[Any, Any, Any, Any, list[Any], int], Any]
"""spec, model, A, B, batches, seed to a permutation."""


def _weights(spec: Any, _model: Any, a: Any, b: Any, _batches: list[Any], seed: int) -> Any:
    from rebasin_fast import weight_matching

    return weight_matching(spec, a, b, seed=seed).permutation


def _activations(spec: Any, model: Any, a: Any, b: Any, batches: list[Any], _seed: int) -> Any:
    from rebasin_fast import activation_matching

    return activation_matching(spec, model, a, b, batches).permutation


def _with_loss(spec: Any, model: Any, a: Any, b: Any, batches: list[Any], _seed: int) -> Any:
    from torch.nn.functional import cross_entropy

    from rebasin_fast import activation_matching

    return activation_matching(spec, model, a, b, batches, loss=cross_entropy).permutation


def _straight_through(spec: Any, model: Any, a: Any, b: Any, batches: list[Any], seed: int) -> Any:
    from rebasin_fast import straight_through

    return straight_through(spec, model, a, b, batches, epochs=3, seed=seed).permutation


METHODS: dict[str, Find] = {
    "weights": _weights,
    "activations": _activations,
    "with_loss": _with_loss,
    "straight_through": _straight_through,
}


def barriers(seed: int, dataset: Any, methods: list[str], examples: int) -> dict[str, float]:
    """Return the barrier of one pair by each method."""
    import torch

    from networks import trained_pair
    from rebasin_fast import apply_permutation, barrier
    from rebasin_fast.datasets import split_batches
    from rebasin_fast.training import make_mlp

    spec, a, b = trained_pair(seed, dataset)
    model = make_mlp((int(dataset.train_x.shape[1]), 512, 512, 512, 10))
    drawn = torch.randperm(len(dataset.train_x), generator=torch.Generator().manual_seed(seed))[:examples]
    batches = split_batches(dataset.train_x[drawn], dataset.train_y[drawn], BATCH)
    test = split_batches(dataset.test_x, dataset.test_y, 5000)
    found = {}
    for method in methods:
        aligned = apply_permutation(spec, METHODS[method](spec, model, a, b, batches, seed), b)
        found[method] = barrier(model, a, aligned, test, lambdas=LAMBDAS).barrier
    return found


def line(name: str, row: dict[str, float]) -> str:
    """Return a row as text: the first method's barrier, and the others' above it."""
    first, *others = row
    return f"{name:8} {row[first]:8.4f} " + " ".join(f"{row[other] - row[first]:+18.4f}" for other in others)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    import torch

    from rebasin_fast.datasets import load_dataset

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default=None, help="folder with the IDX files")
    add("--dataset", default="digits", help="digits, mnist, fashion_mnist")
    add("--seeds", type=positive_int, default=3, help="pairs of networks (default: 3)")
    add("--first-seed", type=int, default=0)
    add("--examples", type=positive_int, default=10_000, help="to match on (default: 10000)")
    add("--methods", type=names, default=list(METHODS), help=f"comma separated; of {', '.join(METHODS)}")
    add_json(parser)
    options = parser.parse_args(arguments)
    if unknown := [method for method in options.methods if method not in METHODS]:
        parser.error(f"unknown method: {', '.join(unknown)}; expected some of {', '.join(METHODS)}")
    torch.set_num_threads(1)
    about = environment(torch=torch.__version__, dataset=options.dataset)
    dataset = load_dataset(options.dataset, options.data)
    print(f"{'seed':8} {options.methods[0]:>8} " + " ".join(f"{method:>18}" for method in options.methods[1:]))
    rows: dict[str, dict[str, float]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        rows[str(seed)] = barriers(seed, dataset, options.methods, options.examples)
        print(line(str(seed), rows[str(seed)]), flush=True)
        if options.json is not None:
            write_json(options.json, {"environment": about, "barriers": rows})
    first = options.methods[0]
    above = {method: [row[method] - row[first] for row in rows.values()] for method in options.methods[1:]}
    print("above it, median and worst: " + "; ".join(f"{m} {median(v):+.4f}, {max(v):+.4f}" for m, v in above.items()))
    print(caption(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
