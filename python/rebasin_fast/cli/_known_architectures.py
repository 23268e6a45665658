"""The architectures that come with the package: their sizes, read off a checkpoint, and networks to compute with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast.spec import PermutationSpec


@dataclass(frozen=True)
class Known:
    """A spec; how to make a network of it, in evaluation mode; and the shape of an example."""

    spec: PermutationSpec
    make: Callable[[], Any]
    shape: tuple[int, ...]

    def model(self) -> Any:
        """Return the network, its parameters drawn at random but always alike."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().eval()

    def example(self) -> Any:
        """Return inputs to prove the spec on."""
        import torch

        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


def _mlp(params: Parameters) -> Known:
    from rebasin_fast.architectures import mlp

    names = [name.removesuffix(".weight") for name in sorted(params, key=_natural) if name.endswith(".weight")]
    if not names:
        raise ValueError("--arch mlp: the checkpoint has no parameter whose name ends in .weight")
    shapes = [_shape(params, f"{name}.weight", 2, "mlp") for name in names]
    widths = (shapes[0][1], *(outputs for outputs, _ in shapes))
    bias = f"{names[0]}.bias" in params

    def make() -> Any:
        from rebasin_fast._networks import Mlp

        return Mlp(widths, names, bias=bias)

    return Known(mlp(widths, names=names, bias=bias), make, (8, widths[0]))


def _vgg16(params: Parameters) -> Known:
    from rebasin_fast.architectures import vgg16

    width, channels, *_ = _shape(params, "features.0.weight", 4, "vgg16")
    multiplier = width / 64
    dense = sorted((name for name in params if re.fullmatch(r"classifier\.\d+\.weight", name)), key=_natural)
    if not dense:
        raise ValueError("--arch vgg16: the checkpoint has no classifier.0.weight")
    shapes = [_shape(params, name, 2, "vgg16") for name in dense]
    hidden = [outputs / multiplier for outputs, _ in shapes[:-1]]
    if not all(map(float.is_integer, hidden)):
        raise ValueError(
            f"--arch vgg16: hidden widths {[n for n, _ in shapes[:-1]]} are no multiples of {multiplier:g}"
        )
    norm = _norm(params, "features.1") if "features.1.weight" in params else None
    spatial = max(1, math.isqrt(int(shapes[0][1] / (512 * multiplier))))

    def make() -> Any:
        from rebasin_fast._networks import Vgg16

        return Vgg16(multiplier, channels, norm and _layer(norm), [outputs for outputs, _ in shapes], spatial)

    spec = vgg16(
        multiplier,
        num_classes=shapes[-1][0],
        in_channels=channels,
        norm=norm,
        classifier_widths=tuple(map(int, hidden)),
        spatial=spatial,
    )
    return Known(spec, make, (2, channels, 32 * spatial, 32 * spatial))


def _resnet20(params: Parameters) -> Known:
    from rebasin_fast.architectures import resnet20

    width, channels, *_ = _shape(params, "conv1.weight", 4, "resnet20")
    classes = _shape(params, "linear.weight", 2, "resnet20")[0]
    norm = _norm(params, "bn1")

    def make() -> Any:
        from rebasin_fast._networks import ResNet20

        return ResNet20(width / 16, classes, channels, _layer(norm))

    spec = resnet20(width / 16, num_classes=classes, in_channels=channels, norm=norm)
    return Known(spec, make, (2, channels, 16, 16))


def _resnet50(params: Parameters) -> Known:
    from rebasin_fast.architectures import resnet50

    width, channels, *_ = _shape(params, "conv1.weight", 4, "resnet50")
    classes = _shape(params, "fc.weight", 2, "resnet50")[0]

    def make() -> Any:
        from rebasin_fast._networks import ResNet50

        return ResNet50(width / 64, classes, channels)

    return Known(resnet50(width / 64, num_classes=classes, in_channels=channels), make, (2, channels, 64, 64))


KNOWN: dict[str, Callable[[Parameters], Known]] = {
    "mlp": _mlp,
    "vgg16": _vgg16,
    "resnet20": _resnet20,
    "resnet50": _resnet50,
}
"""What ``--arch`` may be, each with what reads it off a checkpoint."""


def _shape(params: Parameters, name: str, axes: int, arch: str) -> tuple[int, ...]:
    if name not in params:
        raise ValueError(f"--arch {arch}: the checkpoint has no {name!r}")
    shape = tuple(params[name].shape)
    if len(shape) != axes:
        raise ValueError(f"--arch {arch}: {name!r} has shape {shape}; expected {axes} axes")
    return shape


def _norm(params: Mapping[str, Any], name: str) -> Any:
    return "batch_norm" if f"{name}.running_mean" in params else "layer_norm"


def _layer(norm: str) -> Any:
    """Return what makes the norm; epsilon as torch's layer norm has it, for a checkpoint does not tell."""
    from torch import nn

    from rebasin_fast._networks import ChannelNorm

    return nn.BatchNorm2d if norm == "batch_norm" else partial(ChannelNorm, eps=1e-5)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort layer2 before layer10: files keep no order of layers."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
