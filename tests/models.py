"""The networks of `rebasin_fast.architectures` as plain torch modules, with the same names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W) at every position, as Flax does it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


NORMS = {"batch_norm": nn.BatchNorm2d, "layer_norm": ChannelNorm}


class MLP(nn.Module):
    """ReLU between dense layers called layer0, layer1, ..."""

    def __init__(self, widths: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        for i in range(self.depth):
            self.add_module(f"layer{i}", nn.Linear(widths[i], widths[i + 1], bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.depth - 1):
            x = torch.relu(self.get_submodule(f"layer{i}")(x))
        return self.get_submodule(f"layer{self.depth - 1}")(x)


class VGG16(nn.Module):
    """torchvision's indices; the input has (32 * spatial) ** 2 pixels, so that spatial ** 2 positions are flattened."""

    def __init__(
        self,
        width_multiplier: float = 1,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        norm: str | None = "batch_norm",
        classifier_widths: tuple[int, ...] = (4096, 4096),
        spatial: int = 1,
    ) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = in_channels
        for base, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            width = int(base * width_multiplier)
            for _ in range(repeats):
                features += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    *([NORMS[norm](width)] if norm else []),
                    nn.ReLU(),
                ]
                channels = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        classifier: list[nn.Module] = []
        inputs = channels * spatial**2
        for base in classifier_widths:
            width = int(base * width_multiplier)
            classifier += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout()]
            inputs = width
        self.classifier = nn.Sequential(*classifier, nn.Linear(inputs, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Block(nn.Module):
    """Convolutions of the given (kernel, outputs, stride) with norms, and a shortcut around them."""

    def __init__(
        self, channels: int, convs: tuple[tuple[int, int, int], ...], norm: str, shortcut: str, stride: int
    ) -> None:
        super().__init__()
        self.depth, self.shortcut_name = len(convs), shortcut
        inputs = channels
        for i, (kernel, outputs, conv_stride) in enumerate(convs, start=1):
            conv = nn.Conv2d(inputs, outputs, kernel, conv_stride, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", NORMS[norm](outputs))
            inputs = outputs
        if (stride, channels) != (1, inputs):
            projection = nn.Conv2d(channels, inputs, 1, stride, bias=False)
            self.add_module(shortcut, nn.Sequential(projection, NORMS[norm](inputs)))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = torch.relu(y) if i < self.depth else y
        return torch.relu(y + (self.get_submodule(self.shortcut_name)(x) if hasattr(self, self.shortcut_name) else x))


class ResNet20(nn.Module):
    """The CIFAR ResNet20 with 1 x 1 convolutions where the shortcut changes the width."""

    def __init__(
        self, width_multiplier: float = 1, *, num_classes: int = 10, in_channels: int = 3, norm: str = "batch_norm"
    ) -> None:
        super().__init__()
        widths = [int(base * width_multiplier) for base in (16, 32, 64)]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = NORMS[norm](widths[0])
        channels = widths[0]
        for stage, width in enumerate(widths, start=1):
            blocks = []
            for i in range(3):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Block(channels, ((3, width, stride), (3, width, 1)), norm, "shortcut", stride))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class ResNet50(nn.Module):
    """torchvision's ResNet50 (stride on the 3 x 3 convolution)."""

    def __init__(self, width_multiplier: float = 1, *, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        channels = int(64 * width_multiplier)
        self.conv1 = nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, count in enumerate((3, 4, 6, 3), start=1):
            width = int(64 * 2 ** (stage - 1) * width_multiplier)
            blocks = []
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                convs = ((1, width, 1), (3, width, stride), (1, 4 * width, 1))
                blocks.append(Block(channels, convs, "batch_norm", "downsample", stride))
                channels = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter and running statistic with random values, scaled so that signals neither die nor blow up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in module.state_dict().items():
            if not values.is_floating_point():
                continue
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                noise = 0.5 + noise.abs()
            elif values.ndim > 1:
                noise *= (2 / max(1, math.prod(values.shape[1:]))) ** 0.5
            elif name.endswith("weight"):
                noise = 1 + 0.3 * noise
            else:
                noise *= 0.3
            values.copy_(noise)
    return module
