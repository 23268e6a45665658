"""Solving, inverting and factorising stacks of matrices: the axes in front are never touched.

For permutation matrices P and Q: (P A Q^T)^-1 = Q A^-1 P^T, so an inverse and the solution of a linear system move with
the matrix. Factors that are triangular, and eigenvectors in the order of their values, do not: there rows and columns
stay.
"""

from __future__ import annotations

from ..call import Call, Result, rule
from ..dims import Dim, Product
from ..values import Value


def _matrices(call: Call, name: str) -> tuple[list[Dim], Dim, Dim]:
    *lead, rows, columns = call.settled(call[name])
    return lead, rows, columns


@rule("aten::linalg_solve_triangular")
def solve_triangular(call: Call) -> Result:
    """A X = B or X A = B for triangular A, whose rows and columns stay; what B has besides is solved for one by one."""
    lead, rows, columns = _matrices(call, "self")
    others, first, second = _matrices(call, "B")
    solved, beside = (first, second) if call["left"] else (second, first)
    call.freeze(rows, columns, solved)
    batch = _broadcast(call, lead, others)
    call.mix([*batch, beside], [rows, columns, solved])
    return call.value([*batch, first, second])


@rule("aten::_linalg_solve_ex")
def solve(call: Call) -> Result:
    """A X = B: rows of A are those of B, columns of A are the rows of X. Results besides are kept for derivatives."""
    lead, rows, columns = _matrices(call, "A")
    right = call.settled(call["B"])
    if not call["left"] or len(right) != len(lead) + 2 or len(call.shapes[0]) != len(right):
        return None
    *others, equations, beside = right
    call.unify(rows, equations)
    batch = _broadcast(call, lead, others)
    call.mix([*batch, rows, columns, beside], [rows, columns])
    return [call.value([*batch, columns, beside]), *_aside(call, lead, rows, columns)]


@rule("aten::linalg_inv_ex")
def inverse(call: Call) -> Result:
    lead, rows, columns = _matrices(call, "A")
    call.mix([*lead, rows, columns], [rows, columns])
    return [call.value([*lead, columns, rows]), *_aside(call, lead, rows, columns)]


@rule("aten::linalg_cholesky_ex", "aten::linalg_qr", "aten::_linalg_eigh", "aten::linalg_lu_factor_ex",
      "aten::linalg_lu")  # fmt: skip
def factorisation(call: Call) -> Result:
    lead, rows, columns = _matrices(call, "self" if "self" in call.args else "A")
    call.freeze(rows, columns)
    call.mix(lead, [rows, columns])
    return [call.value([*lead, *map(call.fixed, shape[len(lead) :])]) for shape in call.shapes]


def _aside(call: Call, lead: list[Dim], rows: Dim, columns: Dim) -> list[Value]:
    """Results other than the first. Of LU factors: whoever looks at them freezes rows and columns."""
    both = Product((rows, columns))
    return [
        call.value([*lead, *map(call.fixed, shape[len(lead) :])], both if len(shape) > len(lead) else None)
        for shape in call.shapes[1:]
    ]


def _broadcast(call: Call, left: list[Dim], right: list[Dim]) -> list[Dim]:
    return call.broadcast([Value(left), Value(right)])
