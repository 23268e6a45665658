"""The paper's convolutional networks with layer norm, under the names that `resnet20` and `vgg16` give their axes.

Imports torch: for `recipes` alone, when a network is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of the convolutions; 0 stands for pooling."""


class ChannelNorm(nn.Module):  # type: ignore[misc]
    """Layer norm over the channels at every position: x is (N, C, H, W). Permuting channels permutes what comes out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Any) -> Any:
        """Return x with mean 0 and variance 1 over its channels, scaled and shifted."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        scale = torch.rsqrt(variance + 1e-6)
        return (x - mean) * scale * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ResNet20(nn.Module):  # type: ignore[misc]
    """He et al. (2016), section 4.2, for (N, side * side) images of one channel."""

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        channels = [int(base * width) for base in (16, 32, 64)]
        self.conv1, self.bn1 = _convolution(1, channels[0]), ChannelNorm(channels[0])
        carried = channels[0]
        for stage, outputs in enumerate(channels, start=1):
            blocks = [_Block(carried if i == 0 else outputs, outputs, 2 if i == 0 < stage - 1 else 1) for i in range(3)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            carried = outputs
        self.linear = nn.Linear(carried, classes)
        _initialise(self)

    def forward(self, x: Any) -> Any:
        """Return logits."""
        x = torch.relu(self.bn1(self.conv1(_images(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, outputs, stride), ChannelNorm(outputs)
        self.conv2, self.bn2 = _convolution(outputs, outputs), ChannelNorm(outputs)
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), ChannelNorm(outputs))
        else:
            self.shortcut = nn.Sequential()

    def forward(self, x: Any) -> Any:
        """Return the block's residual added to x, or to what the shortcut makes of it."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class VGG16(nn.Module):  # type: ignore[misc]
    """Simonyan & Zisserman (2015), for (N, side * side) images of one channel, side 32 or less: one position is left.

    Pooling rounds sizes up, so that images of 28 and of 14 pixels a side come down to one position too.
    """

    def __init__(self, width: float, classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        features: list[nn.Module] = []
        carried = 1
        for base in _VGG16:
            if base == 0:
                features.append(nn.MaxPool2d(2, ceil_mode=True))
                continue
            outputs = int(base * width)
            features += [nn.Conv2d(carried, outputs, 3, padding=1), ChannelNorm(outputs), nn.ReLU()]
            carried = outputs
        self.features = nn.Sequential(*features)
        classifier: list[nn.Module] = []
        for base in hidden:
            outputs = int(base * width)
            # Identity in the place of torchvision's dropout, which the paper's network does not have.
            classifier += [nn.Linear(carried, outputs), nn.ReLU(), nn.Identity()]
            carried = outputs
        self.classifier = nn.Sequential(*classifier, nn.Linear(carried, classes))
        _initialise(self)

    def forward(self, x: Any) -> Any:
        """Return logits."""
        return self.classifier(torch.flatten(self.features(_images(x)), 1))


def _initialise(model: nn.Module) -> None:
    """Draw weights as He et al. (2015) do: torch draws smaller ones, and under norms those have large gradients."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _images(x: Any) -> Any:
    side = math.isqrt(x.shape[1])
    return x.unflatten(1, (1, side, side))
