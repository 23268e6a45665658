"""The recipes that several experiments share, at three sizes: what one of them has trained the others find.

``smoke`` shows that everything works, in seconds. ``small``, for two cores, has all training data and few epochs for
the MLPs; convolutional networks see 10,000 images, made smaller. ``paper`` is the set-up of the paper, for a GPU, on
MNIST and Fashion-MNIST (the latter in the place of CIFAR).

Convolutional networks are connected only when their weights have forgotten how they began: what training leaves of that
is noise, which no permutation aligns. Under norms, which make the scale of the weights irrelevant, it is weight decay
that makes them forget: with SGD and momentum m by a factor of exp(-lr * decay / (1 - m)) a step. At the scale ``small``
there are 1,600 steps instead of 50,000 and more, and the decay is 10 to 50 times the paper's.
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

_RESNET = {
    "small": Recipe(
        Network("resnet20", 2),
        "fashion_mnist",
        epochs=8,
        batch_size=50,
        lr=0.1,
        optimizer="sgd",
        schedule="warmup_cosine",
        weight_decay=5e-3,
        pool=4,
        examples=10_000,
    ),
    "paper": Recipe(
        Network("resnet20", 32),
        "fashion_mnist",
        epochs=250,
        batch_size=100,
        lr=0.1,
        optimizer="sgd",
        schedule="warmup_cosine",
        weight_decay=1e-4,
    ),
}
_RESNET["smoke"] = replace(
    _RESNET["small"], epochs=2, batch_size=25, lr=2e-3, optimizer="adam", weight_decay=0.0, pool=2, examples=250
)

_VGG = {
    # With layer norm, and no residual stream through 13 layers, it needs small steps not to lose its units early on,
    # and so keeps what it began with. With batch norm it learns as fast as the ResNet.
    "smoke": replace(_RESNET["smoke"], network=Network("vgg16", 1, "batch_norm")),
    "small": replace(_RESNET["small"], network=Network("vgg16", 1, "batch_norm"), pool=2),
    "paper": replace(
        _RESNET["paper"], network=Network("vgg16", 4), epochs=100, weight_decay=5e-4, max_gradient_norm=1.0
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
    recipe = _RESNET[scale]
    return recipe if width is None else recipe.of_width(width)


def vgg_recipe(scale: str, width: float) -> Recipe:
    """Return the recipe of VGG16 on Fashion-MNIST."""
    return _VGG[scale].of_width(width)
