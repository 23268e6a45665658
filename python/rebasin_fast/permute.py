"""Permutations of the groups of a spec: making them, checking them, and applying them to a state dict.

A permutation maps every group to an int64 index array `p`, as in the paper's code: along every axis the group lies on,
``new[i] = old[p[i]]``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from ._arrays import (
    Array,
    IndexArray,
    Parameters,
    add_scaled,
    copy,
    index_of_entries,
    memory_key,
    narrow,
    parts,
    take,
    take_along,
)
from ._entries import entries
from .layout import Axis, Layout, wanted
from .spec import PermutationSpec

Permutation: TypeAlias = Mapping[str, IndexArray]
"""Group names to int64 index arrays, each a permutation of 0..n-1."""


def apply_permutation(spec: PermutationSpec, permutation: Permutation, params: Parameters) -> dict[str, Array]:
    """Return the parameters of the network whose hidden units are reordered: ``new[i] = old[p[i]]``.

    Parameters
    ----------
    spec : PermutationSpec
        Which group lies on which axis.
    permutation : mapping of str to int64 array of shape (n,)
        An index array for every group.
    params : mapping of str to array
        A state dict of numpy arrays or torch tensors of any dtype, on any device.

    Returns
    -------
    dict of str to array
        New arrays of the same library, dtype and device, names in the order of `params`. None of them shares memory
        with the input. Names that were one tensor in `params` and move alike are one tensor again.

    Raises
    ------
    TypeError, ValueError
        If `params` does not fit `spec`, or `permutation` is not one of its groups.

    Examples
    --------
    >>> spec = PermutationSpec.from_axes_to_perm({"hidden": ("P", None), "out": (None, "P")})
    >>> params = {"hidden": np.array([[1.0], [2.0]]), "out": np.array([[3.0, 4.0]])}
    >>> apply_permutation(spec, {"P": np.array([1, 0])}, params)
    {'hidden': array([[2.],
           [1.]]), 'out': array([[4., 3.]])}

    References
    ----------
    Ainsworth, S. K., Hayase, J. & Srinivasa, S. (2023). Git Re-Basin: Merging Models modulo Permutation Symmetries.
    ICLR 2023, arXiv:2209.04836, section 2.
    """
    spec.validate(params, "params", matching=False)
    validate_permutation(spec, permutation, params)
    moved: dict[str, Array] = {}
    # Keeps the inputs beside the results: a mapping that loads its arrays one by one may reuse freed memory.
    done: dict[tuple[Any, ...], tuple[Array, Array]] = {}
    for param, array in params.items():
        axes = spec.axes[param]
        key = (memory_key(array), axes)
        if key not in done:
            done[key] = array, _moved(spec, array, axes, permutation)
        moved[param] = done[key][1]
    return moved


def validate_permutation(spec: PermutationSpec, permutation: Permutation, params: Parameters | None = None) -> None:
    """Check that `permutation` holds one permutation of the right length for every group, and nothing else.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    permutation : mapping of str to integer array of shape (n,)
        What is checked.
    params : mapping of str to array, optional
        A state dict to read the sizes off when the spec does not hold them. Without either, every array is only
        checked to be a permutation of its own length.

    Raises
    ------
    TypeError
        If `permutation` is not a mapping.
    ValueError
        If anything is wrong with it; the one message names every group concerned.
    """
    _require_mapping(permutation, "permutation")
    sizes = spec.group_sizes(params) if params is not None or spec.sizes is not None else {}
    found = [f"group {group!r} is missing" for group in spec.groups if group not in permutation]
    found += [f"group {group!r} is unknown to the specification" for group in permutation if group not in spec.groups]
    for group in spec.groups:
        if group in permutation:
            found += [f"group {group!r} {fault}" for fault in _index_faults(permutation[group], sizes.get(group))]
    if not found:
        found += [fault for group in spec.blocks for fault in _block_faults(spec, permutation, group)]
    if found:
        raise ValueError("\n  ".join(["permutation does not fit the specification:", *found]))


def identity_permutation(spec: PermutationSpec, params: Parameters | None = None) -> dict[str, IndexArray]:
    """Return the permutation that moves nothing.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    params : mapping of str to array, optional
        A state dict to read the sizes off; needed when the spec does not hold them.

    Raises
    ------
    ValueError
        If the sizes are unknown, or `params` does not fit `spec`.

    Examples
    --------
    >>> identity_permutation(PermutationSpec.from_axes_to_perm({"bias": ("P",)}, sizes={"P": 3}))
    {'P': array([0, 1, 2])}
    """
    return {group: np.arange(size, dtype=np.int64) for group, size in spec.group_sizes(params).items()}


def random_permutation(
    spec: PermutationSpec, seed: int | np.random.Generator, params: Parameters | None = None
) -> dict[str, IndexArray]:
    """Return a permutation drawn uniformly from all that the spec allows.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    seed : int or numpy.random.Generator
        Equal seeds and equal specs give equal permutations.
    params : mapping of str to array, optional
        A state dict to read the sizes off; needed when the spec does not hold them.

    Raises
    ------
    TypeError
        If `seed` is neither an integer nor a generator.
    ValueError
        If `seed` is negative, the sizes are unknown, or `params` does not fit `spec`.

    Examples
    --------
    >>> spec = PermutationSpec.from_axes_to_perm({"bias": ("P",)}, sizes={"P": 4})
    >>> random_permutation(spec, seed=0)
    {'P': array([2, 0, 1, 3])}
    """
    generator = _generator(seed)
    sizes = spec.group_sizes(params)
    drawn: dict[str, IndexArray] = {}
    # Drawn by name, not by the order of the spec: equal specs may have been written down in different orders.
    for group in _parents_first(spec, sorted(sizes)):
        drawn[group] = _drawn(spec, group, sizes[group], drawn, generator)
    return {group: drawn[group] for group in sizes}


def blocks_of_units(spec: PermutationSpec, permutation: Permutation, group: str) -> IndexArray:
    """Return where the blocks come from that a group's units move with: those of its parent's permutation.

    A group without a parent is one block. The result has shape (blocks,).
    """
    parent = spec.blocks.get(group)
    if isinstance(parent, str):
        return permutation[parent]
    return np.arange(1 if parent is None else parent, dtype=np.int64)


def units_in_blocks(blocks: IndexArray, inner: IndexArray) -> IndexArray:
    """Return the permutation of all units from that of the blocks and, for each new block, that of the units in it.

    Parameters
    ----------
    blocks : int64 array of shape (n,)
        New block i is old block ``blocks[i]``.
    inner : int64 array of shape (n, d)
        Its unit u is the old block's unit ``inner[i, u]``.

    Returns
    -------
    int64 array of shape (n * d,)

    Examples
    --------
    >>> units_in_blocks(np.array([1, 0]), np.array([[0, 1, 2], [2, 1, 0]]))
    array([3, 4, 5, 2, 1, 0])
    """
    return np.asarray(blocks[:, None] * inner.shape[1] + inner, dtype=np.int64).ravel()


def _parents_first(spec: PermutationSpec, groups: list[str]) -> list[str]:
    def depth(group: str) -> int:
        parent = spec.blocks.get(group)
        return 1 + depth(parent) if isinstance(parent, str) else 0

    return sorted(groups, key=depth)


def _drawn(
    spec: PermutationSpec, group: str, size: int, drawn: Permutation, generator: np.random.Generator
) -> IndexArray:
    blocks = blocks_of_units(spec, drawn, group)
    own = size // len(blocks)
    inner = np.stack([generator.permutation(own) for _ in blocks])
    return units_in_blocks(blocks, inner)


def _block_faults(spec: PermutationSpec, permutation: Permutation, group: str) -> Iterator[str]:
    blocks = blocks_of_units(spec, permutation, group)
    index = permutation[group].reshape(len(blocks), -1)
    if not np.array_equal(index // index.shape[1], np.broadcast_to(blocks[:, None], index.shape)):
        parent = spec.blocks[group]
        whose = f"{parent} blocks that stay" if isinstance(parent, int) else f"the units of group {parent!r}"
        yield f"group {group!r} does not keep its blocks together; expected blocks that move with {whose}"


def invert(permutation: Permutation) -> dict[str, IndexArray]:
    """Return the permutation that undoes `permutation`.

    Parameters
    ----------
    permutation : mapping of str to integer array of shape (n,)
        Index arrays, one per group.

    Raises
    ------
    TypeError, ValueError
        If an array is not a permutation; the message names its group.

    Examples
    --------
    >>> invert({"P": np.array([1, 2, 0])})
    {'P': array([2, 0, 1])}
    """
    return {group: _inverse(index) for group, index in _checked(permutation, "permutation").items()}


def compose(outer: Permutation, inner: Permutation) -> dict[str, IndexArray]:
    """Return the permutation that does what `inner` and then `outer` do.

    ``apply_permutation(spec, compose(outer, inner), x)`` equals
    ``apply_permutation(spec, outer, apply_permutation(spec, inner, x))``.

    Parameters
    ----------
    outer, inner : mapping of str to integer array of shape (n,)
        Index arrays for the same groups.

    Raises
    ------
    TypeError, ValueError
        If an array is not a permutation, or the two differ in their groups or lengths.

    Examples
    --------
    >>> compose({"P": np.array([1, 0, 2])}, {"P": np.array([0, 2, 1])})
    {'P': array([2, 0, 1])}
    """
    outer, inner = _checked(outer, "outer"), _checked(inner, "inner")
    if outer.keys() != inner.keys():
        raise ValueError(f"outer has the groups {sorted(outer)}; expected {sorted(inner)}, as in inner")
    for group, index in outer.items():
        if index.shape != inner[group].shape:
            raise ValueError(f"outer[{group!r}] has length {len(index)}; expected {len(inner[group])}, as in inner")
    return {group: inner[group][index] for group, index in outer.items()}


def _moved(spec: PermutationSpec, array: Array, axes: tuple[Layout | None, ...], permutation: Permutation) -> Array:
    moved = array
    told: dict[str, tuple[int, IndexArray]] = {}
    # Axes that leave the block to another axis come last: by then that one is in the new order.
    for i in sorted(range(len(axes)), key=lambda i: bool(_wanted(spec, axes[i]))):
        axis = axes[i]
        if axis is None:
            continue
        if isinstance(axis, Axis) and not spec.blocks:
            moved = take(moved, index_of_entries(permutation[axis.group], axis.block), i)
            continue
        parents = _wanted(spec, axis)
        found = entries(axis, spec.structure, permutation, {parent: told[parent][1] for parent in parents})
        if parents:
            moved = take_along(moved, found.old, [told[min(parents)][0], i])
        else:
            moved = take(moved, np.array(found.old[0]), i)
            told |= {group: (i, units[0]) for group, units in found.at.items()}
    return copy(array) if moved is array else moved


def permuted(spec: PermutationSpec, permutation: Permutation, param: str, array: Array) -> Array:
    """Return a copy of one parameter's array as `apply_permutation` would have it; nothing is checked."""
    return _moved(spec, array, spec.axes[param], permutation)


def add_permuted(
    spec: PermutationSpec, permutation: Permutation, param: str, array: Array, total: Array, sign: int
) -> None:
    """Add one parameter, permuted, times 1 or -1, to `total` in place: a part at a time where its layout allows."""
    axes = spec.axes[param]
    plain = not spec.blocks and all(axis is None or isinstance(axis, Axis) for axis in axes)
    if not plain or not axes:
        add_scaled(total, permuted(spec, permutation, param, array), sign)
        return
    first, rest = axes[0], (None, *axes[1:])
    rows = index_of_entries(permutation[first.group], first.block) if isinstance(first, Axis) else None
    for start, stop in parts(array):
        part = narrow(array, 0, start, stop) if rows is None else take(array, rows[start:stop], 0)
        add_scaled(narrow(total, 0, start, stop), _moved(spec, part, rest, permutation), sign)


def _inverse(index: IndexArray) -> IndexArray:
    inverse = np.empty_like(index)
    inverse[index] = np.arange(len(index), dtype=np.int64)
    return inverse


def _index_faults(index: object, size: int | None) -> Iterator[str]:
    """Say what keeps `index` from being a permutation of 0..size-1 (of its own length when `size` is None)."""
    if not isinstance(index, np.ndarray) or index.dtype.kind not in "iu":
        came = f"dtype {index.dtype}" if isinstance(index, np.ndarray) else f"type {type(index).__name__}"
        yield f"is of {came}; expected a numpy array of integers"
    elif index.ndim != 1:
        yield f"has shape {index.shape}; expected one axis"
    elif size is not None and len(index) != size:
        yield f"has length {len(index)}; expected {size}"
    elif not np.array_equal(np.sort(index), np.arange(len(index))):
        yield f"is not a permutation; expected every index from 0 to {len(index) - 1} once"


def _checked(permutation: Permutation, name: str) -> dict[str, IndexArray]:
    _require_mapping(permutation, name)
    for group, index in permutation.items():
        for fault in _index_faults(index, None):
            raise ValueError(f"{name}: group {group!r} {fault}")
    return {group: index.astype(np.int64, copy=False) for group, index in permutation.items()}


def _require_mapping(permutation: object, name: str) -> None:
    if not isinstance(permutation, Mapping):
        raise TypeError(
            f"{name} is of type {type(permutation).__name__}; expected a mapping of group names to index arrays"
        )


def _generator(seed: int | np.random.Generator) -> np.random.Generator:
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed is {seed!r}; expected an integer or a numpy.random.Generator")
    number = operator.index(seed)
    if number < 0:
        raise ValueError(f"seed is {number}; expected a non-negative integer")
    return np.random.default_rng(number)


def _wanted(spec: PermutationSpec, axis: Layout | None) -> frozenset[str]:
    return frozenset() if axis is None else wanted(axis, spec.blocks)
