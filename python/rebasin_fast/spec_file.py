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


def from_json(text: str | bytes, name: str) -> PermutationSpec:
    """Return the spec that a text describes; `name` is what messages call it."""
    try:
        content = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_once)
    except _RepeatedKeyError as error:
        raise ValueError(f"{name} has {str(error)!r} twice in one object; expected every key once") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{name} is no specification; expected a JSON object with format {FORMAT!r}")
    version = content.get("version")
    if type(version) is not int or version != VERSION:  # True equals 1
        raise ValueError(f"{name} has version {version!r}; expected {VERSION}")
    missing = [key for key in ("groups", "axes", "moved_only", "fixed_lengths") if key not in content]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(map(repr, missing))}")
    try:
        return _described(content, name)
    except (TypeError, ValueError) as error:
        message = str(error)
        raise ValueError(message if message.startswith(name) else f"{name}: {message}") from None
    except (AttributeError, LookupError) as error:
        raise ValueError(f"{name} has a section that is not as `save` writes it: {error}") from None


def _described(content: Mapping[str, Any], name: str) -> PermutationSpec:
    from .spec import PermutationSpec

    groups, axes = _mapping(content, "groups", name), _mapping(content, "axes", name)
    for group in groups:
        unknown = _mapping(groups, group, f"{name}: 'groups'").keys() - {"size", "blocks_of"}
        if unknown:
            raise ValueError(f"{name} has {min(unknown)!r} in group {group!r}; expected 'size' and 'blocks_of' only")
    sizes = {group: entry["size"] for group, entry in groups.items() if "size" in entry}
    blocks = {group: entry["blocks_of"] for group, entry in groups.items() if "blocks_of" in entry}
    spec = PermutationSpec.from_axes_to_perm(
        axes,
        sizes=sizes or None,
        moved_only=_strings(content, "moved_only", name),
        fixed_lengths={
            (param, _axis_number(axis, name)): length
            for param, lengths in _mapping(content, "fixed_lengths", name).items()
            for axis, length in lengths.items()
        },
        blocks=blocks,
    )
    if "frozen" not in content:
        return spec
    return spec.with_origin(_origin(content, name))


def _origin(content: Mapping[str, Any], name: str) -> Origin:
    frozen = []
    for entry in _list(content, "frozen", name):
        operator, module = _fields((entry["operator"], entry["module"]), (str, str), "frozen", name)
        for place in entry["axes"]:
            param, axis, length = _fields(place, (str, int, int), "frozen", name)
            frozen.append(FrozenAxis(param, axis, length, operator, module))
    unknown = [
        _fields(entry, (str, str), "unknown_operators", name) for entry in _list(content, "unknown_operators", name)
    ]
    return Origin(tuple(frozen), tuple(unknown), tuple(_strings(content, "warnings", name)))


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


def _list(content: Mapping[str, Any], key: str, name: str) -> list[Any]:
    found = content.get(key, [])
    if not isinstance(found, list):
        raise ValueError(f"{name} has {key!r} of type {type(found).__name__}; expected a list")
    return found


def _strings(content: Mapping[str, Any], key: str, name: str) -> list[str]:
    found = _list(content, key, name)
    for entry in found:
        if not isinstance(entry, str):
            raise ValueError(f"{name} has {entry!r} in {key!r}; expected str")
    return found


def _fields(entry: Any, types: tuple[type, ...], key: str, name: str) -> tuple[Any, ...]:
    """Return the parts of an entry, which are of these very types: True is no number."""
    if not isinstance(entry, list | tuple) or tuple(map(type, entry)) != types:
        expected = ", ".join(one.__name__ for one in types)
        raise ValueError(f"{name} has {entry!r} in {key!r}; expected {expected}")
    return tuple(entry)


def _axis_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and str(int(text)) == text):
        raise ValueError(f"{name} has {text!r} in 'fixed_lengths'; expected the number of an axis")
    return int(text)


class _RepeatedKeyError(Exception):
    """A key stands twice in one JSON object: which one was meant, nobody knows."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(key)
        found[key] = value
    return found
