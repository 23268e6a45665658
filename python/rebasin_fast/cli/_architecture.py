"""The spec that a user means, and a model to prove it on and to run data through.

A file; a known architecture whose sizes are read off a checkpoint; a model class, or a configuration of transformers,
that is traced.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_fast._extras import require
from rebasin_fast._files import check_regular
from rebasin_fast.cli._checkpoints import Lazily
from rebasin_fast.cli._known_architectures import KNOWN

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast.spec import PermutationSpec

CONFIG = "config.json"


@dataclass(frozen=True, eq=False)
class Network:
    """A resolved architecture.

    Attributes
    ----------
    spec : PermutationSpec
        In the names of the checkpoint.
    model : torch.nn.Module or None
        Something to compute with; on the meta device for a configuration of transformers, None for a spec file alone.
    inputs : tuple or None
        An example of what the model takes: positional arguments.
    names : dict of str to str
        For every name in the model's state dict the one in the checkpoint; empty where they are the same.
    config : transformers.PreTrainedConfig or None
        What the model was made of.
    """

    spec: PermutationSpec
    model: Any = None
    inputs: tuple[Any, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    config: Any = None

    @cached_property
    def computing(self) -> Any:
        """The model, with values: a model of the meta device is made anew."""
        if self.config is None:
            return self.model
        from rebasin_fast.cli._transformers import made

        return made(self.config, "cpu")

    @cached_property
    def model_spec(self) -> PermutationSpec:
        """The spec in the names of the model's state dict."""
        return self.spec if not self.names else _renamed(self.spec, self.names)

    def as_in_model(self, params: Parameters) -> Parameters:
        """Return parameters under the names of the model's state dict."""
        return Lazily(self.names, lambda name: params[self.names[name]]) if self.names else params

    def as_in_checkpoint(self, params: Parameters, like: Parameters) -> Parameters:
        """Return parameters under the names of the checkpoint; what the model does not know, as in `like`."""
        if not self.names:
            return params
        first: dict[str, str] = {}
        for ours, theirs in self.names.items():
            first.setdefault(theirs, ours)
        return {name: params[first[name]] if name in first else like[name] for name in like}


@dataclass(frozen=True)
class Architecture:
    """What the options say: a spec file, at most one of `arch`, `model_class` and `config`, or both."""

    spec: Path | None = None
    arch: str | None = None
    model_class: str | None = None
    kwargs: str = "{}"
    inputs: tuple[str, ...] = ()
    config: Path | None = None

    @classmethod
    def given(
        cls,
        checkpoint: Path | None,
        spec: Path | None,
        arch: str | None,
        model_class: str | None,
        kwargs: str,
        inputs: list[str] | None,
        config: Path | None,
    ) -> Architecture:
        """Return what the options of a command say, completed and checked before anything is read."""
        architecture = cls(spec, arch, model_class, kwargs, tuple(inputs or ()), config).completed(checkpoint)
        architecture.check()
        return architecture

    def completed(self, checkpoint: Path | None) -> Architecture:
        """Return what is meant with a checkpoint: a folder's own configuration, where no other option is given."""
        none = not any((self.spec, self.arch, self.model_class, self.config))
        if none and checkpoint is not None and (checkpoint / CONFIG).is_file():
            return replace(self, config=checkpoint / CONFIG)
        if self.config is not None and self.config.is_dir():
            return replace(self, config=self.config / CONFIG)
        return self

    def check(self) -> None:
        """Check the options before anything is read."""
        for path in self.read():
            check_regular(path)
        models = [option for option in (self.arch, self.model_class, self.config) if option is not None]
        if len(models) > 1 or (not models and self.spec is None):
            raise ValueError(
                f"{len(models)} of --arch, --model-class and --config are given; expected one, or a --spec"
            )
        if self.arch is not None and self.arch not in KNOWN:
            raise ValueError(f"--arch is {self.arch!r}; expected one of {', '.join(KNOWN)}")
        if self.model_class is None and self.kwargs != "{}":
            raise ValueError("--kwargs belongs to --model-class, which is not given")
        if self.inputs and self.model_class is None and self.config is None:
            raise ValueError("--input belongs to --model-class or --config, of which none is given")
        if self.model_class is not None and not self.inputs:
            raise ValueError("--model-class needs --input, the shape of an example input such as 2,3,32,32")

    def read(self) -> list[Path]:
        """Return the files that the options name."""
        return [path for path in (self.spec, self.config) if path is not None]

    def resolve(self, params: Parameters | None, name: str = "the checkpoint") -> Network:
        """Return spec and model; `params` is the checkpoint an architecture reads its sizes off, `name` its name."""
        from rebasin_fast.spec import PermutationSpec

        self.check()
        try:
            spec = None if self.spec is None else PermutationSpec.load(self.spec)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.spec} is no text: {error}") from None
        return self._of_model(spec, params, name)

    def _of_model(self, spec: PermutationSpec | None, params: Parameters | None, name: str) -> Network:
        """Return the network of the model option, with `spec` in place of its own if there is one."""
        from rebasin_fast.spec import PermutationSpec

        if self.arch is not None:
            if params is None:
                raise ValueError(f"--arch {self.arch} needs a checkpoint to read the sizes off")
            require("torch", "torch")
            known = KNOWN[self.arch](params)
            return Network(spec or known.spec, known.model(), (known.example(),))
        if self.model_class is not None:
            inputs = self.example()
            return Network(spec or PermutationSpec.from_module(self.model, inputs), self.model, inputs)
        if self.config is not None:
            return self._of_config(self.config, spec, params, name)
        assert spec is not None
        return Network(spec)

    def _of_config(self, path: Path, spec: PermutationSpec | None, params: Parameters | None, name: str) -> Network:
        from rebasin_fast.cli import _transformers as hub
        from rebasin_fast.spec import PermutationSpec

        config = hub.read_config(path)
        model = hub.made(config, "meta")
        inputs = self.example() if self.inputs else (hub.example(model),)
        own = {ours: ours.removeprefix("network.") for ours in model.state_dict()}
        beyond: tuple[str, ...] = ()
        if params is not None:
            own, beyond = hub.names_in_checkpoint(model, params, name)
        if spec is not None:
            return Network(spec, model, inputs, own, config)
        traced = PermutationSpec.from_module(model, inputs)
        back = {theirs: ours for ours, theirs in reversed(own.items())}
        spec = _renamed(_with_short_groups(traced), back)
        if beyond:
            assert params is not None
            spec = _with_fixed(spec, {extra: len(params[extra].shape) for extra in beyond})
        return Network(spec, model, inputs, own, config)

    @cached_property
    def model(self) -> Any:
        """The model of the class, in evaluation mode; made once, for tracing and proof leave it as it is."""
        where, _, name = (self.model_class or "").partition(":")
        if not where or not name:
            raise ValueError(f"--model-class is {self.model_class!r}; expected package.module:Class")
        try:
            kwargs = json.loads(self.kwargs)
        except (json.JSONDecodeError, RecursionError) as error:
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
            if not re.fullmatch(r"0*[1-9]\d*(,0*[1-9]\d*)*", shape) or not isinstance(kind, torch.dtype):
                raise ValueError(
                    f"--input is {text!r}; expected a shape without zeros and perhaps a dtype, as in 2,3,32,32 or "
                    "2,16:int64"
                )
            sizes = tuple(map(int, shape.split(",")))
            drawn = torch.randn(sizes, generator=generator)
            examples.append(drawn.to(kind) if kind.is_floating_point else torch.zeros(sizes, dtype=kind))
        return tuple(examples)


def _renamed(spec: PermutationSpec, old_names: Mapping[str, str]) -> PermutationSpec:
    """Return a spec under new names: `old_names` maps each new name to the old one."""
    from rebasin_fast.spec import PermutationSpec

    fixed = {
        (new, axis): length
        for new, old in old_names.items()
        for (param, axis), length in spec.fixed_lengths.items()
        if param == old
    }
    return PermutationSpec(
        {new: spec.axes[old] for new, old in old_names.items()},
        sizes=spec.sizes,
        moved_only=[new for new, old in old_names.items() if old in spec.moved_only],
        fixed_lengths=fixed,
        blocks=spec.blocks,
    )


def _with_short_groups(spec: PermutationSpec) -> PermutationSpec:
    """Return a spec whose groups are not called after the wrapper around the model."""
    from rebasin_fast.layout import renamed
    from rebasin_fast.spec import PermutationSpec

    short = {group: group.removeprefix("network.") for group in spec.groups}
    if len(set(short.values())) < len(short):
        return spec
    parents = {group: short.get(parent, parent) for group, parent in spec.blocks.items()}  # type: ignore[arg-type]
    return PermutationSpec(
        {
            param: tuple(None if axis is None else renamed(axis, short) for axis in axes)
            for param, axes in spec.axes.items()
        },
        sizes=None if spec.sizes is None else {short[group]: size for group, size in spec.sizes.items()},
        moved_only=spec.moved_only,
        fixed_lengths=spec.fixed_lengths,
        blocks={short[group]: parent for group, parent in parents.items()},
    )


def _with_fixed(spec: PermutationSpec, axes: Mapping[str, int]) -> PermutationSpec:
    """Return a spec that knows further parameters, which stay as they are; given are their numbers of axes."""
    from rebasin_fast.spec import PermutationSpec

    return PermutationSpec(
        {**spec.axes, **{name: (None,) * count for name, count in axes.items()}},
        sizes=spec.sizes,
        moved_only=spec.moved_only,
        fixed_lengths=spec.fixed_lengths,
        blocks=spec.blocks,
    )


def _module(name: str) -> Any:
    """Import a module of the user's, which may lie in the current folder, as with ``python -m``."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # code of the user's, which may raise anything
        raise ValueError(
            f"--model-class: the module {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
