"""How many permutation symmetries a network has."""

from __future__ import annotations

import math
from typing import Literal, overload

from ._arrays import Parameters
from .spec import Axis, PermutationSpec

_SHORTCUT_NAMES = frozenset({"downsample", "shortcut"})


@overload
def count_symmetries(
    spec: PermutationSpec, params: Parameters | None = None, *, counting: Literal["exact"] = "exact"
) -> float: ...


@overload
def count_symmetries(spec: PermutationSpec, params: Parameters | None = None, *, counting: Literal["paper"]) -> int: ...


def count_symmetries(
    spec: PermutationSpec, params: Parameters | None = None, *, counting: Literal["exact", "paper"] = "exact"
) -> float:
    """Return log10 of the number of ways to reorder hidden units without changing the network's function.

    Parameters
    ----------
    spec : PermutationSpec
        The groups of units.
    params : mapping of str to array, optional
        A state dict to read the sizes off; needed when the spec does not hold them.
    counting : {"exact", "paper"}, optional
        ``"exact"``: the sum of log10(n!) over the groups, to the rounding of float64.
        ``"paper"``: as the paper counts, the sum of floor(log10 n!) over the layers, an integer. A layer is a parameter
        with two or more axes and a group on axis 0, its outputs. Layers that share a group because of a residual
        connection are counted one by one; shortcut convolutions, which are those with ``downsample`` or ``shortcut``
        among the dotted parts of their names, are not counted.

    Raises
    ------
    ValueError
        If `counting` is unknown, the sizes are unknown, or `params` does not fit `spec`.

    Examples
    --------
    >>> from rebasin_fast.architectures import mlp
    >>> count_symmetries(mlp((784, 512, 512, 512, 10)), counting="paper")
    3498

    References
    ----------
    Ainsworth, S. K., Hayase, J. & Srinivasa, S. (2023). Git Re-Basin: Merging Models modulo Permutation Symmetries.
    ICLR 2023, arXiv:2209.04836, section 1.
    """
    sizes = spec.group_sizes(params)
    if counting == "exact":
        return math.fsum(_log10_symmetries(spec, group, size) for group, size in sizes.items())
    if counting == "paper":
        return sum(_floor_log10_factorial(sizes[group]) for group in _layer_groups(spec))
    raise ValueError(f"counting is {counting!r}; expected 'exact' or 'paper'")


def _layer_groups(spec: PermutationSpec) -> list[str]:
    """Return the group on the outputs of every layer the paper counts; a group as often as it has layers."""
    return [
        axes[0].group
        for param, axes in spec.axes.items()
        if len(axes) >= 2 and isinstance(axes[0], Axis) and _SHORTCUT_NAMES.isdisjoint(param.split("."))
    ]


def _log10_symmetries(spec: PermutationSpec, group: str, size: int) -> float:
    """Return log10 of the number of permutations of one group, those of its parent given."""
    blocks = 1 if group not in spec.blocks else spec.structure.count(spec.blocks[group])
    return blocks * _log10_factorial(size // blocks)


def _log10_factorial(n: int) -> float:
    # A correctly rounded sum of logarithms: closer than lgamma(n + 1) / log(10), which rounds several times.
    return math.fsum(map(math.log10, range(2, n + 1)))


def _floor_log10_factorial(n: int) -> int:
    log = _log10_factorial(n)
    nearest = round(log)
    if abs(log - nearest) > 1e-12 * max(log, 1.0):
        return math.floor(log)
    # Too close to a power of ten for floating point to tell the side.
    return nearest if math.factorial(n) >= 10**nearest else nearest - 1
