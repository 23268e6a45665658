"""float16 is read where it lies, a row at a time: the very answers of the float32 copy, without that copy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment as scipy_solver

from lap_checks import assert_optimal
from rebasin_fast import _core, linear_sum_assignment, solve_assignment, solve_assignment_batch

LARGE = (650, 650)  # as_cost() widens smaller ones


@pytest.fixture(params=_core.available_isas())
def isa(request):
    before = _core.active_isa()
    assert _core.force_isa(request.param)
    yield request.param
    assert _core.force_isa(before)


@pytest.mark.usefixtures("isa")
def test_every_number_is_widened_exactly() -> None:
    """Where every row is the same, column duals differ as the entries do."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    parts = np.resize(finite, (-(-finite.size // 4096), 4096))
    for row in parts:
        answer = solve_assignment(np.broadcast_to(row, (64, 4096)), method="dense")
        chosen = np.sort(row.astype(np.float64))[:64]
        np.testing.assert_array_equal(np.sort(row[answer.col_ind].astype(np.float64)), chosen)
    costs = [np.broadcast_to(row, (512, 512)) for row in np.resize(finite, (124, 512))]
    for cost in costs:
        duals = solve_assignment(cost).col_duals
        want = cost[0].astype(np.float64)
        np.testing.assert_array_equal(duals - duals[0], want - want[0])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("method", ["auto", "jv", "auction", "dense"])
@pytest.mark.parametrize("shape", [LARGE, (400, 1100), (1100, 400)])
def test_optimal_in_any_layout(shape, method) -> None:
    rng = np.random.default_rng(3)
    cost = (rng.standard_normal((shape[0], 8)) @ rng.standard_normal((8, shape[1]))).astype(np.float16)
    wide = cost.astype(np.float64)
    padded = np.zeros((shape[0], 2 * shape[1] + 3), np.float16)
    padded[:, 1 : 2 * shape[1] : 2] = cost
    for maximize in (False, True):
        rows, cols = scipy_solver(wide, maximize)
        want = wide[rows, cols].sum()
        for laid_out in (cost, np.asfortranarray(cost), padded[:, 1 : 2 * shape[1] : 2], cost[::-1, ::-1]):
            answer = solve_assignment(laid_out, maximize, method=method)
            assert answer.cost == pytest.approx(want, rel=1e-12)
            assert answer.gap <= 1e-9
        assert_optimal(cost, solve_assignment(cost, maximize, method=method), maximize, answer.cost)


def test_the_answer_of_the_float32_copy() -> None:
    cost = np.random.default_rng(0).random(LARGE).astype(np.float16)
    half, single = solve_assignment(cost), solve_assignment(cost.astype(np.float32))
    np.testing.assert_array_equal(half.col_ind, single.col_ind)
    np.testing.assert_array_equal(half.col_duals, single.col_duals)
    again = solve_assignment(cost, duals=half.col_duals)
    assert again.cost == half.cost
    np.testing.assert_array_equal(linear_sum_assignment(cost)[1], half.col_ind)
    batch = solve_assignment_batch(np.stack([cost, cost[::-1]]))
    np.testing.assert_array_equal(batch.cost, [half.cost, half.cost])


def test_special_numbers() -> None:
    rng = np.random.default_rng(1)
    hidden = rng.permutation(LARGE[0])
    cost = np.full(LARGE, np.inf, np.float16)
    cost[np.arange(LARGE[0]), hidden] = np.float16(2**-24) * rng.integers(0, 9, LARGE[0]).astype(np.float16)
    np.testing.assert_array_equal(linear_sum_assignment(cost)[1], hidden)
    np.testing.assert_array_equal(linear_sum_assignment(-cost, maximize=True)[1], hidden)
    with pytest.raises(ValueError, match="cost matrix is infeasible"):
        linear_sum_assignment(np.where(np.arange(LARGE[0]) == 7, np.float16(np.inf), cost))
    for wrong in (np.nan, -np.inf):
        spoilt = rng.random(LARGE).astype(np.float16)
        spoilt[-1, -1] = wrong
        with pytest.raises(ValueError, match="matrix contains invalid numeric entries"):
            linear_sum_assignment(spoilt)
