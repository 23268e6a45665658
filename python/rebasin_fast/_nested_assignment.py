"""The best permutation of a group with all that lies in its blocks, to any depth: one similarity matrix for each group.

From the innermost blocks outward: for every pair of blocks the best order of the units in them, whose worth counts for
the units that these blocks are. Then back inward, with every order that belongs to the blocks chosen. Exact, and for a
group without blocks one linear assignment problem. Similarities that lie on a device are solved there, and never leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rebasin_fast._arrays import (
    Array,
    Index,
    IndexArray,
    array_beside,
    index_beside,
    index_to_numpy,
    is_remote,
    positions,
    zero_matrix,
)
from rebasin_fast._assign import best_columns, best_columns_within
from rebasin_fast.lap import linear_sum_assignment
from rebasin_fast.layout import Structure
from rebasin_fast.permute import units_in_blocks
from rebasin_fast.wreath import best_units


def family_of(structure: Structure, root: str) -> list[str]:
    """Return a group and those in its blocks, to any depth, parents before children."""
    family = [root]
    for member in family:
        family += [child for child, parent in structure.blocks.items() if parent == member]
    return family


def solve_nested(structure: Structure, root: str, similarity: Mapping[str, Array]) -> dict[str, IndexArray]:
    """Return for a group and all in its blocks the permutations that have the greatest similarity together.

    Parameters
    ----------
    structure : Structure
        Sizes and blocks.
    root : str
        A group that lies in no other group's blocks. Blocks that stay may hold it.
    similarity : mapping of str to array of shape (n, n)
        ``similarity[g][i, j]`` is what unit i being old unit j adds. Groups that are not there add nothing. Numpy, or
        tensors on one device, beside which those in numpy are brought.

    Returns
    -------
    dict of str to int64 array of shape (n,)

    Examples
    --------
    >>> units = np.zeros((4, 4))
    >>> units[[0, 1], [3, 2]] = 1  # head 0 is old head 1, turned round
    >>> solve_nested(Structure({"heads": 2, "q": 4}, {"q": "heads"}), "heads", {"q": units})
    {'heads': array([1, 0]), 'q': array([3, 2, 0, 1])}
    """
    family = family_of(structure, root)
    home = next((matrix for matrix in similarity.values() if is_remote(matrix)), None)
    worth: dict[str, Any] = {group: _there(similarity.get(group, 0.0), home) for group in family}
    orders: dict[str, Index] = {}
    for group in reversed(family):
        parent = structure.blocks.get(group)
        if parent is not None:
            n, d = structure.count(parent), structure.own(group)
            matrix = _matrix(worth[group], n * d, home).reshape(n, d, n, d)
            values, orders[group] = _best_units(matrix, fixed_blocks=isinstance(parent, int))
            if isinstance(parent, str):
                worth[parent] = worth[parent] + values
    found: dict[str, IndexArray] = {}
    for group in family:
        parent = structure.blocks.get(group)
        if parent is None:
            found[group] = _best_order(_matrix(worth[group], structure.sizes[group], home))
        else:
            blocks = found[parent] if isinstance(parent, str) else np.arange(parent, dtype=np.int64)
            chosen = orders[group][positions(len(blocks), home), index_beside(blocks, home)]
            found[group] = units_in_blocks(blocks, index_to_numpy(chosen))
    return found


def _there(worth: Any, home: Array | None) -> Any:
    """Return the similarities of a group where those of others lie; a number as it is."""
    if home is None or np.ndim(worth) == 0 or is_remote(worth):
        return worth
    return array_beside(worth, home)


def _matrix(worth: Any, size: int, home: Array | None) -> Array:
    """Return what may be a number as a matrix of that number, which is then 0."""
    if home is None:
        return np.broadcast_to(worth, (size, size))
    return worth if is_remote(worth) else zero_matrix(size, home, "float64")


def _best_units(matrix: Array, *, fixed_blocks: bool) -> tuple[Array, Index]:
    if is_remote(matrix):
        return best_columns_within(matrix, fixed_blocks=fixed_blocks)
    return best_units(matrix, True, fixed_blocks=fixed_blocks, threads=1)


def _best_order(matrix: Array) -> IndexArray:
    if is_remote(matrix):
        return index_to_numpy(best_columns(matrix)[0])
    return linear_sum_assignment(matrix, maximize=True)[1]
