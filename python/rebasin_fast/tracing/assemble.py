"""From the atoms of a trace to a spec: names, layouts of the axes, and what is frozen for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from rebasin_fast.layout import Axis, Fixed, Layout, ProductAxis, SumAxis, Within, simplified, untold, withins
from rebasin_fast.report import FrozenAxis, Origin
from rebasin_fast.spec import PermutationSpec

from .blocks import parents
from .capture import Capture
from .dims import Atom, Dim, Product, Reason, Sum, size_of

_ONE_WAY = (
    "the model's way through its code depends on values of tensors; the spec is one of the way that the example took, "
    "with the model's parameters. Prove it on other inputs and parameters"
)

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def spec_of(capture: Capture) -> PermutationSpec:
    """Return the spec of a traced model."""
    return written(capture)[0]


def written(capture: Capture) -> tuple[PermutationSpec, Callable[[Sequence[Dim]], Layout]]:
    """Return the spec of a traced model, and a function that writes dimensions of its tensors, as one axis."""
    axes = {name: _resolved(capture, name) for name in capture.params}
    _freeze_lone_atoms(capture, axes)
    order = list(
        dict.fromkeys(atom for dims in axes.values() for dim in dims for atom in capture.trace.dims.leaves(dim))
    )
    parent = parents(capture.trace, order)
    text = _Written(axes, parent)
    while stray := text.stray():
        # No layout says so: the units then go alike in all blocks.
        parent = {child: above for child, above in parent.items() if child not in stray}
        text = _Written(axes, parent)
    layouts = text.layouts
    moved_only = [name for name in capture.params if name in capture.buffers or name.rpartition(".")[2] in _STATISTICS]
    fixed_lengths = {
        (name, i): size_of(dim)
        for name, dims in axes.items()
        for i, dim in enumerate(dims)
        if isinstance(simplified(layouts[name][i]), Fixed)
    }
    spec = PermutationSpec(
        layouts, sizes=text.sizes, moved_only=moved_only, fixed_lengths=fixed_lengths, blocks=text.blocks
    )
    unknown = tuple(dict.fromkeys((reason.operator, reason.module) for reason in capture.trace.unknown))
    resolve = capture.trace.dims.resolve
    warnings = (_ONE_WAY,) if capture.values else ()
    return spec.with_origin(Origin(tuple(_frozen_axes(axes)), unknown, warnings)), lambda dims: text.layout(
        resolve(Product(tuple(dims)))
    )


class _Written:
    """Layouts, sizes and blocks for one choice of parents."""

    def __init__(self, axes: Mapping[str, Sequence[Dim]], parent: dict[Atom, Atom]) -> None:
        held = _held(parent, axes)
        self._names = _names(axes, parent, held)
        writer = _Writer(self._names, parent)
        self.layout = writer.layout
        self.layouts = {name: tuple(map(writer.layout, dims)) for name, dims in axes.items()}
        self.sizes = {name: writer.flat_size(atom) for atom, name in self._names.items()}
        self.blocks = {self._names[child]: self._names.get(above, above.size) for child, above in parent.items()}
        # As many blocks as units: nothing of it can move.
        self.blocks |= {self._names[atom]: atom.size for atom in held}

    def stray(self) -> set[Atom]:
        """Return children in parameters in which no axis tells their block."""
        groups: set[str] = set()
        for layouts in self.layouts.values():
            for i, parent in untold(layouts, self.blocks):
                groups |= {within.group for within in withins(layouts[i]) if within.parent == parent}
        return {atom for atom, name in self._names.items() if name in groups}


def _resolved(capture: Capture, name: str) -> tuple[Dim, ...]:
    value = capture.params[name]
    dims = capture.trace.views.settle(value, Reason("end of the trace"))
    return tuple(map(capture.trace.dims.resolve, dims))


def _freeze_lone_atoms(capture: Capture, axes: Mapping[str, Sequence[Dim]]) -> None:
    """Freeze what lies on a single axis of a single tensor.

    Units that one array makes and no array takes are no hidden units: most often they are what one forward pass left
    out and another may use, such as positions beyond the length of the example. Not so where the positions are counted
    by a search among all of them and looked up again, as the entries of a codebook are.
    """
    counted = {
        atom for lookup in capture.trace.lookups if lookup.searched for atom in capture.trace.dims.leaves(lookup.rows)
    }
    count: Counter[Atom] = Counter()
    seen: set[int] = set()
    for name, dims in axes.items():
        if id(capture.params[name]) not in seen:
            seen.add(id(capture.params[name]))
            count.update(atom for dim in dims for atom in capture.trace.dims.leaves(dim))
    for atom, times in count.items():
        if times == 1 and atom not in counted:
            atom.frozen = atom.frozen or Reason("on no other axis of a parameter")


def _held(parent: Mapping[Atom, Atom], axes: Mapping[str, Sequence[Dim]]) -> set[Atom]:
    """Return the parents that stay and yet need a name, as some child does not follow right behind them."""
    return {
        parent[atom]
        for dims in axes.values()
        for dim in dims
        for before, atom in _neighbours(dim)
        if atom in parent and parent[atom].frozen and before is not parent[atom]
    }


def _neighbours(dim: Dim) -> Iterator[tuple[Atom | None, Atom]]:
    """Yield every atom with the one right before it in its product."""
    if isinstance(dim, Atom):
        yield None, dim
    elif isinstance(dim, Sum):
        for term in dim.terms:
            yield from _neighbours(term)
    else:
        last: Atom | None = None
        for factor in dim.factors:
            if isinstance(factor, Atom):
                yield last, factor
                last = factor
            else:
                yield from _neighbours(factor)
                last = None


def _names(axes: Mapping[str, Sequence[Dim]], parent: Mapping[Atom, Atom], held: set[Atom]) -> dict[Atom, str]:
    """Name every group after the first parameter it lies on."""
    first: dict[Atom, str] = {}
    for name, dims in axes.items():
        for dim in dims:
            for _, atom in _neighbours(dim):
                if not atom.frozen or atom in held:
                    first.setdefault(atom, name)
    heads = set(parent.values())
    names: dict[Atom, str] = {}
    taken: set[str] = set()
    for atom, param in first.items():
        stem = param.removesuffix(".weight")
        base = f"{stem}.blocks" if atom in heads else stem
        name, number = base, 2
        while name in taken:
            name, number = f"{base}.{number}", number + 1
        taken.add(name)
        names[atom] = name
    return names


class _Writer:
    """Writes dimensions as layouts."""

    def __init__(self, names: Mapping[Atom, str], parent: Mapping[Atom, Atom]) -> None:
        self._names = names
        self._parent = parent

    def flat_size(self, atom: Atom) -> int:
        """Return the number of units of an atom in all blocks of its parents."""
        above = self._parent.get(atom)
        return atom.size if above is None else atom.size * self.flat_size(above)

    def layout(self, dim: Dim) -> Layout:
        """Return the layout of one dimension."""
        if isinstance(dim, Atom):
            return self._atom(dim)
        if not size_of(dim):
            return Fixed(0)
        if isinstance(dim, Sum):
            return SumAxis(tuple(map(self.layout, dim.terms)))
        return self._product(dim)

    def _product(self, dim: Product) -> Layout:
        """Join parents and children that follow one another: "heads * units@heads" is "units"."""
        factors: list[Layout] = []
        last: Atom | None = None  # the atom behind the last factor, if all of its ancestors are in it as well
        for factor in dim.factors:
            if not isinstance(factor, Atom):
                factors.append(self.layout(factor))
                last = None
            elif last is not None and self._parent.get(factor) is last:
                factors[-1] = Axis(self._names[factor])
                last = factor
            else:
                factors.append(self._atom(factor))
                last = factor if factor not in self._parent else None
        return ProductAxis(tuple(factors))

    def _atom(self, atom: Atom) -> Layout:
        if atom not in self._names:
            return Fixed(atom.size)
        above = self._parent.get(atom)
        return Axis(self._names[atom]) if above is None else Within(self._names[atom], self._names[above])


def _frozen_axes(axes: Mapping[str, Sequence[Dim]]) -> Iterator[FrozenAxis]:
    for name, dims in axes.items():
        for i, dim in enumerate(dims):
            reasons: dict[Reason, int] = {}
            for _, atom in _neighbours(dim):
                if atom.frozen:
                    reasons[atom.frozen] = reasons.get(atom.frozen, 0) + atom.size
            if size_of(dim) == 1:
                yield FrozenAxis(name, i, 1, "a single position")
            for reason in reasons:
                yield FrozenAxis(name, i, size_of(dim), reason.operator, reason.module)
