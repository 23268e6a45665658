"""The networks of `rebasin_fast.architectures` as torch modules: their names and sizes, with ReLU between layers.

For the command line's ``--arch``, which proves specs on them and runs data through them, and for the paper's
experiments, which train them. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import nn

Norm: TypeAlias = Callable[[int], Any]
"""Makes the norm of so many channels."""

_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class ChannelNorm(nn.Module):  # type: ignore[misc]
    """Layer norm over the channels at every position: x is (N, C, H, W). Permuting channels permutes what comes out."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """Return x with mean 0 and variance 1 over its channels, scaled and shifted."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        scale = torch.rsqrt(variance + self.eps)
        return (x - mean) * scale * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Mlp(nn.Module):  # type: ignore[misc]
    """Dense layers of given names, which may be nested, with ReLU between them."""

    def __init__(self, widths: Sequence[int], names: Sequence[str], *, bias: bool) -> None:
        super().__init__()
        self.order = tuple(names)
        for name, (inputs, outputs) in zip(names, pairwise(widths), strict=True):
            *path, last = name.split(".")
            place: Any = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.add_module(last, nn.Linear(inputs, outputs, bias=bias))

    def forward(self, x: Any) -> Any:
        """Return the logits of (N, ...), flattened first."""
        x = x.flatten(1)
        for name in self.order[:-1]:
            x = torch.relu(self.get_submodule(name)(x))
        return self.get_submodule(self.order[-1])(x)


class Vgg16(nn.Module):  # type: ignore[misc]
    """VGG16 under torchvision's names.

    With `rounding_up`, pooling rounds sizes up, so that images of 28 and of 14 pixels a side come down to one position.
    """

    def __init__(
        self,
        multiplier: float,
        channels: int,
        norm: Norm | None,
        dense: Sequence[int],
        spatial: int,
        *,
        dropout: float = 0.5,
        rounding_up: bool = False,
    ) -> None:
        super().__init__()
        layers: list[Any] = []
        for base, repeats in _VGG16:
            width = round(base * multiplier)
            for _ in range(repeats):
                norms = [] if norm is None else [norm(width)]
                layers += [nn.Conv2d(channels, width, 3, padding=1), *norms, nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=rounding_up))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(spatial)
        head: list[Any] = []
        for inputs, outputs in pairwise((channels * spatial**2, *dense)):
            head += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*head[:-2])

    def forward(self, x: Any) -> Any:
        """Return the logits of (N, C, H, W)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


class _Block(nn.Module):  # type: ignore[misc]
    """Convolutions of (kernel, outputs, stride), each with its norm, and a shortcut around them."""

    def __init__(
        self, inputs: int, convolutions: Sequence[tuple[int, int, int]], norm: Norm, shortcut: str, stride: int
    ) -> None:
        super().__init__()
        self.count, self.shortcut_name = len(convolutions), shortcut
        width = inputs
        for number, (kernel, outputs, step) in enumerate(convolutions, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(width, outputs, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{number}", norm(outputs))
            width = outputs
        if stride != 1 or width != inputs:
            projection = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.add_module(shortcut, nn.Sequential(projection, norm(width)))

    def forward(self, x: Any) -> Any:
        y = x
        for number in range(1, self.count + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
            y = torch.relu(y) if number < self.count else y
        return torch.relu(y + (self.get_submodule(self.shortcut_name)(x) if hasattr(self, self.shortcut_name) else x))


class ResNet20(nn.Module):  # type: ignore[misc]
    """The ResNet20 of CIFAR, with convolutions where a shortcut changes the width."""

    def __init__(self, multiplier: float, classes: int, channels: int, norm: Norm) -> None:
        super().__init__()
        widths = [round(base * multiplier) for base in (16, 32, 64)]
        self.conv1, self.bn1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), norm(widths[0])
        inputs = widths[0]
        for stage, width in enumerate(widths, start=1):
            blocks = []
            for number in range(3):
                stride = 2 if stage > 1 and number == 0 else 1
                blocks.append(_Block(inputs, ((3, width, stride), (3, width, 1)), norm, "shortcut", stride))
                inputs = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Any) -> Any:
        """Return the logits of (N, C, H, W)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class ResNet50(nn.Module):  # type: ignore[misc]
    """torchvision's ResNet50."""

    def __init__(self, multiplier: float, classes: int, channels: int) -> None:
        super().__init__()
        inputs = round(64 * multiplier)
        self.conv1, self.bn1 = nn.Conv2d(channels, inputs, 7, 2, 3, bias=False), nn.BatchNorm2d(inputs)
        for stage, count in enumerate((3, 4, 6, 3), start=1):
            width = round(64 * 2 ** (stage - 1) * multiplier)
            blocks = []
            for number in range(count):
                stride = 2 if stage > 1 and number == 0 else 1
                convolutions = ((1, width, 1), (3, width, stride), (1, 4 * width, 1))
                blocks.append(_Block(inputs, convolutions, nn.BatchNorm2d, "downsample", stride))
                inputs = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Any) -> Any:
        """Return the logits of (N, C, H, W)."""
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))
