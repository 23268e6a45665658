"""Weight matching: align the hidden units of one network to another's by their weights alone."""

from __future__ import annotations

from rebasin_fast._arrays import Parameters
from rebasin_fast._matching_result import WeightMatching, WeightMatchingStats
from rebasin_fast._progress import Progress
from rebasin_fast.block_matching import match_blocks
from rebasin_fast.spec import PermutationSpec
from rebasin_fast.weight_matcher import (
    DEFAULT_CACHE_BYTES,
    ComputeDtype,
    Init,
    MatchingMethod,
    WeightMatcher,
    check_integer,
    check_options,
)

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

    That is the sum of bilinear assignment problems max over pi of <theta_A, pi(theta_B)>. Coordinate descent visits the
    groups in random order; with all others fixed, the best permutation of one group is a linear assignment problem.
    On the way as little as possible is done twice: a group none of whose neighbours has moved since it was solved is
    skipped; the cost matrix of one whose neighbours have moved a little is brought up to date by the columns that
    changed; an assignment problem starts from the column duals of the last one. At the end cost matrices that came
    about that way are made anew, and only when those have nothing to gain either is the answer called converged.

    A spec that is not plain (groups in blocks, as attention heads are; sums and products on an axis; groups twice on
    one array) is matched by `match_blocks`: the units of a block with the blocks, by coordinate descent alone, and
    with every cost matrix made anew.

    Networks on a CUDA device are matched there: nothing the size of a parameter or a cost matrix is copied to the CPU,
    unless this installation has no solver for the device (`rebasin_fast.cuda.why_unavailable`); but of groups with
    others in their blocks the CPU solves the assignments. Products are as exact as torch makes them
    (``torch.backends.cuda.matmul.allow_tf32``).

    Parameters
    ----------
    spec : PermutationSpec
        Which axes of which parameters move together.
    params_a, params_b : mapping of str to array
        State dicts of one architecture: numpy arrays or torch tensors, any float dtype, any device. Running
        statistics and integer buffers may be among them; they are not matched. Never modified.
    init : {"propagate", "identity", "barycentre"} or mapping of str to int64 array, optional
        Where to begin. ``"propagate"`` solves the groups outward from the fixed axes, inputs and outputs, each on
        those of its terms alone whose other axes are settled already. The paper begins with ``"identity"``.
        ``"barycentre"``, the default of Frank-Wolfe, is the mean of all permutations; coordinate descent begins where
        at most eight steps of Frank-Wolfe lead from there. The default of coordinate descent is ``"propagate"`` if
        from there all groups, each alone, have less than 0.3 % of the objective to gain, as planted and unrelated
        networks have. Else, as with trained networks, it begins where the gradient points after four steps of
        Frank-Wolfe from a point between the barycentre (95 %) and that start; but where a parameter has more than two
        groups on its axes or `max_cache_bytes` does not hold two matrices for every group, with ``"propagate"`` in any
        case.
    method : {"coordinate_descent", "frank_wolfe"}, default "coordinate_descent"
        ``"frank_wolfe"`` moves all groups at once through doubly stochastic matrices, each step towards the
        permutations the gradient favours (one assignment problem for every group), exactly as far as the objective
        rises; the end is rounded to permutations and polished by coordinate descent. For plain specs whose parameters
        have at most two groups on their axes.
    n_starts : int, default 1
        So many descents from there, in other visiting orders; the best counts.
    seed : int, default 0
        Order of the visits. The same seed gives the same answer.
    max_sweeps : int, default 100
        At most so many rounds over the groups.
    rtol : float, default 1e-7
        A new permutation of a group is accepted only if it gains more than `rtol` times the sum of the magnitudes
        it is made of; below that lies rounding.
    compute_dtype : {"float64", "float32", "bfloat16"}, optional
        What the factors of matrix products are rounded to. Default: float64 where a parameter has it, else float32;
        narrower floats are widened to float32 a panel at a time. bfloat16 needs torch tensors and rounds products,
        too; the objective is then summed from the parameters after every sweep, and a sweep that lowers it is undone.
        For plain specs only.
    max_cache_bytes : int, default 2**30
        Cost matrices, and the parts of them that stay, are kept up to this sum. Beside it matching takes about twice
        the largest cost matrix, however large the networks are, and what the matrix products take for themselves.
    progress : callable, optional
        ``progress(stage, done, total)``, after every group and every Frank-Wolfe step.

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
        its range; with ``"frank_wolfe"`` also if a parameter has more than two groups on its axes, or one cost matrix
        for every group does not fit into `max_cache_bytes`. An option that only plain specs have, with another.

    See Also
    --------
    WeightMatcher : for matching again and again, with an A that changes.

    Notes
    -----
    Measured on pairs of trained 784-512-512-512-10 networks (5 epochs of Adam, five pairs each of MNIST and
    Fashion-MNIST), one thread, medians; the gain is that of the objective over the paper's start, pair by pair over all
    15 pairs of six networks, and the barrier that of the test loss:

    ===================================  ============  =============  =============  ================
    ..                                   seconds       gain, MNIST    gain, Fashion  barrier
    ===================================  ============  =============  =============  ================
    the paper's, in plain torch, SciPy   0.67, 0.50    0              0              0.0041, 0.0131
    ``init="identity"``                  0.10, 0.10    0              0              0.0041, 0.0131
    ``init="propagate"``                 0.07, 0.08    +0.03 %        +0.01 %        0.0039, 0.0156
    ``method="frank_wolfe"``             0.22, 0.21    +0.36 %        +0.41 %        0.0031, 0.0090
    ===================================  ============  =============  =============  ================

    Pair by pair the start outward ends above the paper's about as often as below it (within 0.3 %). The default costs
    more time than ``init="identity"`` on trained networks, and what it gains there over the paper's start, pair by pair
    and beside every other start, is what ``bench/weight_matching.py --networks mlp512 --kinds trained --init
    default,identity,propagate,barycentre`` prints. On planted permutations under noise the start
    outward finds many more of the units, and with little noise every one before the first sweep. Frank-Wolfe ended
    higher in all 30 pairs; take it where an objective a little higher is worth three times the time. Five starts gain
    less than it in more time.

    With ``compute_dtype="bfloat16"`` the answer is another local optimum, on these networks within 0.3 % of the float32
    one, above as often as below. It pays where products take most of the time and the processor multiplies bfloat16
    itself: a planted ResNet50 takes half the time, networks 512 wide gain nothing. The buffers oneDNN keeps for it
    (up to 0.4 GiB for a ResNet50) come on top of the memory said above.

    References
    ----------
    .. [1] S. K. Ainsworth, J. Hayase, S. Srinivasa (2023). Git Re-Basin: Merging Models modulo Permutation
       Symmetries. ICLR 2023, arXiv:2209.04836, Algorithm 1.
    .. [2] D. Crisostomi, M. Fumero, D. Baieri, F. Bernard, E. Rodola (2024). C2M3: Cycle-Consistent Multi-Model
       Merging. NeurIPS 2024, arXiv:2405.17897.
    .. [3] M. Frank, P. Wolfe (1956). An algorithm for quadratic programming. Naval Research Logistics Quarterly 3,
       95-110. doi:10.1002/nav.3800030109

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
    if isinstance(spec, PermutationSpec) and not spec.plain:
        check_options(method, n_starts, seed, max_sweeps, rtol)
        check_integer("max_cache_bytes", max_cache_bytes, 0)
        _require_plain_options(init, method, compute_dtype)
        found = match_blocks(
            spec,
            params_a,
            params_b,
            init="propagate" if init is None else init,
            n_starts=n_starts,
            seed=seed,
            max_sweeps=max_sweeps,
            rtol=rtol,
            compute_dtype=None if compute_dtype == "bfloat16" else compute_dtype,
            progress=progress,
        )
        return WeightMatching(found.permutation, found.objective, found.sweeps, found.converged, found.stats)
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


def _require_plain_options(init: object, method: str, compute_dtype: str | None) -> None:
    """Refuse what coordinate descent over blocks does not have."""
    for name, value, unknown, instead in (
        ("method", method, "frank_wolfe", "'coordinate_descent'"),
        ("init", init, "barycentre", "'propagate', 'identity' or a permutation"),
        ("compute_dtype", compute_dtype, "bfloat16", "'float64', 'float32' or None"),
    ):
        if isinstance(value, str) and value == unknown:
            raise ValueError(f"{name} is {value!r}, and spec is not plain (see its blocks); expected {instead}")
