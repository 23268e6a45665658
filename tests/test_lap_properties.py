"""Whatever the matrix, its dtype, layout and forbidden cells: the optimum SciPy finds, or the error it raises."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment as scipy_solver

from lap_checks import METHODS, assert_optimal, scipy_is_exact, supports, total
from rebasin_fast import linear_sum_assignment, solve_assignment, verify_assignment

INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
FLOATS = ("f2", "f4", "f8")

# The same examples on every run: a failure in CI is one that can be had at home.
REPEATABLE = settings(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


class Problem(NamedTuple):
    cost: np.ndarray
    maximize: bool


def values(rng, dtype, shape, distinct, magnitude):
    """Draw entries: `distinct` small integers; 0 stands for the whole range of integers, Gaussian floats."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if distinct:
        low = 0 if dtype.kind == "u" else -(distinct // 2)
        return (low + rng.integers(0, distinct, shape)).astype(dtype)
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * (1.0 if dtype == np.float16 else magnitude)).astype(dtype)
    info = np.iinfo(dtype)
    # Exact integer duals have to fit int64 themselves.
    return rng.integers(max(info.min, -(2**57)), min(info.max, 2**57), shape, endpoint=True).astype(dtype)


# Share of forbidden cells. All but "half" are kept feasible: a permutation stays allowed.
SHARES = {"few": 0.1, "half": 0.5, "most": 0.9, "all but one permutation": 1.0}


def forbid(rng, cost, pattern, maximize):
    """Put infinities, or what is not a number at all, into a matrix of floats."""
    n, m = cost.shape
    forbidden = np.zeros((n, m), dtype=bool)
    if pattern in SHARES:
        forbidden = rng.random((n, m)) < SHARES[pattern]
        if pattern != "half":
            k = min(n, m)
            forbidden[rng.permutation(n)[:k], rng.permutation(m)[:k]] = False
    elif pattern == "a row" and n and m:
        forbidden[rng.integers(n)] = True
    elif pattern == "a column" and n and m:
        forbidden[:, rng.integers(m)] = True
    elif pattern == "everything":
        forbidden[:] = True
    cost[forbidden] = -np.inf if maximize else np.inf
    if pattern == "not a number" and cost.size:
        cost[rng.integers(n), rng.integers(m)] = np.nan
    elif pattern == "wrong infinity" and cost.size:
        cost[rng.integers(n), rng.integers(m)] = np.inf if maximize else -np.inf
    return cost


def lay_out(cost, layout):
    """Return an equal matrix that lies in memory in another way."""
    n, m = cost.shape
    if layout == "Fortran":
        return np.asfortranarray(cost)
    if layout == "backwards":
        return np.ascontiguousarray(cost[::-1, ::-1])[::-1, ::-1]
    if layout == "backwards Fortran":
        return np.ascontiguousarray(cost.T[::-1, ::-1])[::-1, ::-1].T
    if layout == "every second":
        room = np.zeros((2 * n + 1, 2 * m + 1), cost.dtype)
        room[1::2, 1::2] = cost
        return room[1::2, 1::2]
    if layout == "part of wider rows":
        room = np.zeros((n, m + 3), cost.dtype)
        room[:, 2 : m + 2] = cost
        return room[:, 2 : m + 2]
    if layout == "unaligned field":
        fields = np.zeros((n, m), dtype=[("pad", "i1"), ("cost", cost.dtype)])
        fields["cost"] = cost
        return fields["cost"]
    if layout == "one row for all" and n:
        return np.broadcast_to(cost[0], (n, m))
    if layout == "one column for all" and m:
        return np.broadcast_to(cost[:, :1], (n, m))
    return np.ascontiguousarray(cost)


LAYOUTS = (
    "C",
    "Fortran",
    "backwards",
    "backwards Fortran",
    "every second",
    "part of wider rows",
    "unaligned field",
    "one row for all",
    "one column for all",
)
PATTERNS = (
    "none",
    "few",
    "half",
    "most",
    "all but one permutation",
    "a row",
    "a column",
    "everything",
    "not a number",
    "wrong infinity",
)
SMALL = st.tuples(st.integers(0, 40), st.integers(0, 40))
# On both sides of the sizes at which the choice of method changes, and of the widths of the kernels.
LARGE = st.tuples(st.integers(41, 250), st.integers(41, 250)) | st.integers(41, 250).map(lambda n: (n, n))
LONG = st.tuples(st.integers(1, 4), st.integers(100, 300))


@st.composite
def problems(draw, shapes, dtypes=("?", *INTEGERS, *FLOATS, *FLOATS, *FLOATS), patterns=PATTERNS, layouts=LAYOUTS):
    shape, dtype = draw(shapes), draw(st.sampled_from(dtypes))
    if draw(st.booleans()):
        shape = shape[::-1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maximize = draw(st.booleans())
    distinct = draw(st.sampled_from([0, 0, 1, 2, 3, 10, 100]))
    cost = values(rng, dtype, shape, distinct, draw(st.sampled_from([1.0, 1e-30, 1e30])))
    if cost.dtype.kind == "f":
        cost = forbid(rng, cost, draw(st.sampled_from(patterns)), maximize)
    cost = lay_out(cost, draw(st.sampled_from(layouts)))
    cost.flags.writeable = False
    return Problem(cost, maximize)


def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        return str(error)


def agrees_with_scipy(problem):
    cost, maximize = problem
    before = cost.tobytes()
    expected = outcome(scipy_solver, cost, maximize)
    short = outcome(linear_sum_assignment, cost, maximize)
    if isinstance(expected, str):
        assert short == expected
        for method in METHODS:
            assert outcome(solve_assignment, cost, maximize, method=method) == expected, method
    else:
        want = total(cost, *expected)
        for method in METHODS:
            assert_optimal(cost, solve_assignment(cost, maximize, method=method), maximize, want, where=method)
        answer = solve_assignment(cost, maximize)
        assert np.array_equal(short[0], answer.row_ind)
        assert np.array_equal(short[1], answer.col_ind)
    assert cost.tobytes() == before


@settings(REPEATABLE, max_examples=2000)
@given(problem=problems(SMALL))
def test_small(problem):
    agrees_with_scipy(problem)


@settings(REPEATABLE, max_examples=1000)
@given(problem=problems(LARGE))
def test_large(problem):
    agrees_with_scipy(problem)


@settings(REPEATABLE, max_examples=500)
@given(problem=problems(LONG))
def test_a_few_long_lines(problem):
    agrees_with_scipy(problem)


# What changes a problem without changing its answer, or changes it by a known amount. Integers, so that equal means
# equal.
WHOLE = problems(SMALL | LARGE, dtypes=("i4",), layouts=("C", "Fortran", "every second"))


def optimum(cost, maximize, **kwargs):
    answer = solve_assignment(cost, maximize, **kwargs)
    assert verify_assignment(cost, answer).optimal
    return answer.cost


@settings(REPEATABLE, max_examples=200)
@given(problem=WHOLE, seed=st.integers(0, 2**32 - 1), method=st.sampled_from(METHODS))
def test_order_turning_and_sign_do_not_change_the_optimum(problem, seed, method):
    cost, maximize = problem[0].astype(np.int64), problem[1]
    rng = np.random.default_rng(seed)
    want = optimum(cost, maximize, method=method)
    shuffled = cost[rng.permutation(cost.shape[0])][:, rng.permutation(cost.shape[1])]
    assert optimum(shuffled, maximize, method=method) == want
    assert optimum(cost.T, maximize, method=method) == want
    assert optimum(-cost, not maximize, method=method) == -want


@settings(REPEATABLE, max_examples=200)
@given(problem=WHOLE, seed=st.integers(0, 2**32 - 1), method=st.sampled_from(METHODS))
def test_constants_added_to_lines_are_added_to_the_optimum(problem, seed, method):
    cost, maximize = problem[0].astype(np.int64), problem[1]
    rng = np.random.default_rng(seed)
    n, m = cost.shape
    # Every line of the shorter side is chosen from once, whatever the answer; of the longer side only when square.
    rows = rng.integers(-(10**9), 10**9, n) if n <= m else np.zeros(n, np.int64)
    cols = rng.integers(-(10**9), 10**9, m) if m <= n else np.zeros(m, np.int64)
    want = optimum(cost, maximize, method=method) + int(rows.sum()) + int(cols.sum())
    assert optimum(cost + rows[:, None] + cols, maximize, method=method) == want


@settings(REPEATABLE, max_examples=200)
@given(problem=problems(SMALL, dtypes=("i4",)), extra=st.integers(1, 9), method=st.sampled_from(METHODS))
def test_a_line_nobody_would_choose_changes_nothing(problem, extra, method):
    cost, maximize = problem[0].astype(np.float64), problem[1]
    want = optimum(cost, maximize, method=method)
    worst = -np.inf if maximize else np.inf
    axis = 1 if cost.shape[0] <= cost.shape[1] else 0
    wider = np.insert(cost, [cost.shape[axis] // 2] * extra, worst, axis=axis)
    assert optimum(wider, maximize, method=method) == want


FEASIBLE = problems(SMALL | LARGE, patterns=("none", "few", "all but one permutation"), layouts=("C", "Fortran"))


def solvable(problem):
    return not isinstance(outcome(scipy_solver, *problem), str)


@pytest.mark.skipif(not supports("threads"), reason="solves on one thread only")
@settings(REPEATABLE, max_examples=200)
@given(problem=FEASIBLE.filter(solvable), threads=st.integers(1, 4), method=st.sampled_from(METHODS))
def test_threads_find_the_optimum(problem, threads, method):
    cost, maximize = problem
    answer = solve_assignment(cost, maximize, method=method, threads=threads)
    assert_optimal(cost, answer, maximize, total(cost, *scipy_solver(cost, maximize)))


@pytest.mark.skipif(not supports("duals"), reason="starts from nothing only")
@settings(REPEATABLE, max_examples=300)
@given(
    problem=FEASIBLE.filter(solvable),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["its own", "nearly its own", "noise", "huge", "one huge"]),
    method=st.sampled_from(METHODS),
)
def test_any_duals_to_start_from_lead_to_the_optimum(problem, seed, kind, method):
    cost, maximize = problem
    rng = np.random.default_rng(seed)
    m = cost.shape[1]
    cold = solve_assignment(cost, maximize)
    duals = cold.col_duals.astype(np.float64)
    if kind == "nearly its own":
        duals = duals * (1 + 0.01 * rng.standard_normal(m))
    elif kind == "noise":
        duals = rng.standard_normal(m)
    elif kind == "huge":
        duals = 1e12 * rng.standard_normal(m)
    elif kind == "one huge" and m:
        duals[rng.integers(m)] = 1e15
    answer = solve_assignment(cost, maximize, method=method, duals=duals)
    assert_optimal(cost, answer, maximize, cold.cost)
    # What rounding excuses must not grow with the numbers it started from.
    assert abs(answer.cost - cold.cost) <= 1e-12 * abs(cold.cost) + verify_assignment(cost, cold).tolerance


@pytest.mark.skipif(not supports("max_gap"), reason="stops at the optimum only")
@settings(REPEATABLE, max_examples=200)
@given(problem=FEASIBLE.filter(solvable), relative=st.sampled_from([1e-6, 1e-2, 1.0]), method=st.sampled_from(METHODS))
def test_a_tolerated_gap_is_kept_and_proven(problem, relative, method):
    cost, maximize = problem
    want = total(cost, *scipy_solver(cost, maximize))
    max_gap = relative * float(np.abs(cost[np.isfinite(cost)]).max(initial=0))
    answer = solve_assignment(cost, maximize, method=method, max_gap=max_gap)
    assert len(set(answer.col_ind.tolist())) == len(answer.row_ind) == min(cost.shape)
    verdict = verify_assignment(cost, answer, tolerance=np.inf)
    assert verdict.gap <= max_gap + verify_assignment(cost, answer).tolerance
    lost = want - answer.cost if maximize else answer.cost - want
    if scipy_is_exact(cost):
        assert 0 <= lost <= max_gap
    else:
        assert lost <= max_gap + 1e-12 * abs(want) + verify_assignment(cost, answer).tolerance
