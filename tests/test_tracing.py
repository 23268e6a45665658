"""Traced specs: models compute the same when permuted, and the groups that should be found are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

import models
import more_models
import traced_models
from rebasin_fast import PermutationSpec


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def groups_of(spec: PermutationSpec) -> Counter[str]:
    """The groups in the notation of `traced_models`."""
    sizes = spec.group_sizes()
    found = []
    for group, size in sizes.items():
        parent = spec.blocks.get(group)
        count = sizes[parent] if isinstance(parent, str) else parent
        found.append(str(size) if parent is None else f"{size}/{count}")
    return Counter(found)


CASES = traced_models.ALL | more_models.MORE


@pytest.mark.parametrize("name", CASES)
def test_function_is_preserved_and_the_groups_are_those_expected(name: str) -> None:
    case = CASES[name]
    model = models.randomise(case.make(), seed=0).double().eval()
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spec = PermutationSpec.from_module(model, x)
    spec.validate(model.state_dict(), matching=False)
    assert not spec.report().unknown_operators
    proof = spec.prove(model, x, rtol=1e-9)
    assert proof, str(proof)
    assert groups_of(spec) == Counter(case.groups.split())
    assert bool(spec.report().warnings) == (name in ("a branch on a value", "packed sequences"))
