"""What is known of a tensor in a trace: a dimension for each axis; and what views make of it.

A reshape that splits an axis does not refine its dimension at once. The axes become `Factor`s of it, and only an
operator that needs to know splits for good (`Views.settle`). So (3 heads units) -> (3, heads, units) -> [0] is seen as
what it is, a third of the axis, and queries, keys and values stay groups of their own; and a reshape that is undone
before anything looked leaves no trace.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .dims import ONE, Dim, Dims, Product, Reason, Sum, size_of


class Base:
    """A dimension that is looked at as row-major factors of the given sizes."""

    __slots__ = ("dim", "sizes")

    def __init__(self, dim: Dim, sizes: Sequence[int]) -> None:
        self.dim = dim
        self.sizes = tuple(sizes)


@dataclass(frozen=True, eq=False)
class Factor:
    """Factor number `position` of a base. A value that has one of them has all of them."""

    base: Base
    position: int


@dataclass(frozen=True, eq=False)
class Run:
    """Axes that a reshape has joined to one, although some of them are factors of bases whose others lie elsewhere.

    Heads next to the batch, as in (3, batch, heads, positions, units) -> (3, batch x heads, positions, units).
    """

    parts: tuple[Dim | Factor, ...]


Axis: TypeAlias = "Dim | Factor | Run"


class Alike:
    """Shared by a tensor whose elements are all equal and the views of it, until something else is written there."""

    __slots__ = ("still",)

    def __init__(self) -> None:
        self.still = True


class Value:
    """The axes of one tensor.

    `index_of` is the dimension whose positions its elements count, if they do; `alike` is set where all elements are
    equal; `content` is shared by values with the same elements, each at the positions of the same atoms; `from_input`
    says whether they depend on the model's inputs; `known` holds them as a NumPy array, if they are integers that are
    the same for all parameters and inputs of these shapes.
    """

    __slots__ = ("alike", "axes", "content", "from_input", "index_of", "known")

    def __init__(self, axes: Iterable[Axis], index_of: Dim | None = None, alike: Alike | None = None) -> None:
        self.axes = tuple(axes)
        self.index_of = index_of
        self.alike = alike
        self.content = object()
        self.from_input = False
        self.known: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(map(length, self.axes))

    def bases(self) -> list[Base]:
        """Return the bases its factors belong to."""
        return _bases(self.axes)

    def dims(self) -> Iterator[Dim]:
        """Yield every dimension once, bases unsplit."""
        yield from (axis for axis in _single(self.axes) if not isinstance(axis, Factor))
        yield from (base.dim for base in self.bases())


def length(axis: Axis) -> int:
    """Return the number of positions on an axis."""
    if isinstance(axis, Run):
        return math.prod(map(length, axis.parts))
    return axis.base.sizes[axis.position] if isinstance(axis, Factor) else size_of(axis)


def _single(axes: Iterable[Axis]) -> Iterator[Dim | Factor]:
    """Yield axes with runs taken apart."""
    for axis in axes:
        if isinstance(axis, Run):
            yield from axis.parts
        else:
            yield axis


def _bases(axes: Iterable[Axis]) -> list[Base]:
    return list({id(axis.base): axis.base for axis in _single(axes) if isinstance(axis, Factor)}.values())


def _replaced(axes: Iterable[Axis], change: Callable[[Dim | Factor], Dim | Factor]) -> list[Axis]:
    """Change every axis, those in runs as well."""
    return [_joined(map(change, axis.parts)) if isinstance(axis, Run) else change(axis) for axis in axes]


def _joined(parts: Iterable[Dim | Factor]) -> Axis:
    """Return one axis; a run only where factors are among the parts."""
    parts = tuple(parts)
    dims = [part for part in parts if not isinstance(part, Factor)]
    return Product(tuple(dims)) if len(dims) == len(parts) else Run(parts)


@dataclass(frozen=True, eq=False)
class Left:
    """What a slice left of an axis, what it took instead, and whether it was a slice of what the inputs go into."""

    part: Dim
    chosen: Dim
    from_input: bool
    reason: Reason


class Views:
    """Reshapes, reorderings and parts of values, over the atoms of one trace."""

    def __init__(self, dims: Dims) -> None:
        self.dims = dims
        self.parts_used: list[Dim] = []
        self.parts_left: list[Left] = []

    def settle(self, value: Value, reason: Reason) -> tuple[Dim, ...]:
        """Split the bases of a value for good, and return the dimension of every axis."""
        for base in value.bases():
            self._split(value, base, len(base.sizes) - 1, reason)
        return tuple(axis for axis in value.axes if not isinstance(axis, Factor | Run))

    def reshape(self, value: Value, sizes: Sequence[int], reason: Reason) -> Value:
        """Return the value with its elements, in row-major order, laid out in axes of the given lengths."""
        if 0 in sizes:
            return Value([self.dims.fixed(size, reason) if size else Sum(()) for size in sizes], value.index_of)
        value = Value(_single(value.axes), value.index_of)
        groups = _aligned(value.shape, sizes)
        joined = {news[0]: olds for olds, news in groups if len(news) == 1 and not _one_axis_or_run(value, olds)}
        if joined:
            return self._joining(value, sizes, joined, reason)
        for olds, _ in groups:
            if not _one_axis_or_run(value, olds):
                touched = [axis.base for i in olds if isinstance(axis := value.axes[i], Factor)]
                for base in {id(base): base for base in touched}.values():
                    self._split(value, base, len(base.sizes) - 1, reason)
        rebased = _Rebased()
        axes: list[Axis] = [ONE] * len(sizes)
        for olds, news in groups:
            old_axes = [value.axes[i] for i in olds]
            if not news:
                continue
            first = old_axes[0]
            if isinstance(first, Factor):
                rebased.replace(first.base, first.position, len(olds), news)
            elif len(olds) == len(news) == 1:
                axes[news[0]] = first
            else:
                dims = [axis for axis in old_axes if not isinstance(axis, Factor | Run)]
                rebased.replace(Base(Product(tuple(dims)), (1,)), 0, 1, news)
        for position, axis in rebased.axes(sizes):
            axes[position] = axis
        return Value(axes, value.index_of)

    def _joining(self, value: Value, sizes: Sequence[int], joined: dict[int, list[int]], reason: Reason) -> Value:
        """Reshape, with the axes `joined`, by the number of the new one, left apart at first."""
        lengths = value.shape
        apart = [[lengths[k] for k in joined[i]] if i in joined else [size] for i, size in enumerate(sizes)]
        inner = iter(self.reshape(value, [size for group in apart for size in group], reason).axes)
        axes = [[next(inner) for _ in group] for group in apart]
        return Value([_joined(_single(group)) if len(group) > 1 else group[0] for group in axes], value.index_of)

    def reorder(self, value: Value, order: Sequence[int]) -> Value:
        """Return the value whose axis i is axis ``order[i]``."""
        return Value((value.axes[i] for i in order), value.index_of)

    def part(self, value: Value, axis: int, start: int, stop: int, reason: Reason) -> Value:
        """Return the positions from `start` to before `stop` of one axis."""
        if (start, stop) == (0, length(value.axes[axis])):
            return Value(value.axes, value.index_of)
        chosen = value.axes[axis]
        for base in _bases([chosen]) if isinstance(chosen, Run) else []:
            self._split(value, base, len(base.sizes) - 1, reason)
            chosen = value.axes[axis]
        if isinstance(chosen, Factor):
            self._split(value, chosen.base, chosen.position, reason)
            chosen = value.axes[axis]
        axes = list(value.axes)
        if isinstance(chosen, Factor):
            base = chosen.base
            stride = math.prod(base.sizes[1:])
            smaller = Base(
                self._between(base.dim, start * stride, stop * stride, value, reason), (stop - start, *base.sizes[1:])
            )
            moved = _replaced(
                axes, lambda a: Factor(smaller, a.position) if isinstance(a, Factor) and a.base is base else a
            )
            return Value(_without_ones(moved), value.index_of)
        if isinstance(chosen, Run):
            raise AssertionError("a run without factors")
        axes[axis] = self._between(chosen, start, stop, value, reason)
        return Value(axes, value.index_of)

    def every(self, value: Value, axis: int, start: int, step: int, reason: Reason) -> Value:
        """Return every `step`-th position of one axis, where the step divides its length."""
        axes = list(self.settle(value, reason))
        outer, inner = self.dims.split_product(axes[axis], [size_of(axes[axis]) // step, step], reason)
        self._between(inner, start, start + 1, value, reason)
        axes[axis] = outer
        return Value(axes, value.index_of)

    def _between(self, dim: Dim, start: int, stop: int, value: Value, reason: Reason) -> Dim:
        before, rest = self.dims.cut(dim, start)
        chosen, after = self.dims.cut(rest, stop - start)
        self.parts_used.append(chosen)
        self.parts_left += [Left(part, chosen, value.from_input, reason) for part in (before, after)]
        return chosen

    def _split(self, value: Value, base: Base, count: int, reason: Reason) -> None:
        """Split the first `count` factors off a base, for good; what is left is a base of its own."""
        if count == 0:
            return
        rest = base.sizes[count:]
        dims = self.dims.split_product(base.dim, [*base.sizes[:count], math.prod(rest)], reason)
        remainder = Base(dims[-1], rest)

        def replaced(axis: Dim | Factor) -> Dim | Factor:
            if not isinstance(axis, Factor) or axis.base is not base:
                return axis
            if axis.position < count:
                return dims[axis.position]
            return dims[-1] if len(rest) == 1 else Factor(remainder, axis.position - count)

        value.axes = tuple(_replaced(value.axes, replaced))


class _Rebased:
    """Bases of the new value: those of the old one with runs of factors replaced by others."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[Base, list[tuple[int, int, list[int]]]]] = {}

    def replace(self, base: Base, position: int, count: int, news: list[int]) -> None:
        self._runs.setdefault(id(base), (base, []))[1].append((position, count, news))

    def axes(self, sizes: Sequence[int]) -> Iterator[tuple[int, Axis]]:
        """Yield positions in the new value and the axes there."""
        for base, runs in self._runs.values():
            positions = [new for _, _, news in sorted(runs, key=lambda run: run[0]) for new in news]
            new_base = Base(base.dim, [sizes[i] for i in positions])
            if len(positions) == 1:
                yield positions[0], base.dim
            else:
                yield from ((i, Factor(new_base, k)) for k, i in enumerate(positions))


def _one_axis_or_run(value: Value, olds: Sequence[int]) -> bool:
    """Say whether the axes hold no factors, or nothing but neighbouring factors of one base, in order."""
    axes = [value.axes[i] for i in olds]
    factors = [axis for axis in axes if isinstance(axis, Factor)]
    if not factors:
        return True
    first = factors[0]
    return len(factors) == len(axes) and all(
        factor.base is first.base and factor.position == first.position + k for k, factor in enumerate(factors)
    )


def _without_ones(axes: Sequence[Axis]) -> list[Axis]:
    """Take factors of length 1 off their bases."""
    out = list(axes)
    for base in _bases(axes):
        kept = [k for k, size in enumerate(base.sizes) if size > 1]
        if len(kept) < len(base.sizes):
            out = _replaced(
                out, functools.partial(_narrowed, base, kept, Base(base.dim, [base.sizes[k] for k in kept]))
            )
    return out


def _narrowed(base: Base, kept: Sequence[int], smaller: Base, axis: Dim | Factor) -> Dim | Factor:
    if not isinstance(axis, Factor) or axis.base is not base:
        return axis
    if axis.position not in kept:
        return ONE
    return base.dim if len(kept) == 1 else Factor(smaller, kept.index(axis.position))


def _aligned(olds: Sequence[int], news: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the finest pairs of neighbouring axes, old and new, that hold equally many positions; none of length 1."""
    groups: list[tuple[list[int], list[int]]] = []
    left = [i for i, size in enumerate(olds) if size != 1][::-1]
    right = [i for i, size in enumerate(news) if size != 1][::-1]
    while left or right:
        group: tuple[list[int], list[int]] = ([], [])
        a = b = 1
        while a != b or not group[0]:
            if a <= b:
                group[0].append(left.pop())
                a *= olds[group[0][-1]]
            else:
                group[1].append(right.pop())
                b *= news[group[1][-1]]
        groups.append(group)
    return groups
