"""Dimensions as sums of products: what splitting, cutting and uniting leave of them; and views that leave no trace."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_fast.tracing import capture as _capture  # noqa: F401 (enters all rules)
from rebasin_fast.tracing.call import RULES
from rebasin_fast.tracing.dims import ONE, Atom, Dim, Dims, Product, Reason, Sum, size_of
from rebasin_fast.tracing.values import Value, Views

WHY = Reason("test", "here")


def shown(dims: Dims, *wanted: Dim) -> list[str]:
    """Dimensions with atoms as letters in order of appearance and their sizes; frozen ones are crossed."""
    letters: dict[int, str] = {}

    def text(dim: Dim) -> str:
        if isinstance(dim, Atom):
            letter = letters.setdefault(id(dim), "abcdefghijklmnopqrstuvwxyz"[len(letters)])
            return f"{letter}{dim.size}{'x' if dim.frozen else ''}"
        if isinstance(dim, Sum):
            return "(" + "+".join(map(text, dim.terms)) + ")"
        return "*".join(map(text, dim.factors)) or "1"

    return [text(dims.resolve(dim)) for dim in wanted]


def test_units_that_are_added_become_one_atom() -> None:
    dims = Dims()
    a, b, c = dims.new(4), dims.new(4), dims.new(4)
    dims.unify(a, b, WHY)
    assert shown(dims, a, b, c) == ["a4", "a4", "b4"]
    dims.unify(c, dims.fixed(4, WHY), WHY)
    assert shown(dims, a, c) == ["a4", "b4x"]
    dims.unify(c, a, WHY)
    assert shown(dims, a, b, c) == ["a4x"] * 3


def test_a_split_is_seen_wherever_the_atom_lies() -> None:
    dims = Dims()
    a = dims.new(12)
    b = Sum((a, dims.new(3)))
    assert shown(dims, *dims.split_product(a, [3, 4], WHY), a, b) == ["a3", "b4", "a3*b4", "(a3*b4+c3)"]
    assert shown(dims, *dims.split_product(a, [3, 2, 2], WHY), a) == ["a3", "b2", "c2", "a3*b2*c2"]
    assert shown(dims, *dims.split_product(a, [6, 2], WHY), a) == ["a3*b2", "c2", "a3*b2*c2"]


def test_splits_that_do_not_nest_freeze() -> None:
    dims = Dims()
    a = dims.new(12)
    dims.split_product(a, [3, 4], WHY)
    dims.split_product(a, [4, 3], WHY)
    assert shown(dims, a) == ["a3x*b4x"]


def test_a_cut_makes_a_sum_and_a_sum_times_units_is_a_sum() -> None:
    dims = Dims()
    a = dims.new(6)
    left, right = dims.cut(a, 2)
    assert shown(dims, left, right, a) == ["a2", "b4", "(a2+b4)"]
    unit = dims.new(5)
    assert shown(dims, Product((a, unit)), Product((unit, a))) == ["(a2*b5+c4*b5)", "b5*(a2+c4)"]


def test_cuts_within_a_block_take_the_block_out() -> None:
    dims = Dims()
    a = Product((dims.new(4), dims.new(3)))
    left, right = dims.cut(a, 7)
    # Two blocks of 1 + 2, the one that is cut, and one more; every block is cut alike.
    assert shown(dims, left, right) == ["(a2*(1+b2)+1)", "(b2+1+b2)"]


def test_sums_are_united_piece_by_piece() -> None:
    dims = Dims()
    a, b = Sum((dims.new(2), dims.new(6))), Sum((dims.new(5), dims.new(3)))
    dims.unify(a, b, WHY)
    assert shown(dims, a, b) == ["(a2+b3+c3)"] * 2
    c = dims.new(8)
    dims.unify(c, a, WHY)
    assert shown(dims, c, a) == ["(a2+b3+c3)"] * 2


def test_copies_are_united_with_a_product() -> None:
    """Three thirds of one axis, seen as (3, 4): the thirds are permuted alike."""
    dims = Dims()
    thirds = [dims.new(4) for _ in range(3)]
    outer, inner = dims.split_product(Sum(tuple(thirds)), [3, 4], WHY)
    assert shown(dims, inner, outer, Sum(tuple(thirds))) == ["a4", "(1+1+1)", "(a4+a4+a4)"]


def test_what_is_cut_from_frozen_positions_is_frozen() -> None:
    dims = Dims()
    a = dims.fixed(6, WHY)
    parts = [*dims.cut(a, 2), *dims.split_product(a, [2, 3], WHY)]
    assert all(atom.frozen == WHY for part in parts for atom in dims.leaves(part))
    free = dims.new(6)
    dims.unify(Product(tuple(dims.split_product(free, [2, 3], WHY))), a, WHY)
    assert shown(dims, free) == ["a2x*b3x"]


@given(st.data())
def test_sizes_survive_whatever_is_done(data: st.DataObject) -> None:
    dims = Dims()
    known = [dims.new(24), dims.new(24), Product((dims.new(4), dims.new(6))), Sum((dims.new(10), dims.new(14)))]
    for _ in range(data.draw(st.integers(1, 8))):
        one, other = data.draw(st.sampled_from(known)), data.draw(st.sampled_from(known))
        size = size_of(dims.resolve(one))
        step = data.draw(st.integers(0, 2))
        if step == 0 and size == size_of(dims.resolve(other)):
            dims.unify(one, other, WHY)
        elif step == 1:
            at = data.draw(st.integers(0, size))
            parts = dims.cut(one, at)
            assert [size_of(dims.resolve(part)) for part in parts] == [at, size - at]
            known += [part for part in parts if size_of(dims.resolve(part))]
        else:
            inner = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            factors = dims.split_product(one, [size // inner, inner], WHY)
            assert [size_of(dims.resolve(factor)) for factor in factors] == [size // inner, inner]
            known += factors
        for dim in known:
            resolved = dims.resolve(dim)
            assert dims.resolve(resolved) == resolved
            assert is_normal(resolved)


def is_normal(dim: Dim, inside: str = "") -> bool:
    if isinstance(dim, Atom):
        return dim.size > 1
    if isinstance(dim, Sum):
        return inside != "sum" and len(dim.terms) != 1 and all(is_normal(term, "sum") for term in dim.terms)
    factors = dim.factors
    return (
        (inside != "product" and len(factors) != 1 and not (factors and isinstance(factors[0], Sum)))
        and (inside == "sum" or bool(factors) or not inside)
        and all(is_normal(factor, "product") for factor in factors)
    )


# ---- views ------------------------------------------------------------------------------------------------------


def test_a_reshape_that_is_undone_leaves_no_trace() -> None:
    views = Views(Dims())
    a = views.dims.new(24)
    value = Value([views.dims.new(5), a])
    there = views.reshape(value, (5, 2, 3, 4), WHY)
    turned = views.reorder(views.reorder(there, (0, 2, 1, 3)), (0, 2, 1, 3))
    back = views.reshape(turned, (5, 24), WHY)
    assert there.shape == (5, 2, 3, 4)
    assert shown(views.dims, a, *views.settle(back, WHY)) == ["a24", "b5", "a24"]


def test_a_part_of_a_split_axis_is_a_part_of_the_axis() -> None:
    views = Views(Dims())
    a = views.dims.new(24)
    thirds = views.reorder(views.reshape(Value([a]), (3, 2, 4), WHY), (1, 0, 2))
    first = views.part(thirds, 1, 0, 1, WHY)
    last = views.part(thirds, 1, 2, 3, WHY)
    assert first.shape == last.shape == (2, 1, 4)
    merged = [views.reshape(one, (8,), WHY) for one in (first, last)]
    assert shown(views.dims, *(one.axes[0] for one in merged), a) == ["a8", "b8", "(a8+c8+b8)"]
    views.settle(first, WHY)
    assert shown(views.dims, a) == ["(a2*b4+c8+d8)"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_factors_in_another_order_split_for_good(order: tuple[int, ...]) -> None:
    views = Views(Dims())
    a = views.dims.new(24)
    mixed = views.reshape(views.reorder(views.reshape(Value([a]), (2, 3, 4), WHY), order), (24,), WHY)
    views.settle(mixed, WHY)
    expected = "a24" if order == (0, 1, 2) else "a2*b3*c4"
    assert shown(views.dims, a) == [expected]


def test_positions_of_length_one_are_nothing() -> None:
    views = Views(Dims())
    value = Value([ONE, views.dims.new(6), ONE])
    assert views.reshape(value, (1, 2, 1, 3), WHY).shape == (1, 2, 1, 3)
    assert views.reshape(value, (6,), WHY).shape == (6,)
    assert views.reshape(Value([views.dims.new(6), Sum(())]), (0, 2), WHY).shape == (0, 2)


def test_every_rule_is_for_an_operator_that_exists() -> None:
    for name in RULES:
        assert hasattr(torch.ops.aten, name.removeprefix("aten::")), name
