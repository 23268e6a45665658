"""Dimensions of tensors as sums of products of atoms, and union-find over the atoms.

An *atom* is a set of positions that is permuted as a whole. A dimension of 768 = 12 heads x 64 units is the product of
two atoms, row-major, the first the slowest; a concatenation is a sum. Atoms are found out step by step: one that is
reshaped is *refined* into a product, one that is cut is refined into a sum, two that are added up are united. Each of
these steps only ever takes permutations away, wherever the atom lies, so the order of the steps is no matter of
soundness. Where two structures do not fit one another, everything in them is frozen.

Positions that stay are frozen atoms. What is cut from a frozen atom is a new frozen one: there is no identity to keep.

References
----------
Tarjan, R. E. (1975). Efficiency of a good but not linear set union algorithm. JACM 22(2), doi:10.1145/321879.321884.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Reason:
    """Why a dimension is frozen: the operator (or "input", "output", ...) and the module it ran in."""

    operator: str
    module: str = ""

    def __str__(self) -> str:
        return f"{self.operator} in {self.module}" if self.module else self.operator


class Atom:
    """A set of at least two positions; `serial` tells atoms apart and says which came first."""

    __slots__ = ("frozen", "link", "parts", "serial", "size")

    def __init__(self, size: int, serial: int, frozen: Reason | None = None) -> None:
        self.size = size
        self.serial = serial
        self.frozen = frozen
        self.link: Atom | None = None  # another atom that this one was united with
        self.parts: Dim | None = None  # what this one was refined into

    def __repr__(self) -> str:
        return f"{'#' if self.frozen else ''}{self.serial}:{self.size}"


@dataclass(frozen=True)
class Product:
    """Row-major: the first factor is the slowest. The empty product is the dimension of size 1."""

    factors: tuple[Dim, ...]


@dataclass(frozen=True)
class Sum:
    """One term after the other."""

    terms: tuple[Dim, ...]


Dim: TypeAlias = "Atom | Product | Sum"

ONE = Product(())
"""The dimension of a single position."""

EMPTY = Sum(())
"""The dimension of no position."""


def size_of(dim: Dim) -> int:
    """Return the number of positions."""
    if isinstance(dim, Atom):
        return dim.size
    if isinstance(dim, Product):
        return math.prod(map(size_of, dim.factors))
    return sum(map(size_of, dim.terms))


class Dims:
    """The atoms of one trace."""

    def __init__(self) -> None:
        self._serials = itertools.count()

    def new(self, size: int) -> Dim:
        """Return a dimension about which nothing is known yet: free."""
        return self.fixed(size, None)

    def fixed(self, size: int, reason: Reason | None) -> Dim:
        """Return a dimension that stays as it is."""
        if size > 1:
            return Atom(size, next(self._serials), reason)
        return ONE if size else EMPTY

    # ---- normal form ----

    def resolve(self, dim: Dim) -> Dim:
        """Return the dimension in today's atoms.

        A sum holds neither sums nor a single term, a product neither products, sizes of 1, nor a sum as its first
        factor: (b + c) x a is b x a + c x a, while a x (b + c) is no sum of contiguous parts.
        """
        if isinstance(dim, Atom):
            root = _root(dim)
            if root.parts is None:
                return root
            root.parts = self.resolve(root.parts)
            return root.parts
        return self._sum(dim.terms) if isinstance(dim, Sum) else self._product(dim.factors)

    def _sum(self, terms: Sequence[Dim]) -> Dim:
        flat: list[Dim] = []
        for term in map(self.resolve, terms):
            if isinstance(term, Sum):
                flat.extend(term.terms)
            elif size_of(term):
                flat.append(term)
        return flat[0] if len(flat) == 1 else Sum(tuple(flat))

    def _product(self, factors: Sequence[Dim]) -> Dim:
        flat: list[Dim] = []
        for factor in map(self.resolve, factors):
            if isinstance(factor, Product):
                flat.extend(factor.factors)
            else:
                flat.append(factor)
        if len(flat) == 1:
            return flat[0]
        if flat and isinstance(flat[0], Sum):
            return self._sum([Product((term, *flat[1:])) for term in flat[0].terms])
        return Product(tuple(flat))

    def leaves(self, dim: Dim) -> Iterator[Atom]:
        """Yield the atoms of a dimension, from slow to fast, as often as they occur."""
        yield from atoms_of(self.resolve(dim))

    # ---- what operators do ----

    def freeze(self, dim: Dim, reason: Reason) -> None:
        """Keep every atom of a dimension in place. The first reason stands."""
        for atom in self.leaves(dim):
            atom.frozen = atom.frozen or reason

    def unify(self, a: Dim, b: Dim, reason: Reason) -> None:
        """Let two dimensions of one size be permuted alike; where their structures do not fit, freeze both."""
        a, b = self.resolve(a), self.resolve(b)
        if a is b or a == b:
            return
        if size_of(a) != size_of(b):
            raise AssertionError(f"{a} and {b} differ in size")
        if not size_of(a):  # no element that could be moved
            return
        if isinstance(a, Atom):
            self._bind(a, b, reason)
        elif isinstance(b, Atom):
            self._bind(b, a, reason)
        elif isinstance(a, Product) and isinstance(b, Product):
            self._unify_products(list(a.factors), list(b.factors), reason)
        else:
            self._unify_sums(_terms(a), _terms(b), reason)

    def split_product(self, dim: Dim, sizes: Sequence[int], reason: Reason) -> list[Dim]:
        """Return the factors of a dimension that is reshaped to `sizes`."""
        dim = self.resolve(dim)
        if isinstance(dim, Atom) and dim.frozen:
            return [self.fixed(size, dim.frozen) for size in sizes]
        factors = [self.new(size) for size in sizes]
        self.unify(Product(tuple(factors)), dim, reason)
        return factors

    def cut(self, dim: Dim, at: int) -> tuple[Dim, Dim]:
        """Return the dimension before position `at`, and from there on."""
        dim = self.resolve(dim)
        if at in (0, size_of(dim)):
            return (EMPTY, dim) if at == 0 else (dim, EMPTY)
        if isinstance(dim, Atom):
            return self._cut_atom(dim, at)
        if isinstance(dim, Sum):
            return self._cut_sum(dim, at)
        return self._cut_product(dim, at)

    def between(self, dim: Dim, start: int, stop: int) -> Dim:
        """Return the part of a dimension from position `start` to before `stop`."""
        return self.cut(self.cut(dim, stop)[0], start)[1]

    # ---- how ----

    def _bind(self, atom: Atom, other: Dim, reason: Reason) -> None:
        if isinstance(other, Atom):
            first, second = (atom, other) if atom.serial < other.serial else (other, atom)
            second.link = first
            first.frozen = first.frozen or second.frozen
        elif atom.frozen:
            self.freeze(other, atom.frozen)
        else:
            atom.parts = other

    def _unify_products(self, a: list[Dim], b: list[Dim], reason: Reason) -> None:
        while a and b:
            big, small = (self._pop(factors) for factors in (a, b))
            rest = a
            if size_of(big) < size_of(small):
                big, small, rest = small, big, b
            outer, remainder = divmod(size_of(big), size_of(small))
            if remainder:
                for dim in (big, small, *a, *b):
                    self.freeze(dim, reason)
                return
            if outer > 1:
                parts = self.split_product(big, [outer, size_of(small)], reason)
                rest.append(parts[0])
                big = parts[1]
            self.unify(big, small, reason)

    def _pop(self, factors: list[Dim]) -> Dim:
        """Take the last factor, in today's atoms: it may have become a product on the way."""
        last = self.resolve(factors.pop())
        while isinstance(last, Product):
            factors.extend(last.factors)
            last = self.resolve(factors.pop())
        return last

    def _unify_sums(self, a: list[Dim], b: list[Dim], reason: Reason) -> None:
        a, b = a[::-1], b[::-1]
        while a and b:
            x, y = a.pop(), b.pop()
            if size_of(x) > size_of(y):
                x, rest = self.cut(x, size_of(y))
                a.append(rest)
            elif size_of(x) < size_of(y):
                y, rest = self.cut(y, size_of(x))
                b.append(rest)
            self.unify(x, y, reason)

    def _cut_atom(self, atom: Atom, at: int) -> tuple[Dim, Dim]:
        if atom.frozen:
            return self.fixed(at, atom.frozen), self.fixed(atom.size - at, atom.frozen)
        parts = self.new(at), self.new(atom.size - at)
        self._bind(atom, Sum(parts), Reason("cut"))
        return parts

    def _cut_sum(self, dim: Sum, at: int) -> tuple[Dim, Dim]:
        before: list[Dim] = []
        for i, term in enumerate(dim.terms):
            size = size_of(term)
            if at < size:
                left, right = self.cut(term, at)
                return Sum((*before, left)), Sum((right, *dim.terms[i + 1 :]))
            before.append(term)
            at -= size
        raise AssertionError(f"position beyond the end of {dim}")

    def _cut_product(self, dim: Product, at: int) -> tuple[Dim, Dim]:
        first, rest = dim.factors[0], Product(dim.factors[1:])
        blocks, inside = divmod(at, size_of(rest))
        if not inside:
            left, right = self.cut(first, blocks)
            return Product((left, rest)), Product((right, rest))
        # The cut goes through one block: that one is taken out of the first factor, and every block is cut alike.
        left, right = self.cut(first, blocks)
        _, right = self.cut(right, 1)
        before, after = self.cut(rest, inside)
        return Sum((Product((left, rest)), before)), Sum((after, Product((right, rest))))


def _root(atom: Atom) -> Atom:
    root = atom
    while root.link is not None:
        root = root.link
    while atom.link is not None:
        atom.link, atom = root, atom.link
    return root


def _terms(dim: Dim) -> list[Dim]:
    return list(dim.terms) if isinstance(dim, Sum) else [dim]


def atoms_of(dim: Dim) -> Iterator[Atom]:
    """Yield the atoms of a dimension in normal form, from slow to fast, as often as they occur."""
    if isinstance(dim, Atom):
        yield dim
    else:
        for part in dim.factors if isinstance(dim, Product) else dim.terms:
            yield from atoms_of(part)
