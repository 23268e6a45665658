"""Assignment of groups in blocks of groups in blocks, against every permutation there is."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from rebasin_fast import PermutationSpec, linear_sum_assignment
from rebasin_fast._nested_assignment import family_of, solve_nested
from rebasin_fast.layout import Structure
from rebasin_fast.permute import blocks_of_units, units_in_blocks, validate_permutation

DEEP = Structure(
    {"experts": 2, "heads": 4, "units": 8, "gates": 4, "other": 3},
    {"units": "heads", "heads": "experts", "gates": "experts"},
)


def every_permutation(spec, groups, found):
    if not groups:
        yield dict(found)
        return
    group, *rest = groups
    blocks = blocks_of_units(spec, found, group)
    own = spec.sizes[group] // len(blocks)
    for inner in product(list(permutations(range(own))), repeat=len(blocks)):
        yield from every_permutation(spec, rest, {**found, group: units_in_blocks(blocks, np.array(inner))})


def worth(similarity, permutation):
    return sum(s[np.arange(len(s)), permutation[group]].sum() for group, s in similarity.items())


@pytest.mark.parametrize("seed", range(4))
def test_two_levels_are_solved_exactly(seed):
    rng = np.random.default_rng(seed)
    family = family_of(DEEP, "experts")
    assert family == ["experts", "heads", "gates", "units"]
    similarity = {group: rng.integers(-9, 10, (DEEP.sizes[group],) * 2).astype(float) for group in family}
    if seed == 3:
        del similarity["heads"], similarity["experts"]  # which adds nothing
    sizes = {group: DEEP.sizes[group] for group in family}
    spec = PermutationSpec.from_axes_to_perm(
        {group: (group,) for group in family}, sizes=sizes, blocks=dict(DEEP.blocks)
    )
    found = solve_nested(DEEP, "experts", similarity)
    validate_permutation(spec, found)
    best = max(worth(similarity, one) for one in every_permutation(spec, family, {}))
    assert worth(similarity, found) == best


@pytest.mark.parametrize("seed", range(3))
def test_blocks_that_stay_and_no_blocks(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.normal(size=(12, 12))
    found = solve_nested(Structure({"g": 12}, {"g": 3}), "g", {"g": similarity})["g"]
    for k in range(3):
        block = slice(4 * k, 4 * k + 4)
        assert np.array_equal(found[block], 4 * k + linear_sum_assignment(similarity[block, block], maximize=True)[1])
    plain = solve_nested(Structure({"g": 12}, {}), "g", {"g": similarity})["g"]
    assert np.array_equal(plain, linear_sum_assignment(similarity, maximize=True)[1])
    assert np.array_equal(solve_nested(DEEP, "other", {})["other"], np.arange(3))
