"""`solve_assignment_batch` gives what single calls give, in the containers and with the errors it promises."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment as scipy_solver

from rebasin_fast import AssignmentBatch, solve_assignment, solve_assignment_batch, verify_assignment

DTYPES = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">f8", ">i4")
SHAPES = ((5, 5), (1, 7), (7, 1), (40, 60), (60, 40), (70, 70), (140, 130), (300, 20))


def costs_of(shape, dtype, problems=5, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((problems, *shape)) * (2 if np.dtype(dtype).kind == "b" else 100)).astype(dtype)


def problem(answer: AssignmentBatch, b: int):
    return {
        name: None if getattr(answer, name) is None else getattr(answer, name)[b]
        for name in ("row_ind", "col_ind", "cost", "row_duals", "col_duals", "gap")
    }


def assert_same(got: AssignmentBatch, want: AssignmentBatch, problems: int):
    for b in range(problems):
        for name, entry in problem(want, b).items():
            other = problem(got, b)[name]
            assert np.array_equal(np.asarray(entry, object), np.asarray(other, object)), (b, name)


def assert_as_single(answer: AssignmentBatch, costs, maximize=False):
    for b, cost in enumerate(costs):
        want, got = solve_assignment(cost, maximize), problem(answer, b)
        for name in ("row_ind", "col_ind"):
            assert got[name].dtype == np.int64
            assert got[name].tolist() == getattr(want, name).tolist()
        assert got["cost"] == want.cost
        if got["row_duals"] is not None:
            assert got["row_duals"].tolist() == want.row_duals.tolist()
            assert got["col_duals"].tolist() == want.col_duals.tolist()
            assert got["gap"] == want.gap
            pair = (got["row_ind"], got["col_ind"])
            duals = {name: got[name] for name in ("row_duals", "col_duals")}
            assert verify_assignment(cost, pair, maximize=maximize, **duals).optimal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_stack_as_single_calls(shape, dtype):
    costs = costs_of(shape, dtype)
    k = min(shape)
    for maximize in (False, True):
        answer = solve_assignment_batch(costs, maximize, with_duals=True)
        assert answer.maximize is maximize
        assert answer.row_ind.shape == answer.col_ind.shape == (5, k)
        assert answer.cost.shape == answer.gap.shape == (5,)
        assert answer.row_duals.shape == (5, shape[0])
        assert answer.col_duals.shape == (5, shape[1])
        assert answer.cost.dtype == (np.float64 if costs.dtype.kind == "f" else np.int64)
        wide = costs.dtype.kind in "iu" and costs.dtype.itemsize == 8
        assert answer.row_duals.dtype == answer.col_duals.dtype == (np.int64 if wide else np.float64)
        assert_as_single(answer, costs, maximize)


@pytest.mark.parametrize("shape", [(6, 6), (60, 40), (140, 140)])
def test_every_layout_and_input_left_alone(shape):
    base = costs_of((2 * shape[0], 2 * shape[1]), "f8", problems=6)
    fields = np.zeros((3, *shape), dtype=[("pad", "i1"), ("cost", "f8")])
    fields["cost"] = base[::2, ::2, ::2]
    costs = np.ascontiguousarray(base[::2, ::2, ::2])
    layouts = {
        "C": costs,
        "Fortran": np.asfortranarray(costs),
        "strided": base[::2, ::2, ::2],
        "reversed": np.ascontiguousarray(costs[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
        "batch last": np.moveaxis(np.ascontiguousarray(np.moveaxis(costs, 0, 2)), 2, 0),
        "unaligned": fields["cost"],
    }
    want = solve_assignment_batch(costs, with_duals=True)
    for layout in layouts.values():
        layout.flags.writeable = False
        before = layout.tobytes()
        got = solve_assignment_batch(layout)
        assert got.col_ind.tolist() == want.col_ind.tolist()
        assert got.cost.tolist() == want.cost.tolist()
        assert layout.tobytes() == before


def test_one_matrix_many_times():
    cost = costs_of((30, 30), "f4", problems=1)
    answer = solve_assignment_batch(np.broadcast_to(cost, (9, 30, 30)))
    assert (answer.col_ind == solve_assignment(cost[0]).col_ind).all()


@pytest.fixture(scope="module")
def ragged():
    rng = np.random.default_rng(1)
    costs = [costs_of(shape, dtype, 1, k)[0] for k, shape in enumerate(SHAPES) for dtype in DTYPES]
    rng.shuffle(costs)
    return [*costs, np.zeros((0, 4)), np.zeros((3, 0), np.int64), [[1, 2], [2, 1]]]


@pytest.mark.parametrize("maximize", [False, True])
def test_list_as_single_calls(ragged, maximize):
    answer = solve_assignment_batch(ragged, maximize, with_duals=True)
    assert all(isinstance(entry, tuple) for name, entry in vars(answer).items() if name != "maximize")
    assert_as_single(answer, ragged, maximize)
    for b, cost in enumerate(ragged):
        assert type(answer.cost[b]) is type(solve_assignment(cost, maximize).cost)
        assert type(answer.gap[b]) is float


def test_a_list_gives_tuples_even_of_one_shape():
    costs = costs_of((8, 8), "f4")
    for given in (list(costs), tuple(costs), costs.tolist()):
        answer = solve_assignment_batch(given)
        assert isinstance(answer.col_ind, tuple)
        assert np.array_equal(answer.col_ind, solve_assignment_batch(costs.astype(np.float64)).col_ind)
        assert (answer.row_duals, answer.col_duals, answer.gap) == (None, None, None)


def test_tensors():
    torch = pytest.importorskip("torch")
    costs = costs_of((20, 30), "f4")
    want = solve_assignment_batch(costs, with_duals=True)
    tensor = torch.from_numpy(costs)
    swapped = torch.from_numpy(np.ascontiguousarray(costs.transpose(2, 0, 1))).permute(1, 2, 0)
    for given in (tensor, swapped, tensor.clone().requires_grad_(), list(tensor)):
        assert_same(solve_assignment_batch(given, with_duals=True), want, len(costs))
    half = solve_assignment_batch(tensor.to(torch.bfloat16))
    assert half.col_ind.tolist() == solve_assignment_batch(tensor.to(torch.bfloat16).float()).col_ind.tolist()


@pytest.mark.parametrize("threads", [2, 3, 4, 64, None])
def test_answers_do_not_depend_on_the_threads(ragged, threads):
    for costs in (costs_of((90, 90), "f4", 40), costs_of((200, 210), "f8", 3), ragged, costs_of((6, 6), "i8", 3000)):
        want = solve_assignment_batch(costs, with_duals=True)
        assert_same(solve_assignment_batch(costs, with_duals=True, threads=threads), want, len(costs))


@pytest.mark.parametrize("threads", [1, 4])
def test_forbidden_cells(threads):
    costs = costs_of((50, 60), "f8", 50)
    costs[np.random.default_rng(0).random(costs.shape) < 0.5] = np.inf
    answer = solve_assignment_batch(costs, with_duals=True, threads=threads)
    assert_as_single(answer, costs)
    for b, cost in enumerate(costs):
        assert answer.cost[b] == pytest.approx(cost[scipy_solver(cost)].sum(), rel=1e-13)


def wrong(kind, cost):
    if kind == "NaN":
        cost[0, 0] = np.nan
    elif kind == "minus infinity":
        cost[-1, -1] = -np.inf
    else:
        cost[:, 0] = cost[:, 1] = np.inf
        cost[:-1, :] = np.inf


TEXTS = {
    "NaN": "matrix contains invalid numeric entries",
    "minus infinity": "matrix contains invalid numeric entries",
    "infeasible": "cost matrix is infeasible",
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("n", [4, 150])
@pytest.mark.parametrize("container", [np.asarray, list])
def test_the_first_wrong_problem_is_named(kind, threads, n, container):
    costs = costs_of((n, n), "f4", 40)
    for b in (39, 17):
        wrong(kind, costs[b])
        with pytest.raises(ValueError, match=rf"^costs\[{b}\]: {TEXTS[kind]}$"):
            solve_assignment_batch(container(costs), threads=threads)


BAD_MATRICES = [
    [1, 2],
    np.zeros((2, 2, 2)),
    None,
    "ab",
    np.eye(2) * 1j,
    [[1, 2], [3]],
    [["a"]],
    [[2**70 + 1, 1], [1, 2]],
]


@pytest.mark.parametrize("bad", BAD_MATRICES, ids=lambda bad: repr(bad)[:20])
def test_what_is_no_matrix_is_named(bad):
    with pytest.raises((TypeError, ValueError)) as single:
        solve_assignment(bad)
    with pytest.raises((TypeError, ValueError)) as batch:
        solve_assignment_batch([np.eye(3), bad, bad])
    assert str(batch.value) == f"costs[1]: {single.value}"
    assert issubclass(single.type, batch.type)


def test_what_is_no_stack():
    for bad in (np.eye(3), np.zeros(3), 5.0, np.zeros((1, 2, 3, 4))):
        with pytest.raises(ValueError, match=r"costs has shape \(.*\); expected \(B, n, m\), or a list of matrices"):
            solve_assignment_batch(bad)
    for bad in (None, "ab", {}, (k for k in range(3)), np.zeros((2, 2, 2), complex)):
        with pytest.raises(TypeError):
            solve_assignment_batch(bad)


@pytest.mark.parametrize("shape", [(0, 0, 0), (0, 3, 4), (5, 0, 0), (5, 0, 3), (5, 3, 0)])
@pytest.mark.parametrize("dtype", ["f4", "i8", "?"])
def test_empty_stack(shape, dtype):
    answer = solve_assignment_batch(np.zeros(shape, dtype), with_duals=True, threads=2)
    assert answer.row_ind.shape == answer.col_ind.shape == (shape[0], min(shape[1:]))
    assert answer.cost.tolist() == answer.gap.tolist() == [0] * shape[0]
    assert answer.row_duals.shape == shape[:2]
    assert answer.col_duals.shape == (shape[0], shape[2])
    assert not answer.row_duals.any()
    assert not answer.col_duals.any()


def test_empty_list():
    answer = solve_assignment_batch([])
    assert answer.row_ind == answer.col_ind == answer.cost == ()


def test_integers_beyond_float64():
    costs = 2**57 + np.random.default_rng(0).integers(0, 1000, (7, 30, 34))
    costs[3] -= 2**57  # float64 is enough for this one: its duals are integers all the same
    answer = solve_assignment_batch(costs, with_duals=True)
    assert answer.row_duals.dtype == answer.col_duals.dtype == answer.cost.dtype == np.int64
    for b, cost in enumerate(costs):
        assert int(answer.cost[b]) == solve_assignment(cost).cost
        duals = {"row_duals": answer.row_duals[b], "col_duals": answer.col_duals[b]}
        assert verify_assignment(cost, (answer.row_ind[b], answer.col_ind[b]), **duals) == (True, 0.0, 0.0, 0.0)


def test_sums_beyond_int64_are_refused():
    costs = np.full((3, 2, 2), 5, np.uint64)
    costs[1] = 2**64 - 1
    with pytest.raises(OverflowError, match=r"costs\[1\]: the cost of the assignment does not fit int64"):
        solve_assignment_batch(costs)
    costs = np.array([[[0, 2**63], [0, 2**63 + 5]]], np.uint64)
    assert solve_assignment_batch(costs[:, :, :1]).cost.tolist() == [0]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_threads_are_checked(threads):
    with pytest.raises((TypeError, ValueError), match=f"threads is {threads!r}; expected"):
        solve_assignment_batch(np.zeros((1, 2, 2)), threads=threads)


def test_many_callers_at_once():
    costs = costs_of((60, 60), "f4", 50)
    want = solve_assignment_batch(costs).col_ind.tolist()
    got = {}

    def work(k):
        got[k] = solve_assignment_batch(costs, threads=2).col_ind.tolist()

    callers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(got[k] == want for k in range(6))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_ends_the_batch(threads):
    costs = np.broadcast_to(np.sort(np.random.default_rng(0).random((200, 200)), axis=1), (100_000, 200, 200))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    start = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            solve_assignment_batch(costs, threads=threads)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - start < 10


def test_the_gil_is_released():
    costs = np.broadcast_to(costs_of((100, 100), "f4", 1), (2000, 100, 100))
    solving, counted = [True], [0]

    def solve():
        solve_assignment_batch(costs)
        solving[0] = False

    thread = threading.Thread(target=solve)
    thread.start()
    while solving[0]:
        counted[0] += 1
    thread.join()
    assert counted[0] > 1000


def test_none_means_the_cores_of_this_process():
    if hasattr(os, "sched_getaffinity"):
        assert len(os.sched_getaffinity(0)) >= 1
    assert solve_assignment_batch(np.zeros((4, 3, 3)), threads=None).col_ind.tolist() == [[0, 1, 2]] * 4
