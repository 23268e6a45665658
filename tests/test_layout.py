"""Sums and products of groups on an axis: their notation, and where entries go under a permutation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_fast import (
    PermutationSpec,
    WeightMatcher,
    apply_permutation,
    compose,
    count_symmetries,
    invert,
    random_permutation,
)
from rebasin_fast._notation import parsed
from rebasin_fast.layout import Axis, Fixed, ProductAxis, SumAxis, Within, simplified
from rebasin_fast.permute import validate_permutation

SIZES = {"h": 2, "q": 6, "r": 4, "P": 3, "Q": 4}
BLOCKS = {"q": "h", "r": "h", "Q": 2}

LEAVES = st.sampled_from([Axis("P"), Axis("Q"), Axis("P", 2), Fixed(2), Fixed(3), Axis("q")])
LAYOUTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: ProductAxis(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: SumAxis(tuple(parts))),
    ),
    max_leaves=5,
)


def spec_of(**axes: Any) -> PermutationSpec:
    named = {"all": ("h", "q", "r", "P", "Q")}
    return PermutationSpec.from_axes_to_perm(axes | named, sizes=SIZES, blocks=BLOCKS)


def units_of(layout: Any, p: dict[str, np.ndarray], new: bool, at: dict[str, int] | None = None) -> list[Any]:
    """What lies on every entry, as nested tuples: the slow twin of `entries`.

    Units are named by their old number, so after a permutation the entries have to be found in its order.
    """
    at = at or {}
    if isinstance(layout, Fixed):
        return [("fixed", i) for i in range(layout.length)]
    if isinstance(layout, Axis):
        index = p[layout.group] if new else np.arange(SIZES[layout.group])
        return [(layout.group, int(k), i) for k in index for i in range(layout.block)]
    if isinstance(layout, SumAxis):
        return [(t, unit) for t, term in enumerate(layout.terms) for unit in units_of(term, p, new, at)]
    found: list[Any] = [()]
    for factor in layout.factors:
        found = [(*one, unit) for one in found for unit in units_of(factor, p, new, at)]
    return found


@given(LAYOUTS, st.integers(0, 1000))
@settings(deadline=None)
def test_entries_go_where_their_units_go(layout: Any, seed: int) -> None:
    spec = PermutationSpec({"w": (layout,), "all": tuple(map(Axis, SIZES))}, sizes=SIZES, blocks=BLOCKS)
    p = random_permutation(spec, seed)
    plain = spec.axes["w"][0] or Fixed(spec.structure.length(simplified(layout)))
    before, after = units_of(plain, p, new=False), units_of(plain, p, new=True)
    array = np.arange(len(before))
    others = np.zeros(tuple(SIZES.values()))
    moved = apply_permutation(spec, p, {"w": array, "all": others})["w"]
    assert [before[i] for i in moved] == after
    tensors = apply_permutation(spec, p, {"w": torch.from_numpy(array), "all": torch.from_numpy(others)})
    assert tensors["w"].tolist() == moved.tolist()


@given(LAYOUTS)
def test_the_notation_is_read_as_it_is_written(layout: Any) -> None:
    simple = simplified(layout)
    assert parsed(str(simple)) == simple
    assert simplified(simple) == simple


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("P * 7 * 7", "P * 49"),
        ("P+P+P+P", "4 * P"),
        ("(P + Q) * 2", "(P + Q) * 2"),
        ("h * (q@h + r@h)", "h * (q@h + r@h)"),
        ("h * q@h * 3", "q * 3"),
        ("3 + 4 + P * 1", "7 + P"),
        ("2 * (3 * P)", "6 * P"),
    ],
)
def test_one_way_to_write_it(text: str, written: str) -> None:
    assert str(parsed(text)) == written


@pytest.mark.parametrize("text", ["P +", "* P", "(P", "P)", "P Q * 2", "q@", "@h", "P * 0", "()", "P ** 2"])
def test_what_is_no_notation(text: str) -> None:
    with pytest.raises(ValueError, match=r"notation|expected at least 1"):
        parsed(text)


def test_a_parent_before_its_children_is_the_same_as_the_children() -> None:
    assert spec_of(w=("h * q@h",)) == spec_of(w=("q",))


def test_units_in_the_block_that_another_axis_tells() -> None:
    """The weights of a grouped convolution: outputs (groups x 3), inputs of one group each (2)."""
    spec = spec_of(w=("q", "r@h"))
    p = random_permutation(spec, seed=3)
    w = np.arange(12).reshape(6, 2)
    moved = apply_permutation(spec, p, {"w": w, "all": np.zeros((2, 6, 4, 3, 4))})["w"]
    for h in range(2):
        for u in range(3):
            for v in range(2):
                old_unit, old_input = p["q"][h * 3 + u], p["r"][h * 2 + v]
                assert moved[h * 3 + u, v] == w[old_unit, old_input % 2]
    both = PermutationSpec.from_axes_to_perm(
        {"w": ("r@h", None, "q")}, sizes={"h": 2, "q": 6, "r": 4}, blocks={"q": "h", "r": "h"}
    )
    p = {group: p[group] for group in both.groups}
    turned = apply_permutation(both, p, {"w": torch.from_numpy(w.T[:, None].copy())})["w"]
    assert turned[:, 0].T.tolist() == moved.tolist()


def test_the_group_laws_hold_for_blocks() -> None:
    spec = spec_of(w=("q", "r@h"), v=("h * (q@h + 2) + P",))
    params = {"w": np.arange(12.0).reshape(6, 2), "v": np.arange(13.0), "all": np.zeros((2, 6, 4, 3, 4))}
    p, q = random_permutation(spec, 1), random_permutation(spec, 2)
    validate_permutation(spec, compose(p, q))
    at_once = apply_permutation(spec, compose(p, q), params)
    in_turn = apply_permutation(spec, p, apply_permutation(spec, q, params))
    back = apply_permutation(spec, invert(p), apply_permutation(spec, p, params))
    for name, array in params.items():
        np.testing.assert_array_equal(at_once[name], in_turn[name])
        np.testing.assert_array_equal(back[name], array)


def test_a_permutation_that_tears_blocks_apart_is_refused() -> None:
    spec = spec_of(w=("q",))
    p = random_permutation(spec, 0) | {"q": np.array([0, 3, 1, 4, 2, 5])}
    with pytest.raises(ValueError, match=r"group 'q' does not keep its blocks together; expected .* group 'h'"):
        validate_permutation(spec, p)
    p = random_permutation(spec, 0) | {"Q": np.array([2, 3, 0, 1])}
    with pytest.raises(ValueError, match=r"group 'Q' .* expected blocks that move with 2 blocks that stay"):
        validate_permutation(spec, p)


def test_symmetries_of_blocks_are_counted() -> None:
    spec = PermutationSpec.from_axes_to_perm({"w": ("q",)}, sizes={"h": 2, "q": 6}, blocks={"q": "h"})
    assert 10 ** count_symmetries(spec) == pytest.approx(2 * 6 * 6)


@pytest.mark.parametrize(
    ("axes", "keywords", "message"),
    [
        ({"w": ("P + Q",)}, {}, "without sizes; expected the sizes of all groups"),
        (
            {"w": ("q@h",)},
            {"sizes": {"q": 6, "h": 2}, "blocks": {"q": "h"}},
            "expected 'h' beside it, or on one other axis",
        ),
        ({"w": ("q@h", "h", "h")}, {"sizes": {"q": 6, "h": 2}, "blocks": {"q": "h"}}, "expected 'h' beside it"),
        ({"w": ("h * (q@h + 1)",)}, {"sizes": {"q": 6, "h": 2}}, r"expected blocks\['q'\] to say so"),
        ({"w": ("q",)}, {"blocks": {"q": 2}}, "blocks are given without sizes"),
        ({"w": ("q",)}, {"sizes": {"q": 6}, "blocks": {"x": 2}}, "blocks names 'x'"),
        ({"w": ("q",)}, {"sizes": {"q": 6}, "blocks": {"q": 4}}, r"sizes\['q'\] is 6; expected a multiple of 4"),
        ({"w": ("q", "h")}, {"sizes": {"q": 6, "h": 6}, "blocks": {"q": "h", "h": "q"}}, "expected no circles"),
    ],
)
def test_specs_that_make_no_sense(axes: Any, keywords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PermutationSpec.from_axes_to_perm(axes, **keywords)


def test_lengths_of_sums_and_products_are_checked() -> None:
    spec = spec_of(w=("3 + P * 2",))
    with pytest.raises(ValueError, match=r"axis 0 has length 8; expected 9, the length of '3 \+ P \* 2'"):
        spec.validate({"w": np.zeros(8), "all": np.zeros((2, 6, 4, 3, 4))})


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (("P + Q",), r"has 'P \+ Q' on axis 0; expected one group"),
        (("q",), "has group 'q', which moves in blocks"),
        (("P", "P"), "has group 'P' on 2 axes"),
    ],
)
def test_what_the_engine_of_plain_specs_does_not_support_is_refused_in_words(axes: Any, message: str) -> None:
    used = {"P", "Q"} if "Q" in str(axes) else {"q", "h"} if axes == ("q",) else {"P"}
    sizes, blocks = {group: SIZES[group] for group in used}, {"q": "h"} if "q" in used else {}
    spec = PermutationSpec.from_axes_to_perm({"w": axes}, sizes=sizes, blocks=blocks)
    w = {"w": np.zeros([spec.structure.length(layout) for layout in spec.axes["w"]])}
    spec.validate(w, matching=False)
    assert not spec.plain
    with pytest.raises(ValueError, match=message):
        spec.validate(w)
    with pytest.raises(ValueError, match="spec has blocks, sums or products, or a group twice"):
        WeightMatcher(spec, w, w)


def test_within_needs_its_own_class() -> None:
    assert parsed("q@h") == Within("q", "h")
