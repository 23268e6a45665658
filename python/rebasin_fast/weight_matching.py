"""Weight matching: align the hidden units of one network to another's by their weights alone."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from rebasin_fast._arrays import IndexArray, Parameters
from rebasin_fast._progress import Progress
from rebasin_fast.cost import MatchedPair, neighbours
from rebasin_fast.lap import linear_sum_assignment
from rebasin_fast.permute import Permutation, identity_permutation, validate_permutation
from rebasin_fast.spec import PermutationSpec


@dataclass(frozen=True)
class WeightMatchingStats:
    """Where the time went.

    Attributes
    ----------
    solves : int
        Linear assignment problems solved.
    cost_seconds, lap_seconds, total_seconds : float
        Time in building cost matrices, in solving them, and in all.
    """

    solves: int
    cost_seconds: float
    lap_seconds: float
    total_seconds: float


@dataclass(frozen=True, eq=False)
class WeightMatching:
    """The outcome of `weight_matching`.

    Attributes
    ----------
    permutation : dict of str to ndarray of int64
        For every group the index array that aligns B to A; for `apply_permutation`.
    objective : tuple of float
        Inner product of A and the permuted B: at the start, then after every sweep. Never falls.
    sweeps : int
        Sweeps made.
    converged : bool
        Whether no group had anything left to gain; False if `max_sweeps` came first.
    stats : WeightMatchingStats
        Solves and seconds.
    """

    permutation: dict[str, IndexArray]
    objective: tuple[float, ...]
    sweeps: int
    converged: bool
    stats: WeightMatchingStats


def weight_matching(
    spec: PermutationSpec,
    params_a: Parameters,
    params_b: Parameters,
    *,
    init: Literal["identity"] | Permutation = "identity",
    seed: int = 0,
    max_sweeps: int = 100,
    rtol: float = 1e-7,
    progress: Progress | None = None,
) -> WeightMatching:
    """Find the permutation of B's hidden units that brings its weights closest to A's.

    Coordinate descent on the sum of bilinear assignment problems, max over pi of <theta_A, pi(theta_B)>: visit the
    groups in random order; with all others fixed, the best permutation of one group is a linear assignment problem.
    A group none of whose neighbours has moved since it was solved is skipped: there is nothing new to solve.

    Parameters
    ----------
    spec : PermutationSpec
        Which axes of which parameters move together.
    params_a, params_b : mapping of str to array
        State dicts of one architecture: numpy arrays or torch tensors, any float dtype, any device. Running
        statistics and integer buffers may be among them; they are not matched. Never modified.
    init : "identity" or mapping of str to int64 array
        Where to begin; the paper begins with the identity.
    seed : int, default 0
        Order of the visits. The same seed gives the same answer.
    max_sweeps : int, default 100
        At most so many rounds over the groups.
    rtol : float, default 1e-7
        A new permutation of a group is accepted only if it gains more than `rtol` times the sum of the magnitudes
        it is made of; below that lies rounding.
    progress : callable, optional
        ``progress(stage, done, total)``, after every group.

    Returns
    -------
    WeightMatching
        Permutation, objective per sweep, sweeps, converged, stats.

    Raises
    ------
    TypeError
        If a matched parameter does not hold floating-point numbers.
    ValueError
        If a state dict or `init` does not fit `spec`, shapes differ, values are not finite, or an option is out of
        its range.

    References
    ----------
    .. [1] S. K. Ainsworth, J. Hayase, S. Srinivasa (2023). Git Re-Basin: Merging Models modulo Permutation
       Symmetries. ICLR 2023, arXiv:2209.04836, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import apply_permutation, mlp, random_permutation, weight_matching
    >>> spec, rng = mlp((4, 16, 3)), np.random.default_rng(0)
    >>> a = {"layer0.weight": rng.normal(size=(16, 4)), "layer0.bias": rng.normal(size=16),
    ...      "layer1.weight": rng.normal(size=(3, 16)), "layer1.bias": rng.normal(size=3)}
    >>> b = apply_permutation(spec, random_permutation(spec, seed=1), a)
    >>> found = weight_matching(spec, a, b)
    >>> aligned = apply_permutation(spec, found.permutation, b)
    >>> all(np.array_equal(a[name], aligned[name]) for name in a)
    True
    """
    began = time.perf_counter()
    _check_options(spec, seed, max_sweeps, rtol)
    pair = MatchedPair(spec, params_a, params_b)
    descent = _Descent(pair, _initial(spec, init, params_a), rtol, progress)
    objective = [pair.objective(descent.permutation)]
    rng = np.random.default_rng(seed)
    while descent.dirty and len(objective) <= max_sweeps:
        before = dict(descent.permutation)
        descent.sweep(rng, number=len(objective))
        now = pair.objective(descent.permutation)
        if now < objective[-1]:  # every step gained by its own cost matrix, so all that happened was rounding
            descent.permutation, now = before, objective[-1]
            descent.dirty.clear()
        objective.append(now)
    stats = WeightMatchingStats(descent.solves, descent.cost_seconds, descent.lap_seconds, time.perf_counter() - began)
    return WeightMatching(descent.permutation, tuple(objective), len(objective) - 1, not descent.dirty, stats)


@dataclass
class _Descent:
    """The state of one coordinate descent."""

    pair: MatchedPair
    permutation: dict[str, IndexArray]
    rtol: float
    progress: Progress | None
    dirty: set[str] = field(init=False)
    solves: int = 0
    cost_seconds: float = 0.0
    lap_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.dirty = set(self.pair.spec.groups)
        self._neighbours = neighbours(self.pair)

    def sweep(self, rng: np.random.Generator, number: int) -> None:
        """Visit every group once, in random order, and solve those with something new to gain."""
        groups = list(self.pair.spec.groups)
        for done, k in enumerate(rng.permutation(len(groups)), start=1):
            if groups[k] in self.dirty:
                self.dirty.discard(groups[k])
                if self._solve(groups[k]):
                    self.dirty |= self._neighbours[groups[k]]
            if self.progress is not None:
                self.progress(f"weight matching, sweep {number}", done, len(groups))

    def _solve(self, group: str) -> bool:
        """Give `group` its best permutation, the others fixed; say whether it moved."""
        old = self.permutation[group]
        began = time.perf_counter()
        similarity = self.pair.cost_matrix(group, self.permutation, len(old))
        built = time.perf_counter()
        rows, new = linear_sum_assignment(similarity, maximize=True)
        self.cost_seconds += built - began
        self.lap_seconds += time.perf_counter() - built
        self.solves += 1
        gained: npt.NDArray[np.float64] = similarity[rows, new].astype(np.float64)
        gain = float(gained.sum() - similarity[rows, old].sum(dtype=np.float64))
        if gain <= self.rtol * float(np.abs(gained).sum()):
            return False
        self.permutation[group] = new
        return True


def _initial(spec: PermutationSpec, init: object, params: Parameters) -> dict[str, IndexArray]:
    if isinstance(init, str):
        if init != "identity":
            raise ValueError(f"init is {init!r}; expected 'identity' or a permutation")
        return identity_permutation(spec, params)
    validate_permutation(spec, init, params)  # type: ignore[arg-type]
    return {group: np.array(init[group], dtype=np.int64) for group in spec.groups}  # type: ignore[index]


def _check_options(spec: object, seed: int, max_sweeps: int, rtol: float) -> None:
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"spec is of type {type(spec).__name__}; expected a PermutationSpec")
    for name, value, least in (("seed", seed, 0), ("max_sweeps", max_sweeps, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} is {value!r}; expected an integer")
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    if not (isinstance(rtol, (int, float)) and 0 <= rtol < 1):
        raise ValueError(f"rtol is {rtol!r}; expected a number in [0, 1)")
