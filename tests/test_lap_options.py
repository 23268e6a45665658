"""The options of `solve_assignment`: what they accept, and that none of them costs exactness."""

from __future__ import annotations

import signal
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment as scipy_solver

from rebasin_fast import solve_assignment, verify_assignment


@pytest.mark.parametrize("threads", [0, -1, -(2**70)])
def test_too_few_threads(threads):
    with pytest.raises(ValueError, match=r"threads is .*; expected a positive int, or None"):
        solve_assignment(np.eye(3), threads=threads)


@pytest.mark.parametrize("threads", [1.0, "2", [1], np.float64(2)])
def test_threads_that_are_no_integer(threads):
    with pytest.raises(TypeError, match=r"threads is .*; expected a positive int, or None"):
        solve_assignment(np.eye(3), threads=threads)


@pytest.mark.parametrize("max_gap", [-1.0, -1e-300, float("nan"), float("inf"), np.float32("nan")])
def test_a_gap_no_answer_can_have(max_gap):
    with pytest.raises(ValueError, match=r"max_gap is .*; expected a finite number >= 0"):
        solve_assignment(np.eye(3), max_gap=max_gap)


@pytest.mark.parametrize("max_gap", ["1", None, 1j, [0.0]])
def test_a_gap_that_is_no_number(max_gap):
    with pytest.raises(TypeError, match=r"max_gap is .*; expected a finite number >= 0"):
        solve_assignment(np.eye(3), max_gap=max_gap)


@pytest.mark.parametrize("max_gap", [0, 0.0, 1, np.float32(0.5), np.int64(2), Fraction(1, 2)])
@pytest.mark.parametrize("threads", [1, 2, 3, np.int32(2), 2**40, None])
def test_every_way_to_say_a_number(max_gap, threads):
    answer = solve_assignment(np.eye(3), threads=threads, max_gap=max_gap)
    assert answer.cost <= float(max_gap)


@pytest.mark.parametrize(
    ("duals", "error", "text"),
    [
        (np.zeros(3), ValueError, r"duals has shape \(3,\); expected \(4,\)"),
        (np.zeros((4, 1)), ValueError, r"duals has shape \(4, 1\); expected \(4,\)"),
        (0.0, ValueError, r"duals has shape \(\); expected \(4,\)"),
        ([0, 0, 0, np.nan], ValueError, r"duals holds NaN or infinity"),
        ([0, 0, 0, -np.inf], ValueError, r"duals holds NaN or infinity"),
        (np.zeros(4, complex), TypeError, r"duals has dtype complex128; expected real numbers"),
        (["a", "b", "c", "d"], TypeError, r"duals has dtype .*; expected real numbers"),
    ],
)
def test_duals_that_are_none(duals, error, text):
    with pytest.raises(error, match=text):
        solve_assignment(np.zeros((3, 4)), duals=duals)


STARTS = {
    "zero": lambda rng, v: np.zeros_like(v),
    "own": lambda rng, v: v,
    "nearly own": lambda rng, v: v + 1e-3 * rng.standard_normal(len(v)),
    "negated": lambda rng, v: -v,
    "noise": lambda rng, v: rng.standard_normal(len(v)),
    "huge": lambda rng, v: 1e15 * rng.standard_normal(len(v)),
    "integers": lambda rng, v: rng.integers(-9, 9, len(v)),
    "list": lambda rng, v: v.tolist(),
    "backwards": lambda rng, v: v.astype(np.float32)[::-1],
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("shape", [(7, 7), (60, 60), (40, 90), (90, 40), (250, 250)])
@pytest.mark.parametrize("maximize", [False, True])
def test_any_start_gives_the_optimum(start, shape, maximize):
    rng = np.random.default_rng(0)
    for cost in (rng.random(shape), rng.integers(0, 50, shape), rng.random(shape).astype(np.float32)):
        v = solve_assignment(cost, maximize).col_duals
        answer = solve_assignment(cost, maximize, duals=STARTS[start](rng, v))
        wide = cost.astype(np.float64)
        assert answer.cost == pytest.approx(wide[scipy_solver(wide, maximize)].sum(), rel=1e-12)
        assert verify_assignment(cost, answer).optimal


@pytest.mark.parametrize("max_gap", [0.0, 1e-9, 0.5, 1e9])
@pytest.mark.parametrize("method", ["auto", "auction"])
def test_the_gap_is_kept_and_proven(max_gap, method):
    cost = np.random.default_rng(1).random((300, 300))
    answer = solve_assignment(cost, max_gap=max_gap, method=method)
    assert answer.cost <= cost[scipy_solver(cost)].sum() + max_gap + 1e-12
    assert answer.gap <= max_gap + 1e-12
    assert verify_assignment(cost, answer, tolerance=max_gap + 1e-12).optimal


@pytest.mark.parametrize("n", [400, 1300])
def test_the_number_of_threads_does_not_change_the_answer(n):
    rng = np.random.default_rng(2)
    cost = (rng.standard_normal((n, 12)) @ rng.standard_normal((12, n))).astype(np.float32)
    want = solve_assignment(cost, threads=1)
    for threads in (2, 5, None):
        answer = solve_assignment(cost, threads=threads)
        assert np.array_equal(answer.col_ind, want.col_ind)
        assert np.array_equal(answer.col_duals, want.col_duals)
    assert verify_assignment(cost, want).optimal


def test_start_is_left_alone():
    duals = np.arange(5.0)
    duals.flags.writeable = False
    solve_assignment(np.random.default_rng(0).random((5, 5)), duals=duals)
    assert duals.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system")
@pytest.mark.parametrize("raises", [False, True])
def test_signals_are_handled_while_solving(raises):
    """Signals that come while nobody looks are handled as one, once the call has returned."""
    cost = np.multiply.outer(np.arange(1.0, 1201.0), np.arange(1.0, 1201.0))  # long augmenting paths
    handled = []

    def handler(number, frame):
        handled.append(number)
        if raises and len(handled) == 3:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        if raises:
            with pytest.raises(KeyboardInterrupt):
                solve_assignment(cost, method="shortest_path")
        else:
            solve_assignment(cost, method="shortest_path")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) >= 3
