"""Every method on every instruction set is exact on every family of matrices, and proves it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment as scipy_solver

from matrices import FAMILIES
from rebasin_fast import Assignment, _core, build_info, linear_sum_assignment, solve_assignment, verify_assignment
from reference import brute_force_cost, dual_gap

METHODS = ("auto", "jv", "auction", "dense", "shortest_path")
SHAPES = ((1, 1), (2, 2), (9, 9), (50, 50), (131, 131), (40, 97), (97, 40), (128, 131))


@pytest.fixture(params=_core.available_isas())
def isa(request):
    before = _core.active_isa()
    assert _core.force_isa(request.param)
    yield request.param
    assert _core.force_isa(before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_optimal_with_duals_that_prove_it(family, method):
    for k, (n, m) in enumerate(SHAPES):
        cost = FAMILIES[family](np.random.default_rng(k), n, m)
        for dtype in (np.float64, np.float32):
            typed = cost.astype(dtype)
            answer = solve_assignment(typed, method=method)
            exact = typed.astype(np.float64)
            want = exact[scipy_solver(exact)].sum()
            assert answer.cost == pytest.approx(want, rel=1e-12, abs=1e-300)
            assert_proven(exact, answer)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(400, 400), (300, 700), (700, 300)])
def test_lists_much_shorter_than_rows(family, shape):
    """Sizes at which the candidate lists leave most of a row out, with and without eps-scaling."""
    cost = FAMILIES[family](np.random.default_rng(11), *shape).astype(np.float32)
    answer = solve_assignment(cost, method="jv")
    exact = cost.astype(np.float64)
    assert answer.cost == pytest.approx(exact[scipy_solver(exact)].sum(), rel=1e-12, abs=1e-300)
    assert_proven(exact, answer)


@pytest.mark.parametrize("maximize", [False, True])
def test_heavy_tails_and_clusters(maximize):
    rng = np.random.default_rng(0)
    centres = 4 * rng.standard_normal((8, 16))
    units = [centres[rng.integers(0, 8, 500)] + rng.standard_normal((500, 16)) for _ in range(2)]
    for cost in (rng.standard_cauchy((500, 500)), units[0] @ units[1].T, np.sort(rng.random((500, 500)), axis=1)):
        answer = solve_assignment(cost, maximize, method="jv")
        assert answer.cost == pytest.approx(cost[scipy_solver(cost, maximize)].sum(), rel=1e-12)
        assert verify_assignment(cost, answer).optimal


def contested(kind, n, m):
    rng = np.random.default_rng(4)
    a, b = 3 * rng.standard_normal((8, 16))[rng.integers(0, 8, (2, m))] + rng.standard_normal((2, m, 16))
    points = rng.random((2, m, 2))
    cost = {
        "clusters": lambda: a @ b.T,
        "Euclidean": lambda: np.linalg.norm(points[0][:, None] - points[1], axis=2),
        "sorted": lambda: np.sort(rng.random((m, m)), axis=1),
        "Machol-Wien": lambda: np.outer(np.arange(m), np.arange(m)),
        "far from zero": lambda: 1e6 + rng.random((m, m)),
    }[kind]()
    return np.ascontiguousarray(cost[:n])


@pytest.mark.parametrize("kind", ["clusters", "Euclidean", "sorted", "Machol-Wien", "far from zero"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32, np.uint8])
def test_rectangular_problems_whose_rows_compete(kind, dtype):
    """They are made square with rows of zeros, which are nowhere in memory."""
    for n, m in ((699, 700), (660, 700)):
        cost = contested(kind, n, m)
        if dtype is np.uint8:
            cost = 200 * (cost - cost.min()) / np.ptp(cost)
        elif dtype in (np.int32, np.float16):
            cost = 3e4 * (cost - cost.min()) / np.ptp(cost)
        cost = cost.astype(dtype)
        exact = cost.astype(np.float64)
        want = exact[scipy_solver(exact)].sum()
        for layout in (cost, np.asfortranarray(cost), cost.T, np.repeat(cost, 2, axis=1)[:, ::2]):
            answer = solve_assignment(layout)
            assert answer.cost == pytest.approx(want, rel=1e-12)
            assert_proven(layout.astype(np.float64), answer)
            left_over = np.setdiff1d(np.arange(m), answer.row_ind if layout.shape[0] == m else answer.col_ind)
            prices = answer.row_duals if layout.shape[0] == m else answer.col_duals
            assert np.all(prices[left_over] == 0)
            assert np.all(prices <= 0)


def test_rectangular_problems_whose_rows_compete_with_every_option():
    cost = contested("clusters", 690, 700)
    want = solve_assignment(cost, method="dense")
    for options in ({"threads": 2}, {"method": "auction"}, {"method": "jv"}, {"duals": want.col_duals}):
        answer = solve_assignment(cost, **options)
        assert answer.cost == pytest.approx(want.cost, rel=1e-12)
        assert_proven(cost, answer)
    assert solve_assignment(cost, max_gap=5.0).cost <= want.cost + 5.0
    assert solve_assignment(-cost, maximize=True).cost == pytest.approx(-want.cost, rel=1e-12)
    assert np.array_equal(linear_sum_assignment(cost)[1], want.col_ind)
    largest = 1e305 * cost
    assert verify_assignment(largest, solve_assignment(largest)).optimal
    forbidden = np.where(np.random.default_rng(0).random(cost.shape) < 0.3, np.inf, cost)
    answer = solve_assignment(forbidden)
    assert answer.cost == pytest.approx(forbidden[scipy_solver(forbidden)].sum(), rel=1e-12)
    forbidden[5] = np.inf
    with pytest.raises(ValueError, match="cost matrix is infeasible"):
        solve_assignment(forbidden)


def noise(kind, n=2100):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, n, 64))
    return {
        "float32": lambda: (a @ b.T).astype(np.float32),
        "integers": lambda: np.rint(1000 * a @ b.T).astype(np.int32),
        "nearly overflowing": lambda: 1e306 * (a @ b.T),
        "planted": lambda: -(a @ (a[rng.permutation(n)] + 0.7 * b).T),
        "some forbidden": lambda: np.where(rng.random((n, n)) < 0.001, np.inf, a @ b.T),
        "few columns differ": lambda: np.repeat(rng.standard_normal((n, 30)), n // 30, axis=1),
        "alike": lambda: rng.random((n, n), dtype=np.float32),
        "a few columns are cheap": lambda: rng.random((n, n)) - (np.arange(n) % 10 == 0),
        "one column is dear": lambda: rng.random((n, n)) + 10.0 * (np.arange(n) == 7),
        "columns are shifted": lambda: rng.random((n, n)) + 0.05 * rng.random(n),
        "rows are shifted": lambda: rng.random((n, n)) + 5.0 * rng.random((n, 1)),
        "tied": lambda: rng.integers(0, 50, (n, n), dtype=np.int16),
    }[kind]()


KINDS = ("float32", "integers", "nearly overflowing", "planted", "some forbidden", "few columns differ", "alike")
SHIFTED = ("tied", "a few columns are cheap", "one column is dear", "columns are shifted", "rows are shifted")


@pytest.mark.parametrize("kind", [*KINDS, *SHIFTED])
def test_a_few_rows_tell_whether_column_minima_are_worth_a_pass(kind):
    cost = noise(kind)
    answer = solve_assignment(cost)
    assert verify_assignment(cost, answer).optimal
    if kind != "some forbidden":
        turned = solve_assignment(-cost.T, maximize=True)
        assert turned.cost == pytest.approx(-answer.cost, rel=1e-12)
        assert verify_assignment(-cost.T, turned, maximize=True).optimal


def assert_proven(cost, answer):
    scale = np.abs(cost[answer.row_ind, answer.col_ind]).sum() + np.abs(answer.row_duals).sum()
    scale += np.abs(answer.col_duals).sum()
    gap, violation = dual_gap(cost, answer.row_ind, answer.col_ind, answer.row_duals, answer.col_duals)
    assert violation <= 1e-14 * scale
    assert abs(gap) <= 1e-14 * scale
    assert 0 <= answer.gap <= 1e-14 * scale
    verdict = verify_assignment(cost, answer)
    assert verdict.optimal
    assert verdict.tolerance <= 1e-14 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_all_instruction_sets_give_the_same_bits(family, isa):
    cost = FAMILIES[family](np.random.default_rng(5), 101, 103)
    square = FAMILIES[family](np.random.default_rng(6), 96, 96)
    for typed in (cost, cost.astype(np.float32), cost.T, square, -square[::-1]):
        if np.isneginf(typed).any():
            continue
        for method in ("dense", "jv"):
            got = solve_assignment(typed, method=method)
            assert _core.force_isa("scalar")
            want = solve_assignment(typed, method=method)
            assert _core.force_isa(isa)
            assert got.col_ind.tolist() == want.col_ind.tolist()
            assert got.row_duals.tolist() == want.row_duals.tolist()
            assert got.col_duals.tolist() == want.col_duals.tolist()


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_kernel_of_every_dtype(dtype, isa):
    rng = np.random.default_rng(3)
    for shape in ((61, 61), (61, 77), (64, 64)):
        cost = rng.integers(0, 100, shape).astype(dtype)
        for maximize in (False, True):
            for method in ("dense", "jv"):
                answer = solve_assignment(cost, maximize, method=method)
                assert answer.cost == cost[scipy_solver(cost, maximize)].astype(float).sum()
                assert verify_assignment(cost, answer)[:3] == (True, 0.0, 0.0)


def test_against_brute_force():
    rng = np.random.default_rng(0)
    for n, m in ((1, 4), (4, 1), (3, 6), (6, 3), (6, 6), (7, 7)):
        for _ in range(10):
            cost = rng.integers(0, 12, (n, m)).astype(float)
            for method in METHODS:
                assert solve_assignment(cost, method=method).cost == brute_force_cost(cost)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(70, 70), (30, 70), (70, 30)])
def test_maximisation_is_the_mirror_image(shape, method):
    cost = np.random.default_rng(1).standard_normal(shape)
    up, down = solve_assignment(cost, True, method=method), solve_assignment(-cost, method=method)
    assert up.col_ind.tolist() == down.col_ind.tolist()
    assert up.cost == -down.cost
    assert (up.row_duals[:, None] + up.col_duals[None, :] >= cost - 1e-12).all()
    assert up.row_duals.sum() + up.col_duals.sum() == pytest.approx(up.cost)
    assert verify_assignment(cost, up).optimal
    assert not verify_assignment(cost, up, maximize=False).optimal


def test_float32_is_solved_with_float64_duals():
    """Rank-one and offset matrices, where float32 duals lose the optimum."""
    rng = np.random.default_rng(0)
    x, y = rng.random(300), rng.random(300)
    for cost in (np.outer(x, y), 1e4 + np.outer(x, y), 1e6 + rng.random((300, 300))):
        cost = cost.astype(np.float32)
        answer = solve_assignment(cost)
        assert answer.row_duals.dtype == np.float64
        assert answer.cost == pytest.approx(cost.astype(float)[scipy_solver(cost)].sum(), rel=1e-15)


def test_exact_integers_carry_integer_duals():
    cost = 2**60 + np.random.default_rng(0).integers(0, 1000, (30, 34))
    answer = solve_assignment(cost)
    assert answer.stats.exact_integers
    assert answer.row_duals.dtype == np.int64
    assert isinstance(answer.cost, int)
    assert answer.cost == int(answer.row_duals.sum(dtype=object)) + int(answer.col_duals.sum(dtype=object))
    assert verify_assignment(cost, answer) == (True, 0.0, 0.0, 0.0)
    worse = answer.col_ind.copy()
    worse[[0, 1]] = worse[[1, 0]]
    lost = int(cost[[0, 1], worse[:2]].sum()) - int(cost[[0, 1], answer.col_ind[:2]].sum())
    moved = Assignment(**{**vars(answer), "col_ind": worse})
    assert verify_assignment(cost, moved).gap >= lost > 0
    assert not verify_assignment(cost, moved).optimal


def test_integers_within_float64_keep_integer_duals_through_eps_scaling():
    """Prices near 2**48: a fractional eps would cost them their last bits."""
    rng = np.random.default_rng(0)
    units = rng.standard_normal((2, 300, 4))
    for cost in (units[0] @ units[1].T, np.sort(rng.random((300, 300)), axis=1)):
        scaled = np.round(cost / np.abs(cost).max() * 2**40).astype(np.int64)
        answer = solve_assignment(scaled, method="jv")
        assert not answer.stats.exact_integers
        assert answer.gap == 0.0
        for duals in (answer.row_duals, answer.col_duals):
            assert np.array_equal(duals, np.round(duals))
        u, v = answer.row_duals.astype(np.int64), answer.col_duals.astype(np.int64)
        assert verify_assignment(scaled, answer, row_duals=u, col_duals=v) == (True, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("method", ["jv", "auction"])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_are_bid_for_in_fractions_but_have_whole_duals(dtype, method):
    rng = np.random.default_rng(3)
    n, top = 250, min(int(np.iinfo(dtype).max), 2**40)
    for cost in (
        rng.integers(0, top, (n, n), endpoint=True),
        top - rng.integers(0, 40, (n, n)),  # float32 cannot tell these apart where top is large
        rng.integers(0, min(top, 1000) // 2, (n, n)) + rng.integers(0, top // 2, n),
        rng.integers(0, min(top, 1000), (n, n + 30)),
    ):
        typed = cost.astype(dtype)
        answer = solve_assignment(typed, method=method)
        assert answer.cost == cost[scipy_solver(typed)].sum()
        assert answer.gap == 0
        assert np.array_equal(np.floor(answer.row_duals), answer.row_duals)
        assert np.array_equal(np.floor(answer.col_duals), answer.col_duals)
        assert verify_assignment(typed, answer).optimal


@pytest.mark.parametrize("kind", ["random", "all rows want the same", "rank one", "differences of one", "wide"])
@pytest.mark.parametrize("maximize", [False, True])
def test_integers_for_which_float64_only_might_be_too_coarse(kind, maximize):
    rng = np.random.default_rng(4)
    n, top = 150, 2**52 - 1
    cost = {
        "random": lambda: rng.integers(-top, top, (n, n)),
        "all rows want the same": lambda: np.sort(rng.integers(0, top, (n, n)), axis=1),
        "rank one": lambda: np.outer(rng.integers(0, 2**26, n), rng.integers(0, 2**26, n)),
        "differences of one": lambda: top - rng.integers(0, 3, (n, n)),
        "wide": lambda: rng.integers(-top, top, (n, n + 20)),
    }[kind]()
    cost[0, :2] = -top, top
    answer = solve_assignment(cost, maximize=maximize)
    exact = solve_assignment(cost, maximize=maximize, method="jv")  # a method that is asked for takes no chances
    assert exact.stats.exact_integers
    assert answer.cost == exact.cost
    assert answer.gap == 0
    assert verify_assignment(cost, answer, maximize=maximize).optimal


def test_exact_duals_beyond_int64_are_refused():
    cost = np.array([[0, 2**64 - 1], [2**64 - 1, 0]], dtype=np.uint64)
    assert linear_sum_assignment(cost, maximize=True)[1].tolist() == [1, 0]
    with pytest.raises(OverflowError, match="duals of these integer costs do not fit int64"):
        solve_assignment(cost, maximize=True)


def test_cost_is_of_the_kind_of_the_matrix():
    assert isinstance(solve_assignment(np.eye(3)).cost, float)
    assert isinstance(solve_assignment(np.eye(3, dtype=bool)).cost, int)
    assert solve_assignment(np.eye(3, dtype=bool), maximize=True).cost == 3


def test_float16_beyond_its_own_range_of_sums():
    cost = np.full((60, 60), 60000, dtype=np.float16)
    assert solve_assignment(cost).cost == 60 * float(np.float16(60000))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty_has_empty_proof(shape):
    answer = solve_assignment(np.zeros(shape))
    assert (answer.cost, answer.gap) == (0, 0)
    assert answer.row_duals.shape == shape[:1]
    assert answer.col_duals.shape == shape[1:]
    assert verify_assignment(np.zeros(shape), answer).optimal


def test_stats_tell_what_ran():
    rng = np.random.default_rng(0)
    for shape in ((5, 5), (100, 100), (140, 140), (400, 400), (300, 500)):
        cost = rng.random(shape)
        for method in METHODS:
            stats = solve_assignment(cost, method=method).stats
            assert stats.method in (METHODS[1:] if method == "auto" else (method,))
            assert not stats.exact_integers
            assert stats.row_scans >= shape[0]
            assert 0 <= stats.augmentations <= shape[0]


@pytest.mark.parametrize("method", METHODS)
def test_stats_tell_of_exact_integers(method):
    stats = solve_assignment(2**60 + np.random.default_rng(0).integers(0, 9, (20, 20)), method=method).stats
    assert (stats.method, stats.exact_integers) == ("shortest_path", True)


@pytest.mark.parametrize("method", ["fastest", "", None, 3])
def test_unknown_method(method):
    with pytest.raises(ValueError, match=r"method is .*; expected 'auto', 'jv', 'auction', 'dense' or 'shortest_path'"):
        solve_assignment(np.eye(3), method=method)


def test_same_errors_as_the_short_call():
    for bad, text in (([[np.nan]], "invalid numeric"), ([[np.inf]], "infeasible"), ([1.0], r"got a 1 array")):
        with pytest.raises(ValueError, match=text):
            solve_assignment(bad)


def test_build_info():
    info = build_info()
    assert info["isa"] in info["available_isas"]
    assert info["available_isas"][0] == "scalar"
    assert not _core.force_isa("no such thing")


@pytest.mark.parametrize("kind", ["normal", "integers"])
@pytest.mark.parametrize("n", [500, 900])
def test_own_duals_give_back_the_matching_at_once(kind, n):
    """Rows of an optimal solution have several tight columns; all of them together tell which belongs to whom."""
    rng = np.random.default_rng(n)
    cost = rng.standard_normal((n, n)) if kind == "normal" else rng.integers(0, 2**30, (n, n))
    first = solve_assignment(cost)
    again = solve_assignment(cost, duals=first.col_duals)
    assert np.array_equal(first.col_ind, again.col_ind)
    assert again.stats.augmentations <= n // 100
    assert again.stats.row_scans < 2.5 * n
    assert verify_assignment(cost, again).optimal


@pytest.mark.parametrize("family", ["uniform", "cauchy", "ties"])
@pytest.mark.parametrize("changed", [0.01, 0.3, 1.0])
def test_warm_starts_of_every_quality_are_exact(family, changed):
    rng = np.random.default_rng(3)
    draw = {
        "uniform": lambda: rng.random((600, 600)),
        "cauchy": lambda: rng.standard_cauchy((600, 600)),
        "ties": lambda: rng.integers(0, 12, (600, 600)),
    }[family]
    cost = draw()
    duals = solve_assignment(cost).col_duals
    rows = rng.random(600) < changed
    cost[rows] = draw()[rows]
    answer = solve_assignment(cost, duals=duals)
    assert answer.cost == pytest.approx(cost[scipy_solver(cost)].sum(), rel=1e-12)
    assert verify_assignment(cost, answer).optimal


@pytest.mark.parametrize("values", [2, 11, 100])
@pytest.mark.parametrize("n", [479, 480, 700, 1025])
def test_ties_around_the_sizes_where_the_way_changes(values, n):
    cost = np.random.default_rng(n).integers(0, values, (n, n)).astype(np.float32)
    answer = solve_assignment(cost)
    assert answer.cost == cost[scipy_solver(cost)].sum()
    assert verify_assignment(cost, answer).optimal


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int16, np.uint8])
@pytest.mark.parametrize("shape", [(531, 260), (700, 129), (512, 512), (515, 517)])
def test_rows_scattered_in_memory(isa, shape, dtype):
    """Tall and transposed matrices are turned a tile at a time; every element must arrive where it belongs."""
    cost = np.random.default_rng(5).integers(0, 200, shape).astype(dtype)
    if np.dtype(dtype).kind == "f":
        cost += np.random.default_rng(6).random(shape).astype(dtype)
    want = cost[scipy_solver(cost)].sum(dtype=np.float64)
    for view in (cost, np.asfortranarray(cost), np.ascontiguousarray(cost.T).T, np.repeat(cost, 2, axis=1)[:, ::2]):
        answer = solve_assignment(view)
        assert answer.cost == pytest.approx(want, rel=1e-12)
        assert verify_assignment(cost, answer).optimal
