"""Slow twins: the algorithms as the papers state them, in plain NumPy and SciPy, to hold the fast ones against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

from rebasin_fast import PermutationSpec

Arrays = Mapping[str, np.ndarray]


def brute_force_cost(cost: np.ndarray) -> float:
    """Return the least cost over all complete assignments, by trying every one."""
    if cost.shape[0] > cost.shape[1]:
        cost = cost.T
    rows = np.arange(cost.shape[0])
    return min(cost[rows, list(cols)].sum() for cols in permutations(range(cost.shape[1]), cost.shape[0]))


def dual_gap(cost: np.ndarray, rows: np.ndarray, cols: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    """Return (primal - dual, largest violation of u_i + v_j <= c_ij and of the sign of the longer side's duals)."""
    violation = max(0.0, float((u[:, None] + v[None, :] - cost).max(initial=-np.inf)))
    n, m = cost.shape
    if n != m:
        violation = max(violation, float((v if m > n else u).max(initial=0.0)))
    return float(cost[rows, cols].sum() - u.sum() - v.sum()), violation


def units_as_rows(array: np.ndarray, axis: int, units: int) -> np.ndarray:
    return np.moveaxis(array, axis, 0).reshape(units, -1)


def permute_axis(array: np.ndarray, axis: int, block: int, p: np.ndarray) -> np.ndarray:
    blocks = np.moveaxis(array, axis, 0)
    blocks = blocks.reshape(len(p), block, *blocks.shape[1:])[p]
    return np.moveaxis(blocks.reshape(-1, *blocks.shape[2:]), 0, axis)


def permuted(spec: PermutationSpec, perm: Arrays, name: str, array: np.ndarray, leave: str = "") -> np.ndarray:
    for i, axis in enumerate(spec.axes[name]):
        if axis is not None and axis.group != leave:
            array = permute_axis(array, i, axis.block, perm[axis.group])
    return array


def objective(spec: PermutationSpec, a: Arrays, b: Arrays, perm: Arrays) -> float:
    return sum(
        float((a[name] * permuted(spec, perm, name, b[name])).sum()) for name in spec.params if spec.matched(name)
    )


def similarity(
    spec: PermutationSpec,
    group: str,
    a: Arrays,
    b: Arrays,
    perm: Arrays,
) -> np.ndarray:
    """Return S_g = sum over members of A_axis . (B, every other axis permuted)_axis^T."""
    n = len(perm[group])
    total = np.zeros((n, n))
    for member in spec.groups[group]:
        if spec.matched(member.param):
            other = permuted(spec, perm, member.param, b[member.param], leave=group)
            total += units_as_rows(a[member.param], member.axis, n) @ units_as_rows(other, member.axis, n).T
    return total


def weight_matching(
    spec: PermutationSpec, a: Arrays, b: Arrays, seed: int, max_sweeps: int = 100
) -> dict[str, np.ndarray]:
    """Algorithm 1 of Ainsworth, Hayase & Srinivasa (2023), arXiv:2209.04836: solve every group, until none gains."""
    sizes = spec.group_sizes(a)
    perm = {group: np.arange(size) for group, size in sizes.items()}
    rng = np.random.default_rng(seed)
    groups = list(spec.groups)
    for _ in range(max_sweeps):
        gained = False
        for k in rng.permutation(len(groups)):
            S = similarity(spec, groups[k], a, b, perm)
            rows, cols = linear_sum_assignment(S, maximize=True)
            if S[rows, cols].sum() > S[rows, perm[groups[k]]].sum() + 1e-9 * np.abs(S[rows, cols]).sum():
                perm[groups[k]] = cols
                gained = True
        if not gained:
            break
    return perm


def activation_matching(tensors: list[tuple[np.ndarray, np.ndarray]], correlation: bool = False) -> np.ndarray:
    """Section 3.1 of the same paper, with all activations at hand: pairs of (units, samples) of A and of B.

    Least sum of squared distances between matched units; or largest sum of Pearson's correlations.
    """
    if correlation:
        n = len(tensors[0][0])
        return linear_sum_assignment(sum(np.corrcoef(a, b)[:n, n:] for a, b in tensors), maximize=True)[1]
    distances = sum(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2) for a, b in tensors)
    return linear_sum_assignment(distances)[1]


def merge_many(
    spec: PermutationSpec, models: list[Arrays], seed: int, max_sweeps: int = 100
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Algorithm 3 of the same paper: the mean of the others anew for every model, which is then itself permuted."""
    models = [dict(model) for model in models]
    total = [{group: np.arange(size) for group, size in spec.group_sizes(models[0]).items()} for _ in models]
    rng = np.random.default_rng(seed)
    for _ in range(max_sweeps):
        gained = False
        for i in rng.permutation(len(models)):
            others = [model for j, model in enumerate(models) if j != i]
            mean = {name: sum(model[name] for model in others) / len(others) for name in models[i]}
            perm = weight_matching(spec, mean, models[i], seed=int(rng.integers(2**31)))
            if any((index != np.arange(len(index))).any() for index in perm.values()):
                gained = True
                models[i] = {name: permuted(spec, perm, name, array) for name, array in models[i].items()}
                total[i] = {group: index[perm[group]] for group, index in total[i].items()}
        if not gained:
            break
    return {name: sum(model[name] for model in models) / len(models) for name in models[0]}, total


def mean_squared_distance(spec: PermutationSpec, models: list[Arrays]) -> float:
    """Mean over the models of their squared distance from the mean of all, over the matched parameters."""
    mean = {name: sum(model[name] for model in models) / len(models) for name in models[0]}
    matched = [name for name in mean if spec.matched(name)]
    return sum(float(((model[name] - mean[name]) ** 2).sum()) for model in models for name in matched) / len(models)


def straight_through(
    spec: PermutationSpec,
    a: Arrays,
    b: Arrays,
    gradient: Callable[[Arrays, int], tuple[float, Arrays]],
    steps: int,
    lr: float,
    momentum: float,
) -> tuple[list[float], list[dict[str, np.ndarray]]]:
    """Section 3.3 of that paper: losses and permutations. `gradient` gives loss and gradient at a point and step."""
    free, speed = dict(a), {name: np.zeros_like(array) for name, array in a.items()}
    total = {group: np.arange(size) for group, size in spec.group_sizes(a).items()}
    losses, permutations = [], []
    for step in range(steps):
        projected = {name: permuted(spec, total, name, array) for name, array in b.items()}
        perm = weight_matching(spec, free, projected, seed=step)
        total = {group: index[perm[group]] for group, index in total.items()}
        projected = {name: permuted(spec, total, name, array) for name, array in b.items()}
        loss, slope = gradient({name: (a[name] + projected[name]) / 2 for name in a}, step)
        speed = {name: momentum * speed[name] + slope[name] / 2 for name in a}
        free = {name: free[name] - lr * speed[name] for name in a}
        losses.append(loss)
        permutations.append(total)
    return losses, permutations


def repair_mlp(
    endpoints: list[Arrays], merged: Arrays, x: np.ndarray, depth: int, shares: list[float]
) -> dict[str, np.ndarray]:
    """REPAIR (Jordan et al. 2023, arXiv:2211.08403) of dense layers layer0, ... but the last, layer by layer."""

    def forward(params: Arrays, layer: int) -> np.ndarray:
        h = x
        for k in range(layer + 1):
            h = (np.maximum(h, 0) if k else h) @ params[f"layer{k}.weight"].T + params[f"layer{k}.bias"]
        return h

    repaired = dict(merged)
    for layer in range(depth - 1):
        seen = [forward(params, layer) for params in endpoints]
        mean = sum(share * z.mean(axis=0) for share, z in zip(shares, seen, strict=True))
        spread = sum(share * z.std(axis=0) for share, z in zip(shares, seen, strict=True))
        z = forward(repaired, layer)
        scale = spread / z.std(axis=0)
        weight, bias = f"layer{layer}.weight", f"layer{layer}.bias"
        repaired[weight] = repaired[weight] * scale[:, None]
        repaired[bias] = (repaired[bias] - z.mean(axis=0)) * scale + mean
    return repaired
