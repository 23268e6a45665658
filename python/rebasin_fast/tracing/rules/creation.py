"""Tensors made on the way: where all elements are alike, any permutation will do; else they are frozen."""

from __future__ import annotations

from ..call import Call, Result, rule
from ..values import Alike


@rule(
    "aten::zeros", "aten::ones", "aten::full", "aten::empty", "aten::empty_strided", "aten::new_zeros",
    "aten::new_ones", "aten::new_full", "aten::new_empty", "aten::new_empty_strided", "aten::zeros_like",
    "aten::ones_like", "aten::full_like", "aten::empty_like", "aten::scalar_tensor", "aten::empty_permuted",
    indices=True,
)  # fmt: skip
def alike(call: Call) -> Result:
    value = call.value(map(call.free, call.shapes[0]))
    value.alike = Alike()
    return value


@rule("aten::arange", "aten::linspace", "aten::rand", "aten::randn", "aten::rand_like", "aten::randn_like",
      "aten::randint", "aten::randperm", "aten::tril_indices", "aten::triu_indices", "aten::hann_window")  # fmt: skip
def ordered(call: Call) -> Result:
    return call.value(map(call.fixed, call.shapes[0]))


@rule("aten::uniform", "aten::normal", "aten::bernoulli", "aten::random", "aten::exponential", "aten::log_normal",
      "aten::multinomial", "aten::poisson")  # fmt: skip
def drawn(call: Call) -> Result:
    """Every position has a number of its own, drawn in their order."""
    for value in call.tensors():
        call.freeze(*call.settled(value))
    return call.value(map(call.fixed, call.shapes[0]))


@rule("aten::eye")
def identity_matrix(call: Call) -> Result:
    """P I P^T = I: rows and columns may be permuted alike."""
    rows, columns = call.shapes[0]
    if rows != columns:
        return call.value([call.fixed(rows), call.fixed(columns)])
    both = call.free(rows)
    return call.value([both, both])


@rule("aten::tril", "aten::triu")
def triangle(call: Call) -> Result:
    *lead, rows, columns = call.settled(call["self"])
    call.freeze(rows, columns)
    return call.value([*lead, rows, columns])
