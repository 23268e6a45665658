"""The solver as part of a process: threads, fork, Ctrl-C, memory that runs out, memory that must come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lap_checks import METHODS, supports
from matrices import ADVERSARIAL
from rebasin_fast import solve_assignment

THREADS = {"threads": 2} if supports("threads") else {}

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory use is read from /proc")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def run(script, timeout=120):
    """Run a script in a process of its own and return what it printed; a crash or an error fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout.split()


def answer_of(task):
    cost, maximize, method, options = task
    answer = solve_assignment(cost, maximize, method=method, **options)
    return (answer.cost, answer.col_ind.tolist(), answer.row_duals.tolist(), answer.col_duals.tolist())


def test_eight_threads_with_different_problems_give_the_answers_of_one():
    rng = np.random.default_rng(0)
    tasks = []
    for k, family in enumerate(("favourite columns", "rank one, float32", "2**53 + 1", "price war", "int8 extremes")):
        for shape in ((40, 40), (150, 210), (230, 170), (200, 200)):
            cost = ADVERSARIAL[family](rng, *shape)
            method = METHODS[(k + shape[0]) % len(METHODS)]
            tasks += [(cost, False, method, {}), (cost.T, True, method, {})]
    want = [answer_of(task) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(answer_of, tasks)) == want


@pytest.mark.skipif(not supports("threads"), reason="solves on one thread only")
def test_eight_threads_that_each_use_two_more():
    rng = np.random.default_rng(1)
    tasks = [(rng.random((250, 250)).astype(np.float32), False, "auto", {"threads": 2}) for _ in range(16)]
    want = [answer_of((*task[:3], {}))[0] for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        got = [answer[0] for answer in pool.map(answer_of, tasks)]
    assert got == pytest.approx(want, rel=1e-12)


@needs_fork
def test_a_fork_solves_on_after_its_parent_solved():
    """A pool of threads does not survive a fork; whoever kept one would wait for it here for ever."""
    printed = run(f"""
        import os
        import numpy as np
        from rebasin_fast import solve_assignment

        cost = np.random.default_rng(0).random((400, 400)).astype(np.float32)
        want = solve_assignment(cost, **{THREADS}).cost
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if abs(solve_assignment(cost, **{THREADS}).cost - want) < 1e-9 else 1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(abs(solve_assignment(cost, **{THREADS}).cost - want) < 1e-9)
    """)
    assert printed == ["0", "0", "0", "True"]


@needs_proc
def test_running_out_of_memory_is_a_memory_error():
    """The matrix itself takes 1 MB, for its rows overlap; the lists of its rows take more than is left."""
    printed = run("""
        import resource
        import numpy as np
        from pathlib import Path
        from rebasin_fast import linear_sum_assignment, solve_assignment

        n = 30_000
        cost = np.lib.stride_tricks.as_strided(np.arange(5.0 * n), (n, n), (16, 24))
        small = np.random.default_rng(0).random((300, 300))
        before = linear_sum_assignment(small)[1].tolist()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, resource.getrlimit(resource.RLIMIT_AS)[1]))
        for call in (linear_sum_assignment, solve_assignment):
            try:
                call(cost)
            except MemoryError:
                print("MemoryError")
        print(linear_sum_assignment(small)[1].tolist() == before)
    """)
    assert printed == ["MemoryError", "MemoryError", "True"]


@needs_proc
def test_memory_comes_back():
    """Two hundred answers and errors of each kind; any one kept each time would add up to 40 MB or more."""
    printed = run(f"""
        import resource
        import numpy as np
        from pathlib import Path
        from rebasin_fast import linear_sum_assignment, solve_assignment

        rng = np.random.default_rng(0)
        turned = np.asfortranarray(rng.random((160, 161)))  # copied in order to be solved
        long = rng.random((2, 50_000)).astype(np.float32)   # 400 kB of duals
        forbidden = turned.copy()
        forbidden[:, 7:] = np.inf
        invalid = turned.copy()
        invalid[-1, -1] = np.nan
        extreme = np.full((2, 30_000), 2**64 - 1, np.uint64)
        extreme[0, ::2] = extreme[1, 1::2] = 0

        def rss():
            return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

        def solve_all():
            for cost in (turned, long, extreme, forbidden, invalid):
                for maximize in (False, True):
                    for call in (linear_sum_assignment, lambda *args: solve_assignment(*args, **{THREADS})):
                        try:
                            call(cost, maximize)
                        except (ValueError, OverflowError):
                            pass

        for _ in range(20):
            solve_all()
        before = rss()
        for _ in range(200):
            solve_all()
        print(rss() - before)
    """)
    assert int(printed[0]) < 16e6


@pytest.mark.skipif(not supports("threads"), reason="the engine cannot be interrupted yet")
@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize("options", [{}, {"threads": 2}], ids=str)
def test_ctrl_c_ends_a_long_solve_and_nothing_else(options):
    """Machol and Wien's matrix takes plain augmentation n**3 / 3 steps: at this size no machine is done in seconds."""
    script = f"""
        import signal
        import numpy as np
        from rebasin_fast import linear_sum_assignment, solve_assignment

        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the parent ignores it
        small = np.random.default_rng(0).random((300, 300))
        before = linear_sum_assignment(small)[1].tolist()
        cost = np.multiply.outer(np.arange(6000, dtype=np.int32), np.arange(6000, dtype=np.int32))
        try:
            print("solving", flush=True)
            solve_assignment(cost, method="shortest_path", **{options})
            print("finished", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(linear_sum_assignment(small)[1].tolist() == before, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "solving\n", process.stderr.read()
        time.sleep(1.0)  # so that the signal finds it in the solver
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        # Read before waited for: what a process without an ear for signals prints comes minutes later.
        printed, errors = process.communicate(timeout=60)
        waited = time.monotonic() - sent
        assert (printed.split(), process.returncode) == (["interrupted", "True"], 0), errors
        assert waited < 5.0
    finally:
        process.kill()
        process.communicate()
