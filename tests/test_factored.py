"""Assignment over inner products: what the matrix of products gives, without the matrix."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment as scipy_solver

from rebasin_fast import _core, solve_assignment, solve_assignment_factored, verify_assignment
from reference import dual_gap

SHAPES = ((1, 1), (7, 7), (40, 90), (90, 40), (300, 300), (600, 600), (530, 801), (801, 530), (3, 100_000))


@pytest.fixture(params=_core.available_isas())
def isa(request):
    before = _core.active_isa()
    assert _core.force_isa(request.param)
    yield request.param
    assert _core.force_isa(before)


def products(a, b):
    """Form the products as documented: in float64, k by k."""
    total = np.zeros((len(a), len(b)))
    for x, y in zip(np.asarray(a, float).T, np.asarray(b, float).T, strict=True):
        total += np.multiply.outer(x, y)
    return total


def assert_solved(a, b, answer, maximize):
    """Check the answer, its proof over exactly these products included, against SciPy on their matrix."""
    cost = products(a, b)
    want = math.fsum(cost[scipy_solver(cost, maximize)])
    cells = cost[answer.row_ind, answer.col_ind]
    assert len(set(answer.col_ind.tolist())) == len(cells) == min(cost.shape)
    assert (np.diff(answer.row_ind) > 0).all()
    assert answer.cost == math.fsum(cells)
    sign = -1.0 if maximize else 1.0
    u, v = sign * answer.row_duals, sign * answer.col_duals
    scale = np.abs(cells).sum() + np.abs(u).sum() + np.abs(v).sum()
    assert abs(answer.cost - want) <= 1e-13 * scale
    gap, violation = dual_gap(sign * cost, answer.row_ind, answer.col_ind, u, v)
    assert violation <= 1e-14 * scale
    assert abs(gap) <= 1e-13 * scale
    assert 0 <= answer.gap <= 1e-13 * scale
    assert verify_assignment(cost, answer).optimal


def gaussian(rng, n, m, d):
    return rng.standard_normal((n, d)), rng.standard_normal((m, d))


def planted(rng, n, m, d):
    a = rng.standard_normal((max(n, m), d))
    return (a[rng.permutation(n)], a[:m] + 0.3 * rng.standard_normal((m, d)))


def integers(rng, n, m, d):
    return rng.integers(-2, 3, (n, d)), rng.integers(-2, 3, (m, d))


def duplicates(rng, n, m, d):
    few = rng.standard_normal((5, d))
    return few[rng.integers(0, 5, n)], few[rng.integers(0, 5, m)]


def offset(rng, n, m, d):
    """Costs that agree in their first digits: sums in float32 tell little, or nothing, about them."""
    return 30.0 + rng.random((n, d)), 30.0 + rng.random((m, d))


def one_long_vector(rng, n, m, d):
    a, b = gaussian(rng, n, m, d)
    b[m // 2] *= 1e6
    return a, b


FAMILIES = {f.__name__: f for f in (gaussian, planted, integers, duplicates, offset, one_long_vector)}


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_the_matrix_of_products(family, maximize):
    for k, (n, m) in enumerate(SHAPES):
        d = (16, 3, 33)[k % 3]
        a, b = (f.astype(np.float32) for f in FAMILIES[family](np.random.default_rng(k), n, m, d))
        assert_solved(a, b, solve_assignment_factored(a, b, maximize), maximize)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_instruction_set(family, dtype, isa):
    for n, m in ((560, 560), (500, 610)):
        a, b = (f.astype(dtype) for f in FAMILIES[family](np.random.default_rng(1), n, m, 19))
        answer = solve_assignment_factored(a, b)
        assert_solved(a, b, answer, maximize=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_change_nothing(family):
    a, b = (f.astype(np.float32) for f in FAMILIES[family](np.random.default_rng(2), 900, 900, 12))
    one, two = (solve_assignment_factored(a, b, threads=threads) for threads in (1, 2))
    for field in ("col_ind", "row_duals", "col_duals"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
    assert (one.cost, one.gap) == (two.cost, two.gap)


def test_integer_products_are_exact():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 10, (700, 8)), rng.integers(-9, 10, (700, 8))
    cost = a @ b.T
    for dtype in (np.int8, np.int64, np.float16, np.float32, np.float64):
        answer = solve_assignment_factored(a.astype(dtype), b.astype(dtype))
        assert answer.cost == cost[scipy_solver(cost)].sum()
    assert solve_assignment_factored(a > 0, b > 0, True).cost == solve_assignment(1.0 * (a > 0) @ (b > 0).T, True).cost


@pytest.mark.parametrize("d", [0, 1, 2, 300])
def test_any_number_of_columns(d):
    a, b = (f.astype(np.float32) for f in gaussian(np.random.default_rng(3), 600, 600, d))
    assert_solved(a, b, solve_assignment_factored(a, b), maximize=False)


def test_rank_one_is_sorting():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 5000, 1))
    answer = solve_assignment_factored(a, b, maximize=True)
    assert answer.cost == pytest.approx(np.sort(a[:, 0]) @ np.sort(b[:, 0]), rel=1e-12)
    assert answer.gap <= 1e-9


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_factors_whose_float32_products_leave_float32(scale):
    a, b = (np.float32(scale) * f.astype(np.float32) for f in gaussian(np.random.default_rng(5), 600, 600, 9))
    assert_solved(a, b, solve_assignment_factored(a, b), maximize=False)


def test_subnormal_factors():
    a, b = gaussian(np.random.default_rng(6), 600, 600, 9)
    a = (1e-43 * a).astype(np.float32)
    assert_solved(a, b.astype(np.float32), solve_assignment_factored(a, b.astype(np.float32)), maximize=False)


def test_layouts_and_libraries():
    a, b = (f.astype(np.float32) for f in gaussian(np.random.default_rng(7), 64, 80, 10))
    want = solve_assignment_factored(a, b)
    padded = np.zeros((128, 30), np.float32)
    padded[::2, ::3] = a
    swapped = a.astype(a.dtype.newbyteorder())
    for view in (np.asfortranarray(a), padded[::2, ::3], a[::-1, ::-1][::-1, ::-1], swapped, a.tolist()):
        got = solve_assignment_factored(view, b)
        assert got.col_ind.tolist() == want.col_ind.tolist()
        assert got.cost == pytest.approx(want.cost, rel=1e-15)
    frozen = a.copy()
    frozen.flags.writeable = False
    assert solve_assignment_factored(frozen, b).cost == want.cost


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    a, b = (torch.from_numpy(f).float() for f in gaussian(np.random.default_rng(8), 300, 300, 10))
    want = solve_assignment_factored(a.numpy(), b.numpy())
    assert solve_assignment_factored(a.requires_grad_(), b).cost == want.cost
    narrow = [f.detach().to(torch.bfloat16) for f in (a, b)]
    wide = [f.float().numpy() for f in narrow]
    assert solve_assignment_factored(*narrow).cost == solve_assignment_factored(*wide).cost
    with pytest.raises(TypeError, match="b is a tensor on meta"):
        solve_assignment_factored(a, torch.empty((300, 10), device="meta"))


@pytest.mark.parametrize("shapes", [((0, 3), (0, 3)), ((0, 3), (5, 3)), ((5, 3), (0, 3)), ((0, 0), (2, 0))])
def test_empty(shapes):
    answer = solve_assignment_factored(*(np.zeros(shape) for shape in shapes))
    assert (answer.cost, answer.gap, len(answer.row_ind)) == (0, 0, 0)
    assert (answer.row_duals.size, answer.col_duals.size) == (shapes[0][0], shapes[1][0])


def test_start_and_early_end():
    a, b = (f.astype(np.float32) for f in gaussian(np.random.default_rng(9), 700, 700, 16))
    cold = solve_assignment_factored(a, b)
    warm = solve_assignment_factored(a, b, duals=cold.col_duals)
    assert warm.cost == pytest.approx(cold.cost, rel=1e-14)
    tall = solve_assignment_factored(np.vstack([a, a[:50]]), b, duals=cold.col_duals)
    assert_solved(np.vstack([a, a[:50]]), b, tall, maximize=False)
    rough = solve_assignment_factored(a, b, max_gap=50.0)
    assert cold.cost - 1e-9 <= rough.cost <= cold.cost + 50.0
    assert rough.cost - cold.cost <= rough.gap + 1e-9 <= 50.0 + 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "b"])
def test_numbers_that_are_none(name, bad):
    factors = {"a": np.ones((300, 4)), "b": np.ones((310, 4))}
    factors[name][7, 2] = bad
    with pytest.raises(ValueError, match=f"^{name} holds NaN or infinity; expected finite numbers"):
        solve_assignment_factored(**factors)


@pytest.mark.parametrize(
    ("a", "b", "error", "text"),
    [
        (np.ones((3, 64)), np.ones((3, 32)), ValueError, "a has 64 columns, b has 32; expected equally many"),
        (np.ones(3), np.ones((3, 3)), ValueError, r"a has shape \(3,\); expected two dimensions"),
        (np.ones((3, 3)), np.ones((3, 3, 3)), ValueError, r"b has shape \(3, 3, 3\); expected two dimensions"),
        (np.ones((3, 3)) * 1j, np.ones((3, 3)), TypeError, "a has dtype complex128; expected real numbers"),
        (np.ones((3, 3)), [["x"]], TypeError, "b has dtype <U1; expected real numbers"),
        (np.full((3, 3), 1e200), np.full((3, 3), 1e150), ValueError, r"up to 1e\+200 and 1e\+150; expected factors"),
    ],
)
def test_what_is_refused(a, b, error, text):
    with pytest.raises(error, match=text):
        solve_assignment_factored(a, b)


def test_options_that_are_refused():
    a = np.ones((3, 2))
    with pytest.raises(ValueError, match="threads is 0"):
        solve_assignment_factored(a, a, threads=0)
    with pytest.raises(ValueError, match="max_gap is -1"):
        solve_assignment_factored(a, a, max_gap=-1)
    with pytest.raises(ValueError, match=r"duals has shape \(2,\); expected \(3,\)"):
        solve_assignment_factored(a, a, duals=[0, 0])


def test_memory_does_not_grow_with_the_product():
    """6000 x 6000 products in float32 alone take 137 MiB."""
    code = """
import resource
import numpy as np
from rebasin_fast import solve_assignment_factored
a, b = np.random.default_rng(0).standard_normal((2, 6000, 16), dtype=np.float32)
solve_assignment_factored(a[:600], b[:600])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer = solve_assignment_factored(a, b)
assert 0 <= answer.gap < 1e-8
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 32 * 2**20
