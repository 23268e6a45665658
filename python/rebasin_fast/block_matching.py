"""Weight matching for every spec: groups in blocks, sums and products on an axis, groups that lie twice on one array.

Coordinate descent as Ainsworth, Hayase & Srinivasa (2023), arXiv:2209.04836, do it, over pieces (see `_piece_pair` for
a step). A group is visited again only after something on one of its arrays has moved. All else is plain: for specs
without blocks the engine behind `weight_matching` is faster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ._arrays import (
    IndexArray,
    Parameters,
)
from ._matching_result import WeightMatchingStats
from ._piece_pair import PiecePair
from ._progress import Progress
from .permute import Permutation, identity_permutation, validate_permutation
from .pieces import fixed_blocks
from .spec import PermutationSpec
from .weight_matcher import check_options, visiting_orders


@dataclass(frozen=True, eq=False)
class BlockMatching:
    """The outcome of `match_blocks`.

    Attributes
    ----------
    permutation : dict of str to ndarray of int64
        For every group the index array that aligns B to A.
    objective : tuple of float
        Inner product of A and the permuted B: at the start, then after every sweep. Never falls.
    sweeps : int
        Sweeps made.
    converged : bool
        Whether no group had anything left to gain; False if `max_sweeps` came first.
    stats : WeightMatchingStats
        Where the work went, of all starts together. Cost matrices are all made anew: none is updated or kept.
    """

    permutation: dict[str, IndexArray]
    objective: tuple[float, ...]
    sweeps: int
    converged: bool
    stats: WeightMatchingStats


def match_blocks(
    spec: PermutationSpec,
    params_a: Parameters,
    params_b: Parameters,
    *,
    init: str | Permutation = "propagate",
    n_starts: int = 1,
    seed: int = 0,
    max_sweeps: int = 100,
    rtol: float = 1e-7,
    compute_dtype: Literal["float64", "float32"] | None = None,
    progress: Progress | None = None,
) -> BlockMatching:
    """Find the permutation of B's hidden units that brings its weights closest to A's, for any spec.

    Parameters
    ----------
    spec : PermutationSpec
        Any.
    params_a, params_b : mapping of str to array
        State dicts; never modified.
    init : "propagate", "identity" or mapping of str to int64 array
        Where to begin: outward from what stays, each group by what is settled already; or with a permutation.
    n_starts : int, default 1
        So many descents from there, in other visiting orders; the best counts.
    seed : int, default 0
        Order of the visits.
    max_sweeps : int, default 100
        At most so many rounds over the groups.
    rtol : float, default 1e-7
        A step has to gain more than `rtol` times the sum of the magnitudes of the terms it changes.
    compute_dtype : {"float64", "float32"}, optional
        What products are computed in. Default, array by array: float64 where one of the two has it, else float32.
    progress : callable, optional
        ``progress(stage, done, total)``, after every group.

    Returns
    -------
    BlockMatching

    Raises
    ------
    TypeError, ValueError
        If a state dict or `init` does not fit, arrays that are to be matched hold no finite floating-point numbers, or
        an option is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import PermutationSpec, apply_permutation, random_permutation
    >>> spec = PermutationSpec.from_axes_to_perm(
    ...     {"values": ("v", None), "out": (None, "v")}, sizes={"v": 12, "heads": 3}, blocks={"v": "heads"}
    ... )
    >>> rng = np.random.default_rng(0)
    >>> a = {"values": rng.normal(size=(12, 5)), "out": rng.normal(size=(5, 12))}
    >>> b = apply_permutation(spec, random_permutation(spec, seed=1), a)
    >>> found = match_blocks(spec, a, b)
    >>> np.array_equal(apply_permutation(spec, found.permutation, b)["out"], a["out"])
    True
    """
    began = time.perf_counter()
    check_options("coordinate_descent", n_starts, seed, max_sweeps, rtol)
    if compute_dtype not in (None, "float64", "float32"):
        raise ValueError(f"compute_dtype is {compute_dtype!r}; expected 'float64', 'float32' or None")
    pair = PiecePair(spec, params_a, params_b, compute_dtype)
    start = _start(pair, init)
    outcomes = [_descended(pair, start, rng, max_sweeps, rtol, progress) for rng in visiting_orders(seed, n_starts)]
    best = max(outcomes, key=lambda outcome: outcome.objective[-1])
    stats = pair.counts.stats(sum(outcome.skipped for outcome in outcomes), time.perf_counter() - began)
    return BlockMatching(best.permutation, tuple(best.objective), len(best.objective) - 1, not best.dirty, stats)


@dataclass(eq=False)
class _Descent:
    """Where a descent stands."""

    permutation: dict[str, IndexArray]
    objective: list[float]
    dirty: set[str]
    skipped: int = 0


def _descended(
    pair: PiecePair,
    start: dict[str, IndexArray],
    rng: np.random.Generator,
    max_sweeps: int,
    rtol: float,
    progress: Progress | None,
) -> _Descent:
    groups = list(pair.spec.groups)
    descent = _Descent(start, [pair.objective(start)], set(groups))
    while descent.dirty and len(descent.objective) <= max_sweeps:
        for done, k in enumerate(rng.permutation(len(groups)), start=1):
            if groups[k] in descent.dirty:
                _visit(pair, groups[k], descent, rtol)
            else:
                descent.skipped += 1
            if progress is not None:
                progress(f"weight matching, sweep {len(descent.objective)}", done, len(groups))
        # Gains are above rounding, and are gains whatever the sum over all pieces rounds to.
        descent.objective.append(max(pair.objective(descent.permutation), descent.objective[-1]))
    return descent


def _visit(pair: PiecePair, group: str, descent: _Descent, rtol: float) -> None:
    changed = pair.improved(group, descent.permutation, rtol)
    descent.dirty.discard(group)
    if changed is not None:
        descent.permutation = changed
        descent.dirty |= pair.disturbed_by(group)


def _start(pair: PiecePair, init: str | Permutation) -> dict[str, IndexArray]:
    identity = identity_permutation(pair.spec)
    if not isinstance(init, str):
        validate_permutation(pair.spec, init)
        return {group: np.array(init[group], dtype=np.int64) for group in identity}
    if init == "identity":
        return identity
    if init != "propagate":
        raise ValueError(f"init is {init!r}; expected 'propagate', 'identity' or a permutation")
    return _propagated(pair, identity)


def _propagated(pair: PiecePair, permutation: dict[str, IndexArray]) -> dict[str, IndexArray]:
    """Solve group after group outward from the axes that stay, each by pieces on which all else is settled."""
    spec = pair.spec
    known: frozenset[str] = frozenset(map(fixed_blocks, spec.blocks))
    waiting = [group for group in spec.groups if not isinstance(spec.blocks.get(group), str)]
    while waiting:
        group = max(waiting, key=lambda group: pair.evidence(group, known))
        waiting.remove(group)
        permutation = pair.solved(group, permutation, known=known)
        known |= {group, *pair.children[group]}
        waiting[:0] = [child for child in pair.children[group] if pair.children[child]]
    return permutation
