"""Products that sum over shared axes: matrix products, convolutions, attention.

Sum over k of a[..., k] b[k, ...] is the same in any order of k, if both arguments are permuted alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..call import Call, Result, rule
from ..dims import Dim, Product
from ..values import Value


def _matrix_product(call: Call, left: list[Dim], right: list[Dim]) -> list[Dim]:
    """(batch, m, k) by (batch, k, n): both lists end in the two axes of the matrices; equally many batch axes."""
    batch = []
    for a, b in zip(left[:-2], right[:-2], strict=True):
        call.unify(a, b)
        batch.append(a)
    call.unify(left[-1], right[-2])
    call.contract([*batch, left[-2], right[-1]], [left[-1]])
    return [*batch, left[-2], right[-1]]


@rule("aten::mm")
def mm(call: Call) -> Result:
    return call.value(_matrix_product(call, call.settled(call["self"]), call.settled(call["mat2"])))


@rule("aten::bmm")
def bmm(call: Call) -> Result:
    return call.value(_matrix_product(call, call.settled(call["self"]), call.settled(call["mat2"])))


@rule("aten::addmm", "aten::_addmm_activation")
def addmm(call: Call) -> Result:
    return _added(call, _matrix_product(call, call.settled(call["mat1"]), call.settled(call["mat2"])))


@rule("aten::baddbmm")
def baddbmm(call: Call) -> Result:
    return _added(call, _matrix_product(call, call.settled(call["batch1"]), call.settled(call["batch2"])))


@rule("aten::mv")
def mv(call: Call) -> Result:
    return call.value(_matrix_vector(call, call["self"], call["vec"]))


@rule("aten::addmv")
def addmv(call: Call) -> Result:
    return _added(call, _matrix_vector(call, call["mat"], call["vec"]))


@rule("aten::dot", "aten::vdot")
def dot(call: Call) -> Result:
    values = call.tensors()
    (a,), (b,) = map(call.settled, values)
    call.unify(a, b)
    return call.value([])


@rule("aten::linear")
def linear(call: Call) -> Result:
    *lead, inputs = call.settled(call["input"])
    outputs, weight_inputs = call.settled(call["weight"])
    call.unify(inputs, weight_inputs)
    call.contract([*lead, outputs], [inputs])
    if call["bias"] is not None:
        call.unify(call.settled(call["bias"])[0], outputs)
    return call.value([*lead, outputs])


@rule("aten::convolution", "aten::_convolution", "aten::convolution_overrideable")
def convolution(call: Call) -> Result:
    """Channels of the input are (groups x inputs), those of the result (groups x outputs); groups move as blocks.

    Space is frozen, except on axes where the convolution looks at single positions.
    """
    batch, channels, *space = call.settled(call["input"])
    first, second, *kernel = call.settled(call["weight"])
    groups = call["groups"]
    size = call.size(channels)
    group, inputs = call.factors(channels, groups, size // groups)
    if call["transposed"]:
        weight_group, weight_inputs = call.factors(first, groups, size // groups)
        outputs = second
    else:
        weight_group, outputs = call.factors(first, groups, call.shapes[0][1] // groups)
        weight_inputs = second
    call.unify(group, weight_group)
    call.unify(inputs, weight_inputs)
    call.freeze(*kernel)
    for i, dim in enumerate(space):
        if not _looks_at_single_positions(call, i):
            call.freeze(dim)
            space[i] = call.fixed(call.shapes[0][2 + i])
    call.contract([batch, group, outputs, *space], [inputs])
    out = Product((group, outputs))
    if call["bias"] is not None:
        call.unify(call.settled(call["bias"])[0], out)
    return call.value([batch, out, *space])


def _looks_at_single_positions(call: Call, axis: int) -> bool:
    same = {"stride": 1, "padding": 0, "output_padding": 0}
    return call["weight"].shape[2 + axis] == 1 and all(_on(call[name], axis) == value for name, value in same.items())


def _on(setting: Sequence[int], axis: int) -> int:
    return setting[axis] if len(setting) > 1 else setting[0]


@rule("aten::linalg_matrix_exp", "aten::matrix_exp")
def matrix_exponential(call: Call) -> Result:
    """exp(P A P^T) = P exp(A) P^T."""
    *lead, rows, columns = call.settled(call["self"])
    call.unify(rows, columns)
    call.mix(lead, [rows])
    return call.value([*lead, rows, rows])


@rule("aten::_cdist_forward", "aten::_euclidean_dist", "aten::cdist")
def distances(call: Call) -> Result:
    """Distances of all pairs sum over coordinates as products do."""
    *batch, rows, coordinates = call.settled(call["x1"])
    *other_batch, columns, other_coordinates = call.settled(call["x2"])
    call.unify(coordinates, other_coordinates)
    lead = call.broadcast([Value(batch), Value(other_batch)])
    call.contract([*lead, rows, columns], [coordinates])
    return call.value([*lead, rows, columns])


@rule("aten::_trilinear")
def trilinear(call: Call) -> Result:
    """The sum behind nn.Bilinear: three factors, broadcast to one shape, summed over some axes."""
    rows: list[list[Dim | None]] = []
    for name, new in (("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")):
        axes: list[Dim | None] = list(call.settled(call[name]))
        for position in sorted(call[new]):
            axes.insert(position, None)
        rows.append(axes)
    joined: list[Dim] = []
    for column in zip(*rows, strict=True):
        dims = [dim for dim in column if dim is not None]
        wide = [dim for dim in dims if call.size(dim) != 1] or dims
        for dim in wide[1:]:
            call.unify(wide[0], dim)
        joined.append(wide[0])
    summed = set(call["sumdim"])
    kept = [dim for i, dim in enumerate(joined) if i not in summed]
    call.contract(kept, [dim for i, dim in enumerate(joined) if i in summed])
    return call.value(kept)


@rule(
    "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_attention_math",
    "aten::scaled_dot_product_attention",
)  # fmt: skip
def attention(call: Call) -> Result:
    """Softmax(q k^T + mask) v over (batch, heads, positions, units); the positions attended to may be reordered."""
    query, key, value = (call.settled(call[name]) for name in ("query", "key", "value"))
    if len(query) != 4 or any(call.size(q) != call.size(k) for q, k in zip(query[:2], key[:2], strict=True)):
        return None
    for q, k, v in zip(query[:-2], key[:-2], value[:-2], strict=True):
        call.unify(q, k)
        call.unify(q, v)
    call.unify(query[-1], key[-1])
    call.unify(key[-2], value[-2])
    if call.args.get("is_causal"):
        call.freeze(query[-2], key[-2])
    if call.args.get("attn_mask") is not None:
        mask = call.settled(call["attn_mask"])
        scores = [*query[:-1], key[-2]]
        for m, s in zip(mask[::-1], scores[::-1], strict=False):
            if call.size(m) != 1:
                call.unify(m, s)
    call.contract(query[:-1], [query[-1]])
    call.contract([*query[:-1], value[-1]], [key[-2]])
    result: list[Value | None] = [call.value([*query[:-1], value[-1]])]
    for shape in call.shapes[1:]:
        call.contract(query[:-1], [key[-2]])
        result.append(call.value(query[: len(shape)]) if len(shape) == 3 else None)
    return result


def _matrix_vector(call: Call, matrix: Value, vector: Value) -> list[Dim]:
    rows, columns = call.settled(matrix)
    (entries,) = call.settled(vector)
    call.unify(columns, entries)
    call.contract([rows], [columns])
    return [rows]


def _added(call: Call, dims: list[Dim]) -> Value:
    product = call.value(dims)
    return call.value(call.broadcast([product, call["self"]]))
