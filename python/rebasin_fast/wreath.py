"""The best permutation of blocks and of the units within them: assignment over a wreath product.

Attention heads may change places, and within each head its units may. For every pair of blocks, old and new, the best
order of the units is a small linear assignment problem of its own; what it is worth is the entry of that pair in the
assignment problem of the blocks. Inner problems of all pairs are solved in one batch. The answer is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._arrays import IndexArray
from .batch import solve_assignment_batch
from .lap import linear_sum_assignment
from .permute import units_in_blocks


@dataclass(frozen=True, eq=False)
class WreathAssignment:
    """The outcome of `solve_wreath_assignment`.

    Attributes
    ----------
    blocks : ndarray of int64, shape (n,)
        New block i is old block ``blocks[i]``.
    units : tuple of ndarray of int64, shape (n * d,) each
        For every family of units the permutation of all of them, for `apply_permutation`.
    value : float
        What was maximised (or minimised), summed in float64.
    """

    blocks: IndexArray
    units: tuple[IndexArray, ...]
    value: float


def solve_wreath_assignment(
    units: Sequence[npt.ArrayLike],
    blocks: npt.ArrayLike | None = None,
    *,
    maximize: bool = True,
    fixed_blocks: bool = False,
    threads: int | None = 1,
) -> WreathAssignment:
    """Return the best permutation of blocks, each with the best permutation of the units in it.

    Parameters
    ----------
    units : sequence of array_like, shape (n, d, n, d) or (n * d, n * d)
        For every family of units (queries and keys, values: each with a d of its own) the similarities:
        ``units[f][i, u, j, v]`` is that of new unit u in block i with old unit v in block j. Two axes need `blocks`, or
        that all families have four.
    blocks : array_like, shape (n, n), optional
        Similarities of the blocks themselves, added to those of their units.
    maximize : bool, default True
        Similarities are maximised; False for costs.
    fixed_blocks : bool, default False
        Whether every block stays where it is, and only the units move.
    threads : int or None, default 1
        For the inner problems; None for all cores.

    Returns
    -------
    WreathAssignment

    Raises
    ------
    ValueError
        If shapes do not fit one another, or a problem has no solution.

    Examples
    --------
    >>> import numpy as np
    >>> similarity = np.zeros((2, 3, 2, 3))
    >>> similarity[0, [0, 1, 2], 1, [2, 0, 1]] = 1  # block 0 is old block 1, turned round
    >>> found = solve_wreath_assignment([similarity])
    >>> found.blocks, found.units[0]
    (array([1, 0]), array([5, 3, 4, 0, 1, 2]))
    """
    outer = None if blocks is None else np.asarray(blocks)
    n = _number_of_blocks(units, outer)
    tensors = [_as_tensor(f, family, n) for f, family in enumerate(units)]
    total = np.zeros((n, n)) if outer is None else outer.astype(np.float64)
    inner = [best_units(tensor, maximize, fixed_blocks, threads) for tensor in tensors]
    for values, _ in inner:
        total = total + values
    chosen = np.arange(n) if fixed_blocks else linear_sum_assignment(total, maximize=maximize)[1]
    rows = np.arange(n)
    families = tuple(units_in_blocks(chosen, columns[rows, chosen]) for _, columns in inner)
    return WreathAssignment(chosen.astype(np.int64), families, float(total[rows, chosen].sum()))


def _number_of_blocks(units: Sequence[npt.ArrayLike], blocks: npt.NDArray[np.generic] | None) -> int:
    if blocks is not None:
        if blocks.ndim != 2 or blocks.shape[0] != blocks.shape[1]:
            raise ValueError(f"blocks has shape {blocks.shape}; expected (n, n)")
        return int(blocks.shape[0])
    for family in units:
        if np.ndim(family) == 4:
            return int(np.shape(family)[0])
    raise ValueError("units has no array of four axes, and blocks is None; expected the number of blocks from either")


def _as_tensor(f: int, family: npt.ArrayLike, n: int) -> npt.NDArray[np.generic]:
    array = np.asarray(family)
    if array.ndim == 2 and n and array.shape[0] == array.shape[1] and array.shape[0] % n == 0:
        d = array.shape[0] // n
        return array.reshape(n, d, n, d)
    if array.ndim == 4 and array.shape[0] == array.shape[2] == n and array.shape[1] == array.shape[3]:
        return array
    raise ValueError(f"units[{f}] has shape {array.shape}; expected (n, d, n, d) or (n * d, n * d) with n = {n}")


def best_units(
    tensor: npt.NDArray[np.generic], maximize: bool, fixed_blocks: bool, threads: int | None
) -> tuple[npt.NDArray[np.float64], IndexArray]:
    """Return for every pair of blocks the value of the best order of units, and the order: (n, n) and (n, n, d).

    With `fixed_blocks` for every block with itself alone; the rest is zeros.
    """
    n, d = tensor.shape[:2]
    columns = np.zeros((n, n, d), dtype=np.int64)
    values = np.zeros((n, n))
    # Row by row: all the pairs at once would take a transposed copy of the whole.
    for i in range(n):
        row = tensor[i].transpose(1, 0, 2)  # (n, d, d)
        pairs = slice(i, i + 1) if fixed_blocks else slice(None)
        answer = solve_assignment_batch(row[pairs], maximize, threads=threads)
        columns[i, pairs] = answer.col_ind
        values[i, pairs] = answer.cost
    return values, columns
