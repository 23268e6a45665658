"""Counting symmetries: against exact integers, and against the numbers printed in the paper."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_fast.architectures import mlp, resnet20, resnet50, vgg16
from rebasin_fast.spec import PermutationSpec
from rebasin_fast.symmetries import count_symmetries


def single_group(n: int) -> PermutationSpec:
    return PermutationSpec.from_axes_to_perm({"w": ("P", None), "b": ("P",)}, sizes={"P": n})


def exact_log10_factorial(n: int) -> float:
    with localcontext() as context:
        context.prec = 60
        return float(Decimal(math.factorial(n)).log10())


@pytest.mark.parametrize("n", [*range(1, 200), 512, 1000, 2048, 4096])
def test_exact_count_agrees_with_integers_to_rounding(n: int) -> None:
    exact = exact_log10_factorial(n)
    assert abs(count_symmetries(single_group(n)) - exact) <= math.ulp(exact)


@pytest.mark.parametrize("n", [*range(1, 300), 1024, 4096])
def test_paper_count_is_the_floor_of_the_exact_logarithm(n: int) -> None:
    count = count_symmetries(single_group(n), counting="paper")
    assert isinstance(count, int)
    assert 10**count <= math.factorial(n) < 10 ** (count + 1)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (mlp((784, 512, 512, 512, 10)), 3498),
        (vgg16(), 35160),
        (vgg16(norm=None, spatial=7, num_classes=1000), 35160),
        (resnet50(), 55109),
    ],
    ids=["mlp", "vgg16", "vgg16 ImageNet", "resnet50"],
)
def test_reproduces_the_numbers_of_the_paper(spec: PermutationSpec, expected: int) -> None:
    assert count_symmetries(spec, counting="paper") == expected


def test_residual_ties_make_resnet50_less_symmetric() -> None:
    sizes = [64] + [256, 512, 1024, 2048] + 2 * (3 * [64] + 4 * [128] + 6 * [256] + 3 * [512])
    assert len(sizes) == 37
    exact = math.fsum(map(exact_log10_factorial, sizes))
    assert count_symmetries(resnet50()) == pytest.approx(exact, rel=1e-15)
    assert count_symmetries(resnet50()) == pytest.approx(25638.29, abs=5e-3)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_groups_multiply(widths: list[int]) -> None:
    product = math.prod(map(math.factorial, widths))
    assert count_symmetries(mlp((3, *widths, 2))) == pytest.approx(math.log10(product), rel=1e-14, abs=1e-14)


def test_shortcut_convolutions_and_norms_are_no_layers_of_the_papers_count() -> None:
    floors = {n: math.floor(exact_log10_factorial(n)) for n in (16, 32, 64)}
    expected = 7 * floors[16] + 6 * floors[32] + 6 * floors[64]
    assert count_symmetries(resnet20(), counting="paper") == expected
    assert count_symmetries(resnet20(norm="layer_norm"), counting="paper") == expected


def test_reads_the_sizes_off_a_state_dict() -> None:
    spec = PermutationSpec.from_axes_to_perm({"w": ("P", None)})
    assert count_symmetries(spec, {"w": np.zeros((5, 2))}) == pytest.approx(math.log10(120), rel=1e-15)
    with pytest.raises(ValueError, match="params is None and the specification holds no group sizes"):
        count_symmetries(spec)


def test_no_groups_no_symmetries() -> None:
    assert count_symmetries(mlp((3, 2))) == 0
    assert count_symmetries(mlp((3, 2)), counting="paper") == 0


def test_unknown_counting() -> None:
    with pytest.raises(ValueError, match="counting is 'guess'; expected 'exact' or 'paper'"):
        count_symmetries(mlp((3, 2)), counting="guess")  # type: ignore[call-overload]
