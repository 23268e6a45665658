"""Matrices made to defeat the solver: every method stays exact on them, whichever way up they are.

Where a family is hard for the time a solver takes rather than for its answer, the size is what keeps the test short.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from lap_checks import METHODS, assert_optimal, scipy_total
from matrices import ADVERSARIAL
from rebasin_fast import linear_sum_assignment, solve_assignment, solve_assignment_batch, verify_assignment
from rebasin_fast.lap import _total

# At 600 lists are much shorter than rows, and bidding has rounds enough to go wrong.
SHAPES = ((60, 60), (60, 97), (97, 60), (250, 250), (200, 310), (310, 200), (600, 600))


def solve_every_way(family, shape):
    # A seed of the family's own: hash() differs from one process to the next.
    cost = ADVERSARIAL[family](np.random.default_rng(zlib.crc32(family.encode())), *shape)
    for maximize in (False, True):
        # An infinity forbids a cell in one direction and is invalid in the other.
        typed = -cost if maximize and np.isposinf(cost).any() else cost
        want = scipy_total(typed, maximize)
        for method in METHODS:
            answer = solve_assignment(typed, maximize, method=method)
            assert_optimal(typed, answer, maximize, want, where=(maximize, method))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", ADVERSARIAL)
def test_every_method_is_exact(family, shape):
    solve_every_way(family, shape)


@pytest.mark.parametrize("shape", [(60, 60), (250, 250)], ids=str)
def test_a_square_staircase_has_one_answer(shape):
    cost = ADVERSARIAL["staircase"](np.random.default_rng(0), *shape)
    for method in METHODS:
        assert np.array_equal(solve_assignment(cost, method=method).col_ind, np.arange(shape[0]))
    # One more forbidden cell, wherever it is, leaves none.
    for i in (0, shape[0] // 2, shape[0] - 1):
        closed = cost.copy()
        closed[i, i] = np.inf
        for method in METHODS:
            with pytest.raises(ValueError, match="cost matrix is infeasible"):
                solve_assignment(closed, method=method)


@pytest.mark.parametrize("n", [60, 250, 600])
def test_machol_wien_pairs_the_largest_with_the_smallest(n):
    """By the rearrangement inequality, without any solver to compare with."""
    cost = ADVERSARIAL["Machol-Wien"](np.random.default_rng(0), n, n)
    assert np.array_equal(linear_sum_assignment(cost)[1], np.arange(n)[::-1])
    assert np.array_equal(linear_sum_assignment(cost, maximize=True)[1], np.arange(n))


HUGE = 0.95 * np.finfo(np.float64).max


def test_sums_beyond_float64_do_not_keep_the_optimum_from_being_found():
    rng = np.random.default_rng(0)
    for n in (2, 5, 40, 60, 250):
        unit = rng.integers(-1000, 1001, (n, n)) / 1000
        for maximize in (False, True):
            want = scipy_total(unit, maximize)
            rows, cols = linear_sum_assignment(unit * HUGE, maximize)
            assert unit[rows, cols].sum() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("shape", [(2, 2), (60, 60), (50, 60), (60, 50)], ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_a_proof_holds_where_its_sums_exceed_float64(shape, maximize):
    cost = np.random.default_rng(0).integers(-1000, 1001, shape) / 1000
    answer = solve_assignment(cost, maximize)
    duals = {"row_duals": answer.row_duals * (HUGE / 8), "col_duals": answer.col_duals * (HUGE / 8)}
    for typed in (cost * (HUGE / 8), np.asfortranarray(cost * (HUGE / 8))):
        verdict = verify_assignment(typed, (answer.row_ind, answer.col_ind), maximize=maximize, **duals)
        assert verdict.optimal
        assert 0 < verdict.tolerance < 1e-13 * min(shape) * HUGE
        # Two cells exchanged cost a known amount more, when that is a float64 at all.
        worse = answer.col_ind.copy()
        worse[:2] = worse[1::-1]
        lost = abs(cost[answer.row_ind, worse].sum() - cost[answer.row_ind, answer.col_ind].sum())
        verdict = verify_assignment(typed, (answer.row_ind, worse), maximize=maximize, **duals)
        assert not verdict.optimal
        with np.errstate(over="ignore"):
            assert verdict.gap == pytest.approx(lost * (HUGE / 8), rel=1e-9)


def test_a_proof_is_not_taken_for_good_because_its_rounding_cannot_be_bounded():
    verdict = verify_assignment([[0.0, HUGE], [HUGE, 0.0]], ([0, 1], [1, 0]))
    assert not verdict.optimal
    assert verdict.gap == np.inf  # 1.9 times the largest float64
    assert np.isfinite(verdict.tolerance)


def test_duals_that_break_constraints_by_more_than_float64_prove_nothing():
    cost = np.array([[0.0, -HUGE], [-HUGE, 0.0]])
    verdict = verify_assignment(cost, ([0, 1], [0, 1]), row_duals=[HUGE, HUGE], col_duals=[0.0, 0.0])
    assert not verdict.optimal
    assert verdict.violation == np.inf
    verdict = verify_assignment(cost, ([0, 1], [0, 1]), row_duals=[HUGE, HUGE], col_duals=[-HUGE, -HUGE])
    assert not verdict.optimal
    assert verdict.violation == HUGE


def test_a_finite_cost_is_told_whatever_its_partial_sums():
    cost = np.full((4, 4), np.inf)
    for diagonal, want in (
        ([HUGE, HUGE, -HUGE, 1.0], HUGE),
        ([HUGE, HUGE, -HUGE, -HUGE], 0.0),
        ([HUGE, 1.0, HUGE, 1.0], np.inf),
        ([-HUGE, 1.0, -HUGE, 1.0], -np.inf),
    ):
        np.fill_diagonal(cost, diagonal)
        assert linear_sum_assignment(cost)[1].tolist() == [0, 1, 2, 3]
        assert _total(cost, np.arange(4), np.arange(4)) == want
    # One lost bit would show beside nothing else.
    cells = np.array([[HUGE], [HUGE], [-HUGE], [-HUGE], [1e-300]])
    assert _total(cells, np.arange(5), np.zeros(5, int)) == 1e-300


def test_a_cost_beyond_float64_is_infinite():
    for sign in (1.0, -1.0):
        answer = solve_assignment(np.full((3, 3), sign * HUGE / 2))
        assert answer.cost == sign * np.inf
        assert answer.gap == 0.0
        assert verify_assignment(np.full((3, 3), sign * HUGE / 2), answer).optimal


def test_duals_are_finite_or_refused():
    cheap_rows = np.array([[-HUGE, -HUGE], [HUGE, HUGE]])
    for cost in (cheap_rows, cheap_rows.T):
        for method in METHODS:
            try:
                answer = solve_assignment(cost, method=method)
            except OverflowError:
                continue
            assert np.isfinite(answer.row_duals).all()
            assert np.isfinite(answer.col_duals).all()


# Any duals that prove the diagonal have v_1 - v_0 and v_2 - v_1 of at least 2 HUGE: not all three fit float64.
STEEP = np.array([[-HUGE, np.inf, np.inf], [-HUGE, HUGE, np.inf], [np.inf, -HUGE, HUGE]])


@pytest.mark.parametrize("method", METHODS)
def test_duals_that_cannot_fit_are_refused(method):
    assert linear_sum_assignment(STEEP)[1].tolist() == [0, 1, 2]
    for cost, maximize in ((STEEP, False), (STEEP.T, False), (-STEEP, True)):
        with pytest.raises(OverflowError, match="the duals of these costs do not fit float64; linear_sum_assignment"):
            solve_assignment(cost, maximize, method=method)


def test_a_batch_refuses_duals_that_cannot_fit():
    costs = np.stack([np.eye(3), STEEP])
    assert solve_assignment_batch(costs).col_ind[1].tolist() == [0, 1, 2]
    with pytest.raises(OverflowError, match=r"costs\[1\]: the duals of these costs do not fit float64; without duals"):
        solve_assignment_batch(costs, with_duals=True)
