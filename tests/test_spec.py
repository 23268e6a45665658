"""PermutationSpec: what it holds, what it refuses, and that its validation leaves no mismatch unnamed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_fast.architectures import mlp, resnet20, vgg16
from rebasin_fast.spec import Axis, Member, PermutationSpec

NOTATION = {
    "conv.weight": ("P_0", None, None, None),
    "bn.weight": ("P_0",),
    "bn.running_mean": ("P_0",),
    "bn.num_batches_tracked": (),
    "fc.weight": ("P_1", ("P_0", 4)),
    "fc.bias": ("P_1",),
    "out.weight": (None, "P_1"),
}
SHAPES = {
    "conv.weight": (5, 3, 2, 2),
    "bn.weight": (5,),
    "bn.running_mean": (5,),
    "bn.num_batches_tracked": (),
    "fc.weight": (6, 20),
    "fc.bias": (6,),
    "out.weight": (2, 6),
}


def make_spec(**kwargs: Any) -> PermutationSpec:
    return PermutationSpec.from_axes_to_perm(NOTATION, **kwargs)


def make_state() -> dict[str, Any]:
    return {name: np.zeros(shape) for name, shape in SHAPES.items()}


def complaints(spec: PermutationSpec, state: Any, name: str = "state_dict") -> list[str]:
    with pytest.raises(ValueError, match="does not fit the specification") as raised:
        spec.validate(state, name)
    title, *lines = str(raised.value).splitlines()
    assert f"({len(lines)} mismatch" in title
    return [line.strip() for line in lines]


# ---- what a spec holds ----------------------------------------------------------------------------------------------


def test_groups_list_members_in_the_order_of_the_axes() -> None:
    spec = make_spec()
    assert list(spec.groups) == ["P_0", "P_1"]
    assert spec.groups["P_0"] == (
        Member("conv.weight", 0),
        Member("bn.weight", 0),
        Member("bn.running_mean", 0),
        Member("fc.weight", 1, block=4),
    )
    assert spec.axes["fc.weight"] == (Axis("P_1"), Axis("P_0", 4))
    assert spec.axes["bn.num_batches_tracked"] == ()
    assert spec.params == tuple(NOTATION)


def test_running_statistics_are_moved_but_not_matched() -> None:
    spec = make_spec()
    assert spec.moved_only == {"bn.running_mean", "bn.num_batches_tracked"}
    assert [name for name in NOTATION if not spec.matched(name)] == ["bn.running_mean", "bn.num_batches_tracked"]
    assert make_spec(moved_only=["fc.bias"]).moved_only == {"fc.bias"}
    assert make_spec(moved_only=()).matched("bn.running_mean")
    with pytest.raises(KeyError, match=r"param is 'fc\.wight'"):
        spec.matched("fc.wight")


def test_a_name_is_a_running_statistic_by_its_last_part_alone() -> None:
    spec = PermutationSpec.from_axes_to_perm({"running_var": ("P",), "running_mean.weight": ("P",)})
    assert spec.moved_only == {"running_var"}


def test_sizes_are_known_or_read_off_a_state_dict() -> None:
    assert make_spec().sizes is None
    assert make_spec().group_sizes(make_state()) == {"P_0": 5, "P_1": 6}
    known = make_spec(sizes={"P_1": np.int32(6), "P_0": 5})
    assert known.group_sizes() == {"P_0": 5, "P_1": 6}
    assert list(known.group_sizes()) == ["P_0", "P_1"]
    with pytest.raises(ValueError, match="params is None and the specification holds no group sizes"):
        make_spec().group_sizes()
    with pytest.raises(ValueError, match="params does not fit"):
        make_spec().group_sizes({})


@pytest.mark.parametrize("spec", [make_spec(), vgg16(1 / 8, spatial=7), resnet20(norm="layer_norm"), mlp((3, 2))])
def test_round_trip_through_the_papers_notation(spec: PermutationSpec) -> None:
    notation = spec.to_axes_to_perm()
    back = PermutationSpec.from_axes_to_perm(notation, sizes=spec.sizes, fixed_lengths=spec.fixed_lengths)
    assert back == spec
    assert hash(back) == hash(spec)
    assert back.to_axes_to_perm() == notation


def test_notation_comes_back_as_it_was_written() -> None:
    assert make_spec().to_axes_to_perm() == NOTATION


ENTRIES = st.one_of(st.none(), st.sampled_from("ABCD"), st.tuples(st.sampled_from("ABCD"), st.integers(2, 9)))


@given(st.dictionaries(st.text(), st.lists(ENTRIES, max_size=4).map(tuple), min_size=1, max_size=6))
def test_round_trip_of_any_notation(notation: dict[str, Any]) -> None:
    spec = PermutationSpec.from_axes_to_perm(notation)
    assert spec.to_axes_to_perm() == notation
    assert {(m.param, m.axis) for members in spec.groups.values() for m in members} == {
        (param, i) for param, entries in notation.items() for i, entry in enumerate(entries) if entry is not None
    }


def test_equality_looks_at_everything_but_the_order_of_names() -> None:
    spec = make_spec()
    reordered = PermutationSpec.from_axes_to_perm(dict(reversed(NOTATION.items())))
    assert spec == reordered
    assert hash(spec) == hash(reordered)
    others = [
        make_spec(sizes={"P_0": 5, "P_1": 6}),
        make_spec(moved_only=()),
        make_spec(fixed_lengths={("out.weight", 0): 2}),
        PermutationSpec.from_axes_to_perm(NOTATION | {"fc.weight": ("P_1", ("P_0", 9))}),
        NOTATION,
    ]
    assert all(spec != other for other in others)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda spec: pickle.loads(pickle.dumps(spec))])
def test_copies_and_pickles(clone: Any) -> None:
    spec = vgg16(1 / 8)
    assert clone(spec) == spec


def test_immutable() -> None:
    spec = make_spec(sizes={"P_0": 5, "P_1": 6})
    with pytest.raises(AttributeError):
        spec.sizes = None  # type: ignore[misc]
    with pytest.raises(AttributeError):
        spec.note = "hello"  # type: ignore[attr-defined]
    for mapping in (spec.axes, spec.groups, spec.sizes, spec.fixed_lengths):
        with pytest.raises(TypeError):
            mapping["P_0"] = ()  # type: ignore[index]


def test_later_changes_to_the_arguments_do_not_reach_the_spec() -> None:
    axes, sizes = {"w": (Axis("P"),)}, {"P": 3}
    spec = PermutationSpec(axes, sizes=sizes)
    axes["v"], sizes["P"] = (None,), 4
    assert spec.params == ("w",)
    assert spec.sizes == {"P": 3}


def test_repr_is_a_table_a_person_can_check() -> None:
    assert repr(make_spec(sizes={"P_0": 5, "P_1": 6})).splitlines() == [
        "PermutationSpec: 2 groups, 7 parameters (2 moved only)",
        "group  size  members",
        "P_0       5  conv.weight[0], bn.weight[0], bn.running_mean[0], fc.weight[1, block 4]",
        "P_1       6  fc.weight[0], fc.bias[0], out.weight[1]",
    ]
    assert "P_0       ?  conv" in repr(make_spec())
    assert repr(mlp((3, 2))) == "PermutationSpec: 0 groups, 2 parameters"
    assert "bn1.running_mean[0], and 21 more" in str(resnet20())


# ---- construction refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notation", "error", "message"),
    [
        ([("w", ("P",))], TypeError, "axes_to_perm is .* of type list; expected a mapping"),
        ({}, ValueError, "axes is empty"),
        ({3: ("P",)}, TypeError, "axes has the key 3 of type int; expected parameter names as strings"),
        ({"w": "P"}, TypeError, r"axes_to_perm\['w'\] is 'P' of type str; expected a tuple"),
        ({"w": None}, TypeError, r"axes_to_perm\['w'\] is None"),
        ({"w": (None, 3)}, TypeError, r"axes_to_perm\['w'\]\[1\] is 3 of type int; expected None, a group name, or"),
        ({"w": ("P", 49)}, TypeError, r"axes_to_perm\['w'\]\[1\] is 49"),
        ({"w": (("P", 2, 2),)}, TypeError, r"axes_to_perm\['w'\]\[0\] is \('P', 2, 2\)"),
        ({"w": ((2, "P"),)}, TypeError, r"axes_to_perm\['w'\]\[0\] is \(2, 'P'\)"),
        ({"w": (("P", 0),)}, ValueError, r"the block in axes_to_perm\['w'\]\[0\] is 0; expected at least 1"),
        ({"w": (("P", 2.0),)}, TypeError, r"the block in axes_to_perm\['w'\]\[0\] is 2.0 of type float"),
        ({"w": (("P", True),)}, TypeError, r"the block in axes_to_perm\['w'\]\[0\] is True of type bool"),
    ],
)
def test_bad_notation(notation: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PermutationSpec.from_axes_to_perm(notation)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"sizes": [5, 6]}, TypeError, "sizes is .* of type list; expected a mapping"),
        ({"sizes": {"P_0": 5}}, ValueError, r"lacks \['P_1'\]"),
        ({"sizes": {"P_0": 5, "P_1": 6, "Q": 7}}, ValueError, r"sizes has unknown groups \['Q'\]"),
        ({"sizes": {"P_0": 0, "P_1": 6}}, ValueError, r"sizes\['P_0'\] is 0; expected at least 1"),
        ({"sizes": {"P_0": -5, "P_1": 6}}, ValueError, r"sizes\['P_0'\] is -5"),
        ({"sizes": {"P_0": 5.0, "P_1": 6}}, TypeError, r"sizes\['P_0'\] is 5.0 of type float; expected an integer"),
        ({"moved_only": "fc.bias"}, TypeError, "moved_only is 'fc.bias' of type str; expected an iterable"),
        ({"moved_only": 3}, TypeError, "moved_only is 3"),
        ({"moved_only": ["fc.bias", "nope"]}, ValueError, "moved_only names 'nope'; expected parameters"),
        ({"fixed_lengths": [1]}, TypeError, "fixed_lengths is .* of type list"),
        ({"fixed_lengths": {("out.weight", 1): 6}}, ValueError, r"fixed_lengths has the key \('out.weight', 1\)"),
        ({"fixed_lengths": {("out.weight", 0): -1}}, ValueError, r"fixed_lengths\[\('out.weight', 0\)\] is -1"),
    ],
)
def test_bad_keywords(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_spec(**kwargs)


@pytest.mark.parametrize("axes", [[], {"w": ("P",)}, {"w": [Axis("P")]}, {"w": None}])
def test_the_constructor_takes_axes_only(axes: Any) -> None:
    with pytest.raises(TypeError, match="axes"):
        PermutationSpec(axes)


def test_bad_axis() -> None:
    with pytest.raises(TypeError, match="group is 3 of type int; expected a string"):
        Axis(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the block of group 'P' is -1; expected at least 1"):
        Axis("P", -1)


# ---- validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [None, {"P_0": 5, "P_1": 6}])
def test_a_fitting_state_dict_passes(sizes: dict[str, int] | None) -> None:
    spec, state = make_spec(sizes=sizes), make_state()
    spec.validate(state)
    spec.validate({name: torch.zeros(shape) for name, shape in SHAPES.items()})
    assert all(np.array_equal(value, np.zeros(SHAPES[name])) for name, value in state.items())


@pytest.mark.parametrize("argument", [None, [], "weights.pt", torch.nn.Linear(2, 3)])
def test_not_a_mapping(argument: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"params_a is of type {type(argument).__name__}; expected a mapping of names to arrays"
    ):
        make_spec().validate(argument, "params_a")


def test_every_mismatch_is_named_at_once() -> None:
    state = make_state()
    del state["bn.weight"]
    state |= {
        "stray": np.zeros(3),
        "conv.weight": np.zeros((5, 3)),
        "bn.num_batches_tracked": 7,
        "fc.bias": torch.zeros(9),
        "fc.weight": np.zeros((6, 21)),
        "out.weight": np.zeros((4, 8)),
    }
    spec = make_spec(sizes={"P_0": 5, "P_1": 6}, fixed_lengths={("out.weight", 0): 2})
    assert complaints(spec, state, "params_b") == [
        "params_b['bn.weight'] is missing; expected an array with 1 axis",
        "params_b['stray'] is unknown to the specification; expected only the names it holds",
        "params_b['conv.weight'] has shape (5, 3); expected 4 axes",
        "params_b['bn.num_batches_tracked'] is of type int; expected a numpy array or a torch tensor",
        "params_b['fc.weight'] has shape (6, 21): axis 1 has length 21; "
        "expected 20, 5 units in blocks of 4 of group 'P_0', as the specification says",
        "params_b['fc.bias'] has shape (9,): axis 0 has length 9; "
        "expected 6, the size of group 'P_1', as the specification says",
        "params_b['out.weight'] has shape (4, 8): axis 0 has length 4; expected 2, as the specification says",
        "params_b['out.weight'] has shape (4, 8): axis 1 has length 8; "
        "expected 6, the size of group 'P_1', as the specification says",
    ]


def test_without_sizes_the_majority_of_the_members_decides() -> None:
    (line,) = complaints(make_spec(), make_state() | {"fc.weight": np.zeros((7, 20))})
    assert line.endswith("axis 0 has length 7; expected 6, the size of group 'P_1', as fc.bias[0]")


def test_without_sizes_the_first_member_wins_a_tie() -> None:
    spec = PermutationSpec.from_axes_to_perm({"a": ("P",), "b": ("P",)})
    assert complaints(spec, {"a": np.zeros(3), "b": np.zeros(4)}) == [
        "state_dict['b'] has shape (4,): axis 0 has length 4; expected 3, the size of group 'P', as a[0]"
    ]


def test_a_length_that_the_block_does_not_divide() -> None:
    (line,) = complaints(make_spec(), make_state() | {"fc.weight": np.zeros((6, 22))})
    assert line.endswith("axis 1 has length 22; expected a multiple of 4, the block of group 'P_0'")
    only = PermutationSpec.from_axes_to_perm({"w": (("P", 4),)})
    (line,) = complaints(only, {"w": np.zeros(6)})
    assert "expected a multiple of 4" in line


def test_empty_groups_are_refused() -> None:
    spec = PermutationSpec.from_axes_to_perm({"a": ("P", None), "b": ("P",)})
    lines = complaints(spec, {"a": np.zeros((0, 3)), "b": np.zeros(0)})
    assert len(lines) == 2
    assert all("axis 0 has length 0; expected at least one unit in group 'P'" in line for line in lines)


def test_a_group_twice_on_one_array_is_unsupported() -> None:
    assert make_spec().plain
    spec = PermutationSpec.from_axes_to_perm({"w": ("P", "P"), "v": ("P", None)})
    assert complaints(spec, {"w": np.zeros((3, 3)), "v": np.zeros((3, 2))}) == [
        "state_dict['w'] has group 'P' on 2 axes; expected each group once on an array (unsupported)"
    ]
    assert not spec.plain
    spec.validate({"w": np.zeros((3, 3)), "v": np.zeros((3, 2))}, matching=False)


@pytest.mark.parametrize("value", [None, 1.0, [1.0, 2.0], "x", np.float64(3)])
def test_values_that_are_no_arrays(value: Any) -> None:
    (line,) = complaints(make_spec(), make_state() | {"fc.bias": value})
    assert line.startswith(f"state_dict['fc.bias'] is of type {type(value).__name__}")


@given(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))
def test_whatever_is_missing_is_named(missing: set[str]) -> None:
    state = {name: array for name, array in make_state().items() if name not in missing}
    lines = complaints(make_spec(), state)
    assert {name for name in SHAPES if any(f"['{name}'] is missing" in line for line in lines)} == missing
    assert len(lines) == len(missing)
