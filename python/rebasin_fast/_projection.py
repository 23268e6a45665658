"""The projection of the straight-through estimator: B's nearest permutation to a point that moves little each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rebasin_fast._arrays import (
    Array,
    Index,
    IndexArray,
    Parameters,
    cells,
    index_beside,
    index_of_entries,
    is_floating,
    moved_positions,
    numbers,
    positions,
    readable,
    take,
    total,
    widened,
)
from rebasin_fast._assign import best_columns
from rebasin_fast.permute import permuted
from rebasin_fast.spec import Axis, Member, PermutationSpec
from rebasin_fast.weight_matching import weight_matching

_RTOL = 1e-7
"""As in weight matching: a gain below this part of the sum it is made of is rounding."""

_MOST_SWEEPS = 100
"""Two or three are enough; but costs are rounded, and rounding must not go round in circles."""


class MatchedAnew:
    """The projection by `weight_matching` itself, from the permutation it found last: for every spec, and slower.

    Parameters and attributes as those of `Projection`.
    """

    def __init__(
        self, spec: PermutationSpec, params_b: Parameters, permutation: Mapping[str, IndexArray], seed: int
    ) -> None:
        self.permutation = {group: np.array(permutation[group], dtype=np.int64) for group in spec.groups}
        self._spec, self._params_b, self._seed = spec, params_b, seed
        self.permuted = self._aligned()

    def project(self, target: Mapping[str, Array]) -> bool:
        """Bring `permutation` and `permuted` to the projection of `target`; say whether anything moved."""
        whole = {param: target.get(param, array) for param, array in self._params_b.items()}
        before = self.permutation
        found = weight_matching(self._spec, whole, self._params_b, init=before, seed=self._seed)
        if all(np.array_equal(index, before[group]) for group, index in found.permutation.items()):
            return False
        self.permutation = found.permutation
        self.permuted = self._aligned()
        return True

    def _aligned(self) -> dict[str, Array]:
        return {
            param: widened(permuted(self._spec, self.permutation, param, array))
            for param, array in self._params_b.items()
            if is_floating(array)
        }


def projection_for(
    spec: PermutationSpec, params_b: Parameters, permutation: Mapping[str, IndexArray], seed: int
) -> Projection | MatchedAnew:
    """Return the quicker projection where the spec is plain, and its axes nothing but `Axis`; else the other."""
    known = all(axis is None or type(axis) is Axis for axes in spec.axes.values() for axis in axes)
    return (Projection if known and spec.plain else MatchedAnew)(spec, params_b, permutation, seed)


class Projection:
    """Finds argmax over pi of <target, pi(B)>, from the permutation it found last, for one target after the other.

    Coordinate descent, as in weight matching, for targets of which each is near the one before. B is kept permuted as
    last found, so that nothing is gathered while nothing moves; costs are in its coordinates, where the identity is
    the permutation to improve on. Where few units move, costs that were made before are corrected by those alone.

    Parameters
    ----------
    spec : PermutationSpec
        Which axes of which parameters move together.
    params_b : mapping of str to array
        B's parameters, checked to fit `spec`. Copied.
    permutation : mapping of str to int64 array
        Where to begin.
    seed : int
        Order of the visits.

    Attributes
    ----------
    permutation : dict of str to index array
        The permutation found last, where B lies; its arrays are replaced, never changed.
    permuted : dict of str to array
        B's floating-point parameters so permuted, in float32 or float64.
    """

    def __init__(
        self, spec: PermutationSpec, params_b: Parameters, permutation: Mapping[str, IndexArray], seed: int
    ) -> None:
        self.permuted: dict[str, Array] = {
            param: widened(permuted(spec, permutation, param, array))
            for param, array in params_b.items()
            if is_floating(array)
        }
        home = next(iter(self.permuted.values()), None)
        self.permutation = {group: index_beside(permutation[group], home) for group in spec.groups}
        self._spec = spec
        self._members = {
            group: [member for member in members if spec.matched(member.param) and member.param in self.permuted]
            for group, members in spec.groups.items()
        }
        self._duals: dict[str, Any] = {}
        self._rng = np.random.default_rng(seed)

    def project(self, target: Mapping[str, Array]) -> bool:
        """Bring `permutation` and `permuted` to the projection of `target`; say whether anything moved.

        `target` holds arrays like those of `permuted` (of the same dtype) for the matched parameters.
        """
        groups = list(self._spec.groups)
        costs: dict[str, Array] = {}
        dirty, moved = set(groups), False
        for _ in range(_MOST_SWEEPS):
            if not dirty:
                break
            for k in self._rng.permutation(len(groups)):
                group = groups[k]
                if group in dirty and self._members[group]:
                    if group not in costs:
                        costs[group] = self._cost(group, target)
                    order = self._improved(group, readable(costs[group]))
                    if order is not None:
                        dirty |= self._move(group, order, target, costs)
                        moved = True
                dirty.discard(group)
        return moved

    def _cost(self, group: str, target: Mapping[str, Array]) -> Array:
        size = len(self.permutation[group])
        total: Any = None
        for member in self._members[group]:
            rows_a, rows_b = (
                _units_as_rows(params[member.param], member.axis, size) for params in (target, self.permuted)
            )
            total = rows_a @ rows_b.T if total is None else total.addmm_(rows_a, rows_b.T)
        return total

    def _improved(self, group: str, similarity: Array) -> Index | None:
        """Return the best assignment of a similarity matrix, or None where the diagonal is as good.

        The prices of the units of B at which the last one was solved are nearly right for this one.
        """
        order, duals = best_columns(similarity, self._duals.get(group))
        gained = cells(similarity, order)
        gain, scale = numbers(total(gained) - total(similarity.diagonal()), total(abs(gained)))
        if gain <= _RTOL * scale:
            self._duals[group] = duals
            return None
        # B's units will be reordered, and their prices with them.
        self._duals[group] = None if duals is None else duals[order]
        return order

    def _move(self, group: str, order: Index, target: Mapping[str, Array], costs: dict[str, Array]) -> set[str]:
        """Reorder B along `group`, correct the costs at hand, and return the groups whose costs have changed."""
        self.permutation[group] = self.permutation[group][order]
        units = moved_positions(positions(len(order), costs[group]), order)
        costs[group] = take(costs[group], order, 1)
        touched: set[str] = set()
        for member in self._spec.groups[group]:
            if member.param not in self.permuted:
                continue
            old = self.permuted[member.param]
            self.permuted[member.param] = take(old, index_of_entries(order, member.block), member.axis)
            if self._spec.matched(member.param):
                touched |= self._correct(member, units, old, target, costs)
        for other in touched:
            if 2 * len(units) > len(order):  # anew is cheaper then, and free of rounding
                costs.pop(other, None)
        return touched

    def _correct(
        self, member: Member, units: Index, old: Array, target: Mapping[str, Array], costs: dict[str, Array]
    ) -> set[str]:
        """Correct the costs of the groups on the other axes of a parameter for `units` that moved on one; name them."""
        axes = self._spec.axes[member.param]
        others = {axis.group: i for i, axis in enumerate(axes) if axis is not None and i != member.axis}
        few = 2 * len(units) <= old.shape[member.axis] // member.block
        if few and any(other in costs for other in others):
            entries = index_of_entries(units, member.block)
            part, now, before = (
                take(array, entries, member.axis) for array in (target[member.param], self.permuted[member.param], old)
            )
            for other, i in others.items():
                if other in costs:
                    size = len(self.permutation[other])
                    costs[other] = (
                        costs[other] + _units_as_rows(part, i, size) @ _units_as_rows(now - before, i, size).T
                    )
        return set(others)


def _units_as_rows(tensor: Any, axis: int, units: int) -> Any:
    return tensor.movedim(axis, 0).reshape(units, -1)
