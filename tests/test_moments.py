"""Streaming moments: what one pass over everything gives, however the samples are split and spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rebasin_fast._moments as moments_module
from rebasin_fast._moments import CrossMoments, Moments


class Elsewhere:
    """The ranks of a group, without processes: adds what the others would have sent, in the order it is asked."""

    def __init__(self, size, sent):
        self.size, self._sent = size, iter(sent)

    def add_up(self, tensor):
        return tensor + next(self._sent)


def samples(seed, count, units, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-3, 3, units, dtype=torch.float64)
    return shift + torch.randn(count, units, generator=generator, dtype=torch.float64) * scale


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_split_gives_what_numpy_gives_at_once(sizes, units):
    a, b = samples(1, sum(sizes), units), samples(2, sum(sizes), units)
    cross, single = CrossMoments(units), Moments(units)
    for part_a, part_b in zip(a.split(sizes), b.split(sizes), strict=True):
        cross.update(part_a, part_b)
        single.update(part_a)
    assert cross.count == single.count == sum(sizes)
    torch.testing.assert_close(cross.inner(), a.T @ b, rtol=1e-9, atol=1e-9)
    want = np.corrcoef(a.T.numpy(), b.T.numpy())[:units, units:]
    np.testing.assert_allclose(cross.correlation().numpy(), want, atol=1e-9)
    torch.testing.assert_close(single.mean, a.mean(dim=0))
    torch.testing.assert_close(single.variance(), a.var(dim=0, unbiased=False))
    torch.testing.assert_close(single.variance(unbiased=True), a.var(dim=0))
    torch.testing.assert_close(single.deviation(), a.std(dim=0, unbiased=False))


def test_parts_of_a_large_batch_change_nothing(monkeypatch):
    a, b = samples(1, 50, 4), samples(2, 50, 4)
    whole = CrossMoments(4)
    whole.update(a, b)
    monkeypatch.setattr(moments_module, "_SAMPLES", 7)
    parts = CrossMoments(4)
    parts.update(a, b)
    torch.testing.assert_close(parts.inner(), whole.inner())
    torch.testing.assert_close(parts.correlation(), whole.correlation())


@pytest.mark.parametrize("shift", [1e3, 1e8])
def test_a_large_mean_does_not_swamp_the_variance(shift):
    """Sums of squares minus squared sums would lose all digits here."""
    a = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + shift
    cross = CrossMoments(3)
    for part in a.split(30):
        cross.update(part, part)
    want = torch.corrcoef((a - shift).T)
    torch.testing.assert_close(cross.correlation(), want, rtol=0, atol=1e-7)


def test_narrow_floats_are_widened_first():
    a = torch.full((3000, 1), 0.1, dtype=torch.bfloat16)
    single = Moments(1)
    single.update(a)
    assert single.mean.item() == pytest.approx(float(a[0, 0]), rel=1e-15)


def test_what_never_changes_correlates_with_nothing():
    a = torch.full((20, 2), 0.1)
    a[:, 1] = torch.arange(20)
    cross = CrossMoments(2)
    for part in a.split(3):
        cross.update(part, part)
    torch.testing.assert_close(cross.correlation(), torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64))


def test_ranks_together_see_what_one_would():
    a, b = samples(1, 30, 3, 5.0), samples(2, 30, 3, -4.0)
    whole, here, there = CrossMoments(3), CrossMoments(3), CrossMoments(3)
    whole.update(a, b)
    here.update(a[:12], b[:12])
    there.update(a[12:], b[12:])
    sent = []
    for side, x, mean in (("a", a, a.mean(0)), ("b", b, b.mean(0))):
        part = getattr(there, f"_{side}")
        sent += [part.count, part.count * part.mean, part._squares + part.count * (part.mean - mean).square()]
        assert len(x) == 30
    apart_a, apart_b = a[12:].mean(0) - a.mean(0), b[12:].mean(0) - b.mean(0)
    sent.append(there._products + 18 * torch.outer(apart_a, apart_b))
    here.add_up(Elsewhere(2, sent))
    assert here.count == 30
    torch.testing.assert_close(here.inner(), whole.inner())
    torch.testing.assert_close(here.correlation(), whole.correlation())
