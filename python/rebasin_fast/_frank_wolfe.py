"""Frank-Wolfe over doubly stochastic matrices: all groups move at once, and only the end is rounded.

Writing every permutation as a matrix P_g and letting P_g be doubly stochastic, the objective is
f(P) = sum over parameters of <A, P_out B P_in^T>, and its gradient in P_g is the group's cost matrix. Iterates are
convex combinations of permutations ("vertices"). A cost matrix is linear in every single other group, so where no
parameter lies in more than two groups the gradient at an iterate is the same convex combination of the vertices' cost
matrices: those come out of the cache, brought up to date by changed columns, and no product with a dense P is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rebasin_fast._arrays import Array, Index, add_to_cells, blend, cells, copy, filled_matrix, numbers, readable, total
from rebasin_fast._cost_cache import CostCache
from rebasin_fast._descent import Solver
from rebasin_fast._progress import Progress
from rebasin_fast.permute import Permutation

_FORGOTTEN = 1e-9  # weight of a vertex that has become too small to count


@dataclass
class _Combination:
    """A point of the product of the Birkhoff polytopes: shares of the barycentre and of vertices.

    A vertex is a permutation of every group; at the barycentre every entry of P_g is 1 / n_g.
    """

    barycentre: float = 1.0
    vertices: list[tuple[float, Permutation]] = field(default_factory=list)

    def towards(self, vertex: Permutation, share: float) -> None:
        """Go the share of the way to a vertex."""
        vertices = [*((weight * (1 - share), p) for weight, p in self.vertices), (share, vertex)]
        self.barycentre *= 1 - share
        self.vertices = [(weight, p) for weight, p in vertices if weight > _FORGOTTEN]

    def inner(self, group: str, matrix: Array) -> Any:
        """Return <matrix, P_g>, as `_arrays.total` does."""
        found: Any = sum(weight * total(cells(matrix, p[group])) for weight, p in self.vertices)
        if self.barycentre > _FORGOTTEN:
            found += self.barycentre * total(matrix) / len(matrix)
        return found

    def dense(self, group: str, size: int, home: Array | None = None) -> Array:
        """Return P_g, where `home` lies."""
        matrix = filled_matrix(size, self.barycentre / size, home)
        for weight, p in self.vertices:
            add_to_cells(matrix, p[group], weight)
        return matrix


def ahead(cache: CostCache, solver: Solver, permutation: Permutation) -> float:
    """Return what the groups could gain, each alone and all at once, as a share of what they would have."""
    gains, scales = [], []
    for group, old in permutation.items():
        matrix = cache.readable(group, permutation)
        there = cells(matrix, solver.best(group, matrix))
        gains.append(total(there) - total(cells(matrix, old)))
        scales.append(total(abs(there)))
    gain, scale = numbers(sum(gains), sum(scales)) if gains else (0.0, 0.0)
    return gain / scale if scale > 0 else 0.0


@dataclass
class FrankWolfe:
    """Steps from a permutation through the interior to a permutation again.

    Attributes
    ----------
    steps : int
        Steps made.
    converged : bool
        Whether the last step had no more than `rtol` of the objective to gain.
    """

    cache: CostCache
    solver: Solver
    sizes: dict[str, int]
    rtol: float
    max_steps: int
    progress: Progress | None = None
    steps: int = 0
    converged: bool = False
    _gradient: dict[str, Array] = field(default_factory=dict)

    def run(self, start: Permutation | None, share: float = 1.0, *, rounded: bool = True) -> dict[str, Index]:
        """Return the permutation at which steps from `start` end.

        Without `start` they begin at the barycentre, which favours no numbering of the units; with a `share` below 1
        that share of the way from there to `start`. The last point is `rounded` by an assignment for every group, or
        else left for the permutation that its gradient favours: nearer to where coordinate descent goes from there
        while few steps have been made, and the line search of one step less.
        """
        point = self._begin(start, share)
        while not self.converged and self.steps < self.max_steps:
            self._step(point)
            if self.progress is not None:
                self.progress("weight matching, Frank-Wolfe", self.steps, self.max_steps)
        end = self._rounded(point) if rounded else self._favoured()
        self._gradient.clear()
        return end

    def _rounded(self, point: _Combination) -> dict[str, Index]:
        rounding = Solver()  # the duals of a rounding say nothing about costs
        return {
            group: rounding.best(group, point.dense(group, size, self.cache.home)) for group, size in self.sizes.items()
        }

    def _favoured(self) -> dict[str, Index]:
        return {group: self.solver.best(group, readable(gradient)) for group, gradient in self._gradient.items()}

    def _begin(self, start: Permutation | None, share: float) -> _Combination:
        """Return the point where the steps begin, and set the gradient there."""
        point = _Combination()
        if start is None or share < 1:
            self._gradient = {group: self.cache.at_barycentre(group) for group in self.sizes}
        else:
            self._gradient = {group: copy(self.cache.at(group, start)) for group in self.sizes}
        if start is not None:
            point.towards(start, share)
            if share < 1:
                for group, gradient in self._gradient.items():
                    blend(gradient, self.cache.at(group, start), share)
        return point

    def _step(self, point: _Combination) -> None:
        """Move towards the vertex that the gradient favours most, exactly as far as the objective rises."""
        vertex = self._favoured()
        slopes: list[Any] = []
        scales: list[Any] = []
        for group, gradient in self._gradient.items():
            matrix = readable(gradient)
            ahead = cells(matrix, vertex[group])
            slopes.append(total(ahead) - point.inner(group, matrix))
            scales.append(total(abs(ahead)))
        slope, scale = numbers(sum(slopes), sum(scales))
        self.steps += 1
        if slope <= self.rtol * scale:
            self.converged = True
            return
        # f(P + t (Q - P)) = f(P) + slope t + curvature t^2: a parameter in two groups is in two gradients, hence 1/2.
        slopes.clear()
        for group in self._gradient:
            matrix = self.cache.readable(group, vertex)
            slopes.append(total(cells(matrix, vertex[group])) - point.inner(group, matrix))
        (slope_there,) = numbers(sum(slopes))
        curvature = 0.5 * (slope_there - slope)
        share = 1.0 if curvature >= 0 else min(1.0, -slope / (2 * curvature))
        for group, gradient in self._gradient.items():
            blend(gradient, self.cache.at(group, vertex), share)
        point.towards(vertex, share)
