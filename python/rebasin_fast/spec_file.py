"""Specs as JSON that a person can read: one line for each group and each parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .report import FrozenAxis, Origin

if TYPE_CHECKING:
    from .spec import PermutationSpec

FORMAT = "rebasin_fast.PermutationSpec"
VERSION = 1


def to_json(spec: PermutationSpec) -> str:
    """Return the text of a spec; see `PermutationSpec.save`."""
    origin = spec.origin
    sections: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "groups": _Lines({group: _group(spec, group) for group in spec.groups}),
        "axes": _Lines({param: list(axes) for param, axes in spec.to_axes_to_perm().items()}),
        "moved_only": sorted(spec.moved_only),
        "fixed_lengths": _Lines(_nested(spec.fixed_lengths)),
    }
    if origin is not None:
        sections["frozen"] = _Rows(_by_reason(origin.frozen))
        sections["unknown_operators"] = _Rows(list(one) for one in origin.unknown_operators)
        sections["warnings"] = _Rows(list(origin.warnings))
    body = ",\n".join(f"  {json.dumps(name)}: {_text(value)}" for name, value in sections.items())
    return f"{{\n{body}\n}}\n"


def from_json(text: str, name: str) -> PermutationSpec:
    """Return the spec that a text describes; `name` is what messages call it."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{name} is no specification; expected a JSON object with format {FORMAT!r}")
    if content.get("version") != VERSION:
        raise ValueError(f"{name} has version {content.get('version')!r}; expected {VERSION}")
    missing = [key for key in ("groups", "axes", "moved_only", "fixed_lengths") if key not in content]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(map(repr, missing))}")
    try:
        return _described(content, name)
    except (TypeError, ValueError) as error:
        text = str(error)
        raise ValueError(text if text.startswith(name) else f"{name}: {text}") from None
    except (AttributeError, LookupError) as error:
        raise ValueError(f"{name} has a section that is not as `save` writes it: {error}") from None


def _described(content: Mapping[str, Any], name: str) -> PermutationSpec:
    from .spec import PermutationSpec

    groups, axes = _mapping(content, "groups", name), _mapping(content, "axes", name)
    for group in groups:
        _mapping(groups, group, f"{name}: 'groups'")
    sizes = {group: entry["size"] for group, entry in groups.items() if "size" in entry}
    blocks = {group: entry["blocks_of"] for group, entry in groups.items() if "blocks_of" in entry}
    spec = PermutationSpec.from_axes_to_perm(
        axes,
        sizes=sizes or None,
        moved_only=content["moved_only"],
        fixed_lengths={
            (param, int(axis)): length
            for param, lengths in _mapping(content, "fixed_lengths", name).items()
            for axis, length in lengths.items()
        },
        blocks=blocks,
    )
    if "frozen" not in content:
        return spec
    frozen = tuple(
        FrozenAxis(param, axis, length, entry["operator"], entry["module"])
        for entry in content["frozen"]
        for param, axis, length in entry["axes"]
    )
    unknown = tuple((operator, module) for operator, module in content.get("unknown_operators", ()))
    return spec.with_origin(Origin(frozen, unknown, tuple(content.get("warnings", ()))))


class _Lines(dict[str, Any]):
    """A mapping that is written with a line for each entry."""


class _Rows(list[Any]):
    """A list that is written with a line for each entry."""


def _text(value: Any) -> str:
    if not isinstance(value, _Lines | _Rows) or not value:
        return _dumped(value)
    if isinstance(value, _Rows):
        return "[\n" + ",\n".join(f"    {_dumped(entry)}" for entry in value) + "\n  ]"
    lines = ",\n".join(f"    {_dumped(key)}: {_dumped(entry)}" for key, entry in value.items())
    return f"{{\n{lines}\n  }}"


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _group(spec: PermutationSpec, group: str) -> dict[str, Any]:
    entry: dict[str, Any] = {} if spec.sizes is None else {"size": spec.sizes[group]}
    return entry | ({"blocks_of": spec.blocks[group]} if group in spec.blocks else {})


def _nested(lengths: Mapping[tuple[str, int], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (param, axis), length in lengths.items():
        nested.setdefault(param, {})[str(axis)] = length
    return nested


def _by_reason(frozen: tuple[FrozenAxis, ...]) -> list[dict[str, Any]]:
    places: dict[tuple[str, str], list[list[Any]]] = {}
    for axis in frozen:
        places.setdefault((axis.operator, axis.module), []).append([axis.param, axis.axis, axis.length])
    return [{"operator": operator, "module": module, "axes": axes} for (operator, module), axes in places.items()]


def _mapping(content: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    if not isinstance(content[key], Mapping):
        raise ValueError(f"{name} has {key!r} of type {type(content[key]).__name__}; expected an object")
    return content[key]  # type: ignore[no-any-return]
