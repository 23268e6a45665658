"""Weight matching as the paper writes it, in plain torch and SciPy: what `weight_matching` is measured against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment

from rebasin_fast import PermutationSpec

State = dict[str, torch.Tensor]
Indices = dict[str, npt.NDArray[np.int64]]
Assign = Callable[[torch.Tensor], npt.NDArray[np.int64]]


def permuted(
    spec: PermutationSpec, permutation: Indices, param: str, array: torch.Tensor, leave: str = ""
) -> torch.Tensor:
    """Return `array` with every axis permuted but that of the group `leave`."""
    for i, axis in enumerate(spec.axes[param]):
        if axis is not None and axis.group != leave:
            index = torch.from_numpy(permutation[axis.group])
            if axis.block > 1:
                index = (index[:, None] * axis.block + torch.arange(axis.block)).flatten()
            array = array.index_select(i, index.to(array.device))
    return array


def similarity(spec: PermutationSpec, group: str, a: State, b: State, permutation: Indices) -> torch.Tensor:
    """Return S_g = sum over members of A_axis . (B, every other axis permuted)_axis^T: one product for each member."""
    n = len(permutation[group])
    total = torch.zeros(n, n, device=next(iter(a.values())).device)
    for member in spec.groups[group]:
        if spec.matched(member.param):
            other = permuted(spec, permutation, member.param, b[member.param], leave=group)
            rows_a, rows_b = (x.movedim(member.axis, 0).reshape(n, -1) for x in (a[member.param], other))
            total.addmm_(rows_a, rows_b.T)
    return total


def objective(spec: PermutationSpec, a: State, b: State, permutation: Indices) -> float:
    """Return the inner product of A and the permuted B, summed in float64."""
    return sum(
        float((a[param].double() * permuted(spec, permutation, param, b[param]).double()).sum())
        for param in spec.params
        if spec.matched(param) and a[param].is_floating_point()
    )


def cells(similarity: torch.Tensor, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the cells of an assignment."""
    index = torch.from_numpy(columns).to(similarity.device)
    found: npt.NDArray[np.float64] = similarity.gather(1, index[:, None])[:, 0].double().cpu().numpy()
    return found


def by_scipy(similarity: torch.Tensor) -> npt.NDArray[np.int64]:
    """Return the columns of the best assignment, found on the CPU."""
    return np.asarray(linear_sum_assignment(similarity.cpu().numpy(), maximize=True)[1])


def plain_weight_matching(
    spec: PermutationSpec, a: State, b: State, seed: int = 0, max_sweeps: int = 100, assign: Assign = by_scipy
) -> tuple[Indices, int]:
    """Solve every group, in random order, until a whole sweep has gained nothing; return permutation and sweeps.

    S. K. Ainsworth, J. Hayase, S. Srinivasa (2023), Git Re-Basin, ICLR 2023, arXiv:2209.04836, Algorithm 1. A gain
    must be above rounding, as in `rebasin_fast.weight_matching`.
    """
    permutation: Indices = {group: np.arange(size) for group, size in spec.group_sizes(a).items()}
    rng, groups = np.random.default_rng(seed), list(spec.groups)
    for sweep in range(1, max_sweeps + 1):
        progress = False
        for k in rng.permutation(len(groups)):
            S = similarity(spec, groups[k], a, b, permutation)
            cols = assign(S)
            new, old = cells(S, cols), cells(S, permutation[groups[k]])
            if new.sum() - old.sum() > 1e-7 * np.abs(new).sum():
                permutation[groups[k]], progress = cols, True
        if not progress:
            return permutation, sweep
    return permutation, max_sweeps
