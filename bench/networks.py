"""Pairs of networks for the matching benchmarks: unrelated, planted (one permuted and with noise), or trained apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from rebasin_fast import PermutationSpec, apply_permutation, mlp, random_permutation, resnet20, resnet50, vgg16

State: TypeAlias = dict[str, torch.Tensor]

NETWORKS: dict[str, Callable[[], PermutationSpec]] = {
    "resnet50": resnet50,
    "vgg16": vgg16,
    "resnet20x16": lambda: resnet20(16),
    "mlp8192": lambda: mlp((784, 8192, 8192, 8192, 10)),
    "mlp4096": lambda: mlp((784, 4096, 4096, 4096, 10)),
    "mlp2048": lambda: mlp((784, 2048, 2048, 10)),
    "mlp512": lambda: mlp((784, 512, 512, 512, 10)),
    "tiny": lambda: mlp((8, 32, 24, 5)),
}
KINDS = ("random", "planted", "trained")


def kernel(network: str, param: str) -> int:
    """Return the kernel size of a convolution, which its spec does not know."""
    if "shortcut" in param or "downsample" in param:
        return 1
    if network == "resnet50":
        return 7 if param.startswith("conv1") else 3 if "conv2" in param else 1
    return 3


def shapes(network: str, spec: PermutationSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and buffer."""
    sizes = spec.group_sizes()
    found = {}
    for param, axes in spec.axes.items():
        lengths = [
            spec.fixed_lengths.get((param, i), kernel(network, param))
            if axis is None
            else sizes[axis.group] * axis.block
            for i, axis in enumerate(axes)
        ]
        found[param] = tuple(lengths)
    return found


def drawn(network: str, spec: PermutationSpec, generator: torch.Generator) -> State:
    """Return weights as they are before training: Gaussian, scaled by fan-in; norms about one, biases about zero."""
    state: State = {}
    for param, shape in shapes(network, spec).items():
        if not shape:
            state[param] = torch.zeros(shape, dtype=torch.int64)
            continue
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            state[param] = noise * (2 / noise[0].numel()) ** 0.5
        else:
            state[param] = (0.0 if param.endswith(("bias", "mean")) else 1.0) + 0.1 * noise
    return state


def pair(
    network: str, kind: str, seed: int, *, noise: float = 0.5, trained: Any = None
) -> tuple[PermutationSpec, State, State]:
    """Return a spec and two networks.

    Parameters
    ----------
    network, kind : str
        Keys of `NETWORKS`, `KINDS`.
    seed : int
        Of the weights and of the planted permutation.
    noise : float
        Of a planted network: standard deviation of what is added, over that of the weights it is added to.
    trained : rebasin_fast.datasets.Dataset, optional
        What trained networks (multilayer perceptrons) have learned.
    """
    spec = NETWORKS[network]()
    if kind == "trained":
        return trained_pair(seed, trained)
    generator = torch.Generator().manual_seed(seed)
    a = drawn(network, spec, generator)
    if kind == "random":
        return spec, a, drawn(network, spec, generator)
    b = {
        param: array + noise * array.std() * torch.randn(array.shape, generator=generator) if array.ndim else array
        for param, array in a.items()
    }
    return spec, a, apply_permutation(spec, random_permutation(spec, np.random.default_rng(seed)), b)


def trained_pair(seed: int, dataset: Any, *, epochs: int = 5) -> tuple[PermutationSpec, State, State]:
    """Return two multilayer perceptrons with three hidden layers of 512, trained on `dataset` from different seeds."""
    from rebasin_fast.training import make_mlp, train

    inputs = int(dataset.train_x.shape[1])
    widths = (inputs, 512, 512, 512, 10)
    batch = max(20, min(500, len(dataset.train_x) // 60))
    a, b = (
        train(lambda: make_mlp(widths), dataset, epochs=epochs, batch_size=batch, seed=2 * seed + k).model.state_dict()
        for k in range(2)
    )
    return mlp(widths), a, b
