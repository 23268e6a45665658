"""The matched parameters of two networks in pieces (see `pieces`), and one step of matching on them.

What is solved at once is a group with the groups whose units lie in its blocks (heads, and the units within them): a
wreath product, see `wreath`. Where two such groups lie on one array, as do queries within a key's group of heads and
the units within a head, one is held in its order, block by block, while the other is solved; a step that does not gain
by the objective itself is not taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ._arrays import (
    Array,
    IndexArray,
    Parameters,
    brought_home,
    cast,
    common_home,
    inner,
    is_finite,
    is_floating,
    is_remote,
    is_wide,
    readable,
    same_library,
    take,
    take_along,
    zero_matrix,
)
from ._matching_result import WeightMatchingStats
from ._nested_assignment import solve_nested
from .layout import Structure
from .permute import Permutation, blocks_of_units, units_in_blocks
from .pieces import parent_label, pieces_of
from .spec import PermutationSpec

Similarity: TypeAlias = Array
"""A square matrix of float64, where the networks lie."""


@dataclass
class _Counts:
    """What was done on the pieces of two networks."""

    solves: int = 0
    matrices: int = 0
    multiply_adds: int = 0
    cost_seconds: float = 0.0
    lap_seconds: float = 0.0

    def stats(self, skipped: int, seconds: float) -> WeightMatchingStats:
        return WeightMatchingStats(
            solves=self.solves,
            skipped=skipped,
            matrices_made=self.matrices,
            matrices_updated=0,
            matrices_kept=0,
            confirmations=0,
            multiply_adds=self.multiply_adds,
            steps=0,
            cache_bytes=0,
            cost_seconds=self.cost_seconds,
            lap_seconds=self.lap_seconds,
            total_seconds=seconds,
        )


@dataclass(frozen=True, eq=False)
class _Matched:
    """A piece of both networks, kept as the caller has it and widened where it is computed with.

    Networks in bfloat16 would take twice their memory otherwise, those read from mapped files all of it.
    """

    kept_a: Array
    kept_b: Array
    labels: tuple[str | None, ...]
    dtype: str

    @property
    def a(self) -> Array:
        return cast(self.kept_a, self.dtype)

    @property
    def b(self) -> Array:
        return cast(self.kept_b, self.dtype)


class PiecePair:
    """The matched parameters of two networks as pieces, in the precision matching works in."""

    def __init__(
        self, spec: PermutationSpec, params_a: Parameters, params_b: Parameters, dtype: str | None = None
    ) -> None:
        for name, params in (("params_a", params_a), ("params_b", params_b)):
            spec.validate(params, name, matching=False)
        self.spec = spec = _with_sizes(spec, params_a)
        self.counts = _Counts()
        self.children: dict[str, list[str]] = {group: [] for group in spec.groups}
        for child, parent in spec.blocks.items():
            if isinstance(parent, str):
                self.children[parent].append(child)
        self.pieces = [piece for param in spec.params for piece in _matched(spec, param, params_a, params_b, dtype)]
        self._on: dict[str, list[_Matched]] = {group: [] for group in spec.groups}
        for piece in self.pieces:
            for label in dict.fromkeys(piece.labels):
                if label in self._on:
                    self._on[label].append(piece)

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A and the permuted B."""
        return sum(inner(piece.a, self._permuted(piece, permutation)) for piece in self.pieces)

    def disturbed_by(self, group: str) -> set[str]:
        """Return the groups, itself among them, whose similarities change when one moves with what is in its blocks."""
        moved = [group]
        for member in moved:
            moved += self.children[member]
        labels = {label for member in moved for piece in self._on[member] for label in piece.labels}
        return {label for label in labels if label in self._on}

    def evidence(self, group: str, known: frozenset[str]) -> float:
        """Return how much of a group and the units in its blocks is in pieces with nothing else unknown."""
        family = {group, *self.children[group]}
        settled = total = 0.0
        for member in family:
            for piece in self._on[member]:
                size = inner(piece.b, piece.b)
                total += size
                others = {label for label in piece.labels if label in self._on} - family
                settled += size if others <= known else 0.0
        return settled / total if total else 1.0

    def improved(self, group: str, permutation: Permutation, rtol: float) -> dict[str, IndexArray] | None:
        """Return the permutation with a group, and the units in its blocks, solved; None if that gains nothing."""
        family = [group, *self.children[group]]
        # Which of the children is solved where two of them lie on one array: each has its turn.
        for active in self.children[group] if self._tangled(family) else [None]:
            found = self.solved(group, permutation, active=active)
            touched = list({id(piece): piece for member in family for piece in self._on[member]}.values())
            before = [inner(piece.a, self._permuted(piece, permutation)) for piece in touched]
            after = [inner(piece.a, self._permuted(piece, found)) for piece in touched]
            if sum(after) - sum(before) > rtol * sum(map(abs, after)):
                return found
        return None

    def solved(
        self,
        group: str,
        permutation: Permutation,
        *,
        active: str | None = None,
        known: frozenset[str] | None = None,
    ) -> dict[str, IndexArray]:
        """Return the permutation with a group and the units in its blocks as their similarities have them.

        With `known`, by pieces alone that have no other groups on them than those known.
        """
        spec, children = self.spec, self.children[group]
        owner = {id(piece): self._owner(piece, group, active) for piece in self._on[group]}
        tensors = {
            member: self.similarity(
                member, permutation, [piece for piece in self._on[group] if owner[id(piece)] == member], known
            )
            for member in (group, *children)
        }
        blocks = blocks_of_units(spec, permutation, group)
        own = len(permutation[group]) // len(blocks)
        new: dict[str, IndexArray] = {member: np.empty_like(permutation[member]) for member in (group, *children)}
        for a, b in enumerate(blocks):
            rows = {m: _part(tensors[m], a, len(blocks)) for m in (group, *children)}
            cols = {m: _part(tensors[m], int(b), len(blocks)) for m in (group, *children)}
            cut = {m: tensors[m][rows[m], cols[m]] for m in (group, *children)}
            began = time.perf_counter()
            orders = _best_orders(group, children, cut)
            self.counts.lap_seconds += time.perf_counter() - began
            self.counts.solves += 1 + len(children) * own**2
            for member, order in orders.items():
                new[member][rows[member]] = order + cols[member].start
        return self._with(permutation, new)

    def similarity(
        self,
        group: str,
        permutation: Permutation,
        pieces: Iterable[_Matched],
        known: frozenset[str] | None = None,
    ) -> Similarity:
        """Return S[i, j] = <unit i of A, unit j of B> over pieces, all other groups permuted, units by their blocks."""
        began = time.perf_counter()
        n = len(permutation[group])
        total = _zeros(n, self.pieces)
        for piece in pieces:
            for place in [i for i, label in enumerate(piece.labels) if label == group]:
                lead = self._lead(piece, place)
                others = {label for i, label in enumerate(piece.labels) if i not in lead and label is not None}
                if known is None or all(label in known or label not in self._on for label in others):
                    total += self._similarity(piece, lead, permutation, n)
                    self.counts.multiply_adds += n * int(np.prod(piece.a.shape))
        self.counts.matrices += 1
        self.counts.cost_seconds += time.perf_counter() - began
        return total

    def _similarity(self, piece: _Matched, lead: list[int], permutation: Permutation, n: int) -> Similarity:
        """Return the similarities by one piece of the units that the axes `lead` make together."""
        rest = [i for i in range(len(piece.labels)) if i not in lead]
        order = [*lead, *rest]
        labels = tuple(piece.labels[i] for i in order)
        a, b = (_transposed(array, order) for array in (piece.a, piece.b))
        shape = tuple(a.shape)
        depth = self._depth(labels, len(lead))
        if depth == 0:
            b = self._permuted_array(b, labels, permutation, skip=len(lead))
            return cast(readable(a.reshape(n, -1) @ b.reshape(n, -1).T), "float64")
        # The order of some other axis depends on the new place among the first `depth` axes: one place at a time.
        places = int(np.prod(shape[:depth]))
        out = _zeros(n, self.pieces)
        for place in range(places):
            at = np.unravel_index(place, shape[:depth])
            there = self._permuted_array(b, labels, permutation, skip=len(lead), at=tuple(map(int, at)))
            rows = a.reshape(places, n // places, -1)[place]
            block = readable(rows @ there.reshape(n, -1).T)
            out[place * (n // places) : (place + 1) * (n // places)] = block
        return out

    def _permuted(self, piece: _Matched, permutation: Permutation) -> Array:
        return self._permuted_array(piece.b, piece.labels, permutation, skip=0)

    def _permuted_array(
        self,
        array: Array,
        labels: tuple[str | None, ...],
        permutation: Permutation,
        *,
        skip: int,
        at: tuple[int, ...] = (),
    ) -> Array:
        """Permute all axes but the first `skip`, on whose first `len(at)` axes the new place is `at`."""
        # Parents first: an axis that depends on another is reordered by that one's new order.
        shape = tuple(array.shape)
        for i in sorted(range(skip, len(labels)), key=lambda i: self._generation(labels[i])):
            label = labels[i]
            if label is None or label not in permutation:
                continue
            index = permutation[label]
            parents = self._chain_axes(labels, i)[:-1]
            if not parents:
                array = take(array, np.array(index), i)
                continue
            own = shape[i]
            flat = _flat_places(shape, parents, at)
            array = take_along(array, index.reshape(-1, own)[flat] % own, [*_moving(parents, at), i])
        return array

    def _depth(self, labels: tuple[str | None, ...], count: int) -> int:
        """Return how many of the first `count` axes tell the block of units on one of the others."""
        depth = 0
        for i in range(count, len(labels)):
            if labels[i] in self.spec.blocks:
                depth = max(depth, *(axis + 1 for axis in self._chain_axes(labels, i)[:-1] if axis < count), 0)
        return depth

    def _lead(self, piece: _Matched, place: int) -> list[int]:
        """Return the axes that make all units of the group on axis `place`: those of its ancestors, and that one."""
        return self._chain_axes(piece.labels, place)

    def _chain_axes(self, labels: tuple[str | None, ...], place: int) -> list[int]:
        label = labels[place]
        above = parent_label(self.spec, label) if label in self.spec.blocks else None  # type: ignore[arg-type]
        if above is None:
            return [place]
        # Where the blocks lie on two axes, as in weights from heads to heads, units belong to the nearest before them.
        before = [i for i in range(place) if labels[i] == above]
        return [*self._chain_axes(labels, before[-1] if before else labels.index(above)), place]

    def _generation(self, label: str | None) -> int:
        parent = self.spec.blocks.get(label) if label is not None else None
        return 1 + self._generation(parent) if isinstance(parent, str) else 0

    def _owner(self, piece: _Matched, group: str, active: str | None) -> str:
        """Return the member of a family whose similarities a piece counts for: one alone, lest it counts twice."""
        here = [child for child in self.children[group] if child in piece.labels]
        return active if active in here else here[0] if here else group

    def _tangled(self, family: list[str]) -> bool:
        return any(sum(member in piece.labels for member in family[1:]) > 1 for piece in self._on[family[0]])

    def _with(self, permutation: Permutation, new: Mapping[str, IndexArray]) -> dict[str, IndexArray]:
        """Return the permutation with some groups anew; units in their blocks keep their order and follow."""
        found = dict(permutation) | dict(new)
        for group in sorted(self.spec.blocks, key=self._generation):
            if group not in new:
                blocks = blocks_of_units(self.spec, found, group)
                order = permutation[group].reshape(len(blocks), -1)
                found[group] = units_in_blocks(blocks, order % order.shape[1])
        return found


def _with_sizes(spec: PermutationSpec, params: Parameters) -> PermutationSpec:
    """Return the spec itself, or one that holds the sizes of the groups; without them it has no blocks."""
    if spec.sizes is not None:
        return spec
    return PermutationSpec(spec.axes, sizes=spec.group_sizes(params), moved_only=spec.moved_only)


def _matched(
    spec: PermutationSpec, param: str, params_a: Parameters, params_b: Parameters, dtype: str | None
) -> list[_Matched]:
    a, b = params_a[param], params_b[param]
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(f"params_b[{param!r}] has shape {tuple(b.shape)}; expected {tuple(a.shape)}, as in params_a")
    # Arrays that no group moves add a constant to the objective; integers among them are no weights.
    if not spec.matched(param) or not (any(spec.axes[param]) or (is_floating(a) and is_floating(b))):
        return []
    for name, array in ((f"params_a[{param!r}]", a), (f"params_b[{param!r}]", b)):
        if not is_floating(array):
            raise TypeError(f"{name} has dtype {array.dtype}; expected floating-point numbers, as it is to be matched")
        if not is_finite(array):
            raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
    a, b = same_library(a, b)
    home = common_home([a])
    a, b = brought_home(a, home), brought_home(b, home)
    wide = dtype or ("float64" if is_wide(a) or is_wide(b) else "float32")
    return [
        _Matched(one.array, other.array, one.labels, wide)
        for one, other in zip(pieces_of(spec, param, a), pieces_of(spec, param, b), strict=True)
    ]


def _zeros(size: int, pieces: Sequence[_Matched]) -> Similarity:
    """Return zeros in float64: numpy, unless the networks lie on a device."""
    remote = bool(pieces) and is_remote(pieces[0].a)
    return zero_matrix(size, pieces[0].a, "float64") if remote else np.zeros((size, size))


def _best_orders(group: str, children: list[str], similarity: Mapping[str, Similarity]) -> dict[str, IndexArray]:
    """Return the best order of a group's units, and of the units in its blocks, solved where the similarities lie."""
    sizes = {member: len(similarity[member]) for member in (group, *children)}
    return solve_nested(Structure(sizes, dict.fromkeys(children, group)), group, similarity)


def _part(tensor: Similarity, block: int, blocks: int) -> slice:
    size = len(tensor) // blocks
    return slice(block * size, (block + 1) * size)


def _transposed(array: Array, order: list[int]) -> Array:
    return array.permute(order) if hasattr(array, "permute") else array.transpose(order)


def _moving(parents: list[int], at: tuple[int, ...]) -> list[int]:
    return [axis for axis in parents if axis >= len(at)]


def _flat_places(shape: tuple[int, ...], parents: list[int], at: tuple[int, ...]) -> IndexArray:
    """Return the flat number of the parent's unit, for every place on those of its axes that `at` does not fix."""
    moving = _moving(parents, at)
    flat = np.zeros([shape[axis] for axis in moving], dtype=np.int64)
    for axis in parents:
        if axis in moving:
            along = [1] * len(moving)
            along[moving.index(axis)] = shape[axis]
            flat = flat * shape[axis] + np.arange(shape[axis]).reshape(along)
        else:
            flat = flat * shape[axis] + at[axis]
    return flat
