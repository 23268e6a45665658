"""Vision networks in the style of torchvision, narrow: the wiring is theirs, the widths are ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Bottleneck(nn.Module):
    """Of ResNet, and of ResNeXt with several groups."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(inputs, inner, 1), nn.ReLU(inplace=True),
            *conv_norm(inner, inner, 3, stride, groups), nn.ReLU(inplace=True),
            *conv_norm(inner, outputs, 1),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else nn.Sequential(*conv_norm(inputs, outputs, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self, groups: int = 1, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 6, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        self.layers = nn.Sequential(
            Bottleneck(6, 4, 8, 1, groups), Bottleneck(8, 4, 8, 1, groups), Bottleneck(8, 8, 12, 2, groups)
        )
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.layers(self.stem(x))), 1))


class VGG(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(8 * 9, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 11), nn.ReLU(True), nn.Dropout(),
            nn.Linear(11, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        widen = [*conv_norm(inputs, inner, 1), nn.ReLU6(inplace=True)] if expand > 1 else []
        self.conv = nn.Sequential(
            *widen, *conv_norm(inner, inner, 3, stride, inner), nn.ReLU6(inplace=True), *conv_norm(inner, outputs, 1)
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNet(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_norm(3, 6, 3, 2), nn.ReLU6(inplace=True),
            InvertedResidual(6, 4, 1, 1), InvertedResidual(4, 8, 2, 3), InvertedResidual(8, 8, 1, 3),
            *conv_norm(8, 20, 1), nn.ReLU6(inplace=True),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(20, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = torch.cat(list(features), 1)
        return self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))


class DenseNet(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 6), nn.ReLU(inplace=True))
        self.block1 = nn.ModuleList([DenseLayer(6, 4), DenseLayer(10, 4)])
        self.transition = nn.Sequential(nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 7, 1), nn.AvgPool2d(2))
        self.block2 = nn.ModuleList([DenseLayer(7, 4)])
        self.norm, self.classifier = nn.BatchNorm2d(11), nn.Linear(11, classes)

    def _dense(self, block: nn.ModuleList, x: Tensor) -> Tensor:
        features = [x]
        for layer in block:
            features.append(layer(features))
        return torch.cat(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(self._dense(self.block1, self.stem(x)))
        x = torch.relu(self.norm(self._dense(self.block2, x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Sequential(*conv_norm(3, 6), nn.ReLU()), nn.Sequential(*conv_norm(6, 8), nn.ReLU())
        self.middle = nn.Sequential(*conv_norm(8, 10), nn.ReLU())
        self.up2, self.merge2 = nn.ConvTranspose2d(10, 7, 2, 2), nn.Conv2d(15, 9, 3, padding=1)
        self.up1, self.merge1 = nn.Upsample(scale_factor=2), nn.Conv2d(15, 5, 3, padding=1)
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(nn.functional.max_pool2d(a, 2))
        c = self.middle(nn.functional.max_pool2d(b, 2))
        b = torch.relu(self.merge2(torch.cat([b, self.up2(c)], 1)))
        return self.out(torch.relu(self.merge1(torch.cat([a, self.up1(b)], 1))))


class ShuffleNet(nn.Module):
    """The units of ShuffleNetV2 without stride: half of the channels pass, then halves are interleaved."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 8), nn.ReLU())
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*conv_norm(4, 4, 1), nn.ReLU(), *conv_norm(4, 4, 3, 1, 4), *conv_norm(4, 4, 1), nn.ReLU())
                for _ in range(2)
            ]
        )
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            first, second = x.chunk(2, 1)
            x = torch.cat((first, branch(second)), 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.fc(x.mean([2, 3]))
