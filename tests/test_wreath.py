"""Assignment of blocks and of the units within them, against trying every one."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_fast.wreath import solve_wreath_assignment


def brute_force(units: list[np.ndarray], blocks: np.ndarray, fixed: bool = False) -> float:
    """The largest value over all permutations of the blocks and, in each, of the units of every family."""
    n = len(blocks)
    best = -np.inf
    for p in [tuple(range(n))] if fixed else permutations(range(n)):
        value = sum(blocks[i, p[i]] for i in range(n))
        for family in units:
            d = family.shape[1]
            value += max(
                sum(family[i, u, p[i], q[i][u]] for i in range(n) for u in range(d))
                for q in product(list(permutations(range(d))), repeat=n)
            )
        best = max(best, value)
    return best


def value_of(units: list[np.ndarray], blocks: np.ndarray, found: object) -> float:
    n = len(blocks)
    total = blocks[np.arange(n), found.blocks].sum()  # type: ignore[attr-defined]
    for family, index in zip(units, found.units, strict=True):  # type: ignore[attr-defined]
        flat = family.reshape(len(index), len(index))
        assert sorted(index) == list(range(len(index)))
        np.testing.assert_array_equal(
            index.reshape(n, -1) // family.shape[1], found.blocks[:, None] * np.ones(family.shape[1])
        )  # type: ignore[attr-defined]
        total += flat[np.arange(len(index)), index].sum()
    return float(total)


@given(st.integers(0, 10**6), st.sampled_from([(1, (3,)), (2, (2, 3)), (3, (2,)), (3, (2, 1)), (2, ())]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_other_permutation_is_better(seed: int, shape: tuple[int, tuple[int, ...]], fixed: bool) -> None:
    n, widths = shape
    rng = np.random.default_rng(seed)
    units = [rng.integers(-5, 6, (n, d, n, d)).astype(np.float64) for d in widths]
    blocks = rng.integers(-5, 6, (n, n)).astype(np.float64)
    found = solve_wreath_assignment(units, blocks, fixed_blocks=fixed)
    assert found.value == brute_force(units, blocks, fixed) == value_of(units, blocks, found)
    costs = solve_wreath_assignment([-one for one in units], -blocks, maximize=False, fixed_blocks=fixed)
    assert costs.value == -found.value


def test_a_planted_permutation_is_found_from_matrices() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 5, 30))
    blocks, inner = rng.permutation(4), np.stack([rng.permutation(5) for _ in range(4)])
    b = np.empty_like(a)
    for i in range(4):
        b[blocks[i]][inner[i]] = a[i]
    similarity = a.reshape(20, 30) @ b.reshape(20, 30).T
    for family in (similarity, similarity.reshape(4, 5, 4, 5), similarity.astype(np.float32)):
        found = solve_wreath_assignment([family], np.zeros((4, 4)))
        np.testing.assert_array_equal(found.blocks, blocks)
        np.testing.assert_array_equal(b.reshape(20, 30)[found.units[0]], a.reshape(20, 30))


@pytest.mark.parametrize(
    ("units", "blocks", "message"),
    [
        ([np.zeros((6, 6))], None, "expected the number of blocks"),
        ([], None, "expected the number of blocks"),
        ([np.zeros((2, 3, 2, 2))], None, r"units\[0\] has shape \(2, 3, 2, 2\)"),
        ([np.zeros((2, 3, 2, 3)), np.zeros((3, 2, 3, 2))], None, r"units\[1\] has shape"),
        ([np.zeros((6, 6))], np.zeros((4, 4)), r"units\[0\] has shape \(6, 6\)"),
        ([np.zeros((6, 6))], np.zeros((3, 2)), r"blocks has shape \(3, 2\); expected \(n, n\)"),
    ],
)
def test_shapes_that_do_not_fit(units: list[np.ndarray], blocks: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_wreath_assignment(units, blocks)
