"""The spec that a user means: a file, a known architecture read off a checkpoint, or a model class that is traced."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_fast._extras import require

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast.spec import PermutationSpec


@dataclass(frozen=True)
class Architecture:
    """What the options say: exactly one of `spec`, `arch` and `model_class` is given."""

    spec: Path | None = None
    arch: str | None = None
    model_class: str | None = None
    kwargs: str = "{}"
    inputs: tuple[str, ...] = ()

    def given(self) -> bool:
        """Say whether any of the three is given."""
        return any((self.spec, self.arch, self.model_class))

    def check(self) -> None:
        """Check the options before anything is read."""
        given = [option for option in (self.spec, self.arch, self.model_class) if option is not None]
        if len(given) != 1:
            raise ValueError(f"{len(given)} of --spec, --arch and --model-class are given; expected exactly one")
        if self.arch is not None and self.arch not in _ARCHITECTURES:
            raise ValueError(f"--arch is {self.arch!r}; expected one of {', '.join(_ARCHITECTURES)}")
        if self.model_class is None and (self.inputs or self.kwargs != "{}"):
            raise ValueError("--kwargs and --input belong to --model-class, which is not given")
        if self.model_class is not None and not self.inputs:
            raise ValueError("--model-class needs --input, the shape of an example input such as 2,3,32,32")

    def resolve(self, params: Parameters | None) -> PermutationSpec:
        """Return the spec; `params` is the checkpoint an architecture reads its sizes off."""
        from rebasin_fast.spec import PermutationSpec

        self.check()
        if self.spec is not None:
            try:
                return PermutationSpec.load(self.spec)
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.spec} is no text: {error}") from None
        if self.arch is not None:
            if params is None:
                raise ValueError(f"--arch {self.arch} needs a checkpoint to read the sizes off")
            return _ARCHITECTURES[self.arch](params)
        return PermutationSpec.from_module(self.model, self.example())

    @cached_property
    def model(self) -> Any:
        """The model of the class, in evaluation mode; made once, for tracing and proof leave it as it is."""
        where, _, name = (self.model_class or "").partition(":")
        if not where or not name:
            raise ValueError(f"--model-class is {self.model_class!r}; expected package.module:Class")
        try:
            kwargs = json.loads(self.kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"--kwargs is no JSON: {error}") from None
        if not isinstance(kwargs, dict):
            raise ValueError(f"--kwargs is {self.kwargs!r}; expected a JSON object")
        torch = require("torch", "torch")
        cls = getattr(_module(where), name, None)
        if cls is None:
            raise ValueError(f"--model-class: the module {where} has no {name!r}")
        torch.manual_seed(0)
        try:
            model = cls(**kwargs)
        except Exception as error:  # code of the user's, which may raise anything
            raise ValueError(f"--model-class: {self.model_class} cannot be made with {kwargs}: {error}") from error
        if not isinstance(model, torch.nn.Module):
            raise ValueError(f"--model-class {self.model_class} makes a {type(model).__name__}, no torch.nn.Module")
        return model.eval()

    def example(self) -> tuple[Any, ...]:
        """Return an example of each input: normal numbers, or zeros of an integer dtype."""
        torch = require("torch", "torch")
        generator = torch.Generator().manual_seed(0)
        examples = []
        for text in self.inputs:
            shape, _, dtype = text.partition(":")
            kind = getattr(torch, dtype or "float32", None)
            if not re.fullmatch(r"\d+(,\d+)*", shape) or not isinstance(kind, torch.dtype):
                raise ValueError(
                    f"--input is {text!r}; expected a shape and perhaps a dtype, as in 2,3,32,32 or 2,16:int64"
                )
            sizes = tuple(map(int, shape.split(",")))
            drawn = torch.randn(sizes, generator=generator)
            examples.append(drawn.to(kind) if kind.is_floating_point else torch.zeros(sizes, dtype=kind))
        return tuple(examples)


def _module(name: str) -> Any:
    """Import a module of the user's, which may lie in the current folder, as with ``python -m``."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _mlp(params: Parameters) -> PermutationSpec:
    from rebasin_fast.architectures import mlp

    names = [name.removesuffix(".weight") for name in sorted(params, key=_natural) if name.endswith(".weight")]
    if not names:
        raise ValueError("--arch mlp: the checkpoint has no parameter whose name ends in .weight")
    shapes = [_shape(params, f"{name}.weight", 2, "mlp") for name in names]
    widths = (shapes[0][1], *(outputs for outputs, _ in shapes))
    return mlp(widths, names=names, bias=f"{names[0]}.bias" in params)


def _vgg16(params: Parameters) -> PermutationSpec:
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
    return vgg16(
        multiplier,
        num_classes=shapes[-1][0],
        in_channels=channels,
        norm=_norm(params, "features.1") if "features.1.weight" in params else None,
        classifier_widths=tuple(map(int, hidden)),
        spatial=max(1, math.isqrt(int(shapes[0][1] / (512 * multiplier)))),
    )


def _resnet20(params: Parameters) -> PermutationSpec:
    from rebasin_fast.architectures import resnet20

    width, channels, *_ = _shape(params, "conv1.weight", 4, "resnet20")
    classes = _shape(params, "linear.weight", 2, "resnet20")[0]
    return resnet20(width / 16, num_classes=classes, in_channels=channels, norm=_norm(params, "bn1"))


def _resnet50(params: Parameters) -> PermutationSpec:
    from rebasin_fast.architectures import resnet50

    width, channels, *_ = _shape(params, "conv1.weight", 4, "resnet50")
    return resnet50(width / 64, num_classes=_shape(params, "fc.weight", 2, "resnet50")[0], in_channels=channels)


_ARCHITECTURES: dict[str, Callable[[Parameters], PermutationSpec]] = {
    "mlp": _mlp,
    "vgg16": _vgg16,
    "resnet20": _resnet20,
    "resnet50": _resnet50,
}


def _shape(params: Parameters, name: str, axes: int, arch: str) -> tuple[int, ...]:
    if name not in params:
        raise ValueError(f"--arch {arch}: the checkpoint has no {name!r}")
    shape = tuple(params[name].shape)
    if len(shape) != axes:
        raise ValueError(f"--arch {arch}: {name!r} has shape {shape}; expected {axes} axes")
    return shape


def _norm(params: Mapping[str, Any], name: str) -> Any:
    return "batch_norm" if f"{name}.running_mean" in params else "layer_norm"


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort layer2 before layer10: files keep no order of layers."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
