"""What `test_distributed` runs on every rank of a gloo group: compares with what one process gives, by itself."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from models import ResNet20, randomise
from rebasin_fast import activation_matching, interpolate, merge_many, repair, reset_batch_norm, resnet20

SPEC, SHAPE = resnet20(0.25), (3, 12, 12)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[group], other[group]) for group in one)


def raises(error, call):
    try:
        call()
    except error as caught:
        return str(caught)
    raise AssertionError("nothing was raised")


def check_activation_matching(model, a, b, batches, own, world):
    # Before the nonlinearity: dead units would tie, and rounding decide.
    learned = {"similarity": "correlation", "loss": lambda outputs, x: outputs[:, 0].mul(x.mean((1, 2, 3))).mean()}
    for how in ({"similarity": "inner"}, learned, {"similarity": "correlation"}):
        options = {"sites": "output", **how}
        want = activation_matching(SPEC, model, a, b, batches, **options)
        got = activation_matching(SPEC, model, a, b, own, process_group=world, **options)
        assert same(got.permutation, want.permutation)
        assert got.samples == want.samples
        for group, objective in want.objective.items():
            assert abs(got.objective[group] - objective) <= 1e-9 * abs(objective)
    none = batches if dist.get_rank() == 0 else []
    got = activation_matching(SPEC, model, a, b, none, process_group=world, **options)
    assert same(got.permutation, want.permutation)


def check_failures(model, a, b, batches, world):
    """What fails on one rank fails on all, rather than leave the others waiting."""

    class UnsendableError(ValueError):
        def __init__(self, first, second):
            super().__init__(first + second)

    def batch(at):
        if dist.get_rank() == 1 and at == 1:
            raise UnsendableError("no such ", "batch")
        return batches[at]

    for call in (
        lambda own: activation_matching(SPEC, model, a, b, own, process_group=world),
        lambda own: reset_batch_norm(model, a, own, process_group=world),
        lambda own: repair(SPEC, model, a, [a, b], own, process_group=world),
    ):
        assert "no such batch" in raises((UnsendableError, RuntimeError), lambda call=call: call(map(batch, range(2))))
    wrong = batches if dist.get_rank() == 0 else ["no batch"]
    message = raises(TypeError, lambda: activation_matching(SPEC, model, a, b, wrong, process_group=world))
    assert "batch 0 is a str" in message


def check_after_the_merge(model, a, b, batches, own, world):
    # A single batch on each rank: pooled as two batches in one process.
    params = interpolate(a, b, 0.5)
    for found, want in (
        (reset_batch_norm(model, params, own, process_group=world), reset_batch_norm(model, params, batches)),
        (repair(SPEC, model, params, [a, b], own, process_group=world), repair(SPEC, model, params, [a, b], batches)),
    ):
        for name, tensor in want.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10)


def check_merge_many(models, folder, world):
    rank, size = dist.get_rank(), dist.get_world_size()
    files = [folder / f"{i}.pt" for i in range(len(models))]
    for init in ("incremental", "identity"):
        want = merge_many(SPEC, models, init=init, seed=3)
        spread = [params if i % size == rank else None for i, params in enumerate(models)]
        for sources in (models, spread, files):
            got = merge_many(SPEC, sources, init=init, seed=3, process_group=world)
            assert all(same(p, q) for p, q in zip(got.permutations, want.permutations, strict=True))
            assert (got.distance, got.sweeps, got.solved) == (want.distance, want.sweeps, want.solved)
            for name, tensor in want.params.items():
                torch.testing.assert_close(got.params[name], tensor, rtol=1e-13, atol=1e-13)
    alone = merge_many(SPEC, models[:1], process_group=world)
    assert all(torch.equal(alone.params[name], tensor) for name, tensor in models[0].items())
    # What fails on one rank fails on all, rather than leave the others waiting.
    broken = [*models[:-1], models[-1] | {"bn1.bias": torch.full_like(models[-1]["bn1.bias"], float("nan"))}]
    message = raises(ValueError, lambda: merge_many(SPEC, broken, process_group=world))
    assert "models[4]['bn1.bias'] holds NaN" in message


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    world, rank, size = dist.group.WORLD, dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    model = ResNet20(0.25).double()
    models = [{n: t.clone() for n, t in randomise(model, seed).state_dict().items()} for seed in range(5)]
    if rank == 0:
        for i, params in enumerate(models):
            torch.save(params, folder / f"{i}.pt")
    dist.barrier()
    x = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batches = list(x.split(6))
    a, b = models[:2]
    pairs = [(x, x) for x in batches]
    check_activation_matching(model, a, b, pairs, pairs[rank::size], world)
    check_after_the_merge(model, a, b, batches, batches[rank::size], world)
    check_failures(model, a, b, batches, world)
    check_merge_many(models, folder, world)
    in_numpy = [{name: tensor.numpy() for name, tensor in params.items()} for params in models]
    assert "expected torch tensors" in raises(TypeError, lambda: merge_many(SPEC, in_numpy, process_group=world))
    # No barrier and no tearing down: gloo loses messages now and then when one side closes its connections first.
    (folder / f"done-{rank}").touch()
    while len(list(folder.glob("done-*"))) < size:
        time.sleep(0.05)
    os._exit(0)


if __name__ == "__main__":
    main()
