"""Weight matching: align the hidden units of one network to another's by their weights alone."""

from __future__ import annotations

from rebasin_fast._arrays import Parameters
from rebasin_fast._matching_result import WeightMatching, WeightMatchingStats
from rebasin_fast._progress import Progress
from rebasin_fast.spec import PermutationSpec
from rebasin_fast.weight_matcher import DEFAULT_CACHE_BYTES, ComputeDtype, Init, MatchingMethod, WeightMatcher

__all__ = ["WeightMatching", "WeightMatchingStats", "weight_matching"]


def weight_matching(
    spec: PermutationSpec,
    params_a: Parameters,
    params_b: Parameters,
    *,
    init: Init | None = None,
    method: MatchingMethod = "coordinate_descent",
    n_starts: int = 1,
    seed: int = 0,
    max_sweeps: int = 100,
    rtol: float = 1e-7,
    compute_dtype: ComputeDtype | None = None,
    max_cache_bytes: int = DEFAULT_CACHE_BYTES,
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
    matcher = WeightMatcher(spec, params_a, params_b, max_cache_bytes=max_cache_bytes, compute_dtype=compute_dtype)
    return matcher.match(
        init=init,
        method=method,
        n_starts=n_starts,
        seed=seed,
        max_sweeps=max_sweeps,
        rtol=rtol,
        progress=progress,
    )
