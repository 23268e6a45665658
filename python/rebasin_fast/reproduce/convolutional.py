"""The paper's convolutional networks, for (N, side * side) images of one channel, and how they start.

Imports torch: for `recipes` alone, when a network is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from rebasin_fast import _networks
from rebasin_fast._networks import ChannelNorm

_NORMS = {"layer_norm": ChannelNorm, "batch_norm": nn.BatchNorm2d}


class ResNet20(_networks.ResNet20):
    """He et al. (2016), section 4.2."""

    def __init__(self, width: float, classes: int, norm: str) -> None:
        super().__init__(width, classes, 1, _NORMS[norm])
        _initialise(self)

    def forward(self, x: Any) -> Any:
        """Return logits."""
        return super().forward(_images(x))


class VGG16(_networks.Vgg16):
    """Simonyan & Zisserman (2015), without dropout, as the paper's; side 32 or less: one position is left."""

    def __init__(self, width: float, classes: int, hidden: Sequence[int], norm: str) -> None:
        dense = [*(int(base * width) for base in hidden), classes]
        super().__init__(width, 1, _NORMS[norm], dense, 1, dropout=0.0, rounding_up=True)
        _initialise(self)

    def forward(self, x: Any) -> Any:
        """Return logits."""
        return super().forward(_images(x))


def _initialise(model: nn.Module) -> None:
    """Draw weights as He et al. (2015) do: torch draws smaller ones, and under norms those have large gradients."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _images(x: Any) -> Any:
    side = math.isqrt(x.shape[1])
    return x.unflatten(1, (1, side, side))
