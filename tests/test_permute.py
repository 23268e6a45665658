"""Permutations: the group laws, and what applying one does to arrays of every library and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_fast.permute import (
    apply_permutation,
    compose,
    identity_permutation,
    invert,
    random_permutation,
    validate_permutation,
)
from rebasin_fast.spec import PermutationSpec

SIZES = {"P": 4, "Q": 3}
SPEC = PermutationSpec.from_axes_to_perm(
    {
        "conv": ("P", None, None),
        "fc.weight": ("Q", ("P", 2)),
        "fc.bias": ("Q",),
        "out": (None, "Q"),
        "fixed": (None,),
        "count": (),
    },
    sizes=SIZES,
)
SHAPES = {"conv": (4, 2, 3), "fc.weight": (3, 8), "fc.bias": (3,), "out": (2, 3), "fixed": (5,), "count": ()}
SHUFFLE = {"P": np.array([2, 0, 3, 1]), "Q": np.array([1, 2, 0])}
TORCH_DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def make_params(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: np.asarray(generator.normal(size=shape)) for name, shape in SHAPES.items()}


def to_torch(params: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in params.items()}


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def draw_permutation(draw: st.DrawFn) -> dict[str, np.ndarray]:
    return {group: np.array(draw(st.permutations(range(size))), dtype=np.int64) for group, size in SIZES.items()}


PERMUTATIONS = st.composite(draw_permutation)()


# ---- applying -------------------------------------------------------------------------------------------------------


def test_new_i_is_old_p_of_i_on_every_axis_of_the_group() -> None:
    params, p = make_params(), SHUFFLE
    moved = apply_permutation(SPEC, p, params)
    for i in range(4):
        np.testing.assert_array_equal(moved["conv"][i], params["conv"][p["P"][i]])
    for i in range(3):
        assert moved["fc.bias"][i] == params["fc.bias"][p["Q"][i]]
        np.testing.assert_array_equal(moved["out"][:, i], params["out"][:, p["Q"][i]])
        for j in range(4):
            k = p["P"][j]
            np.testing.assert_array_equal(
                moved["fc.weight"][i, 2 * j : 2 * j + 2], params["fc.weight"][p["Q"][i], 2 * k : 2 * k + 2]
            )
    np.testing.assert_array_equal(moved["fixed"], params["fixed"])
    assert moved["count"].shape == ()


@given(PERMUTATIONS, PERMUTATIONS)
@settings(deadline=None)
def test_compose_applies_the_inner_one_first(p: dict[str, np.ndarray], q: dict[str, np.ndarray]) -> None:
    params = make_params()
    one_by_one = apply_permutation(SPEC, p, apply_permutation(SPEC, q, params))
    assert same(apply_permutation(SPEC, compose(p, q), params), one_by_one)


@given(PERMUTATIONS)
@settings(deadline=None)
def test_invert_undoes(p: dict[str, np.ndarray]) -> None:
    params, identity = make_params(), identity_permutation(SPEC)
    assert same(apply_permutation(SPEC, invert(p), apply_permutation(SPEC, p, params)), params)
    assert same(compose(p, invert(p)), identity)
    assert same(compose(invert(p), p), identity)
    assert same(invert(invert(p)), p)


@given(PERMUTATIONS, PERMUTATIONS, PERMUTATIONS)
@settings(max_examples=30, deadline=None)
def test_compose_is_associative_and_the_identity_neutral(p: Any, q: Any, r: Any) -> None:
    identity = identity_permutation(SPEC)
    assert same(compose(p, compose(q, r)), compose(compose(p, q), r))
    assert same(compose(p, identity), p)
    assert same(compose(identity, p), p)


@given(PERMUTATIONS)
@settings(max_examples=30, deadline=None)
def test_torch_and_numpy_agree(p: dict[str, np.ndarray]) -> None:
    params = make_params()
    moved = apply_permutation(SPEC, p, to_torch(params))
    assert all(isinstance(tensor, torch.Tensor) for tensor in moved.values())
    assert same({name: tensor.numpy() for name, tensor in moved.items()}, apply_permutation(SPEC, p, params))


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_torch_dtypes_stay_and_so_do_the_values(dtype: torch.dtype) -> None:
    params = {name: (10 * tensor).to(dtype) for name, tensor in to_torch(make_params()).items()}
    moved = apply_permutation(SPEC, SHUFFLE, params)
    back = apply_permutation(SPEC, invert(SHUFFLE), moved)
    assert {tensor.dtype for tensor in moved.values()} == {dtype}
    # Of a bool tensor every entry is True: nothing to see there.
    assert torch.equal(moved["conv"], params["conv"]) is (dtype == torch.bool)
    assert all(torch.equal(back[name], tensor) for name, tensor in params.items())


@pytest.mark.parametrize("dtype", ["f8", ">f8", "f4", "f2", "i8", "u1", "?", "c8", "S3"])
def test_numpy_dtypes_stay(dtype: str) -> None:
    params = {name: np.asarray(10 * array).astype(dtype) for name, array in make_params().items()}
    moved = apply_permutation(SPEC, SHUFFLE, params)
    assert {array.dtype for array in moved.values()} == {np.dtype(dtype)}
    assert same(apply_permutation(SPEC, invert(SHUFFLE), moved), params)


@pytest.mark.parametrize("convert", [dict, to_torch], ids=["numpy", "torch"])
def test_nothing_is_mutated_and_nothing_is_a_view(convert: Any) -> None:
    original = make_params()
    params, p = convert({name: array.copy() for name, array in original.items()}), identity_permutation(SPEC)
    moved = apply_permutation(SPEC, p, params)
    for array in moved.values():
        array += 1
    assert same({name: np.asarray(array) for name, array in params.items()}, original)
    assert same(p, identity_permutation(SPEC))


def test_parameters_that_require_gradients_come_back_as_plain_tensors() -> None:
    params = {name: torch.nn.Parameter(tensor) for name, tensor in to_torch(make_params()).items()}
    moved = apply_permutation(SPEC, random_permutation(SPEC, 0), params)
    assert not any(tensor.requires_grad for tensor in moved.values())


def test_order_of_names_is_that_of_the_parameters() -> None:
    params = dict(reversed(make_params().items()))
    assert list(apply_permutation(SPEC, identity_permutation(SPEC), params)) == list(params)


def test_strided_arrays_and_awkward_index_arrays() -> None:
    params = {
        name: np.asfortranarray(array)[..., ::-1] if array.ndim else array for name, array in make_params().items()
    }
    p = SHUFFLE
    awkward = {"P": p["P"][::-1].copy()[::-1], "Q": p["Q"].astype(">u2")}
    assert awkward["P"].strides[0] < 0
    for index in awkward.values():
        index.flags.writeable = False
    expected = apply_permutation(SPEC, p, {name: array.copy() for name, array in params.items()})
    assert same(apply_permutation(SPEC, awkward, params), expected)
    tensors = apply_permutation(SPEC, awkward, to_torch(params))
    assert same({name: tensor.numpy() for name, tensor in tensors.items()}, expected)


# ---- tied arrays ----------------------------------------------------------------------------------------------------

TIED = PermutationSpec.from_axes_to_perm(
    {"a": ("P", None), "b": ("P", None), "elsewhere": (None, "P"), "other": ("P", None)}, sizes={"P": 4}
)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["numpy", "torch"])
def test_tied_arrays_that_move_alike_stay_tied(make: Any) -> None:
    shared = make((4, 4))
    view = shared[:]
    params = {"a": shared, "b": view, "elsewhere": shared, "other": make((4, 4))}
    moved = apply_permutation(TIED, random_permutation(TIED, 0), params)
    assert moved["a"] is moved["b"]
    moved["a"] += 1
    assert all(float(array.sum()) == 0 for array in (moved["elsewhere"], moved["other"], shared))


def test_views_of_one_storage_with_other_shapes_or_values_are_not_tied() -> None:
    storage = torch.arange(20.0)
    params = {"a": storage[:16].view(4, 4), "b": storage[4:].view(4, 4), "elsewhere": torch.ones(4, 4)}
    params["other"] = params["a"].T
    p = random_permutation(TIED, 0)
    moved = apply_permutation(TIED, p, params)
    for name in ("a", "b", "other"):
        assert torch.equal(moved[name], params[name][torch.from_numpy(p["P"])])


def test_tensors_without_memory_are_not_tied() -> None:
    params = {name: torch.empty((4, 4), device="meta") for name in TIED.params}
    moved = apply_permutation(TIED, random_permutation(TIED, 0), params)
    assert len({id(tensor) for tensor in moved.values()}) == len(params)
    assert all(tensor.is_meta for tensor in moved.values())


class Loading(Mapping[str, np.ndarray]):
    """Makes an array anew at every access, as a checkpoint that is read piece by piece does."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name].copy()

    def __iter__(self) -> Any:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def test_memory_that_a_mapping_frees_and_reuses_ties_nothing() -> None:
    spec = PermutationSpec.from_axes_to_perm({f"w{i}": ("P", None) for i in range(50)}, sizes={"P": 4})
    params = {f"w{i}": np.full((4, 4), float(i)) for i in range(50)}
    assert same(apply_permutation(spec, random_permutation(spec, 0), Loading(params)), params)


# ---- making and checking permutations -------------------------------------------------------------------------------


def test_random_permutations_repeat_with_their_seed() -> None:
    assert same(random_permutation(SPEC, 7), random_permutation(SPEC, 7))
    assert same(random_permutation(SPEC, 7), random_permutation(SPEC, np.random.default_rng(7)))
    big = PermutationSpec.from_axes_to_perm({"w": ("P",)}, sizes={"P": 100})
    assert not same(random_permutation(big, 7), random_permutation(big, 8))
    assert {index.dtype for index in random_permutation(SPEC, 7).values()} == {np.dtype(np.int64)}
    validate_permutation(SPEC, random_permutation(SPEC, 7))


def test_equal_specs_give_equal_random_permutations() -> None:
    notation = {"a": ("P",), "b": ("Q",)}
    one = PermutationSpec.from_axes_to_perm(notation, sizes=SIZES)
    other = PermutationSpec.from_axes_to_perm(dict(reversed(notation.items())), sizes=SIZES)
    assert one == other
    for group, index in random_permutation(one, 3).items():
        np.testing.assert_array_equal(index, random_permutation(other, 3)[group])


def test_random_permutations_are_uniform() -> None:
    spec = PermutationSpec.from_axes_to_perm({"w": ("P",)}, sizes={"P": 3})
    generator = np.random.default_rng(0)
    drawn = [tuple(random_permutation(spec, generator)["P"]) for _ in range(6000)]
    counts = np.array([drawn.count(index) for index in set(drawn)])
    assert len(counts) == 6
    # Six classes: a chi-square beyond 25.7 (5 degrees of freedom) has a probability of 1e-4.
    assert ((counts - 1000) ** 2 / 1000).sum() < 25.7


def test_sizes_come_from_the_parameters_when_the_spec_has_none() -> None:
    spec = PermutationSpec(SPEC.axes)
    assert same(identity_permutation(spec, make_params()), identity_permutation(SPEC))
    assert same(random_permutation(spec, 1, make_params()), random_permutation(SPEC, 1))
    with pytest.raises(ValueError, match="params is None"):
        identity_permutation(spec)
    with pytest.raises(ValueError, match="params is None"):
        random_permutation(spec, 1)


@pytest.mark.parametrize(
    ("seed", "error"), [(None, TypeError), (1.5, TypeError), (True, TypeError), ("1", TypeError), (-1, ValueError)]
)
def test_bad_seeds(seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed is"):
        random_permutation(SPEC, seed)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 2], "is of type list; expected a numpy array of integers"),
        (torch.arange(3), "is of type Tensor; expected a numpy array"),
        (np.arange(3.0), "is of dtype float64; expected a numpy array of integers"),
        (np.zeros(3, dtype=bool), "is of dtype bool"),
        (np.arange(4), "has length 4; expected 3"),
        (np.arange(3)[:, None], r"has shape \(3, 1\); expected one axis"),
        (np.array(0), r"has shape \(\); expected one axis"),
        (np.array([0, 1, 1]), "is not a permutation; expected every index from 0 to 2 once"),
        (np.array([1, 2, 3]), "is not a permutation"),
        (np.array([-1, 0, 1]), "is not a permutation"),
    ],
)
def test_index_arrays_that_are_no_permutation(index: Any, message: str) -> None:
    p = identity_permutation(SPEC) | {"Q": index}
    with pytest.raises(ValueError, match=f"group 'Q' {message}"):
        validate_permutation(SPEC, p)
    with pytest.raises(ValueError, match=f"group 'Q' {message}"):
        apply_permutation(SPEC, p, make_params())


def test_validate_permutation_names_every_group_concerned() -> None:
    with pytest.raises(ValueError, match="permutation does not fit") as raised:
        validate_permutation(SPEC, {"P": np.array([0, 0, 1, 2]), "R": np.arange(2)})
    assert [line.strip().split(" is ")[0] for line in str(raised.value).splitlines()[1:]] == [
        "group 'Q'",
        "group 'R'",
        "group 'P'",
    ]


def test_without_sizes_every_array_is_checked_against_its_own_length() -> None:
    spec = PermutationSpec(SPEC.axes)
    validate_permutation(spec, {"P": np.arange(9), "Q": np.arange(2)})
    with pytest.raises(ValueError, match="group 'Q' has length 2; expected 3"):
        validate_permutation(spec, {"P": np.arange(4), "Q": np.arange(2)}, make_params())


@pytest.mark.parametrize("wrong", [None, [np.arange(4)], np.arange(4)])
def test_permutations_that_are_no_mapping(wrong: Any) -> None:
    right = identity_permutation(SPEC)
    with pytest.raises(TypeError, match="permutation is of type"):
        validate_permutation(SPEC, wrong)
    with pytest.raises(TypeError, match="permutation is of type"):
        invert(wrong)
    with pytest.raises(TypeError, match="outer is of type"):
        compose(wrong, right)
    with pytest.raises(TypeError, match="inner is of type"):
        compose(right, wrong)


def test_invert_and_compose_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="permutation: group 'P' is not a permutation"):
        invert({"P": np.array([0, 0])})
    with pytest.raises(ValueError, match=r"outer has the groups \['P'\]; expected \['Q'\], as in inner"):
        compose({"P": np.arange(2)}, {"Q": np.arange(2)})
    with pytest.raises(ValueError, match=r"outer\['P'\] has length 2; expected 3, as in inner"):
        compose({"P": np.arange(2)}, {"P": np.arange(3)})


def test_apply_refuses_parameters_that_do_not_fit() -> None:
    params = make_params() | {"fc.bias": np.zeros(7)}
    with pytest.raises(ValueError, match=r"params does not fit .*\n.*params\['fc.bias'\] has shape \(7,\)"):
        apply_permutation(SPEC, identity_permutation(SPEC), params)
    with pytest.raises(TypeError, match="params is of type NoneType"):
        apply_permutation(SPEC, identity_permutation(SPEC), None)  # type: ignore[arg-type]
