"""Architectures from a config.json of transformers. Only classes of transformers itself: no code beside it is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rebasin_fast._extras import require

_INSIDE = "network"
_TOKENS = 7
_IMAGE = 32
_FEWER = 2


def read_config(path: Path) -> Any:
    """Return the configuration in a file; nothing is looked for anywhere else.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        It is no configuration, or of an architecture that transformers does not have.
    ImportError
        Without transformers.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{path} has no model_type; expected a config.json of transformers")
    known = _transformers().CONFIG_MAPPING
    if kind not in known:
        foreign = ", and the code that its auto_map names is never run" if "auto_map" in content else ""
        raise ValueError(f"{path} has the model_type {kind!r}, which transformers does not have{foreign}")
    try:
        return known[kind].from_dict(content)
    except Exception as error:  # each architecture checks its own options in its own way
        raise ValueError(f"{path}: transformers takes it for no configuration of {kind}: {error}") from error


def shortened(config: Any) -> Any | None:
    """Return the same configuration with few layers, or None if it has no number of layers."""
    small = type(config).from_dict(config.to_dict())
    text = small.get_text_config()
    if not isinstance(getattr(text, "num_hidden_layers", None), int):
        return None
    layers = min(text.num_hidden_layers, _FEWER)
    for owner in {id(small): small, id(text): text}.values():
        for name in ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"):
            if isinstance(getattr(owner, name, None), int):
                setattr(owner, name, layers)
        if isinstance(getattr(owner, "layer_types", None), list):
            owner.layer_types = owner.layer_types[:layers]
    return small


def made(config: Any, device: str) -> Any:
    """Return a model of a configuration, wrapped so that it maps one argument to its logits, in evaluation mode.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        Its first architecture is taken, the bare model without one.
    device : str
        "cpu", with parameters drawn at random; "meta", without any.

    Returns
    -------
    torch.nn.Module
        Takes a tensor (token ids or pixels) or a mapping of arguments. Its parameters have the names of the model's,
        behind ``network.``.
    """
    torch, transformers = require("torch", "torch"), _transformers()
    name = next(iter(config.architectures or ()), None)
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    make: Any = cls if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel) else None
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        try:
            model = make(config) if make else transformers.AutoModel.from_config(config, trust_remote_code=False)
        except Exception as error:  # code of each architecture's own
            raise ValueError(f"transformers cannot make a {name or config.model_type}: {error}") from error
    return _wrapped(torch, model.float().eval())


def example(model: Any) -> Any:
    """Return an example of what a model of `made` takes."""
    torch, inner = require("torch", "torch"), model.network
    config, text = inner.config, inner.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    if inner.main_input_name == "pixel_values":
        size = getattr(config, "image_size", None) or _IMAGE
        sizes = (size, size) if isinstance(size, int) else tuple(size)
        return torch.randn((2, getattr(config, "num_channels", 3), *sizes), generator=generator)
    if inner.main_input_name != "input_ids":
        raise ValueError(
            f"{type(inner).__name__} takes {inner.main_input_name}, of which no example is known; expected --input"
        )
    tokens = {"input_ids": torch.randint(0, int(text.vocab_size), (2, _TOKENS), generator=generator)}
    if getattr(config, "is_encoder_decoder", False):
        tokens["decoder_input_ids"] = torch.randint(0, int(text.vocab_size), (2, _TOKENS - 2), generator=generator)
    return tokens


def names_in_checkpoint(model: Any, names: Iterable[str], path: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return for every entry of the model's state dict its name in a checkpoint, and what the checkpoint has beyond.

    Checkpoints leave out tied tensors, and may hold the model without its head, or the head's model for one without.
    What is beyond is what transformers says can be ignored, such as masks of old versions.

    Raises
    ------
    ValueError
        The checkpoint lacks something, or has something that the model does not.
    """
    inner, found = model.network, set(names)
    prefix = f"{inner.base_model_prefix}."
    first: dict[int, str] = {}
    for name in inner.state_dict(keep_vars=True):
        for candidate in (name, name.removeprefix(prefix), prefix + name):
            if candidate in found:
                first.setdefault(id(_tensor(inner, name)), candidate)
                break
    own: dict[str, str] = {}
    missing = []
    for name in inner.state_dict(keep_vars=True):
        candidates = [c for c in (name, name.removeprefix(prefix), prefix + name) if c in found]
        there = candidates[0] if candidates else first.get(id(_tensor(inner, name)))
        if there is None:
            missing.append(name)
        else:
            own[f"{_INSIDE}.{name}"] = there
    if missing:
        raise ValueError(f"{path} lacks {_few(missing)}, which {type(inner).__name__} has")
    beyond = sorted(found - set(own.values()))
    ignored = list(getattr(inner, "_keys_to_ignore_on_load_unexpected", None) or ())
    unknown = [name for name in beyond if not any(re.search(pattern, name) for pattern in ignored)]
    if unknown:
        raise ValueError(f"{path} has {_few(unknown)}, of which {type(inner).__name__} does not know")
    return own, tuple(beyond)


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tensor(module: Any, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last, None)


def _transformers() -> Any:
    transformers = require("transformers", "hub")
    transformers.logging.set_verbosity_error()  # it warns of token ids, which nothing is generated with here
    return transformers


def _wrapped(torch: Any, model: Any) -> Any:
    class OneArgument(torch.nn.Module):  # type: ignore[misc]
        """A model of transformers that takes one argument and returns logits, or the outputs if it has none."""

        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, inputs: Any) -> Any:
            arguments = dict(inputs) if isinstance(inputs, Mapping) else {model.main_input_name: inputs}
            outputs = self.network(**arguments)
            logits = getattr(outputs, "logits", None)
            return outputs if logits is None else logits

    return OneArgument().eval()
