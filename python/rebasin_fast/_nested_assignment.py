"""The best permutation of a group with all that lies in its blocks, to any depth: one similarity matrix for each group.

From the innermost blocks outward: for every pair of blocks the best order of the units in them, whose worth counts for
the units that these blocks are. Then back inward, with every order that belongs to the blocks chosen. Exact, and for a
group without blocks one linear assignment problem.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rebasin_fast._arrays import IndexArray
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


def solve_nested(
    structure: Structure, root: str, similarity: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, IndexArray]:
    """Return for a group and all in its blocks the permutations that have the greatest similarity together.

    Parameters
    ----------
    structure : Structure
        Sizes and blocks.
    root : str
        A group that lies in no other group's blocks. Blocks that stay may hold it.
    similarity : mapping of str to array of shape (n, n)
        ``similarity[g][i, j]`` is what unit i being old unit j adds. Groups that are not there add nothing.

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
    worth = {group: similarity.get(group, 0.0) for group in family}
    orders: dict[str, IndexArray] = {}
    for group in reversed(family):
        parent = structure.blocks.get(group)
        if parent is not None:
            n, d = structure.count(parent), structure.own(group)
            matrix = np.broadcast_to(worth[group], (n * d, n * d)).reshape(n, d, n, d)
            values, orders[group] = best_units(matrix, True, fixed_blocks=isinstance(parent, int), threads=1)
            if isinstance(parent, str):
                worth[parent] = worth[parent] + values
    found: dict[str, IndexArray] = {}
    for group in family:
        parent = structure.blocks.get(group)
        if parent is None:
            matrix = np.broadcast_to(worth[group], (structure.sizes[group],) * 2)
            found[group] = linear_sum_assignment(matrix, maximize=True)[1]
        else:
            blocks = found[parent] if isinstance(parent, str) else np.arange(parent, dtype=np.int64)
            found[group] = units_in_blocks(blocks, orders[group][np.arange(len(blocks)), blocks])
    return found
