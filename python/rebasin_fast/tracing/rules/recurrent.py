"""Recurrent layers that arrive as one operator (others arrive as the steps they are made of)."""

from __future__ import annotations

from ..call import Call, Result, rule
from ..dims import Product


@rule("aten::mkldnn_rnn_layer")
def lstm_layer(call: Call) -> Result:
    """One layer and direction of an LSTM: gates (4 x hidden) from inputs and from the hidden state itself."""
    if call["batch_sizes"]:
        return None
    time, batch, features = call.settled(call["input"])
    gates_in, inputs = call.settled(call["weight0"])
    gates_hidden, hidden = call.settled(call["weight1"])
    call.unify(features, inputs)
    gates = Product((call.fixed(4), hidden))
    for dim in (gates_in, gates_hidden, *(call.settled(call[name])[0] for name in ("weight2", "weight3"))):
        call.unify(gates, dim)
    for name in ("hx_", "cx_"):
        state = call.settled(call[name])
        call.unify(state[-1], hidden)
        call.unify(state[-2], batch)
    call.freeze(time)
    call.mix([batch, hidden], [features])
    out_time = call.fixed(call.shapes[0][0])
    states = [call.value([call.fixed(n) for n in shape[:-2]] + [batch, hidden]) for shape in call.shapes[1:3]]
    rest = [call.value(map(call.fixed, shape)) for shape in call.shapes[3:]]
    return [call.value([out_time, batch, hidden]), *states, *rest]


@rule("aten::_pack_padded_sequence")
def pack_padded_sequence(call: Call) -> Result:
    """Sequences and positions become one axis, in an order of their lengths."""
    first, second, *features = call.settled(call["input"])
    call.freeze(first, second)
    rows, sizes = call.shapes
    return [call.value([call.fixed(rows[0]), *features]), call.value(map(call.fixed, sizes))]
