"""The engine of weight matching: two networks prepared once, matched as often as one likes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from rebasin_fast._arrays import Index, IndexArray, Parameters, index_beside, index_to_numpy, positions, torch_of
from rebasin_fast._cost_cache import CostCache, CostCounts
from rebasin_fast._descent import Descent, Solver, SolverCounts, propagated
from rebasin_fast._frank_wolfe import FrankWolfe, ahead
from rebasin_fast._matching_result import WeightMatching, WeightMatchingStats
from rebasin_fast._progress import Progress
from rebasin_fast.cost import MatchedPair
from rebasin_fast.permute import Permutation, validate_permutation
from rebasin_fast.spec import PermutationSpec

Init: TypeAlias = "Literal['propagate', 'identity', 'barycentre'] | Permutation"
MatchingMethod: TypeAlias = Literal["coordinate_descent", "frank_wolfe"]
ComputeDtype: TypeAlias = Literal["float64", "float32", "bfloat16"]

DEFAULT_CACHE_BYTES = 1 << 30

_FRANK_WOLFE_STEPS = 100
_FIRST_STEPS = 8  # from the barycentre, before coordinate descent goes on
_INSIDE = 0.05  # where the default's steps begin: this share of the way from the barycentre to the start outward
_INSIDE_STEPS = 4
# The default makes no steps where the start outward leaves less than this share to gain at once: coordinate descent
# finds as much there in half the time. Trained MLPs of width 512 leave 0.36 to 2.9 %, an unrelated ResNet50 0.26 %,
# an unrelated VGG16 0.002 %.
_WORTH_STEPS = 3e-3
_FRANK_WOLFE_RTOL = 1e-5  # of the objective; what is left coordinate descent gains quicker


class WeightMatcher:
    """Two networks of one architecture, prepared for weight matching.

    Holds what successive matchings share: the checked parameters, cost matrices, and the duals of the assignment
    problems. `weight_matching` makes one, uses it once and lets it go.

    Parameters
    ----------
    spec : PermutationSpec
        Which axes of which parameters move together; a plain one (`PermutationSpec.plain`).
    params_a, params_b : mapping of str to array
        State dicts, as for `weight_matching`. They are read where they lie, at every matching: after changing A in
        place call `update_a`, and leave B as it is.
    max_cache_bytes : int, default 2**30
        Cost matrices are kept up to this sum; one that does not fit is made afresh for every solve.
    compute_dtype : {"float64", "float32", "bfloat16"}, optional
        What the factors of the matrix products are rounded to. Default: float64 where a parameter has it, else
        float32. bfloat16 needs torch tensors.

    Raises
    ------
    TypeError, ValueError
        As `weight_matching`; and if the spec is not plain.

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import WeightMatcher, mlp
    >>> rng = np.random.default_rng(0)
    >>> draw = lambda: {"layer0.weight": rng.normal(size=(16, 4)), "layer0.bias": rng.normal(size=16),
    ...                 "layer1.weight": rng.normal(size=(3, 16)), "layer1.bias": rng.normal(size=3)}
    >>> a, b = draw(), draw()
    >>> matcher = WeightMatcher(mlp((4, 16, 3)), a, b)
    >>> permutation = matcher.match().permutation
    >>> for _ in range(10):  # a training step of A, then B is matched to it again
    ...     a = {name: array + 0.01 * rng.normal(size=array.shape) for name, array in a.items()}
    ...     matcher.update_a(a)
    ...     permutation = matcher.project(permutation)
    """

    def __init__(
        self,
        spec: PermutationSpec,
        params_a: Parameters,
        params_b: Parameters,
        *,
        max_cache_bytes: int = DEFAULT_CACHE_BYTES,
        compute_dtype: ComputeDtype | None = None,
    ) -> None:
        if not isinstance(spec, PermutationSpec):
            raise TypeError(f"spec is of type {type(spec).__name__}; expected a PermutationSpec")
        if not spec.plain:
            raise ValueError(
                "spec has blocks, sums or products, or a group twice on one array; expected a plain one, or "
                "weight_matching, which takes every spec"
            )
        check_integer("max_cache_bytes", max_cache_bytes, 0)
        if compute_dtype not in (None, "float64", "float32", "bfloat16"):
            raise ValueError(f"compute_dtype is {compute_dtype!r}; expected 'float64', 'float32', 'bfloat16' or None")
        self._pair = MatchedPair(spec, params_a, params_b, compute_dtype if compute_dtype != "bfloat16" else None)
        if compute_dtype == "bfloat16" and any(torch_of(each.a) is None for each in self._pair.arrays.values()):
            raise ValueError("compute_dtype is 'bfloat16', and the networks are numpy arrays; expected torch tensors")
        self._coarse = compute_dtype == "bfloat16"
        self._compute_dtype = compute_dtype
        self._max_cache_bytes = int(max_cache_bytes)
        self._neighbours = self._pair.neighbours()
        self._cache = CostCache(self._pair, self._max_cache_bytes, compute_dtype)
        self._solver = Solver()

    def update_a(self, params_a: Parameters) -> None:
        """Go on with other values of A, of the same shapes: cost matrices are let go, duals to start from are kept.

        Parameters
        ----------
        params_a : mapping of str to array
            The new state dict. Give it again after changing it in place.

        Raises
        ------
        TypeError, ValueError
            If it does not fit.
        """
        self._pair = self._pair.with_a(params_a)
        self._cache.forget(self._pair)

    def project(
        self, init: Permutation, *, max_sweeps: int = 100, rtol: float = 1e-7, seed: int = 0
    ) -> dict[str, IndexArray]:
        """Return the permutation that coordinate descent reaches from `init`, and nothing that would cost time.

        Neither is the objective summed (but with bfloat16 products) nor convergence confirmed on new matrices. With
        an A that has moved a little since, it is one cost matrix and one short assignment for every group.

        Parameters
        ----------
        init : mapping of str to int64 array
            Where to begin; not checked.
        max_sweeps, rtol, seed
            As for `match`.

        Returns
        -------
        dict of str to ndarray of int64
        """
        descent = self._descent(self._in_kind(init), rtol, None)
        descent.run(np.random.default_rng(seed), max_sweeps, confirm=False, value_of=self._value_of())
        return _copied(descent.permutation)

    def match(
        self,
        *,
        init: Init | None = None,
        method: MatchingMethod = "coordinate_descent",
        n_starts: int = 1,
        seed: int = 0,
        max_sweeps: int = 100,
        rtol: float = 1e-7,
        progress: Progress | None = None,
    ) -> WeightMatching:
        """Match B to A; parameters, result and errors are those of `weight_matching`."""
        began = time.perf_counter()
        check_options(method, n_starts, seed, max_sweeps, rtol)
        at_barycentre = isinstance(init, str) and init == "barycentre"
        if method == "frank_wolfe" or at_barycentre:
            self._check_frank_wolfe("method is 'frank_wolfe'" if method == "frank_wolfe" else "init is 'barycentre'")
        self._cache.counts, self._solver.counts = CostCounts(), SolverCounts()
        start, steps = self._start(init, method, progress)
        orders = visiting_orders(seed, n_starts)
        outcomes = [self._descended(start, rng, max_sweeps, rtol, progress) for rng in orders]
        best = max(outcomes, key=lambda outcome: outcome.objective[-1])
        stats = self._stats(outcomes, steps, time.perf_counter() - began)
        descent = best.descent
        return WeightMatching(
            _copied(descent.permutation), best.objective, len(descent.gains), not descent.dirty, stats
        )

    def _start(self, init: Any, method: MatchingMethod, progress: Progress | None) -> tuple[dict[str, Index], int]:
        """Return where coordinate descent begins, in kind, and how many Frank-Wolfe steps have led there."""
        at_barycentre = isinstance(init, str) and init == "barycentre"
        if method == "coordinate_descent" and not at_barycentre:
            return self._default(progress) if init is None else (self._vertex(init, progress), 0)
        at_most = _FRANK_WOLFE_STEPS if method == "frank_wolfe" else _FIRST_STEPS
        inside = init is None or at_barycentre
        start = None if inside else self._vertex(init, progress)
        # Beside the matrices of iterates there must be room for those of vertices.
        left = self._max_cache_bytes - self._cache.all_bytes
        cache = self._cache
        if left < max(cache.all_bytes, cache.most_bytes):
            cache.forget()
            cache = CostCache(self._pair, left, self._compute_dtype)
            cache.counts = self._cache.counts
        steps = FrankWolfe(cache, self._solver, self._pair.sizes, _FRANK_WOLFE_RTOL, at_most, progress)
        return steps.run(start), steps.steps

    def _default(self, progress: Progress | None) -> tuple[dict[str, Index], int]:
        """Return the start outward, or where the gradient points after a few steps from near the barycentre; how many.

        Every cost matrix made on the way is one that coordinate descent asks for first, or near to it.
        """
        start = self._vertex("propagate", progress)
        room = self._cache.all_bytes + max(self._cache.all_bytes, self._cache.most_bytes) <= self._max_cache_bytes
        if not room or self._shared_by_more_than_two() or ahead(self._cache, self._solver, start) < _WORTH_STEPS:
            return start, 0
        steps = FrankWolfe(self._cache, self._solver, self._pair.sizes, _FRANK_WOLFE_RTOL, _INSIDE_STEPS, progress)
        return steps.run(start, _INSIDE, rounded=False), steps.steps

    def _vertex(self, init: Any, progress: Progress | None) -> dict[str, Index]:
        """Return the permutation `init` stands for, in kind; arrays of our own."""
        if isinstance(init, str):
            if init == "identity":
                return {group: positions(size, self._pair.home) for group, size in self._pair.sizes.items()}
            if init == "propagate":
                self._cache.forget()  # what it holds has terms that are not settled yet
                return propagated(self._cache, self._solver, self._pair.sizes, progress)
            raise ValueError(f"init is {init!r}; expected 'propagate', 'identity', 'barycentre' or a permutation")
        validate_permutation(self._pair.spec, init)
        for group, size in self._pair.sizes.items():
            if len(init[group]) != size:
                raise ValueError(f"init: group {group!r} has length {len(init[group])}; expected {size}")
        return self._in_kind({group: init[group] for group in self._pair.sizes})

    def _in_kind(self, permutation: Permutation) -> dict[str, Index]:
        """Return copies, where the networks lie: cost matrices are kept with the permutations they were made at."""
        return {group: index_beside(index, self._pair.home) for group, index in permutation.items()}

    def _descended(
        self,
        start: Permutation,
        rng: np.random.Generator,
        max_sweeps: int,
        rtol: float,
        progress: Progress | None,
    ) -> _Outcome:
        descent = self._descent(start, rtol, progress)
        descent.run(rng, max_sweeps, value_of=self._value_of())
        value = self._pair.objective(descent.permutation)
        before = value - np.cumsum(descent.gains[::-1])[::-1]
        return _Outcome(descent, (*map(float, before), value))

    def _descent(self, start: Permutation, rtol: float, progress: Progress | None) -> Descent:
        return Descent(self._cache, self._solver, self._neighbours, dict(start), rtol, progress)

    def _value_of(self) -> Callable[[Permutation], float] | None:
        """Return what sweeps are held against: sums of differences of bfloat16 products are not to be believed."""
        return self._pair.objective if self._coarse else None

    def _shared_by_more_than_two(self) -> list[str]:
        """Return the parameters on which the objective is no bilinear form, so that there is no exact line search."""
        return [param for param, matched in self._pair.arrays.items() if matched.degree > 2]

    def _check_frank_wolfe(self, what: str) -> None:
        for param in self._shared_by_more_than_two():
            raise ValueError(
                f"{what}, and {param!r} has {self._pair.arrays[param].degree} groups on its axes; expected at most "
                "two, or method='coordinate_descent' from another start"
            )
        if self._cache.all_bytes > self._max_cache_bytes:
            raise ValueError(
                f"max_cache_bytes is {self._max_cache_bytes}; expected at least {self._cache.all_bytes}, as {what}, "
                "which holds a matrix for every group"
            )

    def _stats(self, outcomes: list[_Outcome], steps: int, seconds: float) -> WeightMatchingStats:
        costs, laps = self._cache.counts, self._solver.counts
        return WeightMatchingStats(
            solves=laps.solves,
            skipped=sum(outcome.descent.skipped for outcome in outcomes),
            matrices_made=costs.made,
            matrices_updated=costs.updated,
            matrices_kept=costs.kept,
            confirmations=sum(outcome.descent.confirmations for outcome in outcomes),
            multiply_adds=costs.multiply_adds,
            steps=steps,
            cache_bytes=self._cache.kept_bytes,
            cost_seconds=costs.seconds,
            lap_seconds=laps.seconds,
            total_seconds=seconds,
        )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Where one descent ended, and the objective on the way."""

    descent: Descent
    objective: tuple[float, ...]


def _copied(permutation: Permutation) -> dict[str, IndexArray]:
    """Return what the caller gets of index arrays in kind."""
    return {group: index_to_numpy(index) for group, index in permutation.items()}


def check_options(method: object, n_starts: object, seed: object, max_sweeps: object, rtol: object) -> None:
    """Raise if an option of weight matching is of the wrong type or out of its range."""
    if method not in ("coordinate_descent", "frank_wolfe"):
        raise ValueError(f"method is {method!r}; expected 'coordinate_descent' or 'frank_wolfe'")
    for name, value, least in (("n_starts", n_starts, 1), ("seed", seed, 0), ("max_sweeps", max_sweeps, 1)):
        check_integer(name, value, least)
    if not (isinstance(rtol, (int, float)) and 0 <= rtol < 1):
        raise ValueError(f"rtol is {rtol!r}; expected a number in [0, 1)")


def visiting_orders(seed: int, n_starts: int) -> list[np.random.Generator]:
    """Return what draws the visits of each descent; the first is what n_starts=1 makes, whatever their number."""
    return [np.random.default_rng(seed if number == 0 else [seed, number]) for number in range(n_starts)]


def check_integer(name: str, value: object, least: int) -> None:
    """Raise unless the value is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")
