"""Many threads in the package at once; on a free-threaded Python they run at the same time, and the GIL stays off."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import numpy as np
import pytest

from rebasin_fast import (
    _core,
    build_info,
    linear_sum_assignment,
    solve_assignment,
    solve_assignment_batch,
    solve_assignment_factored,
    verify_assignment,
)

THREADS = 8
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def at_once(task, count=THREADS):
    """Run task(0), ..., task(count - 1) in threads that begin together; return what they return."""
    barrier = Barrier(count)

    def run(k):
        barrier.wait()
        return task(k)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def matrices(seed):
    """One problem for every way through the solver: small, dense, lists, integers, rectangular, column order."""
    rng = np.random.default_rng(seed)
    return [
        rng.random((12, 12)),
        rng.random((100, 140), dtype=np.float32),
        rng.random((200, 200)),
        rng.random((600, 600), dtype=np.float32),
        rng.integers(0, 9, (500, 500)).astype(np.int16),
        rng.integers(2**61, 2**62, (40, 50)),
        np.asfortranarray(rng.random((300, 260))),
        -rng.standard_normal((500, 8)) @ rng.standard_normal((8, 500)),
    ]


def same(found, wanted):
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has a GIL")
def test_importing_leaves_the_gil_off():
    code = "import sys, rebasin_fast, rebasin_fast.cuda as c; c.is_available(); print(sys._is_gil_enabled())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has a GIL")
def test_the_gil_is_off_in_this_process():
    assert not sys._is_gil_enabled()


def test_one_matrix_in_many_threads():
    for cost in matrices(0):
        wanted = linear_sum_assignment(cost)
        assert all(same(found, wanted) for found in at_once(lambda _, cost=cost: linear_sum_assignment(cost)))


def test_many_matrices_in_many_threads():
    problems = [matrices(seed) for seed in range(THREADS)]
    wanted = [[solve_assignment(cost).col_ind for cost in costs] for costs in problems]

    def solve_all(k):
        costs = problems[k] if k % 2 else problems[k][::-1]  # so that they meet in different places
        found = [solve_assignment(cost).col_ind for cost in costs]
        return found if k % 2 else found[::-1]

    for found, expected in zip(at_once(solve_all), wanted, strict=True):
        assert same(found, expected)


def test_small_problems_have_a_work_space_for_every_thread():
    costs = [np.random.default_rng(k).random((k % 60 + 2, k % 37 + 2)) for k in range(300)]
    wanted = [linear_sum_assignment(cost) for cost in costs]
    for k, found in enumerate(at_once(lambda k: [linear_sum_assignment(cost) for cost in costs[k:] + costs[:k]])):
        assert all(same(a, b) for a, b in zip(found, wanted[k:] + wanted[:k], strict=True))


def test_threads_within_threads():
    rng = np.random.default_rng(1)
    cost = rng.random((700, 700), dtype=np.float32)
    stack = rng.random((60, 30, 30))
    a, b = rng.standard_normal((2, 600, 16), dtype=np.float32)
    wanted = (
        solve_assignment(cost).col_ind,
        solve_assignment_batch(stack).col_ind,
        solve_assignment_factored(a, b, maximize=True).col_ind,
    )

    def solve_all(_):
        return (
            solve_assignment(cost, threads=3).col_ind,
            solve_assignment_batch(stack, threads=3).col_ind,
            solve_assignment_factored(a, b, maximize=True, threads=3).col_ind,
        )

    assert all(same(found, wanted) for found in at_once(solve_all, 4))


def test_duals_prove_what_threads_found():
    cost = np.random.default_rng(2).random((400, 400), dtype=np.float32)
    start = solve_assignment(cost).col_duals

    def prove(k):
        changed = cost.copy()
        changed[k] += 1.0
        return verify_assignment(changed, solve_assignment(changed, duals=start)).optimal

    assert all(at_once(prove))


def test_errors_reach_the_thread_they_belong_to():
    good = np.random.default_rng(3).random((150, 150))
    forbidden, invalid = np.full((150, 150), np.inf), np.full((150, 150), np.nan)
    wanted = linear_sum_assignment(good)

    def attempt(k):
        if k % 3 == 0:
            return same(linear_sum_assignment(good), wanted)
        with pytest.raises(ValueError, match="infeasible" if k % 3 == 1 else "invalid numeric"):
            linear_sum_assignment(forbidden if k % 3 == 1 else invalid)
        return True

    for _ in range(20):
        assert all(at_once(attempt, 6))


def test_the_instruction_set_may_change_under_running_solvers():
    """All of them give the same bits, so it does not matter when a solver sees the change."""
    isas, before = build_info()["available_isas"], build_info()["isa"]
    cost = np.random.default_rng(4).random((300, 300), dtype=np.float32)
    wanted, done = linear_sum_assignment(cost), Event()

    def change():
        while not done.is_set():
            for isa in isas:
                _core.force_isa(isa)

    changer = Thread(target=change)
    changer.start()
    try:
        assert all(
            same(found, wanted) for _ in range(10) for found in at_once(lambda _: linear_sum_assignment(cost), 4)
        )
    finally:
        done.set()
        changer.join()
        _core.force_isa(before)


def test_the_first_calls_of_a_process_come_from_many_threads():
    code = """
import threading
import numpy as np
import rebasin_fast
barrier, failed = threading.Barrier(8), []
def run(k):
    barrier.wait()
    rows, cols = rebasin_fast.linear_sum_assignment(np.eye(k + 5) * -1)
    if not (rows == cols).all():
        failed.append(k)
threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
print(failed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
