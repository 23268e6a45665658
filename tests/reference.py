"""Slow twins: the algorithms as the papers state them, in plain NumPy and SciPy, to hold the fast ones against."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

from rebasin_fast import PermutationSpec
from rebasin_fast.pieces import Piece, fixed_blocks, parent_label, pieces_of
from rebasin_fast.wreath import solve_wreath_assignment

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


def propagate(spec: PermutationSpec, a: Arrays, b: Arrays) -> dict[str, np.ndarray]:
    """The permutation of B that is closest to A, family by family outward from what stays, each solved once.

    A family is a group with the groups whose units lie in its blocks; it is solved as soon as some piece of a parameter
    has nothing else on it that is not solved yet. Exact for a planted permutation without noise.
    """
    pairs = [
        (one, other)
        for name in spec.params
        if spec.matched(name)
        for one, other in zip(pieces_of(spec, name, a[name]), pieces_of(spec, name, b[name]), strict=True)
    ]
    perm: dict[str, np.ndarray] = {}
    waiting = [group for group in spec.groups if not isinstance(spec.blocks.get(group), str)]
    while waiting:
        found = {root: _family_similarity(spec, root, pairs, perm) for root in waiting}
        # The one most is known of: that of the largest similarities.
        root = max(
            waiting,
            key=lambda root: sum(float(np.abs(s).sum()) for s in found[root].values()) / spec.group_sizes()[root],
        )
        waiting.remove(root)
        children = [group for group in found[root] if group != root]
        if root in spec.blocks:  # blocks that stay
            n = spec.structure.count(spec.blocks[root])
            perm[root] = solve_wreath_assignment([found[root][root]], np.zeros((n, n)), fixed_blocks=True).units[0]
            continue
        best = solve_wreath_assignment([found[root][child] for child in children], found[root][root])
        perm |= {root: best.blocks} | dict(zip(children, best.units, strict=True))
    return {group: perm[group] for group in spec.groups}


def _family_similarity(spec: PermutationSpec, root: str, pairs: list, perm: Arrays) -> dict[str, np.ndarray]:
    family = [root, *(child for child, parent in spec.blocks.items() if parent == root)]
    sizes = spec.group_sizes()
    total = {group: np.zeros((sizes[group], sizes[group])) for group in family}
    for one, other in pairs:
        here = [label for label in one.labels if label in family]
        group = here[-1] if here else root
        others = [label for label in one.labels if label is not None and label not in (*here, fixed_blocks(root))]
        if (
            not here
            or len(here) > 2
            or len(set(here)) < len(here)
            or any(label not in perm and label not in map(fixed_blocks, perm) for label in others)
        ):
            continue
        lead = [i for i, label in enumerate(one.labels) if label in (*here, fixed_blocks(root))]
        if group != root and spec.blocks[group] == root and root not in here:
            continue
        moved = _moved_piece(spec, other, perm)
        rows = [np.moveaxis(x, lead, range(len(lead))).reshape(sizes[group], -1) for x in (one.array, moved)]
        total[group] += rows[0] @ rows[1].T
    return total


def _moved_piece(spec: PermutationSpec, piece: Piece, perm: Arrays) -> np.ndarray:
    """The piece with every group that is in `perm` permuted: each of its axes by what its parent's axis says."""
    index = list(np.ix_(*map(np.arange, piece.array.shape)))
    for i, label in enumerate(piece.labels):
        if label in perm:
            own = piece.array.shape[i]
            at = index[i]
            parent = parent_label(spec, label)
            if parent is not None:
                at = _flat_unit(spec, piece, parent) * own + np.ix_(*map(np.arange, piece.array.shape))[i]
            index[i] = perm[label][at] % own
    return piece.array[tuple(index)]


def _flat_unit(spec: PermutationSpec, piece: Piece, label: str) -> np.ndarray:
    i = piece.labels.index(label)
    at = np.ix_(*map(np.arange, piece.array.shape))[i]
    parent = parent_label(spec, label) if label in spec.blocks else None
    return at if parent is None else _flat_unit(spec, piece, parent) * piece.array.shape[i] + at
