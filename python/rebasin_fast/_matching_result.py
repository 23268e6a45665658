"""What weight matching returns."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_fast._arrays import IndexArray


@dataclass(frozen=True)
class WeightMatchingStats:
    """What was done, and where the time went; of all descents together.

    Attributes
    ----------
    solves : int
        Linear assignment problems solved.
    skipped : int
        Visits that needed none, because no neighbour of the group had changed.
    matrices_made, matrices_updated, matrices_kept : int
        Cost matrices made from nothing, brought up to date, and already right when they were asked for.
    confirmations : int
        Solves on cost matrices made anew, to confirm that updated ones had not hidden a gain.
    multiply_adds : int
        Multiplications in the matrix products.
    steps : int
        Steps of the Frank-Wolfe method; 0 for coordinate descent alone.
    cache_bytes : int
        Bytes of cost matrices held at the end.
    cost_seconds, lap_seconds, total_seconds : float
        Time in building cost matrices, in solving assignments, and in all. On a GPU, which works while the CPU goes
        on, the time of a product counts where something waits for it: mostly in the next assignment.
    """

    solves: int
    skipped: int
    matrices_made: int
    matrices_updated: int
    matrices_kept: int
    confirmations: int
    multiply_adds: int
    steps: int
    cache_bytes: int
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
        Inner product of A and the permuted B: at the start of coordinate descent, then after every sweep. Never falls.
        The last is summed in float64 from the parameters themselves; those before are it less what the sweeps gained
        by their cost matrices, so they carry those matrices' rounding.
    sweeps : int
        Sweeps made.
    converged : bool
        Whether no group had anything left to gain; False if `max_sweeps` came first.
    stats : WeightMatchingStats
        What was done, and seconds.
    """

    permutation: dict[str, IndexArray]
    objective: tuple[float, ...]
    sweeps: int
    converged: bool
    stats: WeightMatchingStats
