"""The recipes that several experiments share, at three sizes: what one of them has trained the others find.

``smoke`` shows that everything works, in seconds. ``small``, for two cores, has all training data and few epochs for
the MLPs; narrow convolutional networks on 2,000 of the images, at half their size. ``paper`` is the set-up of the
paper, for a GPU, on MNIST and Fashion-MNIST (the latter in the place of CIFAR).
"""

from __future__ import annotations

from dataclasses import replace

from rebasin_fast.reproduce.recipes import Network, Recipe

SCALES = ("smoke", "small", "paper")

_MLP = {
    "smoke": Recipe(Network("mlp", 48), "", epochs=4, batch_size=50, lr=3e-3, examples=500, snapshots=(0, 1, 2)),
    "small": Recipe(Network("mlp", 512), "", epochs=8, snapshots=(0, 1, 2, 4)),
    "paper": Recipe(Network("mlp", 512), "", epochs=100, snapshots=(0, 1, 2, 5, 10, 25, 50)),
}

_ADAM = Recipe(
    Network("resnet20", 0.5),
    "fashion_mnist",
    epochs=5,
    batch_size=50,
    lr=2e-3,
    schedule="warmup_cosine",
    pool=2,
    examples=2_000,
)
"""Adam, not the paper's SGD: that left VGG16 of these widths at chance after some hundred steps."""

_CONVOLUTIONAL = {
    "smoke": replace(_ADAM, epochs=2, batch_size=25, examples=250),
    "small": _ADAM,
    "paper": Recipe(
        Network("resnet20", 32),
        "fashion_mnist",
        epochs=250,
        batch_size=100,
        lr=0.05,
        optimizer="sgd",
        schedule="warmup_cosine",
    ),
}

LAMBDAS = {"smoke": 5, "small": 11, "paper": 25}
"""Positions on the way from A to B."""


def lambdas_of(scale: str, network: Network) -> int:
    """Return the number of positions between two networks: at the scale small fewer where one costs much more."""
    return 5 if scale == "small" and network.kind != "mlp" else LAMBDAS[scale]


def mlp_recipe(scale: str, dataset: str) -> Recipe:
    """Return the recipe of the paper's MLP on a data set."""
    return replace(_MLP[scale], dataset=dataset)


def resnet_recipe(scale: str, width: float | None = None) -> Recipe:
    """Return the recipe of ResNet20 on Fashion-MNIST, at the scale's width or another."""
    recipe = _CONVOLUTIONAL[scale]
    return recipe if width is None else recipe.of_width(width)


def vgg_recipe(scale: str, width: float) -> Recipe:
    """Return the recipe of VGG16 on Fashion-MNIST."""
    return replace(_CONVOLUTIONAL[scale], network=Network("vgg16", width))
