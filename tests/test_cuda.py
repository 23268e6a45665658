"""Costs on a CUDA device: one body of tests for a real GPU (`pytest -m gpu`) and for a stand-in that shows dispatch.

The kernels themselves are tested without a GPU in csrc/tests/test_cuda_*.cpp.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types

import numpy as np
import pytest

import fake_device
from lap_checks import assert_optimal, scipy_total
from matrices import ADVERSARIAL, FAMILIES
from rebasin_fast import (
    Assignment,
    _device_arrays,
    _on_device,
    cuda,
    linear_sum_assignment,
    solve_assignment,
    solve_assignment_batch,
    solve_assignment_factored,
    verify_assignment,
)

torch = pytest.importorskip("torch")

GPU = pytest.mark.skipif(not cuda.is_available(), reason=f"no CUDA device: {cuda.why_unavailable()}")
DTYPES = ("float32", "float64", "float16", "int32", "int16", "int8", "uint8", "int64")


@dataclasses.dataclass
class Device:
    put: object  # makes a numpy array or CPU tensor one on the device
    extension: fake_device.Extension | None


def _is_answer(array: object, library: str) -> bool:
    return isinstance(array, torch.Tensor) if library == "torch" else type(array).__name__.lower() == "ndarray"


def host(array: object) -> np.ndarray:
    return array.cpu().numpy() if isinstance(array, torch.Tensor) else array.get()


@pytest.fixture(
    params=[
        "torch, stand-in",
        "cupy, stand-in",
        pytest.param("torch", marks=[pytest.mark.gpu, GPU]),
        pytest.param("cupy", marks=[pytest.mark.gpu, GPU]),
    ]
)
def device(request, monkeypatch):
    library, _, stand_in = request.param.partition(", ")
    if stand_in:
        with fake_device.installed(monkeypatch, library=library) as (extension, put):
            yield Device(put, extension), library
    elif library == "torch":
        yield Device(lambda array: torch.as_tensor(array).cuda(), None), library
    else:
        cupy = pytest.importorskip("cupy")
        yield Device(lambda array: cupy.asarray(array), None), library


def on_host(answer: Assignment, cost: np.ndarray) -> Assignment:
    """Bring an answer to the host. Its cost is a sum in float64; from there on the correctly rounded one counts."""
    arrays = {name: host(getattr(answer, name)) for name in ("row_ind", "col_ind", "row_duals", "col_duals")}
    cells = cost[arrays["row_ind"], arrays["col_ind"]].astype(object)
    exact = sum(cells.tolist()) if cost.dtype.kind in "iu" else math.fsum(cells)
    assert answer.cost == pytest.approx(exact, rel=1e-13, abs=1e-13 * sum(map(abs, cells.tolist())))
    return dataclasses.replace(answer, cost=exact, **arrays)


def check(put, cost: np.ndarray, maximize: bool = False) -> Assignment:
    answer = solve_assignment(put(cost), maximize)
    wide = cost.astype(np.float32) if cost.dtype == np.float16 else cost
    assert_optimal(wide, on_host(answer, wide), maximize, scipy_total(wide, maximize))
    assert verify_assignment(put(cost), answer).optimal
    assert verify_assignment(put(cost), (answer.row_ind, answer.col_ind), maximize=maximize).optimal
    return answer


@pytest.mark.parametrize("shape", [(7, 7), (5, 9), (9, 5), (1, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_answered_in_kind(device, dtype, shape):
    (there, library), rng = device, np.random.default_rng(0)
    cost = (100 * rng.random(shape)).astype(dtype)
    for maximize in (False, True):
        answer = check(there.put, cost, maximize)
        assert _is_answer(answer.row_ind, library)
        assert _is_answer(answer.col_duals, library)
        assert isinstance(answer.cost, float if cost.dtype.kind == "f" else int)
        rows, cols = linear_sum_assignment(there.put(cost), maximize)
        assert host(rows).tolist() == host(answer.row_ind).tolist()
        assert host(cols).tolist() == host(answer.col_ind).tolist()
    if there.extension is not None:  # 64-bit integers are solved on the host
        assert bool(there.extension.calls) == (dtype != "int64")


def test_bfloat16(device):
    there, library = device
    if library != "torch":
        pytest.skip("cupy has no bfloat16")
    cost = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    answer = solve_assignment(there.put(cost))
    wide = cost.float().numpy()
    assert_optimal(wide, on_host(answer, wide), False, scipy_total(wide, False))


@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[::2, ::3], lambda x: x[3:7, 2:], lambda x: x[:, :1]])
def test_views_are_read_where_they_lie(device, view):
    there, library = device
    cost = np.random.default_rng(1).random((12, 18)).astype(np.float32)
    if there.extension is None:
        given = view(there.put(cost))
    else:
        given = there.put(view(torch.from_numpy(cost) if library == "torch" else cost))
    answer = solve_assignment(given)
    assert_optimal(view(cost), on_host(answer, view(cost)), False, scipy_total(view(cost), False))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_broadcast_rows_are_read_where_they_lie(device):
    there, _ = device
    cost = np.broadcast_to(np.arange(5, dtype=np.float32), (4, 5))
    assert solve_assignment(there.put(cost)).cost == 0 + 1 + 2 + 3


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_empty(device, shape):
    there, library = device
    answer = solve_assignment(there.put(np.zeros(shape, np.float32)))
    assert answer.cost == answer.gap == 0
    assert host(answer.row_ind).shape == (0,)
    assert host(answer.row_duals).tolist() == [0.0] * shape[0]
    assert host(answer.col_duals).tolist() == [0.0] * shape[1]
    assert _is_answer(linear_sum_assignment(there.put(np.zeros(shape, np.float32)))[0], library)


def test_start_prices_from_host_and_device(device):
    there, _ = device
    cost = np.random.default_rng(2).random((30, 30))
    first = solve_assignment(there.put(cost))
    for duals in (first.col_duals, host(first.col_duals), host(first.col_duals).tolist()):
        again = solve_assignment(there.put(cost), duals=duals)
        assert again.cost == pytest.approx(first.cost, rel=1e-13)
    with pytest.raises(ValueError, match=r"duals has shape \(29,\); expected \(30,\)"):
        solve_assignment(there.put(cost), duals=np.zeros(29))
    with pytest.raises(ValueError, match="duals holds NaN or infinity"):
        solve_assignment(there.put(cost), duals=np.full(30, np.nan))


def test_errors_are_those_of_the_cpu(device):
    there, _ = device
    cost = np.ones((3, 3), np.float32)
    bad, blocked = cost.copy(), cost.copy()
    bad[1, 1], blocked[1] = np.nan, np.inf
    for call in (linear_sum_assignment, solve_assignment):
        with pytest.raises(ValueError, match="matrix contains invalid numeric entries"):
            call(there.put(bad))
        with pytest.raises(ValueError, match="cost matrix is infeasible"):
            call(there.put(blocked))
        with pytest.raises(ValueError, match=r"expected a matrix \(2-D array\), got a 1 array"):
            call(there.put(np.ones(3, np.float32)))
        with pytest.raises(TypeError):
            call(there.put(np.ones((3, 3), np.complex64)))
    with pytest.raises(ValueError, match="method is 'dense'; on a CUDA device expected 'auto' or 'auction'"):
        solve_assignment(there.put(cost), method="dense")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "int64"])
@pytest.mark.parametrize("shape", [(4, 6, 6), (3, 4, 7), (3, 7, 4), (1, 1, 1)])
def test_a_stack(device, dtype, shape):
    (there, library), rng = device, np.random.default_rng(3)
    costs = (50 * rng.random(shape)).astype(dtype)
    found = solve_assignment_batch(there.put(costs), with_duals=True)
    assert _is_answer(found.row_ind, library)
    want = solve_assignment_batch(costs)
    np.testing.assert_allclose(host(found.cost), want.cost, rtol=1e-13)
    assert host(found.cost).dtype == want.cost.dtype
    problems, n, m = shape
    k = min(n, m)
    assert host(found.col_ind).shape == (problems, k)
    assert host(found.row_duals).shape == (problems, n)
    assert host(found.col_duals).shape == (problems, m)
    totals = host(found.row_duals).sum(1) + host(found.col_duals).sum(1)
    np.testing.assert_allclose(totals, want.cost, rtol=1e-12)
    assert (np.abs(host(found.gap)) <= 1e-12 * (1 + np.abs(want.cost))).all()
    without = solve_assignment_batch(there.put(costs), maximize=True)
    assert without.row_duals is without.gap is None
    np.testing.assert_allclose(host(without.cost), solve_assignment_batch(costs, maximize=True).cost, rtol=1e-13)


def test_a_list_of_any_shapes(device):
    (there, library), rng = device, np.random.default_rng(4)
    shapes = [(3, 3), (2, 5), (6, 2), (0, 4)]
    costs = [rng.random(shape).astype(dtype) for shape, dtype in zip(shapes, DTYPES, strict=False)]
    costs[3] = costs[3].astype(np.int32)
    found = solve_assignment_batch([there.put(cost) for cost in costs], with_duals=True)
    want = solve_assignment_batch(costs, with_duals=True)
    assert isinstance(found.cost, tuple)
    assert isinstance(found.cost[3], int)
    assert found.cost == pytest.approx(want.cost)
    for b, cost in enumerate(costs):
        assert _is_answer(found.row_ind[b], library)
        assert host(found.row_ind[b]).tolist() == want.row_ind[b].tolist()
        assert host(found.col_duals[b]).shape == (cost.shape[1],)


def test_errors_of_batches(device):
    there, _ = device
    costs = np.ones((3, 2, 2), np.float32)
    costs[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"costs\[1\]: matrix contains invalid numeric entries"):
        solve_assignment_batch(there.put(costs))
    with pytest.raises(ValueError, match=r"costs has shape \(2, 2\); expected \(B, n, m\)"):
        solve_assignment_batch(there.put(np.ones((2, 2), np.float32)))
    with pytest.raises(TypeError, match=r"costs\[0\] is a ndarray on the CPU; expected all of them on one CUDA device"):
        solve_assignment_batch([np.ones((2, 2)), there.put(np.ones((2, 2), np.float32))])
    with pytest.raises(TypeError, match=r"costs\[1\] has dtype int64; in a list on a CUDA device"):
        solve_assignment_batch([there.put(np.ones((2, 2), np.float32)), there.put(np.ones((2, 2), np.int64))])
    empty = solve_assignment_batch(there.put(np.zeros((0, 3, 3), np.float32)))
    assert host(empty.col_ind).shape == (0, 3)


@pytest.mark.parametrize("failures", [1, 2])
def test_where_memory_lacks_it_is_tried_again_with_what_was_only_kept(monkeypatch, failures):
    given_back = []
    monkeypatch.setattr(_on_device, "give_back_kept_memory", lambda: given_back.append(1))
    with fake_device.installed(monkeypatch, library="torch") as (extension, put):
        right, asked = extension.solve, []

        def solve(*arguments):
            asked.append(1)
            if len(asked) <= failures:
                raise MemoryError("cudaMallocFromPoolAsync: out of memory")
            return right(*arguments)

        monkeypatch.setattr(extension, "solve", solve)
        cost = put(np.array([[3.0, 1.0], [1.0, 3.0]]))
        if failures == 1:
            assert solve_assignment(cost).col_ind.tolist() == [1, 0]
        else:
            with pytest.raises(MemoryError, match="cudaMalloc"):
                solve_assignment(cost)
    assert (len(given_back), len(asked)) == (1, 2)


def test_what_libraries_keep_is_given_back(monkeypatch):
    pool = types.SimpleNamespace(freed=0)
    pool.free_all_blocks = lambda: setattr(pool, "freed", pool.freed + 1)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(get_default_memory_pool=lambda: pool))
    _device_arrays.give_back_kept_memory()  # torch, too, where there is no device
    assert pool.freed == 1


def test_without_a_device_the_error_says_why(monkeypatch):
    monkeypatch.setattr(cuda, "_known_usable", False)
    monkeypatch.setattr(cuda, "_query", lambda: ([], "no driver was found"))
    elsewhere = fake_device.Exporter(None)
    wanted = r"cost_matrix is on a CUDA device, and no driver was found; expected an array on the CPU \(use .cpu\(\)\)"
    for call in (linear_sum_assignment, solve_assignment):
        with pytest.raises(TypeError, match=wanted):
            call(elsewhere)
    with pytest.raises(TypeError, match=r"costs\[0\] is on a CUDA device"):
        solve_assignment_batch([elsewhere])
    with pytest.raises(TypeError, match="a is on a CUDA device, and no driver was found"):
        solve_assignment_factored(elsewhere, elsewhere)


def factors(dtype: str, n: int = 6, m: int = 9, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(9)
    return (10 * rng.standard_normal((n, d))).astype(dtype), (10 * rng.standard_normal((m, d))).astype(dtype)


def check_factored(put, a: np.ndarray, b: np.ndarray, **options) -> Assignment:
    answer = solve_assignment_factored(put(a), put(b), **options)
    want = solve_assignment_factored(a, b, **options)
    scale = np.abs(a.astype(float)).max() * np.abs(b.astype(float)).max() * a.shape[1] * len(want.row_ind)
    assert answer.cost == pytest.approx(want.cost, abs=1e-14 * scale)
    assert 0 <= answer.gap <= 1e-14 * scale
    matrix = a.astype(float) @ b.astype(float).T
    slack = matrix - host(answer.row_duals)[:, None] - host(answer.col_duals)
    assert (-slack if answer.maximize else slack).min() >= -1e-13 * scale
    assert matrix[host(answer.row_ind), host(answer.col_ind)].sum() == pytest.approx(want.cost, abs=1e-13 * scale)
    return answer


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int64"])
def test_factors_are_answered_in_kind(device, dtype):
    there, library = device
    a, b = factors(dtype)
    for left, right in ((a, b), (b, a), (a, a)):
        for maximize in (False, True):
            answer = check_factored(there.put, left, right, maximize=maximize)
            assert _is_answer(answer.row_ind, library)
            assert _is_answer(answer.row_duals, library)
            assert isinstance(answer.cost, float)
    mixed = check_factored(there.put, a, b.astype(np.float64))
    assert mixed.row_ind.shape == (6,)
    if there.extension is not None:
        assert set(there.extension.calls) == {"solve_factored"}


def test_factors_of_any_layout_and_bfloat16(device):
    there, library = device
    a, b = factors("float32", 8, 8)
    given = [there.put(np.ascontiguousarray(x.T)) for x in (a, b)]
    if there.extension is None:
        given = [x.T for x in given]
    else:
        given = [there.put((torch.from_numpy(x.T.copy()) if library == "torch" else x.T.copy()).T) for x in (a, b)]
    assert solve_assignment_factored(*given).cost == pytest.approx(solve_assignment_factored(a, b).cost, rel=1e-12)
    if library == "torch":
        narrow = [torch.from_numpy(x).bfloat16() for x in (a, b)]
        want = solve_assignment_factored(*narrow).cost
        assert solve_assignment_factored(*map(there.put, narrow)).cost == pytest.approx(want, rel=1e-12)


def test_factors_with_duals_and_without_anything(device):
    there, _ = device
    a, b = factors("float32", 12, 12)
    first = solve_assignment_factored(there.put(a), there.put(b))
    for duals in (first.col_duals, host(first.col_duals)):
        again = solve_assignment_factored(there.put(a), there.put(b), duals=duals)
        assert again.cost == pytest.approx(first.cost, rel=1e-12)
    with pytest.raises(ValueError, match=r"duals has shape \(5,\); expected \(12,\)"):
        solve_assignment_factored(there.put(a), there.put(b), duals=np.zeros(5))
    for shapes in (((0, 3), (4, 3)), ((4, 3), (0, 3)), ((0, 0), (0, 0))):
        nothing = solve_assignment_factored(*(there.put(np.zeros(shape, np.float32)) for shape in shapes))
        assert nothing.cost == nothing.gap == 0.0
        assert host(nothing.row_duals).tolist() == [0.0] * shapes[0][0]
    assert solve_assignment_factored(*(there.put(np.zeros((3, 0), np.float32)) for _ in "ab")).cost == 0.0


def test_errors_of_factors_are_those_of_the_cpu(device):
    there, _ = device
    a, b = factors("float64")
    bad = a.copy()
    bad[1, 1] = np.nan
    for wrong, match in (
        ((bad, b), "a holds NaN or infinity; expected finite numbers"),
        ((a, np.where(b < 0, -np.inf, b)), "b holds NaN or infinity; expected finite numbers"),
        ((a, b[:, :3]), "a has 4 columns, b has 3; expected equally many"),
        ((a[0], b), r"a has shape \(4,\); expected two dimensions, one row per vector"),
        ((1e200 * a, 1e200 * b), "expected factors whose products, added up, fit float64"),
    ):
        for given in (wrong, tuple(map(there.put, wrong))):
            with pytest.raises(ValueError, match=match):
                solve_assignment_factored(*given)
    with pytest.raises(TypeError, match="a has dtype complex64; expected real numbers of at most 64 bits"):
        solve_assignment_factored(there.put(a.astype(np.complex64)), there.put(b))
    with pytest.raises(TypeError, match="a is on a CUDA device, b is not; expected both on one device"):
        solve_assignment_factored(there.put(a), b)
    with pytest.raises(TypeError, match="b is on a CUDA device, a is not; expected both on one device"):
        solve_assignment_factored(a, there.put(b))


@pytest.mark.skipif(not cuda.is_built() or cuda.is_available(), reason="needs the extension and no device")
def test_an_error_of_cuda_names_the_call_and_its_text():
    from rebasin_fast import _cuda

    given = (0, "float32", (2, 2), (2, 1))
    for call in (
        lambda: _cuda.solve(given, False, 0, [0] * 6, 0, 0),
        lambda: _cuda.solve_factored(given, given, False, 0, [0] * 6, 0, 0),
        lambda: _cuda.largest_magnitude(given, 0, 0),
        lambda: _cuda.solve_list([given], False, [[0] * 6], 0, 0),
        lambda: _cuda.solve_stack((0, "float32", (1, 2, 2), (4, 2, 1)), False, [0] * 6, 0, 0),
    ):
        with pytest.raises(RuntimeError, match=r"^cuda[A-Z]\w+: .*(driver|device)"):
            call()
    with pytest.raises(TypeError, match="factors have dtype int8; expected float32 or float64"):
        _cuda.largest_magnitude((0, "int8", (2, 2), (2, 1)), 0, 0)
    with pytest.raises(TypeError, match="costs have dtype int64"):
        _cuda.solve((0, "int64", (2, 2), (2, 1)), False, 0, [0] * 6, 0, 0)


def test_an_unknown_library_needs_torch_or_cupy(monkeypatch):
    import sys

    monkeypatch.setattr(cuda, "why_unusable", lambda: None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(TypeError, match="a Exporter on a CUDA device needs torch or cupy"):
        solve_assignment(fake_device.Exporter(None))


def test_what_is_on_the_cpu_stays_there():
    from rebasin_fast._arrays import lies_on_cuda

    for value in ([[1.0]], np.ones((2, 2)), torch.ones(2, 2), 3.0, None):
        assert not lies_on_cuda(value)


# What follows needs the kernels, and so a GPU.


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("shape", [(40, 40), (300, 300), (600, 600), (300, 700), (700, 300)])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_on_a_gpu(family, shape):
    for dtype in (np.float32, np.float64):
        cost = FAMILIES[family](np.random.default_rng(5), *shape).astype(dtype)
        if np.isinf(cost).any() and shape[0] > shape[1]:
            continue
        check(lambda array: torch.as_tensor(array).cuda(), cost)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("family", ADVERSARIAL)
def test_adversarial_costs_on_a_gpu(family):
    cost = ADVERSARIAL[family](np.random.default_rng(6), 400, 400)
    if cost.dtype.kind in "iu" and cost.dtype.itemsize == 8:
        pytest.skip("solved on the host")
    check(lambda array: torch.as_tensor(array).cuda(), cost)


@pytest.mark.gpu
@GPU
def test_large_on_a_gpu():
    cost = np.random.default_rng(7).random((4096, 4096), dtype=np.float32)
    answer = check(lambda array: torch.as_tensor(array).cuda(), cost)
    again = solve_assignment(torch.as_tensor(cost).cuda())
    assert torch.equal(again.col_ind, answer.col_ind)  # the same answer every time


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "m", "d"), [(700, 700, 1), (700, 700, 16), (600, 900, 40), (900, 600, 3)])
def test_factors_on_a_gpu(n, m, d, dtype):
    a, b = factors(dtype, n, m, d)
    for maximize in (False, True):
        check_factored(lambda array: torch.as_tensor(array).cuda(), a, b, maximize=maximize)


@pytest.mark.gpu
@GPU
def test_factored_and_dense_costs_agree_on_a_gpu():
    a, b = (torch.randn(3000, 24, device="cuda", dtype=torch.float64) for _ in "ab")
    matrix = a @ b.T
    dense, factored = solve_assignment(matrix), solve_assignment_factored(a, b)
    assert factored.cost == pytest.approx(dense.cost, rel=1e-12)
    again = solve_assignment_factored(a, b, duals=factored.col_duals)
    assert again.cost == pytest.approx(dense.cost, rel=1e-12)
    assert again.stats.row_scans < factored.stats.row_scans


@pytest.mark.gpu
@GPU
def test_the_callers_stream_is_used():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        cost = torch.rand(500, 500, device="cuda")
        cost.mul_(2.0)  # not waited for by anybody else
        answer = solve_assignment(cost)
    stream.synchronize()
    wide = cost.cpu().numpy()
    assert_optimal(wide, on_host(answer, wide), False, scipy_total(wide, False))


@pytest.mark.gpu
@GPU
def test_batches_on_a_gpu():
    rng = np.random.default_rng(8)
    for shape in [(300, 32, 32), (20, 300, 300), (40, 20, 500), (5, 512, 512)]:
        costs = rng.random(shape, dtype=np.float32)
        found = solve_assignment_batch(torch.as_tensor(costs).cuda(), with_duals=True)
        np.testing.assert_allclose(host(found.cost), solve_assignment_batch(costs).cost, rtol=1e-12)


@pytest.mark.gpu
@GPU
def test_no_memory_is_kept_on_a_gpu():
    def free() -> int:
        torch.cuda.synchronize()
        return torch.cuda.mem_get_info()[0]

    cost = torch.rand(1500, 1500, device="cuda")
    solve_assignment(cost)
    before = free()
    for _ in range(20):
        solve_assignment(cost)
    assert free() >= before - 2**20
