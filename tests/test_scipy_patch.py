from __future__ import annotations

import sys
import types
from threading import Barrier, Thread

import numpy as np
import pytest
import scipy.optimize

from rebasin_fast import linear_sum_assignment, scipy_patch, scipy_patched

# Taken through a container: the context swaps names in modules, this one included.
ORIGINAL = [scipy.optimize.linear_sum_assignment]


@pytest.fixture
def victim():
    """A module that imported SciPy's function by name, as code one cannot edit does."""
    module = types.ModuleType("victim_of_the_patch")
    exec("from scipy.optimize import linear_sum_assignment as solver\ndef run(c): return solver(c)", vars(module))
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def swapped():
    return scipy.optimize.linear_sum_assignment is not ORIGINAL[0]


def test_swaps_everywhere_and_puts_back(victim, monkeypatch):
    calls = []
    monkeypatch.setattr(scipy_patch, "linear_sum_assignment", lambda *a: calls.append(a) or linear_sum_assignment(*a))
    cost = np.random.default_rng(0).random((20, 20))
    want = ORIGINAL[0](cost)[1].tolist()
    with scipy_patched():
        assert scipy.optimize.linear_sum_assignment(cost, maximize=False)[1].tolist() == want
        assert victim.run(cost)[1].tolist() == want
        assert len(calls) == 2
    assert not swapped()
    assert victim.solver is ORIGINAL[0]
    victim.run(cost)
    assert len(calls) == 2


def test_puts_back_after_an_exception():
    with pytest.raises(ValueError, match="infeasible"), scipy_patched():
        scipy.optimize.linear_sum_assignment([[np.inf]])
    assert not swapped()


def test_nested():
    with scipy_patched():
        with scipy_patched():
            assert swapped()
        assert swapped()
    assert not swapped()


def test_a_module_imported_inside_is_put_right_too():
    with scipy_patched():
        module = types.ModuleType("late_comer")
        exec("from scipy.optimize import linear_sum_assignment as solver", vars(module))
        sys.modules[module.__name__] = module
        assert module.solver is not ORIGINAL[0]
    assert sys.modules.pop("late_comer").solver is ORIGINAL[0]


def test_our_own_function_stays_ours():
    with scipy_patched():
        pass
    assert linear_sum_assignment.__module__ == "rebasin_fast.lap"


def test_the_last_thread_to_leave_restores():
    gate, seen = Barrier(2), []

    def first():
        with scipy_patched():
            gate.wait()
        gate.wait()

    thread = Thread(target=first)
    thread.start()
    with scipy_patched():
        gate.wait()
        gate.wait()
        seen.append(swapped())
    thread.join()
    assert seen == [True]
    assert not swapped()


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match="pip install scipy"), scipy_patched():
        pass
