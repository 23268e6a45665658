"""One operator of a trace, as its rule sees it, and the table of rules.

A rule says how the axes of an operator's results follow from those of its arguments, and what has to be permuted alike
for the operator to commute with the permutation. A rule that cannot tell returns None: then everything that the
operator touches is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .dims import ONE, Dim, Dims, Reason, size_of
from .values import Value, Views


@dataclass(frozen=True, eq=False)
class Lookup:
    """Positions of `rows` were read at indices with the dimensions `places`.

    At every position of all of `places` the unit of `rows` is known: where tokens are sent to experts, the units within
    an expert may be permuted in a way of its own, even in tensors that have an axis of tokens and none of experts.
    `content` says which indices they were; `searched`, whether they came from a search along the very axis of `rows`.
    """

    places: tuple[Dim, ...]
    rows: Dim
    content: object
    searched: bool


@dataclass
class Trace:
    """What is shared by all operators of a trace.

    Attributes
    ----------
    dims : Dims
        The atoms.
    views : Views
        Reshapes and parts.
    values : list of Value
        Every value there was.
    mixed : list of (dims, dims)
        Operators that ran along the second dimensions for each position of the first: those of the first must not be
        permuted differently for different positions of the second.
    uniform : list of dims
        Dimensions whose positions are counted by the elements of some tensor, so that they have one order only.
    lookups : list of Lookup
        Tensors read by index.
    unknown : list of Reason
        Operators without a rule, and where they ran.
    """

    dims: Dims = field(default_factory=Dims)
    views: Views = field(init=False)
    values: list[Value] = field(default_factory=list)
    mixed: list[tuple[tuple[Dim, ...], tuple[Dim, ...]]] = field(default_factory=list)
    uniform: list[Dim] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    indices_overwritten: bool = False
    unknown: list[Reason] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.views = Views(self.dims)

    def value(self, axes: Iterable[Any], index_of: Dim | None = None) -> Value:
        """Return a new value, and keep it in the books."""
        value = Value(axes, index_of)
        self.values.append(value)
        if index_of is not None:
            self.uniform.append(index_of)
        return value

    def freeze(self, value: Value, reason: Reason) -> None:
        """Freeze all axes of a value, and what its elements count."""
        for dim in value.dims():
            self.dims.freeze(dim, reason)
        if value.index_of is not None:
            self.dims.freeze(value.index_of, reason)


@dataclass
class Call:
    """One operator with its arguments by name, tensors as values, and the shapes of the tensors it returned."""

    trace: Trace
    name: str
    args: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    reason: Reason
    frozen: list[Dim] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def tensors(self) -> list[Value]:
        """Return all values among the arguments, in order."""
        return list(_values(self.args.values()))

    def settled(self, value: Value) -> list[Dim]:
        """Return the dimension of every axis."""
        return list(self.trace.views.settle(value, self.reason))

    def unify(self, a: Dim, b: Dim) -> None:
        """Let two dimensions be permuted alike."""
        self.trace.dims.unify(a, b, self.reason)

    def freeze(self, *dims: Dim) -> None:
        """Keep dimensions in place, because the operator mixes their positions in a way of their order."""
        for dim in dims:
            self.trace.dims.freeze(dim, self.reason)
        self.frozen.extend(dims)

    def looked_up(self, rows: Dim, index: Value, places: Iterable[Dim]) -> None:
        """Note that positions of `rows` were read at the elements of `index`."""
        self.trace.lookups.append(Lookup(tuple(places), rows, index.content, index.index_of is not None))

    def fixed(self, size: int) -> Dim:
        """Return a new dimension that stays as it is."""
        return self.trace.dims.fixed(size, self.reason)

    def size(self, dim: Dim) -> int:
        """Return the number of positions."""
        return size_of(dim)

    def free(self, size: int) -> Dim:
        """Return a new dimension along which nothing changes, so that it may be permuted as others need it."""
        return self.trace.dims.new(size)

    def factors(self, dim: Dim, *sizes: int) -> list[Dim]:
        """Return the factors of a dimension."""
        return self.trace.dims.split_product(dim, sizes, self.reason)

    def mix(self, kept: Iterable[Dim], along: Iterable[Dim]) -> None:
        """Note that for each position of `kept` the operator runs along all positions of `along`."""
        self.trace.mixed.append((tuple(kept), tuple(along)))

    def contract(self, kept: Iterable[Dim], along: Iterable[Dim]) -> None:
        """Note that products of several arguments are summed over `along` for each position of `kept`.

        The products are nowhere in memory, and yet tell which dimensions meet: units of one head times those of
        another, summed unit by unit, have one order for all heads, although each factor has its own head beside them.
        """
        kept, along = tuple(kept), tuple(along)
        self.mix(kept, along)
        self.value([*kept, *along])

    def value(self, axes: Iterable[Any], index_of: Dim | None = None) -> Value:
        """Return a value to be the operator's result."""
        return self.trace.value(axes, index_of)

    def broadcast(self, values: Iterable[Value]) -> list[Dim]:
        """Line up the axes of values as arithmetic does, from the last; return those of the result."""
        rows = [self.settled(value)[::-1] for value in values]
        out: list[Dim] = []
        for i in range(max(map(len, rows), default=0)):
            dims = [row[i] for row in rows if i < len(row)]
            wide = [dim for dim in dims if self.trace.dims.resolve(dim) != ONE]
            for dim in wide[1:]:
                self.unify(wide[0], dim)
            out.append(wide[0] if wide else ONE)
        return out[::-1]


Result: TypeAlias = "Value | Sequence[Value | None] | None"
Rule: TypeAlias = Callable[[Call], Result]

RULES: dict[str, Rule] = {}
INDEX_RULES: set[str] = set()
"""Operators whose rules know what to do with values that are indices; for all others the counted dimension freezes."""

WRITES_ASIDE = frozenset({"aten::_native_batch_norm_legit", "aten::native_batch_norm", "aten::rrelu_with_noise"})
"""Operators that write to other arguments than their first, and lay nothing out anew there: running statistics are a
number for each channel before and after."""


def rule(*names: str, indices: bool = False) -> Callable[[Rule], Rule]:
    """Enter a rule for operators by name, such as ``aten::mm``; in-place variants ``aten::mm_`` go by the same one."""

    def enter(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise AssertionError(f"two rules for {name}")
            RULES[name] = function
        if indices:
            INDEX_RULES.update(names)
        return function

    return enter


def axis_of(index: int, count: int) -> int:
    """Return an axis number that may count from the end as one from 0."""
    return index + count if index < 0 else index


def axes_of(indices: Any, count: int) -> list[int]:
    """Return axis numbers from 0: of one, of several, or of all for None or an empty list."""
    if indices is None or (isinstance(indices, Sequence) and not indices):
        return list(range(count))
    chosen = [indices] if isinstance(indices, int) else indices
    return sorted(axis_of(index, count) for index in chosen)


def _values(items: Iterable[Any]) -> Iterator[Value]:
    for item in items:
        if isinstance(item, Value):
            yield item
        elif isinstance(item, list | tuple):
            yield from _values(item)
