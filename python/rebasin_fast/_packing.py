"""Gather and pack: entries of a parameter, laid out as a factor of the product that makes a cost matrix.

A panel has the units of a group as rows, and as columns the chosen entries of one axis with all there is on the others.
On the CPU that is left to the array library: laid out so that whole rows move, gathers take 7 % (planted) to 13 %
(unrelated) of the time on a ResNet50, the products 81 to 87 %. On a device the extension's kernel does it in one pass:
all gathers of a panel, the difference of two of them, the layout and the rounding.
"""

from __future__ import annotations

from typing import TypeAlias

from rebasin_fast import _on_device, cuda
from rebasin_fast._arrays import (
    Array,
    Index,
    cast,
    dtype_name,
    lies_on_cuda,
    narrow,
    new_beside,
    reorder_axes,
    take,
)
from rebasin_fast._device_arrays import as_device_array

Entries: TypeAlias = "tuple[int, int] | Index"
"""Which entries of an axis: from the first to before the second, or those an index array names, in its order."""

Gathers: TypeAlias = "list[tuple[int, Index]]"
"""Axes and the index arrays that they are reordered by."""

_PACKED = ("float16", "bfloat16", "float32", "float64")  # what the kernel reads


def panel(array: Array, own: int, axis: int, entries: Entries, fixed: Gathers, dtype: str) -> Array:
    """Return a matrix of shape (units, columns): a view where the units lie on the first axis or the last.

    Parameters
    ----------
    array : array
        A parameter.
    own : int
        The axis with the units.
    axis : int
        The axis of which entries are chosen; `own` for all there is, and `entries` are not looked at.
    entries : pair of int, or index array
        Which.
    fixed : list of (int, index array)
        Further axes, reordered.
    dtype : str
        What the elements are rounded to.
    """
    ranged = isinstance(entries, tuple)
    if _packs(array) and (fixed or not ranged or dtype != dtype_name(array)):
        return _packed(array, own, axis, entries, fixed, dtype)
    for other, index in fixed:  # three groups on one array: rare, and not worth chunks of its own
        array = take(array, index, other)
    if axis != own:
        array = narrow(array, axis, *entries) if isinstance(entries, tuple) else _taken(array, own, axis, entries)
    return cast(_as_matrix(array, own, axis), dtype)


def change(
    array: Array, own: int, axis: int, new: Index, old: Index, fixed: Gathers, total: str, factors: str
) -> Array:
    """Return the panel of the entries `new` less that of the entries `old`, computed in `total`, in `factors`."""
    if _packs(array):
        return _packed(array, own, axis, new, fixed, factors, old)
    after = panel(array, own, axis, new, fixed, total)
    return cast(after - panel(array, own, axis, old, fixed, total), factors)


def _taken(array: Array, own: int, axis: int, index: Index) -> Array:
    """Return the entries `index` of `axis`, laid out as a panel wants them: gather and reordering in one copy."""
    if own == 0:
        return take(array, index, axis)
    order = _order(len(array.shape), own, axis)
    inverse = [order.index(k) for k in range(len(order))]
    return reorder_axes(take(reorder_axes(array, order), index, 0), inverse)


def _as_matrix(array: Array, own: int, axis: int) -> Array:
    units = int(array.shape[own])
    if own == 0:
        return array.reshape(units, -1)
    return reorder_axes(array, _order(len(array.shape), own, axis)).reshape(-1, units).T


def _order(axes: int, own: int, axis: int) -> tuple[int, ...]:
    """Return the order of axes with `axis` first and the units last, in which a gather moves whole rows."""
    rest = (k for k in range(axes) if k not in (axis, own))
    return (axis, *rest, own) if axis != own else (*rest, own)


# On a device


def _packs(array: Array) -> bool:
    return lies_on_cuda(array) and dtype_name(array) in _PACKED and cuda.why_unusable() is None


def _packed(
    array: Array, own: int, axis: int, entries: Entries, fixed: Gathers, dtype: str, less: Index | None = None
) -> Array:
    """Return a panel as the extension's kernel makes it, in one pass; with `less`, less the panel of those entries."""
    indices = dict(fixed)
    if axis != own:
        if isinstance(entries, tuple):
            array = narrow(array, axis, *entries)
        else:
            indices[axis] = entries
    order = tuple(range(len(array.shape))) if own == 0 else _order(len(array.shape), own, axis)
    source = reorder_axes(array, order)
    shape = [len(indices[k]) if k in indices else int(array.shape[k]) for k in order]
    out = new_beside(array, shape, dtype)
    _pack(source, out, [indices.get(k) for k in order], order.index(axis), less)
    units = int(array.shape[own])
    return out.reshape(units, -1) if own == 0 else out.reshape(-1, units).T


def _pack(source: Array, out: Array, indices: list[Index | None], axis: int, less: Index | None) -> None:
    addresses = [None if index is None else as_device_array(index).address for index in indices]
    read, written = as_device_array(source), as_device_array(out)
    before = None if less is None else (axis, as_device_array(less).address)
    _on_device._extension().gather_panel(
        read.address, read.dtype, read.strides, addresses, before,
        written.address, written.dtype, written.shape, read.device, read.stream,
    )  # fmt: skip
