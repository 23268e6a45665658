"""What is trained, how and on what: plain values, so that they can be compared, printed and written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from rebasin_fast.architectures import mlp, resnet20, vgg16
from rebasin_fast.spec import PermutationSpec
from rebasin_fast.training import Optimizer, Schedule, make_mlp

if TYPE_CHECKING:
    import torch

_HIDDEN_LAYERS = 3
_VGG_HIDDEN = (512, 512)
"""Hidden dense layers of the paper's VGG16 at width 1."""


@dataclass(frozen=True)
class Network:
    """An architecture at a width.

    Attributes
    ----------
    kind : "mlp", "resnet20" or "vgg16"
    width : float
        Units in each of the MLP's three hidden layers; the multiplier of all widths of the others.
    norm : "layer_norm" or "batch_norm"
        Of the convolutional ones. Layer norm, over the channels, is the paper's.
    """

    kind: Literal["mlp", "resnet20", "vgg16"]
    width: float
    norm: Literal["layer_norm", "batch_norm"] = "layer_norm"

    def __str__(self) -> str:
        if self.kind == "mlp":
            return f"MLP {_HIDDEN_LAYERS} x {self.width:g}"
        name = {"resnet20": "ResNet20", "vgg16": "VGG16"}[self.kind]
        norm = " (batch norm)" if self.norm == "batch_norm" else ""
        return f"{name}{norm}, width x {Fraction(self.width)}"

    def spec(self, features: int, classes: int) -> PermutationSpec:
        """Return the groups of its hidden units."""
        if self.kind == "mlp":
            return mlp(self._widths(features, classes))
        if self.kind == "resnet20":
            return resnet20(self.width, num_classes=classes, in_channels=1, norm=self.norm)
        return vgg16(self.width, num_classes=classes, in_channels=1, norm=self.norm, classifier_widths=_VGG_HIDDEN)

    def build(self, features: int, classes: int) -> torch.nn.Module:
        """Return the untrained network, from (N, features) to (N, classes); images are square and of one channel."""
        if self.kind == "mlp":
            return make_mlp(self._widths(features, classes))
        from rebasin_fast.reproduce import convolutional  # needs torch

        if self.kind == "resnet20":
            return convolutional.ResNet20(self.width, classes, self.norm)
        return convolutional.VGG16(self.width, classes, _VGG_HIDDEN, self.norm)

    def _widths(self, features: int, classes: int) -> tuple[int, ...]:
        return (features, *[int(self.width)] * _HIDDEN_LAYERS, classes)


@dataclass(frozen=True)
class Part:
    """Which of the training examples a network sees.

    Attributes
    ----------
    kind : "all", "half" or "labels"
        All; a random half; or one side of the paper's biased split: 20 % of the examples of the lower half of the
        classes with 80 % of the upper, or what that leaves.
    index : int
        Which half, or which side (0 or 1).
    """

    kind: Literal["all", "half", "labels"] = "all"
    index: int = 0


ALL = Part()


@dataclass(frozen=True)
class Recipe:
    """A network and its training.

    Attributes
    ----------
    network : Network
    dataset : str
        A name that `rebasin_fast.datasets.load_dataset` knows.
    epochs, batch_size, lr, optimizer, schedule, weight_decay, max_gradient_norm
        As in `rebasin_fast.training.train`.
    pool : int
        Images are averaged over squares of so many pixels a side first.
    examples : int or None
        At most so many training examples, drawn at random, and half as many for testing.
    snapshots : tuple of int
        Epochs after which the network is kept, besides the last.
    """

    network: Network
    dataset: str
    epochs: int
    batch_size: int = 500
    lr: float = 1e-3
    optimizer: Optimizer = "adam"
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    max_gradient_norm: float | None = None
    pool: int = 1
    examples: int | None = None
    snapshots: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.network} on {self.dataset}"

    def of_width(self, width: float) -> Recipe:
        """Return the same training of the network at another width."""
        return replace(self, network=replace(self.network, width=width))

    def key(self, epoch: int) -> dict[str, Any]:
        """Return what determines the network after `epoch` epochs, its seed and its part of the data aside."""
        key = asdict(self) | {"epoch": epoch}
        del key["snapshots"]
        if self.schedule == "constant":  # the first epochs do not know how many follow
            del key["epochs"]
        return key
