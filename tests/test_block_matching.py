"""Matching with blocks, sums and products: against every permutation there is, and on traced networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
import reference
import traced_models
from rebasin_fast import PermutationSpec, apply_permutation, mlp, random_permutation
from rebasin_fast._piece_pair import PiecePair
from rebasin_fast.block_matching import match_blocks
from rebasin_fast.permute import identity_permutation, units_in_blocks, validate_permutation


def inner_product(spec: PermutationSpec, a: Any, b: Any, permutation: Any) -> float:
    moved = apply_permutation(spec, permutation, b)
    return float(sum((a[name] * moved[name]).sum() for name in spec.params if spec.matched(name)))


def random_arrays(spec: PermutationSpec, lengths: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-4, 5, lengths[name]).astype(np.float64) for name in spec.params}


HEADS = PermutationSpec.from_axes_to_perm(
    {
        "q": ("q", None),
        "kv": ("q + v", None),
        "kb": ("q",),
        "slope": ("heads",),
        "out": (None, "v"),
        "scales": ("5 + heads * 2",),
    },
    sizes={"heads": 3, "q": 6, "v": 6},
    blocks={"q": "heads", "v": "heads"},
)
HEADS_SHAPES = {"q": (6, 2), "kv": (12, 3), "kb": (6,), "slope": (3,), "out": (2, 6), "scales": (11,)}


def wreath_permutations(n: int, widths: dict[str, int]) -> Iterator[dict[str, np.ndarray]]:
    for blocks in permutations(range(n)):
        orders = [list(product(list(permutations(range(d))), repeat=n)) for d in widths.values()]
        for chosen in product(*orders):
            yield {"heads": np.array(blocks)} | {
                name: units_in_blocks(np.array(blocks), np.array(order))
                for name, order in zip(widths, chosen, strict=True)
            }


@pytest.mark.parametrize("seed", range(3))
def test_a_family_is_solved_as_well_as_it_can_be(seed: int) -> None:
    a, b = (random_arrays(HEADS, HEADS_SHAPES, 2 * seed + k) for k in range(2))
    best = max(inner_product(HEADS, a, b, p) for p in wreath_permutations(3, {"q": 2, "v": 2}))
    found = match_blocks(HEADS, a, b, init="identity")
    validate_permutation(HEADS, found.permutation)
    assert found.converged
    assert found.objective[-1] == best == inner_product(HEADS, a, b, found.permutation)


GROUPED = PermutationSpec.from_axes_to_perm(  # two grouped convolutions, and queries in groups of heads
    {
        "first": ("i", None),
        "conv": ("o", "i@g"),
        "last": (None, "o"),
        "query": ("g * r@g * i@g", None),
        "rec": ("2 * s", "s"),
        "in": ("s", "g"),
    },
    sizes={"g": 2, "i": 6, "o": 4, "r": 4, "s": 3},
    blocks={"i": "g", "o": "g", "r": "g"},
)
GROUPED_SHAPES = {"first": (6, 4), "conv": (4, 3), "last": (3, 4), "query": (12, 2), "rec": (6, 3), "in": (3, 2)}

NESTED = PermutationSpec.from_axes_to_perm(  # heads in blocks, units in heads, and weights from heads to heads
    {"values": ("v", "h * s"), "bias": ("v",), "out": ("h * s", "v"), "last": (None, "h * s"), "gate": ("h", "h")},
    sizes={"b": 2, "h": 4, "v": 8, "s": 3},
    blocks={"h": "b", "v": "h"},
)
NESTED_SHAPES = {"values": (8, 12), "bias": (8,), "out": (12, 8), "last": (2, 12), "gate": (4, 4)}


@pytest.mark.parametrize("seed", range(6))
def test_units_in_nested_blocks_are_compared_by_their_own_blocks(seed: int) -> None:
    a, b = (random_arrays(NESTED, NESTED_SHAPES, 2 * seed + k) for k in range(2))
    for permutation in (random_permutation(NESTED, k) for k in range(20)):
        assert PiecePair(NESTED, a, b).objective(permutation) == inner_product(NESTED, a, b, permutation)


@given(st.integers(0, 10**6), st.sampled_from(["identity", "propagate"]))
@settings(max_examples=25, deadline=None)
def test_the_objective_never_falls_and_is_what_it_says(seed: int, init: str) -> None:
    for spec, shapes in ((HEADS, HEADS_SHAPES), (GROUPED, GROUPED_SHAPES), (NESTED, NESTED_SHAPES)):
        a, b = (random_arrays(spec, shapes, seed + k) for k in range(2))
        found = match_blocks(spec, a, b, init=init, seed=seed)
        validate_permutation(spec, found.permutation)
        assert found.converged
        assert list(found.objective) == sorted(found.objective)
        assert found.objective[-1] == pytest.approx(inner_product(spec, a, b, found.permutation), abs=1e-9)
        assert PiecePair(spec, a, b).objective(found.permutation) == pytest.approx(found.objective[-1], abs=1e-9)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_similarities_are_what_units_add_to_the_objective(seed: int) -> None:
    """Of a group without blocks, every permutation of it gains what its similarities say."""
    spec, shapes = GROUPED, GROUPED_SHAPES
    a, b = (random_arrays(spec, shapes, seed + k) for k in range(2))
    pair, held = PiecePair(spec, a, b), random_permutation(spec, seed)
    for group in ("o", "i", "r"):
        pieces = [piece for piece in pair.pieces if group in piece.labels]
        similarity = pair.similarity(group, held, pieces)
        n = len(held[group])
        other = dict(held)
        blocks = held["g"]
        inner = np.stack([np.random.default_rng(seed + k).permutation(n // 2) for k in range(2)])
        other[group] = units_in_blocks(blocks, inner)
        gain = inner_product(spec, a, b, other) - inner_product(spec, a, b, held)
        assert gain == pytest.approx(
            sum(similarity[i, other[group][i]] - similarity[i, held[group][i]] for i in range(n))
        )


@pytest.mark.parametrize("seed", range(3))
def test_plain_specs_are_matched_as_the_slow_twin_does(seed: int) -> None:
    spec, rng = mlp((5, 8, 7, 3)), np.random.default_rng(seed)
    state = models.MLP((5, 8, 7, 3)).state_dict()
    a, b = ({name: rng.normal(size=tuple(value.shape)) for name, value in state.items()} for _ in range(2))
    pair = PiecePair(spec, a, b)
    held = random_permutation(spec, seed)
    for group in spec.groups:
        ours = pair.similarity(group, held, [piece for piece in pair.pieces if group in piece.labels])
        np.testing.assert_allclose(ours, reference.similarity(spec, group, a, b, held))
    assert pair.objective(held) == pytest.approx(reference.objective(spec, a, b, held))


MODELS = [
    "attention: fused, split", "attention: grouped queries", "attention: rotary, halves", "attention: ALiBi",
    "attention: ALiBi, fused within heads",
    "attention: norm of queries and keys", "attention: encoder", "convolutions: grouped after grouped",
    "convolutions: depthwise with multiplier", "convolutions: channel shuffle", "recurrent: LSTM",
    "recurrent: GRU, deep, both ways", "mixtures: looked up", "shapes: dense block", "shapes: transposed on the way",
    "norms: GroupNorm",
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_planted_permutations_of_traced_networks_are_found_under_noise(name: str) -> None:
    case = traced_models.ALL[name]
    model = models.randomise(case.make(), seed=0)
    spec = PermutationSpec.from_module(model, torch.zeros(case.shape))
    a = model.state_dict()
    planted = random_permutation(spec, seed=1)
    rng = torch.Generator().manual_seed(0)
    noisy = {
        n: v + 0.02 * v.std(correction=0) * torch.randn(v.shape, generator=rng)
        for n, v in a.items()
        if v.is_floating_point()
    }
    b = apply_permutation(spec, planted, a | noisy)
    found = match_blocks(spec, a, b)
    back = apply_permutation(spec, found.permutation, b)
    for param in spec.params:
        np.testing.assert_array_equal(back[param], (a | noisy)[param], err_msg=param)
    assert {n: v.dtype for n, v in back.items()} == {n: v.dtype for n, v in a.items()}


def test_torch_and_numpy_find_the_same() -> None:
    a, b = (random_arrays(GROUPED, GROUPED_SHAPES, k) for k in range(2))
    tensors = [{name: torch.from_numpy(array) for name, array in params.items()} for params in (a, b)]
    ours, theirs = match_blocks(GROUPED, a, b), match_blocks(GROUPED, *tensors)
    for group, index in ours.permutation.items():
        np.testing.assert_array_equal(index, theirs.permutation[group])


def test_progress_and_bad_arguments() -> None:
    a, b = (random_arrays(GROUPED, GROUPED_SHAPES, k) for k in range(2))
    seen: list[tuple[str, int, int]] = []
    match_blocks(GROUPED, a, b, progress=lambda *step: seen.append(step), max_sweeps=1)
    assert seen[-1] == ("weight matching, sweep 1", 5, 5)
    start = identity_permutation(GROUPED)
    assert (
        match_blocks(GROUPED, a, a, init=start).objective[0]
        == match_blocks(GROUPED, a, a, init="identity").objective[0]
    )
    with pytest.raises(ValueError, match="init is 'best'; expected 'propagate'"):
        match_blocks(GROUPED, a, b, init="best")
    with pytest.raises(TypeError, match=r"params_b\['conv'\] has dtype int64"):
        match_blocks(GROUPED, a, b | {"conv": np.zeros((4, 3), dtype=np.int64)})
    with pytest.raises(ValueError, match=r"params_a\['last'\] holds NaN"):
        match_blocks(GROUPED, a | {"last": np.full((3, 4), np.nan)}, b)
    with pytest.raises(ValueError, match="does not fit the specification"):
        match_blocks(GROUPED, a, b | {"conv": np.zeros((4, 4))})
