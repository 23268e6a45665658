"""`verify_assignment` proves the right answers and cannot be talked into a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment as scipy_solver

from matrices import FAMILIES
from rebasin_fast import Assignment, solve_assignment, verify_assignment


def replaced(answer, **changes):
    return Assignment(**{**vars(answer), **changes})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(40, 40), (30, 45), (45, 30)])
def test_an_optimum_of_another_solver_is_proven(family, shape):
    cost = FAMILIES[family](np.random.default_rng(0), *shape)
    assert verify_assignment(cost, scipy_solver(cost)).optimal


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 12), m=st.integers(2, 12), maximize=st.booleans())
def test_the_gap_bounds_the_distance_from_the_optimum(seed, n, m, maximize):
    """For any matching and any duals, good or bad."""
    rng = np.random.default_rng(seed)
    cost = rng.standard_normal((n, m))
    k = min(n, m)
    rows, cols = rng.permutation(n)[:k], rng.permutation(m)[:k]
    distance = abs(cost[rows, cols].sum() - cost[scipy_solver(cost, maximize)].sum())
    assert verify_assignment(cost, (rows, cols), maximize=maximize).gap == pytest.approx(distance, abs=1e-10)
    u, v = rng.standard_normal(n), rng.standard_normal(m)
    verdict = verify_assignment(cost, (rows, cols), maximize=maximize, row_duals=u, col_duals=v)
    assert verdict.gap >= distance - 1e-10
    assert not verdict.optimal


@pytest.mark.parametrize("shape", [(60, 60), (40, 60), (60, 40)])
@pytest.mark.parametrize("maximize", [False, True])
def test_tampering_shows(shape, maximize):
    cost = np.random.default_rng(0).random(shape)
    answer = solve_assignment(cost, maximize)
    assert verify_assignment(cost, answer).optimal
    swapped = answer.col_ind.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert not verify_assignment(cost, replaced(answer, col_ind=swapped)).optimal
    for name in ("row_duals", "col_duals"):
        for change in (0.01, -0.01):
            duals = getattr(answer, name).copy()
            duals[getattr(answer, name[:3] + "_ind")[5]] += change
            verdict = verify_assignment(cost, replaced(answer, **{name: duals}))
            assert not verdict.optimal
            # Half at least: of the longer side's duals part of a change may lie beyond 0, where it is cut off.
            assert max(verdict.gap, verdict.violation) >= 0.005 - 1e-9


def test_violation_of_the_sign_on_the_longer_side():
    cost = np.zeros((1, 2))
    verdict = verify_assignment(cost, ([0], [0]), row_duals=[-1.0], col_duals=[1.0, 1.0])
    assert verdict.violation == 1.0
    assert not verdict.optimal


def test_tolerance():
    cost = [[0.0, 1.0], [1.0, 0.5]]
    assert not verify_assignment(cost, ([0, 1], [1, 0])).optimal
    assert verify_assignment(cost, ([0, 1], [1, 0]), tolerance=2.0).optimal


def test_integer_matrix_with_integer_duals_is_checked_exactly():
    cost = np.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
    answer = solve_assignment(cost)
    verdict = verify_assignment(
        cost,
        (answer.row_ind, answer.col_ind),
        row_duals=answer.row_duals.astype(int),
        col_duals=answer.col_duals.astype(int),
    )
    assert verdict == (True, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("assignment", "error", "text"),
    [
        (([0, 1], [0, 1]), ValueError, r"row_ind has shape \(2,\); expected \(3,\) for a \(3, 3\) cost matrix"),
        (([0, 1, 1], [0, 1, 2]), ValueError, "row_ind holds an index twice"),
        (([0, 1, 2], [0, 1, 3]), ValueError, "col_ind holds an index outside 0 ... 2"),
        (([0, 1, 2], [0, 1, -1]), ValueError, "col_ind holds an index outside 0 ... 2"),
        (([0, 1, 2], [0.0, 1.0, 2.0]), TypeError, "col_ind has dtype float64; expected integers"),
        (([0, 1, 2], [2, 1, 0]), ValueError, r"assignment uses cell \(1, 1\), whose cost is inf"),
        ("no", TypeError, "row_ind|assignment"),
        (3, TypeError, "assignment is int; expected an Assignment or a pair"),
        (([0],), TypeError, "assignment is tuple; expected an Assignment or a pair"),
    ],
)
def test_what_is_no_assignment(assignment, error, text):
    cost = np.arange(9.0).reshape(3, 3)
    cost[1, 1] = np.inf
    with pytest.raises((error, ValueError), match=text):
        verify_assignment(cost, assignment)


@pytest.mark.parametrize(
    ("duals", "error", "text"),
    [
        ({"row_duals": [0, 0]}, ValueError, "row_duals and col_duals must be given together"),
        ({"row_duals": [0.0], "col_duals": [0.0, 0.0]}, ValueError, r"row_duals has shape \(1,\); expected \(2,\)"),
        ({"row_duals": [0.0, np.nan], "col_duals": [0.0, 0.0]}, ValueError, "row_duals holds NaN or infinity"),
        (
            {"row_duals": [0.0, 1.0], "col_duals": ["a", "b"]},
            TypeError,
            "col_duals has dtype .*; expected real numbers",
        ),
    ],
)
def test_what_are_no_duals(duals, error, text):
    with pytest.raises(error, match=text):
        verify_assignment(np.eye(2), ([0, 1], [1, 0]), **duals)
