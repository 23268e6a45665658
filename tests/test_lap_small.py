"""Small problems: the very cells SciPy returns, on every instruction set, for every layout and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from matrices import FAMILIES
from rebasin_fast import (
    _core,
    linear_sum_assignment,
    solve_assignment,
    solve_assignment_batch,
    verify_assignment,
)

SCIPY = scipy.optimize.linear_sum_assignment
TIES_AS_SCIPY = ((1, 1), (3, 3), (4, 4), (5, 7), (8, 8), (9, 5), (17, 17), (20, 40), (24, 24), (24, 256), (130, 24))
ANY_OPTIMUM = (
    (25, 25),
    (33, 40),
    (48, 48),
    (130, 40),
    (64, 64),
    (65, 65),
    (70, 128),
    (128, 128),
    (100, 256),
    (256, 100),
    (129, 129),
    (200, 330),
)


@pytest.fixture(params=_core.available_isas())
def isa(request):
    before = _core.active_isa()
    assert _core.force_isa(request.param)
    yield request.param
    assert _core.force_isa(before)


def outcome(function, *args):
    try:
        rows, cols = function(*args)
    except ValueError as error:
        return str(error)
    return rows.tolist(), cols.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cells_scipy_returns(family, isa):
    for k, shape in enumerate(TIES_AS_SCIPY):
        cost = FAMILIES[family](np.random.default_rng(k), *shape)
        for typed in (cost, cost.astype(np.float32), np.asfortranarray(cost), cost[::-1, ::-1]):
            assert outcome(linear_sum_assignment, typed) == outcome(SCIPY, typed), shape
        assert outcome(linear_sum_assignment, -cost, True) == outcome(SCIPY, -cost, True), shape


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("maximize", [False, True])
def test_an_optimum_beyond_24_rows(family, maximize, isa):
    for k, shape in enumerate(ANY_OPTIMUM):
        cost = FAMILIES[family](np.random.default_rng(k), *shape)
        cost = -cost if maximize else cost
        for typed in (cost, cost.astype(np.float32), np.asfortranarray(cost), cost[::-1, ::-1]):
            answer = solve_assignment(typed, maximize)
            exact = typed.astype(np.float64)
            assert answer.cost == pytest.approx(exact[SCIPY(exact, maximize)].sum(), rel=1e-12, abs=1e-300)
            assert verify_assignment(typed, answer).optimal
            rows, cols = linear_sum_assignment(typed, maximize)
            assert (rows.tolist(), cols.tolist()) == (answer.row_ind.tolist(), answer.col_ind.tolist())


@pytest.mark.parametrize("shape", [(40, 40), (60, 60), (60, 70), (128, 128)])
def test_infeasible_beyond_24_rows(shape, isa):
    cost = np.random.default_rng(0).random(shape)
    cost[:, 3 : 3 + shape[1] - shape[0] + 1] = np.inf
    assert outcome(linear_sum_assignment, cost) == "cost matrix is infeasible"
    cost = np.random.default_rng(0).random(shape)
    cost[:31, 30:] = np.inf
    assert outcome(linear_sum_assignment, cost) == "cost matrix is infeasible"


@pytest.mark.parametrize("family", ["uniform", "integers", "huge ties", "exponential", "Euclidean", "half forbidden"])
@pytest.mark.parametrize("shape", [(384, 384), (639, 640), (640, 640), (641, 641), (500, 641)])
def test_an_optimum_where_the_small_solver_ends(family, shape):
    for dtype in (np.float32, np.float64):
        cost = FAMILIES[family](np.random.default_rng(4), *shape).astype(dtype)
        answer = solve_assignment(cost)
        exact = cost.astype(np.float64)
        assert answer.cost == pytest.approx(exact[SCIPY(exact)].sum(), rel=1e-12)
        assert verify_assignment(cost, answer).optimal


@pytest.mark.parametrize("n", [127, 128, 200, 383, 384, 640])
@pytest.mark.parametrize("family", ["Machol-Wien", "sorted rows"])
def test_where_all_rows_want_the_same_columns_lists_take_over(family, n):
    cost = FAMILIES[family](np.random.default_rng(5), n, n)
    contested = n >= 384 or (n >= 128 and family == "Machol-Wien")
    want = cost[SCIPY(cost)].sum()
    for maximize, typed in ((False, cost), (True, -cost)):
        answer = solve_assignment(typed, maximize)
        assert (answer.stats.method == "jv") == contested
        assert abs(answer.cost) == pytest.approx(want, rel=1e-12)
        assert verify_assignment(typed, answer).optimal
        rows, cols = linear_sum_assignment(typed, maximize)
        assert (rows.tolist(), cols.tolist()) == (answer.row_ind.tolist(), answer.col_ind.tolist())
    stack = solve_assignment_batch(np.stack([cost, cost[::-1]]), with_duals=True)
    assert stack.cost == pytest.approx([want, want], rel=1e-12)
    assert stack.gap.tolist() == pytest.approx([0.0, 0.0], abs=1e-12 * want)


@pytest.mark.parametrize("n", [25, 64, 150, 300])
def test_heavy_tails(n, isa):
    """Column minima are outliers there, and the search begins without them: few rows need a path."""
    rng = np.random.default_rng(n)
    cost = rng.standard_cauchy((n, n))
    for typed in (cost, cost.astype(np.float32), np.where(rng.random((n, n)) < 0.1, np.inf, cost)):
        answer = solve_assignment(typed)
        exact = typed.astype(np.float64)
        assert answer.cost == pytest.approx(exact[SCIPY(exact)].sum(), rel=1e-12)
        assert verify_assignment(typed, answer).optimal
    answer = solve_assignment(cost)
    assert answer.stats.row_scans < 10 * n


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_ties_of_every_integer_type(dtype, isa):
    rng = np.random.default_rng(0)
    for shape in TIES_AS_SCIPY:
        for top in (2, 4, 100):
            cost = rng.integers(0, top, shape).astype(dtype)
            for maximize in (False, True):
                assert outcome(linear_sum_assignment, cost, maximize) == outcome(SCIPY, cost, maximize)


def test_ties_in_long_searches(isa):
    """Few distinct values and forbidden cells: many equal columns after many have been scanned."""
    rng = np.random.default_rng(1)
    for trial in range(300):
        shape = (rng.integers(1, 25), rng.integers(1, 120)) if trial % 2 else (rng.integers(1, 25),) * 2
        cost = np.add.outer(rng.integers(0, 4, shape[0]), rng.integers(0, 4, shape[1])) + rng.integers(0, 2, shape)
        cost = np.where(rng.random(shape) < 0.3 * (trial % 3), np.inf, cost)
        assert outcome(linear_sum_assignment, cost) == outcome(SCIPY, cost)


@pytest.mark.parametrize("family", FAMILIES)
def test_duals_have_the_same_bits_on_every_instruction_set(family, isa):
    for shape in ((20, 20), (60, 61), (90, 70), (127, 127), (150, 150), (390, 390)):
        cost = FAMILIES[family](np.random.default_rng(3), *shape)
        got = solve_assignment(cost)
        assert _core.force_isa(_core.available_isas()[0])
        want = solve_assignment(cost)
        assert _core.force_isa(isa)
        assert got.stats.method == want.stats.method
        if min(shape) < 128:
            assert got.stats.method == ("shortest_path" if min(shape) <= 24 else "dense")
        assert got.col_ind.tolist() == want.col_ind.tolist()
        assert got.row_duals.tolist() == want.row_duals.tolist()
        assert got.col_duals.tolist() == want.col_duals.tolist()
        assert got.gap == want.gap


@pytest.mark.parametrize("magnitude", [2**46, 2**49, 2**50, 2**53, 2**62])
def test_where_float64_could_round_integers_are_solved_in_integers(magnitude):
    rng = np.random.default_rng(2)
    cost = rng.integers(-magnitude, magnitude, (12, 12))
    answer = solve_assignment(cost)
    exact = cost.astype(object)
    rows, cols = linear_sum_assignment(cost)
    assert (
        exact[rows, cols].sum()
        == answer.cost
        == answer.row_duals.astype(object).sum() + sum(int(v) for v in answer.col_duals)
    )


def test_an_array_that_is_not_plain_is_converted():
    cost = np.random.default_rng(4).random((5, 6))
    assert _core.assign_directly(cost.tolist(), False) is None
    assert _core.assign_directly(cost.astype(">f8"), False) is None
    assert _core.assign_directly(cost.astype(np.float16), False) is None
    assert _core.assign_directly(cost.astype(complex), False) is None
    assert _core.assign_directly(cost[0], False) is None
    assert _core.assign_directly(cost.view(np.matrix), False) is None
    assert outcome(_core.assign_directly, cost, False) == outcome(SCIPY, cost)


def test_what_cannot_be_a_truth_value():
    class Undecided:
        def __bool__(self):
            raise RuntimeError("neither")

    with pytest.raises(RuntimeError, match="neither"):
        linear_sum_assignment(np.eye(3), Undecided())


def test_results_belong_to_the_caller():
    rows, cols = linear_sum_assignment(np.eye(4))
    rows += 1
    cols += 1
    assert rows.flags.owndata
    assert cols.flags.writeable
    assert linear_sum_assignment(np.eye(4))[0].tolist() == [0, 1, 2, 3]
