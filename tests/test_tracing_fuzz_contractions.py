"""Random programs of products: sums over pairs of blocks, einsum of any letters, scatter and gather, repeats and pads.

What meets in a product may be in no tensor at once, so that only the operators tell that it does.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from test_tracing_fuzz import STEPS, Program, axis, is_preserved, reshape, transpose

LETTERS = "ijklmnopq"


def letters_for(p: Program, shape: tuple[int, ...], sizes: dict[str, int]) -> str:
    """A letter for every axis: a new one, or one that stands for as many positions already."""
    taken = ""
    for size in shape:
        known = [letter for letter, count in sizes.items() if count == size and letter not in taken]
        letter = known[p.choose(len(known))] if known and p.choose(3) else LETTERS[len(sizes)]
        sizes[letter] = size
        taken += letter
    return taken


def any_einsum(p: Program, x: Tensor, values: list[Tensor]) -> Tensor:
    """Some values and parameters, multiplied and summed over whatever letters."""
    sizes: dict[str, int] = {}
    operands = [x, *(values[p.choose(len(values))] for _ in range(p.choose(3)))]
    operands = [value if value.dim() < 4 else value.flatten(2) for value in operands]
    terms = ["b" + letters_for(p, tuple(value.shape[1:]), sizes) for value in operands]
    for _ in range(p.choose(3)):
        letters = list(sizes)
        terms.append("".join(dict.fromkeys(letters[p.choose(len(letters))] for _ in range(1 + p.choose(2)))))
        operands.append(p.weight(*(sizes[letter] for letter in terms[-1])))
    kept = "".join(letter for letter in sizes if p.choose(5) < 3) or next(iter(sizes))
    kept = kept[::-1] if p.choose(2) else kept
    whole, size = math.prod(sizes.values()), math.prod(sizes[letter] for letter in kept)
    if whole > 20_000 or size > 60:
        return x
    return torch.tanh(torch.einsum(f"{','.join(terms)}->b{kept}", *operands) / (1 + math.sqrt(whole / size)))


def pairs(p: Program, x: Tensor, values: list[Tensor]) -> Tensor:
    """All pairs of entries of two values, summed over some axes."""
    other = values[p.choose(len(values))]
    if x[0].numel() * other[0].numel() > 200:
        return x
    first = x.reshape(*x.shape, *(1,) * (other.dim() - 1))
    second = other.reshape(other.shape[0], *(1,) * (x.dim() - 1), *other.shape[1:])
    out = torch.maximum(first, second) if p.choose(2) else first * second
    while out.dim() > 4 or (out.dim() > 2 and p.choose(2)):
        out = out.sum(1 + p.choose(out.dim() - 1))
    return out


def with_itself(p: Program, x: Tensor, _: Any) -> Tensor:
    y = x if x.dim() > 2 else x.unflatten(1, (2, -1)) if x.shape[1] % 2 == 0 else x[:, None]
    if p.choose(3) == 0:
        return torch.cdist(y, y) * 0.2
    if p.choose(2):
        return F.scaled_dot_product_attention(y, y, y)
    return y @ y.mT * 0.2


def placed(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    order = torch.tensor([(3 * i + 1) % x.shape[n] for i in range(x.shape[n])])
    everywhere = order.view([-1 if i == n else 1 for i in range(x.dim())]).expand_as(x)
    return (
        torch.zeros_like(x).scatter_add(n, everywhere, x),
        x.gather(n, everywhere),
        x.index_select(n, order),
        torch.zeros_like(x).index_add(n, order, x),
        x.gather(n, x.argsort(n)),
        x.scatter(n, x.argmax(n, keepdim=True), 0.5),
    )[p.choose(6)]


def repeated(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    if x[0].numel() > 100:
        return x
    times = [2 if i == n else 1 for i in range(x.dim())]
    wide = [0, 0] * (x.dim() - 1 - n) + [1 + p.choose(2), p.choose(2)]
    if x.shape[n] > 3 and p.choose(4) == 0:
        return F.pad(x, [-width for width in wide])
    return (x.repeat_interleave(2, n), x.tile(times), F.pad(x, wide, value=0.2))[p.choose(3)]


def combined(p: Program, x: Tensor, values: list[Tensor]) -> Tensor:
    others = [value for value in values if value.shape == x.shape]
    other, n = others[p.choose(len(others))], axis(p, x)
    return (
        torch.addcmul(x, other, x.tanh(), value=0.3),
        torch.lerp(x, other, x.sigmoid()),
        x.clamp(max=other),
        x.masked_fill(other > 0.3, 0.1),
        F.cosine_similarity(x, other, n).unsqueeze(n) + x,
        x - x.logsumexp(n, keepdim=True),
        x / (1 + x.norm(dim=n, keepdim=True)),
        x * x.var(n, keepdim=True, correction=0),
    )[p.choose(8)]


def shuffled(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    divisors = [count for count in range(1, 7) if x.shape[n] % count == 0]
    y = x.unflatten(n, (divisors[p.choose(len(divisors))], -1))
    return (y.transpose(n, n + 1), y.softmax(n + p.choose(2)))[p.choose(2)].flatten(n, n + 1)


CONTRACTIONS = [
    *STEPS, any_einsum, any_einsum, any_einsum, any_einsum, any_einsum, pairs, pairs, with_itself, with_itself, placed,
    repeated, combined, combined, shuffled, reshape, reshape, reshape, reshape, transpose,
]  # fmt: skip


@pytest.mark.parametrize("block", range(4))
def test_random_products(block: int) -> None:
    found = 0
    for seed in range(40 * block, 40 * (block + 1)):
        groups, fault = is_preserved(seed, 1 + seed % 6, CONTRACTIONS)
        assert not fault, f"seed {seed}: {fault}"
        found += groups
    assert found > 20
