"""`linear_sum_assignment` keeps SciPy's contract: the same call on both must give the same answer or the same error."""

from __future__ import annotations

import itertools
from fractions import Fraction
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rebasin_fast import linear_sum_assignment

SCIPY = scipy.optimize.linear_sum_assignment


def outcome(function, *args, **kwargs):
    try:
        rows, cols = function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)
    assert rows.dtype == cols.dtype == np.int64
    return rows.tolist(), cols.tolist()


FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


@settings(max_examples=300, deadline=None)
@given(
    cost=hnp.arrays(
        dtype=st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]),
        shape=hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=7),
        elements=None,
    ),
    maximize=st.booleans(),
)
def test_any_small_matrix_gives_what_scipy_gives(cost, maximize):
    if cost.dtype == np.int64 and cost.size and np.abs(cost.astype(float)).max() > 2**40:
        cost = cost % 1000  # beyond 2**53 SciPy rounds and we do not
    if cost.dtype == np.float64:
        finite = np.isfinite(cost)
        if finite.any() and np.abs(cost[finite]).max() > 1e300:
            cost = np.where(finite, cost / 1e10, cost)  # near overflow SciPy's sums become infinite
    assert outcome(linear_sum_assignment, cost, maximize) == outcome(SCIPY, cost, maximize)


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 2**32 - 1),
    values=st.integers(1, 5),
    forbidden=st.sampled_from([0.0, 0.2, 0.6]),
    maximize=st.booleans(),
)
def test_ties_and_forbidden_cells_give_the_very_optimum_scipy_gives(shape, seed, values, forbidden, maximize):
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, values, shape).astype(float)
    cost[rng.random(shape) < forbidden] = -np.inf if maximize else np.inf
    assert outcome(linear_sum_assignment, cost, maximize) == outcome(SCIPY, cost, maximize)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, np.bool_, ">f8", ">i4", ">f4"])
@pytest.mark.parametrize("n", [5, 90])
def test_every_real_dtype(dtype, n):
    cost = (np.random.default_rng(n).random((n, n)) * 100).astype(dtype)
    rows, cols = linear_sum_assignment(cost)
    want = cost[SCIPY(cost)].astype(float).sum()
    assert rows.tolist() == list(range(n))
    assert cost[rows, cols].astype(float).sum() == pytest.approx(want, rel=1e-14)


@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (9, 4), (70, 70), (60, 200), (200, 60), (1, 500), (500, 1)])
def test_every_layout_and_input_left_alone(shape):
    base = np.random.default_rng(0).random((2 * shape[0], 2 * shape[1]))
    fields = np.zeros(shape, dtype=[("pad", "i1"), ("cost", "f8")])
    fields["cost"] = base[::2, ::2]
    layouts = {
        "C": np.ascontiguousarray(base[::2, ::2]),
        "Fortran": np.asfortranarray(base[::2, ::2]),
        "strided": base[::2, ::2],
        "negative": np.ascontiguousarray(base[::2, ::2][::-1, ::-1])[::-1, ::-1],
        "transposed": np.ascontiguousarray(base[::2, ::2].T).T,
        "unaligned": fields["cost"],
    }
    want = outcome(SCIPY, layouts["C"])
    for name, cost in layouts.items():
        cost.flags.writeable = False
        before = cost.tobytes()
        assert outcome(linear_sum_assignment, cost) == want, name
        assert cost.tobytes() == before


def test_broadcast_matrix_without_memory_of_its_own():
    cost = np.broadcast_to(np.arange(80.0), (80, 80))
    rows, cols = linear_sum_assignment(cost)
    assert sorted(cols) == list(range(80))
    assert rows.tolist() == list(range(80))


def test_memory_map(tmp_path):
    cost = np.random.default_rng(0).random((60, 60))
    np.save(tmp_path / "cost.npy", cost)
    mapped = np.load(tmp_path / "cost.npy", mmap_mode="r")
    assert outcome(linear_sum_assignment, mapped) == outcome(SCIPY, cost)


class DLPackOnly:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda c: c.tolist(),
        lambda c: tuple(map(tuple, c.tolist())),
        lambda c: [[np.longdouble(x) for x in row] for row in c],
        list,
        pd.DataFrame,
        np.matrix,
        torch.from_numpy,
        lambda c: torch.from_numpy(c).requires_grad_(),
        lambda c: torch.from_numpy(np.ascontiguousarray(c.T)).T,
        lambda c: np.ma.masked_array(c, mask=c > 2),
        DLPackOnly,
    ],
)
def test_whatever_can_become_an_array(wrap):
    cost = np.random.default_rng(0).random((6, 8))
    assert outcome(linear_sum_assignment, wrap(cost)) == outcome(SCIPY, cost)


def test_bfloat16_and_half_tensors():
    cost = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float16):
        rounded = cost.to(dtype)
        assert outcome(linear_sum_assignment, rounded) == outcome(SCIPY, rounded.double().numpy())


def test_tensor_elsewhere_is_refused_by_name():
    with pytest.raises(TypeError, match=r"cost_matrix is a tensor on meta; expected one on the CPU"):
        linear_sum_assignment(torch.empty(3, 3, device="meta"))


BAD = {
    "complex": np.eye(2) * 1j,
    "strings": [["a", "b"], ["c", "d"]],
    "string array": np.array([["1", "2"]]),
    "bytes": np.array([[b"1"]]),
    "objects": np.array([[1, None]], dtype=object),
    "object numbers": np.eye(2).astype(object),
    "long double": np.eye(2, dtype=np.longdouble),
    "dates": np.zeros((2, 2), "datetime64[s]"),
    "durations": np.zeros((2, 2), "timedelta64[s]"),
    "structured": np.zeros((2, 2), dtype=[("a", float)]),
    "void": np.zeros((2, 2), "V4"),
    "scalar": 5,
    "none": None,
    "vector": [1, 2],
    "cube": np.zeros((2, 2, 2)),
    "empty list": [],
    "ragged": [[1, 2], [3]],
    "dictionary": {},
    "generator": (i for i in range(2)),
    "sparse": scipy.sparse.csr_matrix(np.eye(2)),
    "NaN": [[np.nan, 1], [1, 2]],
    "minus infinity": [[-np.inf, 1], [1, 2]],
    "infeasible": [[np.inf, np.inf], [1, 2]],
    "infeasible column": [[np.inf, 1], [np.inf, 2]],
    "NaN and infeasible": [[np.nan, np.inf], [np.inf, np.inf]],
    "complex list": [[1j, 2], [3, 4]],
    "object frame": pd.DataFrame({"a": [1, "x"], "b": [2, 3]}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_what_scipy_raises(name):
    kind, text = outcome(SCIPY, BAD[name])
    assert issubclass(kind, Exception)
    assert outcome(linear_sum_assignment, BAD[name]) == (kind, text)


@pytest.mark.parametrize("n", [3, 100])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bad_entries_anywhere_are_found(n, bad, dtype):
    for i, j in itertools.product((0, n // 2, n - 1), repeat=2):
        cost = np.random.default_rng(0).random((n, n)).astype(dtype)
        cost[i, j] = bad
        with pytest.raises(ValueError, match="matrix contains invalid numeric entries"):
            linear_sum_assignment(cost)
        with pytest.raises(ValueError, match="matrix contains invalid numeric entries"):
            linear_sum_assignment(-cost, maximize=True)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_bad_entries_are_found_where_no_pass_over_all_comes_first(bad):
    """Heavy tails go without one, and an order of rows and columns is looked for before the rows are read."""
    n = 700
    x = np.exp(2 * np.random.default_rng(0).standard_normal((2, n)))
    for i in range(0, n, 20):
        for j in (0, n // 3):
            cost = -np.outer(*x)
            cost[i, j] = bad
            with pytest.raises(ValueError, match="matrix contains invalid numeric entries"):
                linear_sum_assignment(cost)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_bad_entries_are_found_where_a_few_rows_have_spoken_for_all(bad):
    """Without structure no pass for column minima comes first."""
    n = 2100
    cost = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    for i, j in ((0, 0), (1, 5), (n // 2 + 1, n - 1), (n - 1, n - 1)):
        spoilt = cost.copy()
        spoilt[i, j] = bad
        with pytest.raises(ValueError, match="matrix contains invalid numeric entries"):
            linear_sum_assignment(spoilt)
        with pytest.raises(ValueError, match="matrix contains invalid numeric entries"):
            linear_sum_assignment(-spoilt, maximize=True)
    cost[n // 2 + 1] = np.inf
    with pytest.raises(ValueError, match="cost matrix is infeasible"):
        linear_sum_assignment(cost)


@pytest.mark.parametrize("n", [60, 100])
def test_large_infeasible_matrix(n):
    cost = np.random.default_rng(0).random((n, n))
    cost[: n // 2 + 1, n // 2 :] = np.inf  # n/2 + 1 rows for n/2 columns
    for layout in (cost, cost.T, np.asfortranarray(cost)):
        with pytest.raises(ValueError, match="cost matrix is infeasible"):
            linear_sum_assignment(layout)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty(shape):
    for function in (linear_sum_assignment, SCIPY):
        rows, cols = function(np.zeros(shape))
        assert rows.shape == cols.shape == (0,)
        assert rows.dtype == cols.dtype == np.int64


def test_arguments():
    cost = np.array([[1.0, 5.0], [2.0, 3.0]])
    assert outcome(linear_sum_assignment, cost_matrix=cost, maximize=True) == outcome(SCIPY, cost, True)
    assert outcome(linear_sum_assignment, cost, "yes") == outcome(SCIPY, cost, "yes")
    for args, kwargs in (((), {}), ((cost, True, 3), {}), ((cost,), {"minimize": True})):
        with pytest.raises(TypeError):
            linear_sum_assignment(*args, **kwargs)


@pytest.mark.parametrize("shape", [(7, 7), (100, 100), (64, 200), (200, 64), (500, 500)])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_constant_matrix_gives_the_identity(shape, maximize, dtype):
    for value in (0, 1, -7):
        for cost in (np.full(shape, value, dtype), np.full(shape, value, dtype, order="F")):
            rows, cols = linear_sum_assignment(cost, maximize)
            assert rows.tolist() == cols.tolist() == list(range(min(shape)))


def exact_best(cost, maximize):
    sign = -1 if maximize else 1
    values = [[sign * Fraction(int(x)) for x in row] for row in cost]
    return sign * min(sum(values[i][j] for i, j in enumerate(p)) for p in itertools.permutations(range(len(cost))))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_integers_beyond_float64_are_solved_exactly(dtype, maximize, seed):
    rng = np.random.default_rng(seed)
    cost = 2**53 + rng.integers(0, 9, (5, 5), dtype=np.int64).astype(dtype)
    rows, cols = linear_sum_assignment(cost, maximize)
    assert sum(int(x) for x in cost[rows, cols]) == exact_best(cost, maximize)
    assert linear_sum_assignment(cost.tolist(), maximize)[1].tolist() == cols.tolist()


@pytest.mark.parametrize("extreme", [np.iinfo(np.int64), np.iinfo(np.uint64)])
def test_the_whole_range_of_integers(extreme):
    cost = np.full((60, 60), extreme.max, dtype=extreme.dtype)
    best = np.random.default_rng(0).permutation(60)
    cost[np.arange(60), best] = extreme.min
    assert linear_sum_assignment(cost)[1].tolist() == best.tolist()


def test_python_integers_are_never_rounded_in_silence():
    with pytest.raises(ValueError, match=r"cost_matrix holds the integer 1180591620717411303425, which float64 would"):
        linear_sum_assignment([[2**70 + 1, 1], [1, 2]])
    for rounded in ([[2**63 + 1, -1], [1, 2]], [[2**53 + 1, 1.5], [1, 2]], [[10**400, 1.5], [1, 2]]):
        with pytest.raises((ValueError, OverflowError)):
            linear_sum_assignment(rounded)
    assert linear_sum_assignment([[2**70, 1], [1, 2]])[1].tolist() == [1, 0]
    assert linear_sum_assignment([[2**53, 1.5], [1, 2**54]])[1].tolist() == [1, 0]


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-30, 1.0, 1e30, 1e300, 8.9e307])
@pytest.mark.parametrize("n", [20, 80])
def test_float64_of_every_magnitude(scale, n):
    unit = np.random.default_rng(n).integers(-10000, 10000, (n, n)) / 10000
    rows, cols = linear_sum_assignment(unit * scale)
    assert unit[rows, cols].sum() == pytest.approx(unit[SCIPY(unit)].sum(), rel=1e-9)


def test_many_threads_at_once():
    costs = [np.random.default_rng(k).random((150, 150)).astype(np.float32) for k in range(8)]
    want = [linear_sum_assignment(cost)[1].tolist() for cost in costs]
    got = {}

    def work(k):
        for _ in range(10):
            got[k] = linear_sum_assignment(costs[k])[1].tolist()

    threads = [Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[k] for k in range(8)] == want


def test_the_gil_is_released():
    """While one thread solves, another one runs Python code."""
    cost = np.sort(np.random.default_rng(0).random((900, 900)), axis=1)
    solving, counted = [True], [0]

    def solve():
        linear_sum_assignment(cost)
        solving[0] = False

    thread = Thread(target=solve)
    thread.start()
    while solving[0]:
        counted[0] += 1
    thread.join()
    # Holding the GIL throughout, the solver would let this loop turn only before and after it.
    assert counted[0] > 1000
