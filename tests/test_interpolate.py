import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rebasin_fast.interpolate import interpolate

METHODS = ("lerp", "slerp")
VECTORS = hnp.arrays(np.float64, 5, elements=st.floats(-100, 100, allow_subnormal=False))
POSITIONS = st.floats(0, 1)


def layer(seed, kind=np.float32):
    rng = np.random.default_rng(seed)
    return {"weight": rng.normal(size=(3, 4)).astype(kind), "bias": rng.normal(size=3).astype(kind)}


def as_torch(params, dtype=torch.float32):
    return {name: torch.tensor(array, dtype=dtype) for name, array in params.items()}


@given(VECTORS, VECTORS, POSITIONS)
def test_lerp_is_the_weighted_mean(a, b, lam):
    mixed = interpolate({"x": a}, {"x": b}, lam)["x"]
    np.testing.assert_allclose(mixed, (1 - lam) * a + lam * b, rtol=1e-12, atol=1e-12)


@given(VECTORS, VECTORS, POSITIONS)
def test_slerp_norm_goes_linearly_and_angle_evenly(a, b, lam):
    norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
    if min(norm_a, norm_b) < 1e-3:
        return
    angle = np.arccos(np.clip(a @ b / norm_a / norm_b, -1, 1))
    if not 1e-3 < angle < np.pi - 1e-3:
        return
    mixed = interpolate({"x": a}, {"x": b}, lam, method="slerp")["x"]
    norm = (1 - lam) * norm_a + lam * norm_b
    np.testing.assert_allclose(np.linalg.norm(mixed), norm, rtol=1e-9)
    np.testing.assert_allclose(a @ mixed / norm_a / norm, np.cos(lam * angle), atol=1e-9)


@given(VECTORS, VECTORS, POSITIONS, st.sampled_from(METHODS))
def test_both_ways_round_agree(a, b, lam, method):
    there = interpolate({"x": a}, {"x": b}, lam, method=method)["x"]
    back = interpolate({"x": b}, {"x": a}, 1 - lam, method=method)["x"]
    np.testing.assert_allclose(there, back, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b"),
    [([0.0, 0.0], [3.0, 4.0]), ([1.0, 2.0], [2.0, 4.0]), ([1.0, 2.0], [-1.0, -2.0])],
    ids=["zero", "parallel", "opposite"],
)
def test_slerp_is_lerp_where_the_turn_is_not_defined(a, b):
    a, b = {"x": np.array(a)}, {"x": np.array(b)}
    np.testing.assert_allclose(interpolate(a, b, 0.3, method="slerp")["x"], interpolate(a, b, 0.3)["x"], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("convert", [dict, as_torch], ids=["numpy", "torch"])
def test_ends_are_exact_copies(method, convert):
    a, b = convert(layer(0)), convert(layer(1))
    a["weight"][0, 0] = -0.0
    for lam, end in ((0, a), (1.0, b)):
        got = interpolate(a, b, lam, method=method)
        for name in end:
            assert np.asarray(got[name]).tobytes() == np.asarray(end[name]).tobytes()
            got[name][...] = 7.0
            assert not np.any(np.asarray(end[name]) == 7.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_narrow_floats_are_computed_in_float32_and_keep_their_dtype(method, dtype):
    a, b = as_torch(layer(0), dtype), as_torch(layer(1), dtype)
    got = interpolate(a, b, 0.3, method=method)
    wide = interpolate(
        {name: tensor.double() for name, tensor in a.items()},
        {name: tensor.double() for name, tensor in b.items()},
        0.3,
        method=method,
    )
    for name, tensor in got.items():
        assert tensor.dtype == dtype
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(tensor.double(), wide[name], rtol=2 * rounding, atol=rounding)


@pytest.mark.parametrize("method", METHODS)
def test_numpy_and_torch_agree(method):
    a, b = layer(0), layer(1)
    with_torch = interpolate(as_torch(a), as_torch(b), 0.4, method=method)
    for name, array in interpolate(a, b, 0.4, method=method).items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, with_torch[name].numpy(), rtol=1e-5, atol=1e-6)


def test_integers_come_from_a_as_copies_and_inputs_stay():
    a = {"count": torch.tensor(3), "x": torch.nn.Parameter(torch.ones(2)), "none": torch.ones(0)}
    b = {"count": torch.tensor(5), "x": torch.zeros(2), "none": torch.ones(0)}
    got = interpolate(a, b, 0.25)
    assert list(got) == list(a)
    assert got["count"] == 3
    assert got["x"].tolist() == [0.75, 0.75]
    assert not got["x"].requires_grad
    got["count"] += 1
    assert a["count"] == 3
    assert a["x"].tolist() == [1.0, 1.0]
    assert b["x"].tolist() == [0.0, 0.0]


def test_arrays_without_dimensions_stay_arrays():
    got = interpolate({"scale": np.array(1.0)}, {"scale": np.array(3.0)}, 0.5)["scale"]
    assert isinstance(got, np.ndarray)
    assert got.shape == ()
    assert got == 2.0


def test_lerp_extrapolates_and_slerp_refuses():
    a, b = {"x": np.array([1.0, 0.0])}, {"x": np.array([0.0, 1.0])}
    np.testing.assert_array_equal(interpolate(a, b, 2)["x"], [-1.0, 2.0])
    with pytest.raises(ValueError, match="slerp expects a number from 0 to 1"):
        interpolate(a, b, 2, method="slerp")


@pytest.mark.parametrize("lam", [np.nan, np.inf, -np.inf])
def test_position_must_be_finite(lam):
    with pytest.raises(ValueError, match=r"lam is .* expected a finite number"):
        interpolate(layer(0), layer(1), lam)


@pytest.mark.parametrize("lam", ["0.5", None, True, 1j, np.array([0.5])])
def test_position_must_be_a_number(lam):
    with pytest.raises(TypeError, match=r"lam is .* expected a real number"):
        interpolate(layer(0), layer(1), lam)


def test_unknown_method():
    with pytest.raises(ValueError, match="method is 'cubic'; expected one of 'lerp', 'slerp'"):
        interpolate(layer(0), layer(1), 0.5, method="cubic")


def test_all_names_that_differ_are_named():
    a, b = layer(0), layer(1)
    b["extra"], b["more"] = b.pop("bias"), np.ones(1)
    with pytest.raises(ValueError, match=r"only in params_a: \['bias'\], in params_b: \['extra', 'more'\]"):
        interpolate(a, b, 0.5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 3), np.float32), r"params_b\['weight'\] has shape \(4, 3\); expected \(3, 4\), as in params_a"),
        (np.ones((3, 4)), r"params_b\['weight'\] has dtype float64; expected float32"),
        (torch.ones(3, 4), r"params_b\['weight'\] has library torch; expected numpy"),
    ],
)
def test_layouts_that_differ(array, message):
    with pytest.raises(ValueError, match=message):
        interpolate(layer(0), layer(1) | {"weight": array}, 0.5)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["params_a", "params_b"])
def test_nan_and_infinity_are_named(side, bad, lam):
    params = {"params_a": layer(0), "params_b": layer(1)}
    params[side]["bias"][1] = bad
    with pytest.raises(ValueError, match=rf"{side}\['bias'\] holds NaN or infinity"):
        interpolate(**params, lam=lam)


def test_result_too_large_for_its_dtype():
    big = {"x": np.array([60000.0], np.float16)}
    with pytest.raises(ValueError, match=r"'x' at lam = 3\.0 is too large for float16"):
        interpolate(big, {"x": -big["x"]}, 3.0)
    with pytest.raises(ValueError, match=r"'x' at lam = 0\.5 is too large for float64"):
        interpolate({"x": np.array([1e200, 0])}, {"x": np.array([0, 1e200])}, 0.5, method="slerp")


def test_no_arrays():
    with pytest.raises(TypeError, match="params_b is a list; expected a mapping"):
        interpolate(layer(0), [1], 0.5)
    with pytest.raises(TypeError, match=r"params_a\['weight'\] is a list; expected a numpy array or a torch tensor"):
        interpolate(layer(0) | {"weight": [1.0]}, layer(1), 0.5)
    with pytest.raises(ValueError, match=r"params_a\['x'\] has dtype complex64; expected a real one"):
        interpolate({"x": np.ones(1, np.complex64)}, {"x": np.ones(1, np.complex64)}, 0.5)


def test_what_is_one_tensor_in_both_stays_one():
    a, b = torch.ones(3), torch.zeros(3)
    mixed = interpolate({"x": a, "y": a, "z": a}, {"x": b, "y": b, "z": b.clone()}, 0.5)
    assert mixed["x"] is mixed["y"]
    assert mixed["x"].data_ptr() not in (mixed["z"].data_ptr(), a.data_ptr())
