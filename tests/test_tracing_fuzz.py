"""Random programs: whatever is traced, a random permutation of it changes nothing.

A program starts with 24 hidden units, looks at them in random shapes, applies random operators to random earlier values
and ends in a dense layer. Nobody says which groups it has; that the function is preserved is the test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rebasin_fast import PermutationSpec, apply_permutation, match_blocks, random_permutation

SHAPES = [(24,), (4, 6), (2, 12), (6, 4), (2, 3, 4), (3, 2, 2, 2), (12, 2), (3, 8), (2, 2, 6)]

Step: TypeAlias = "Callable[[Program, Tensor, list[Tensor]], Tensor]"


class Program(nn.Module):
    """What the seed draws at the first run, operators, shapes and parameters, is repeated at every other."""

    def __init__(self, seed: int, length: int, steps: Sequence[Step] | None = None) -> None:
        super().__init__()
        self.length = length
        self.steps = STEPS if steps is None else steps
        self.inp = nn.Linear(5, 24)
        self.weights = nn.ParameterList()
        self.drawn: list[int] = []
        self.generator: torch.Generator | None = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.forward(torch.zeros(3, 5))
        self.generator = None

    def choose(self, count: int) -> int:
        if self.generator is not None:
            self.drawn.append(int(torch.randint(count, (), generator=self.generator)))
        self.place += 1
        return self.drawn[self.place - 1]

    def weight(self, *shape: int) -> Tensor:
        """The next parameter of the program."""
        if self.generator is not None:
            scale = 1 / math.sqrt(shape[0]) if len(shape) > 1 else 1
            self.weights.append(nn.Parameter(torch.randn(shape, generator=self.generator) * scale))
        self.used += 1
        return self.weights[self.used - 1]

    def forward(self, x: Tensor) -> Tensor:
        self.place = self.used = 0
        values = [torch.tanh(self.inp(x))]
        for _ in range(self.length):
            value = values[self.choose(len(values))] if self.choose(2) else values[-1]
            values.append(self.steps[self.choose(len(self.steps))](self, value, values))
        flat = torch.cat([value.flatten(1) for value in values[-2:]], 1)
        return flat @ self.weight(flat.shape[1], 2)


def axis(p: Program, x: Tensor) -> int:
    return 1 + p.choose(x.dim() - 1)


def reshape(p: Program, x: Tensor, _: Any) -> Tensor:
    fitting = [shape for shape in SHAPES if math.prod(shape) == x[0].numel()]
    return x.reshape(x.shape[0], *fitting[p.choose(len(fitting))]) if fitting else x.flatten(1)


def transpose(p: Program, x: Tensor, _: Any) -> Tensor:
    return x.transpose(axis(p, x), axis(p, x))


def softmax(p: Program, x: Tensor, _: Any) -> Tensor:
    return x.softmax(axis(p, x))


def activate(p: Program, x: Tensor, _: Any) -> Tensor:
    return F.gelu(x)


def dense(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    width = (x.shape[n], 4, 6, 12)[p.choose(4)]
    return torch.tanh((x.transpose(n, -1) @ p.weight(x.shape[n], width)).transpose(n, -1))


def scale(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    return x * p.weight(*(x.shape[i] if i >= n and (i == n or p.choose(2)) else 1 for i in range(1, x.dim())))


def beside_the_batch(p: Program, x: Tensor, _: Any) -> Tensor:
    """One axis to the front, another joined with the batch, as heads are; there something is done, and all undone."""
    if x.dim() < 3:
        return x
    front = axis(p, x)
    y = x.movedim(front, 0)
    beside = 2 + p.choose(y.dim() - 2)
    y = y.movedim(beside, 2)
    kept = y.shape
    flat = y.reshape(kept[0], kept[1] * kept[2], *kept[3:])
    parts = [torch.tanh(row) if p.choose(2) else row for row in flat.unbind(0)]
    if p.choose(2):
        parts = [part.softmax(-1) for part in parts]
    if p.choose(3) == 0:
        parts[0] = parts[0] * parts[-1]
    return torch.stack(parts).reshape(kept).movedim(2, beside).movedim(0, front)


def normalise(p: Program, x: Tensor, _: Any) -> Tensor:
    n = 1 + p.choose(x.dim() - 1)
    return F.layer_norm(x, x.shape[n:], p.weight(*x.shape[n:]))


def chunk(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    count = 2 if x.shape[n] % 2 == 0 else 3 if x.shape[n] % 3 == 0 else 1
    parts = x.chunk(count, n)
    order = [p.choose(count) for _ in range(count)]
    return torch.cat([torch.tanh(parts[i]) if p.choose(2) else parts[i] for i in order], n)


def part(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    start = p.choose(max(1, x.shape[n] // 2))
    return x.narrow(n, start, 1 + p.choose(x.shape[n] - start))


def strided(p: Program, x: Tensor, _: Any) -> Tensor:
    index: list[Any] = [slice(None)] * x.dim()
    index[axis(p, x)] = slice(p.choose(2), None, 1 + p.choose(2))
    return x[tuple(index)] if 0 not in x[tuple(index)].shape else x


def joined(p: Program, x: Tensor, values: list[Tensor]) -> Tensor:
    n = axis(p, x)
    others = [
        v for v in values if v.dim() == x.dim() and all(v.shape[i] == x.shape[i] for i in range(x.dim()) if i != n)
    ]
    return torch.cat([x, others[p.choose(len(others))]], n) if x[0].numel() < 100 else x


def added(p: Program, x: Tensor, values: list[Tensor]) -> Tensor:
    others = [v for v in values if v.shape == x.shape]
    other = others[p.choose(len(others))]
    return (x + other, x * other, torch.maximum(x, other))[p.choose(3)]


def summed(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    return (x.mean(n, keepdim=True) - x, x.amax(n, keepdim=True), x.sum(n, keepdim=True).expand_as(x) * 0.1)[
        p.choose(3)
    ]


def attend(p: Program, x: Tensor, values: list[Tensor]) -> Tensor:
    x = x if x.dim() > 2 else x[:, None]
    return ((x @ x.transpose(-2, -1)) * 0.3).softmax(-1) @ x


def stacked(p: Program, x: Tensor, values: list[Tensor]) -> Tensor:
    others = [v for v in values if v.shape == x.shape]
    both = torch.stack([x, others[p.choose(len(others))]], 1 + p.choose(x.dim()))
    return both if p.choose(2) and x[0].numel() < 70 else both.sum(1)


def moved(p: Program, x: Tensor, _: Any) -> Tensor:
    n = axis(p, x)
    return (x.roll(1, n), x.flip(n), x.cumsum(n) * 0.2, x.sort(n).values)[p.choose(4)]


def convolved(p: Program, x: Tensor, _: Any) -> Tensor:
    flat = x if x.dim() == 3 else x.reshape(x.shape[0], x.shape[1], -1)
    channels = flat.shape[1]
    groups = [g for g in (1, 2, 3, 4, 6, channels) if channels % g == 0]
    g = groups[p.choose(len(groups))]
    kernel = 1 + 2 * p.choose(2)
    return torch.tanh(F.conv1d(flat, p.weight(g * 2, channels // g, kernel), padding=kernel // 2, groups=g))


def grouped_norm(p: Program, x: Tensor, _: Any) -> Tensor:
    groups = [g for g in (1, 2, 3, 4) if x.shape[1] % g == 0 and x[0].numel() > g]
    return F.group_norm(x, groups[p.choose(len(groups))], p.weight(x.shape[1])) if groups else x


def looked_up(p: Program, x: Tensor, _: Any) -> Tensor:
    """A row of a table for the largest of some units: what experts do."""
    n = axis(p, x)
    best = x.argmax(n, keepdim=True)
    table = p.weight(x.shape[n], 3)
    return (x.gather(n, best), table[best.flatten(1)].tanh(), x + F.one_hot(best, x.shape[n]).amax(n).movedim(-1, n))[
        p.choose(3)
    ]


def written(p: Program, x: Tensor, _: Any) -> Tensor:
    out = torch.zeros_like(x)
    n = axis(p, x)
    half = x.shape[n] // 2
    if half:
        out.narrow(n, 0, half).copy_(x.narrow(n, x.shape[n] - half, half))
        out.flatten(1).mul_(1.5)
    out += x
    return out


STEPS = [
    beside_the_batch,
    reshape, reshape, reshape, transpose, transpose, softmax, activate, dense, dense, scale, normalise, chunk, part,
    strided, joined, added, added, summed, attend, stacked, moved, convolved, grouped_norm, looked_up, written,
]  # fmt: skip


def is_noise(model: nn.Module, x: Tensor) -> bool:
    """Say whether the outputs are no more than rounding, such as the mean of what has mean 0."""
    with torch.no_grad():
        before, after = model(x), model(x * (1 + 1e-12))
    return float((before - after).norm()) > 1e-8 * float(before.norm())


def is_preserved(seed: int, length: int, steps: Sequence[Step] | None = None) -> tuple[int, str]:
    torch.manual_seed(seed)
    model = Program(seed, length, steps).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    if is_noise(model, x):
        return 0, ""
    spec = PermutationSpec.from_module(model, x)
    proof = spec.prove(model, x, rtol=1e-9, trials=2, seed=seed)
    return len(spec.groups), "" if proof else f"{proof}\n{spec}"


@pytest.mark.parametrize("block", range(8))
def test_random_programs(block: int) -> None:
    found = 0
    for seed in range(40 * block, 40 * (block + 1)):
        groups, fault = is_preserved(seed, 1 + seed % 7)
        assert not fault, f"seed {seed}: {fault}"
        found += groups
    assert found > 20  # the programs are not so wild that everything is frozen


def test_random_programs_are_matched() -> None:
    """Whatever blocks a program has: the objective is that of a permutation, never falls, and most plants are found."""
    found = tried = 0
    for seed in range(60):
        torch.manual_seed(seed)
        model = Program(seed, 2 + seed % 7).double()
        spec = PermutationSpec.from_module(model, torch.zeros(4, 5, dtype=torch.float64))
        if not spec.groups:
            continue
        a = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        b = apply_permutation(spec, random_permutation(spec, seed), a)
        matching = match_blocks(spec, a, b, init="identity", seed=seed)
        back = apply_permutation(spec, matching.permutation, b)
        reached, most = (sum(float((a[name] * params[name]).sum()) for name in a) for params in (back, a))
        assert matching.converged
        assert list(matching.objective) == sorted(matching.objective)
        assert math.isclose(matching.objective[-1], reached, rel_tol=1e-9)
        tried, found = tried + 1, found + math.isclose(reached, most, rel_tol=1e-9)
    assert found > 0.8 * tried
