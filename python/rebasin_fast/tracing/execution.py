"""Runs single operators of a trace, with or without elements, and looks at the memory of tensors."""

from __future__ import annotations

from typing import Any

from .strides import Layout


def tensors_of(torch: Any, out: Any) -> list[Any]:
    """Return the tensors that an operator takes or returns, in order."""
    if isinstance(out, torch.Tensor):
        return [out]
    if isinstance(out, list | tuple):
        return [tensor for item in out for tensor in tensors_of(torch, item)]
    return []


def owner_keys(tensor: Any) -> list[Any]:
    """Return what a tensor has in common with the views of its memory."""
    base = tensor._base if tensor._base is not None else tensor
    keys: list[Any] = [id(base)]
    if tensor.device.type != "meta" and not hasattr(tensor, "fake_mode") and tensor.untyped_storage().data_ptr():
        keys.append(("storage", tensor.untyped_storage().data_ptr()))
    return keys


def run(torch: Any, func: Any, bound: dict[str, Any]) -> Any:
    """Run an operator; where a mask chooses positions, as if it chose all of them.

    What is chosen by a mask has as many positions as there are hits. A forward pass without values goes on with one
    number that may happen; the axis is frozen whatever its length. `bound` is changed to what was run.
    """
    aten = torch.ops.aten
    packet = func._schema.name
    if packet == "aten::nonzero":
        mask = bound["self"]
        return torch.empty((mask.numel(), mask.dim()), dtype=torch.int64)
    if packet in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
        bound["indices"] = [part for one in bound["indices"] for part in as_indices(torch, one)]
    if func is aten.masked_select.default:
        return torch.empty((bound["self"].numel(),), dtype=bound["self"].dtype)
    if packet == "aten::_grouped_mm" and bound["self"].dtype != torch.bfloat16:
        # Its shape function knows bfloat16 only.
        cast = bound | {"self": bound["self"].bfloat16(), "mat2": bound["mat2"].bfloat16()}
        return func(**cast).to(bound["self"].dtype)
    return called(func, bound)


def layout_of(tensor: Any) -> Layout:
    """Return how a tensor lies in memory."""
    return Layout(tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset())


def repeated_axes(tensor: Any) -> tuple[int, ...]:
    """Return the axes along which all elements are the same one in memory, as `expand` leaves them."""
    return tuple(i for i, step in enumerate(tensor.stride()) if step == 0)


def is_mask(torch: Any, index: Any) -> bool:
    """Say whether an index chooses positions by truth."""
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def as_indices(torch: Any, index: Any) -> list[Any]:
    """Return a mask as the indices it would give way to, had it chosen all positions; other indices as they are."""
    if not is_mask(torch, index):
        return [index]
    return [torch.empty((index.numel(),), dtype=torch.int64) for _ in range(index.dim())]


def called(func: Any, bound: dict[str, Any]) -> Any:
    """Call an operator with its arguments by name."""
    arguments = func._schema.arguments
    args = [bound[a.name] for a in arguments if not a.kwarg_only]
    return func(*args, **{a.name: bound[a.name] for a in arguments if a.kwarg_only})
