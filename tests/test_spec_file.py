"""Specs in files: what is read back is what was written, and a person can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rebasin_fast import PermutationSpec, resnet20, vgg16

BLOCKS = PermutationSpec.from_axes_to_perm(
    {"q": ("units", None), "v": (None, "3 + heads * values@heads"), "scale": ("heads",), "norm": (("units", 2),)},
    sizes={"units": 12, "values": 6, "heads": 3},
    blocks={"units": "heads", "values": "heads"},
    fixed_lengths={("q", 1): 7},
    moved_only=["norm"],
)


@pytest.mark.parametrize(
    "spec",
    [
        BLOCKS,
        vgg16(1 / 8),
        resnet20(norm="layer_norm"),
        PermutationSpec.from_axes_to_perm({"ä ö": ("P",), "b": (("P", 3), None)}),
        PermutationSpec.from_axes_to_perm({"b": (None, None), "c": ()}),
        PermutationSpec.from_axes_to_perm({"a": ("P",)}, sizes={"P": 8}, blocks={"P": 4}),
    ],
    ids=["blocks", "vgg16", "resnet20", "without sizes", "without groups", "fixed blocks"],
)
def test_what_is_read_is_what_was_written(tmp_path: Path, spec: PermutationSpec) -> None:
    spec.save(tmp_path / "spec.json")
    read = PermutationSpec.load(tmp_path / "spec.json")
    assert read == spec
    assert list(read.groups) == list(spec.groups) or set(read.groups) == set(spec.groups)
    assert json.loads((tmp_path / "spec.json").read_text())["version"] == 1


def test_a_line_for_each_group_and_parameter(tmp_path: Path) -> None:
    BLOCKS.save(tmp_path / "spec.json")
    lines = (tmp_path / "spec.json").read_text().splitlines()
    assert '    "units": {"size": 12, "blocks_of": "heads"},' in lines
    assert '    "v": [null, "3 + values"],' in lines
    assert '    "norm": [["units", 2]]' in lines


def test_the_report_of_a_traced_spec_is_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    spec = PermutationSpec.from_module(model, torch.zeros(3, 4))
    spec.save(tmp_path / "spec.json")
    assert PermutationSpec.load(tmp_path / "spec.json").report() == spec.report()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: "{", "is not JSON"),
        (lambda content: "[]", "is no specification"),
        (lambda content: json.dumps(content | {"format": "other"}), "is no specification"),
        (lambda content: json.dumps(content | {"version": 2}), "has version 2; expected 1"),
        (lambda content: json.dumps({k: v for k, v in content.items() if k != "axes"}), "lacks 'axes'"),
        (lambda content: json.dumps(content | {"axes": []}), "'axes' of type list; expected an object"),
        (lambda content: json.dumps(content | {"axes": {"q": ["a * ("]}}), "not in the notation"),
        (lambda content: json.dumps(content | {"axes": {"q": "units"}}), r"spec.json: .*expected a tuple"),
        (lambda content: json.dumps(content | {"groups": {"units": 12}}), "'units' of type int; expected an object"),
        (
            lambda content: json.dumps(content | {"fixed_lengths": {"q": {"x": 7}}}),
            "has 'x' in 'fixed_lengths'; expected the number",
        ),
        (lambda content: json.dumps(content | {"fixed_lengths": {"q": [7]}}), "not as `save` writes it"),
        (lambda content: json.dumps(content | {"frozen": [{"operator": "x"}]}), "not as `save` writes it: 'module'"),
        (lambda content: json.dumps(content | {"frozen": 3}), "'frozen' of type int; expected a list"),
        (lambda content: json.dumps(content | {"version": True}), "has version True; expected 1"),
        (lambda content: json.dumps(content | {"version": 1.0}), "has version 1.0; expected 1"),
        (lambda content: json.dumps(content)[:-1] + ', "version": 1}', "has 'version' twice in one object"),
        (lambda content: json.dumps(content).replace('"q": [', '"q": [null, null], "q": [', 1), "has 'q' twice"),
        (
            lambda content: json.dumps(content | {"moved_only": {"norm": 1}}),
            "'moved_only' of type dict; expected a list",
        ),
        (lambda content: json.dumps(content | {"moved_only": [1]}), "has 1 in 'moved_only'; expected str"),
        (lambda content: json.dumps(content | {"fixed_lengths": {"q": {"01": 7}}}), "has '01' in 'fixed_lengths'"),
        (lambda content: json.dumps(content | {"fixed_lengths": {"q": {"1": True}}}), "spec.json: .*True"),
        (
            lambda content: json.dumps(content | {"groups": content["groups"] | {"heads": {"sise": 3}}}),
            "has 'sise' in group",
        ),
        (
            lambda content: json.dumps(content | {"frozen": [], "warnings": "none"}),
            "'warnings' of type str; expected a",
        ),
        (lambda content: json.dumps(content | {"frozen": [], "unknown_operators": ["ab"]}), "has 'ab' in 'unknown_op"),
        (
            lambda content: json.dumps(
                content | {"frozen": [{"operator": "x", "module": "", "axes": [["q", True, 3]]}]}
            ),
            r"has \['q', True, 3\] in 'frozen'; expected str, int, int",
        ),
        (lambda content: "[" * 100_000, "is not JSON"),
    ],
)
def test_files_that_hold_no_spec(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "spec.json"
    BLOCKS.save(path)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=message):
        PermutationSpec.load(path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"spec\.json is not JSON: 'utf-8' codec"):
        PermutationSpec.load(path)
