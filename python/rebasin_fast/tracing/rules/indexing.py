"""Looking up and writing by index.

Positions that are known when the model is traced may be parts or reorderings of an axis (`known`). Other indices count
the positions of an axis: it is frozen, unless they are known to count that very axis (the expert with the highest
score), for then they are permuted with it.
"""

from __future__ import annotations

from ..call import Call, Result, axis_of, rule
from ..dims import Dim
from ..known import read_at
from ..values import Value


def _counts(call: Call, index: Value, dim: Dim) -> None:
    """Let `index` count the positions of `dim`."""
    if index.index_of is None:
        call.trace.dims.freeze(dim, call.reason)
    else:
        call.unify(index.index_of, dim)


def _at_known_places(call: Call, value: Value, axis: int, index: Value) -> Value | None:
    """Return the value read along an axis at positions that are known; None where that is not so, or does not help."""
    if index.known is None:
        return None
    positions = index.known.reshape(-1)
    if len(index.shape) == 1 and len(positions) and (positions == positions[0] + range(len(positions))).all():
        start = axis_of(int(positions[0]), value.shape[axis])
        part = call.trace.views.part(value, axis, start, start + len(positions), call.reason)
        return call.value(part.axes, value.index_of)
    dim = read_at(call, value, axis, positions)
    if dim is None:
        return None
    shape = index.shape
    places = [dim] if len(shape) == 1 else call.factors(dim, *shape)
    axes = call.settled(value)
    return call.value([*axes[:axis], *places, *axes[axis + 1 :]], value.index_of)


def _same_size(call: Call, index: Value, dim: Dim) -> bool:
    return index.index_of is None or call.size(index.index_of) == call.size(dim)


@rule("aten::embedding", indices=True)
def embedding(call: Call) -> Result:
    rows, *rest = call.settled(call["weight"])
    index: Value = call["indices"]
    if not _same_size(call, index, rows):
        return None
    _counts(call, index, rows)
    places = call.settled(index)
    call.looked_up(rows, index, places)
    return call.value([*places, *rest])


@rule("aten::_embedding_bag", "aten::_embedding_bag_forward_only")
def embedding_bag(call: Call) -> Result:
    """Sums of rows; what comes besides is about bags and rows only."""
    rows, width = call.settled(call["weight"])
    call.freeze(rows)
    results = [call.value(map(call.fixed, shape)) for shape in call.shapes]
    weights = call.args.get("per_sample_weights")
    if weights is not None:
        call.freeze(*call.settled(weights))
    return [call.value([call.fixed(call.shapes[0][0]), width]), *results[1:]]


@rule("aten::index_select", indices=True)
def index_select(call: Call) -> Result:
    axis = axis_of(call["dim"], len(call["self"].axes))
    if known := _at_known_places(call, call["self"], axis, call["index"]):
        return known
    axes = call.settled(call["self"])
    if not _same_size(call, call["index"], axes[axis]):
        return None
    _counts(call, call["index"], axes[axis])
    places = call.settled(call["index"])
    call.looked_up(axes[axis], call["index"], places)
    return call.value([*axes[:axis], *places, *axes[axis + 1 :]])


@rule("aten::index", indices=True)
def index(call: Call) -> Result:
    """Advanced indexing: the indexed axes give way to those of the indices, where numpy puts them."""
    indices = call["indices"]
    used = [i for i, one in enumerate(indices) if one is not None]
    if len(used) == 1 and (known := _at_known_places(call, call["self"], used[0], indices[used[0]])):
        return known
    axes = call.settled(call["self"])
    if not all(_same_size(call, indices[i], axes[i]) for i in used):
        return None
    for i in used:
        _counts(call, indices[i], axes[i])
    places = call.broadcast([indices[i] for i in used])
    kept = [dim for i, dim in enumerate(axes) if i not in used]
    if len(used) == 1:
        call.looked_up(axes[used[0]], indices[used[0]], places)
    else:
        call.mix(kept, [axes[i] for i in used])
    adjacent = used == list(range(used[0], used[-1] + 1))
    at = used[0] if adjacent else 0
    return call.value([*kept[:at], *places, *kept[at:]])


@rule("aten::gather", indices=True)
def gather(call: Call) -> Result:
    axes, places = call.settled(call["self"]), call.settled(call["index"])
    axis = axis_of(call["dim"], len(axes))
    if not _same_size(call, call["index"], axes[axis]):
        return None
    _counts(call, call["index"], axes[axis])
    _line_up(call, axes, places, axis)
    call.mix([dim for i, dim in enumerate(axes) if i != axis], [axes[axis]])
    return call.value(places)


@rule("aten::scatter", "aten::scatter_add", "aten::scatter_reduce", indices=True)
def scatter(call: Call) -> Result:
    axes, places = call.settled(call["self"]), call.settled(call["index"])
    axis = axis_of(call["dim"], len(axes))
    if not _same_size(call, call["index"], axes[axis]) or call["self"].index_of is not None:
        return None
    _counts(call, call["index"], axes[axis])
    _line_up(call, axes, places, axis)
    source = call.args.get("src")
    if isinstance(source, Value):
        if source.index_of is not None:
            return None
        for own, place in zip(call.settled(source), places, strict=True):
            if call.size(own) == call.size(place):
                call.unify(own, place)
            else:
                call.freeze(own, place)
    call.freeze(places[axis])  # where two are written to one place, the last may win
    call.mix([dim for i, dim in enumerate(axes) if i != axis], [axes[axis]])
    return call.value(axes)


@rule("aten::index_add", "aten::index_copy", indices=True)
def index_add(call: Call) -> Result:
    axes, source = call.settled(call["self"]), call.settled(call["source"])
    axis = axis_of(call["dim"], len(axes))
    if any(call[name].index_of is not None for name in ("self", "source")):
        return None
    counted = call["index"].index_of
    call.freeze(axes[axis], source[axis], *call.settled(call["index"]), *([] if counted is None else [counted]))
    for i, (dim, own) in enumerate(zip(axes, source, strict=True)):
        if i != axis:
            call.unify(dim, own)
    return call.value(axes)


@rule("aten::nonzero", "aten::masked_select")
def chosen(call: Call) -> Result:
    """Where hits lie depends on the order of the axes; how many there are, nobody knows."""
    for value in call.tensors():
        call.freeze(*call.settled(value))
    return call.value(map(call.fixed, call.shapes[0]))


@rule("aten::masked_scatter")
def masked_scatter(call: Call) -> Result:
    """The elements of `source`, one after the other, wherever the mask is set: images among the tokens of a text.

    Where the mask is the same along the last axes (`repeated`), whole rows are written, if `source` has these axes too.
    """
    axes, source = call.settled(call["self"]), call.settled(call["source"])
    mask = call.settled(call["mask"])
    if call["self"].shape != call.shapes[0]:  # it is repeated to the shape of the mask
        return None
    count = 0
    while (
        count < min(len(axes), len(source), len(mask))
        and (call.size(mask[-1 - count]) == 1 or len(mask) - 1 - count in call["repeated"])
        and call.size(axes[-1 - count]) == call.size(source[-1 - count])
    ):
        count += 1
    call.freeze(*(dim for dims in (axes, source, mask) for dim in dims[: len(dims) - count]))
    for own, other in zip(axes[len(axes) - count :], source[len(source) - count :], strict=True):
        call.unify(own, other)
    call.broadcast([Value(axes), call["mask"]])
    return call.value(axes)


@rule("aten::bucketize", "aten::searchsorted")
def bucketize(call: Call) -> Result:
    """Between which of the boundaries a number lies: a count, and the same for every position of numbers."""
    boundaries = call.args.get("boundaries", call.args.get("sorted_sequence"))
    if not isinstance(boundaries, Value) or len(boundaries.shape) != 1 or call.args.get("sorter") is not None:
        return None
    call.freeze(*call.settled(boundaries))
    numbers = call["self"]
    return call.value(numbers.axes) if isinstance(numbers, Value) else None


@rule("aten::index_put", "aten::_index_put_impl", indices=True)
def index_put(call: Call) -> Result:
    """`self[indices] = values`: the indexed axes are frozen, the others written as they lie."""
    axes, indices = call.settled(call["self"]), call["indices"]
    if any(value.index_of is not None for value in call.tensors()):
        return None
    used = [i for i, one in enumerate(indices) if one is not None]
    adjacent = used == list(range(used[0], used[-1] + 1))
    call.freeze(*(axes[i] for i in used))
    places = call.broadcast([indices[i] for i in used])
    call.freeze(*places)
    kept = [dim for i, dim in enumerate(axes) if i not in used]
    at = used[0] if adjacent else 0
    target = call.value([*kept[:at], *places, *kept[at:]])
    call.broadcast([target, call["values"]])
    return call.value(axes)


def _line_up(call: Call, axes: list[Dim], places: list[Dim], axis: int) -> None:
    """Axes other than `axis` are read at the same positions; where only the first of them are read, that is a part."""
    for i, (dim, place) in enumerate(zip(axes, places, strict=True)):
        if i != axis:
            if call.size(dim) == call.size(place):
                call.unify(dim, place)
            else:
                call.freeze(dim, place)
