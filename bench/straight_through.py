"""What the projection takes of a step of the straight-through estimator: an MLP 784-512-512-512-10 at batch 1000.

Usage:
    python bench/straight_through.py [--data DIR] [--dataset mnist] [--epochs 2] [--json OUT]

Two networks are trained apart, on MNIST if --data says where it lies, else on ten noisy patterns. Then the estimator
runs with two optimisers: SGD as in the paper, under which hardly a unit moves from one step to the next, and Adam,
under which many do. Every 20th projection is checked, `weight_matching` from it must find nothing to gain, and for
comparison made by `weight_matching` from the permutation before. Figures are medians over the steps but the first, in
one process with one thread; needs torch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from unittest import mock

from arguments import add_json, positive_int
from environment import caption, environment, write_json

WIDTHS = (784, 512, 512, 512, 10)
BATCH = 1000
CHECK_EVERY = 20


def patterns(examples: int = 20_000) -> Any:
    """Return a data set of ten patterns under noise, as large as MNIST's images."""
    import torch

    from rebasin_fast.datasets import Dataset

    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(10, WIDTHS[0], generator=generator)
    labels = torch.randint(10, (examples,), generator=generator)
    images = (centres[labels] + torch.randn(examples, WIDTHS[0], generator=generator)).clamp(0, 1)
    return Dataset(images, labels, images[:BATCH], labels[:BATCH], "patterns", 10)


class Steps:
    """Times of projections and whole steps, and the permutations before and after."""

    def __init__(self, spec: Any, params_b: Any) -> None:
        self.spec, self.params_b = spec, params_b
        self.projections: list[float] = []
        self.plain: list[float] = []
        self.steps: list[float] = []
        self.moved = 0
        self._last = self._checking = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Time every projection while the block runs."""
        from rebasin_fast._projection import Projection

        project = Projection.project

        def timed(projection: Any, target: Any) -> bool:
            before = dict(projection.permutation)
            start = time.perf_counter()
            moved = project(projection, target)
            self.projections.append(time.perf_counter() - start)
            self.moved += moved
            start = time.perf_counter()
            if len(self.projections) % CHECK_EVERY == 1:
                self._check(projection, target, before)
            self._checking += time.perf_counter() - start
            return moved

        with mock.patch.object(Projection, "project", timed):
            yield

    def step(self, *_: Any) -> None:
        """Note that a step is done; what the checks took does not count."""
        now = time.perf_counter()
        self.steps.append(now - self._last - self._checking)
        self._last, self._checking = now, 0.0

    def _check(self, projection: Any, target: Any, before: Any) -> None:
        from rebasin_fast import weight_matching

        start = time.perf_counter()
        weight_matching(self.spec, target, self.params_b, init=before)
        self.plain.append(time.perf_counter() - start)
        again = weight_matching(self.spec, target, self.params_b, init=projection.permutation)
        gain = (again.objective[-1] - again.objective[0]) / abs(again.objective[0])
        if gain > 1e-6:
            raise RuntimeError(f"projection {len(self.projections)} is no local optimum: {gain:.1e} to gain")


def measure(name: str, optimizer: Any, dataset: Any, params: Any, epochs: int) -> dict[str, Any]:
    from rebasin_fast import mlp, straight_through
    from rebasin_fast.datasets import split_batches
    from rebasin_fast.training import make_mlp

    spec, steps = mlp(WIDTHS), Steps(mlp(WIDTHS), params[1])
    batches = split_batches(dataset.train_x, dataset.train_y, BATCH)
    batches = [batch for batch in batches if len(batch[0]) == BATCH]
    with steps.watched():
        straight_through(
            spec, make_mlp(WIDTHS), *params, batches, epochs=epochs, optimizer=optimizer, progress=steps.step
        )
    row = {
        "optimizer": name,
        "steps": len(steps.steps),
        "moved": steps.moved,
        "projection_samples": steps.projections[1:],
        "step_samples": steps.steps[1:],
        "weight_matching_samples": steps.plain[1:],
    }
    projection, step, plain = (median(row[f"{what}_samples"]) for what in ("projection", "step", "weight_matching"))
    print(
        f"{name:5} {row['steps']:4} steps, {row['moved']:4} moved   projection {1e3 * projection:6.1f} ms of "
        f"{1e3 * step:6.1f} ms = {projection / step:5.1%}   by weight_matching {1e3 * plain:6.1f} ms",
        flush=True,
    )
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the IDX files; default: patterns made here")
    parser.add_argument("--dataset", default="mnist", choices=["mnist", "fashion_mnist"])
    parser.add_argument("--epochs", type=positive_int, default=2, help="of the estimator")
    parser.add_argument("--train-epochs", type=positive_int, default=3)
    add_json(parser)
    options = parser.parse_args(arguments)

    import torch

    from rebasin_fast.datasets import load_dataset
    from rebasin_fast.training import make_mlp, train

    torch.set_num_threads(1)
    dataset = patterns() if options.data is None else load_dataset(options.dataset, options.data)
    networks = [
        train(lambda: make_mlp(WIDTHS), dataset, epochs=options.train_epochs, batch_size=500, seed=seed).model
        for seed in (0, 1)
    ]
    params = [network.state_dict() for network in networks]
    about = environment(torch=torch.__version__, dataset=dataset.name, widths=WIDTHS, batch=BATCH)
    rows = [
        measure(
            "sgd", lambda tensors: torch.optim.SGD(tensors, lr=0.01, momentum=0.9), dataset, params, options.epochs
        ),
        measure("adam", None, dataset, params, options.epochs),
    ]
    print(caption(about))
    if options.json is not None:
        write_json(options.json, {"environment": about, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
