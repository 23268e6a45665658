"""Cost matrices that are hard in different ways, for the solver's own tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
Family = Callable[[Rng, int, int], np.ndarray]


def low_rank(rng: Rng, n: int, m: int) -> np.ndarray:
    return -(rng.standard_normal((n, 4)) @ rng.standard_normal((4, m)))


def euclidean(rng: Rng, n: int, m: int) -> np.ndarray:
    return np.linalg.norm(rng.random((n, 1, 2)) - rng.random((1, m, 2)), axis=2)


def planted(rng: Rng, n: int, m: int) -> np.ndarray:
    units = rng.standard_normal((max(n, m), 32))
    return -(units[rng.permutation(max(n, m))[:n]] @ units[:m].T)


def half_forbidden(rng: Rng, n: int, m: int) -> np.ndarray:
    cost = np.where(rng.random((n, m)) < 0.5, np.inf, rng.random((n, m)))
    k = np.arange(min(n, m))
    cost[k, rng.permutation(k)] = 5.0  # keeps it feasible, at a price
    return cost


def one_permutation(rng: Rng, n: int, m: int) -> np.ndarray:
    cost = np.full((n, m), np.inf)
    k = np.arange(min(n, m))
    cost[rng.permutation(n)[k], rng.permutation(m)[k]] = rng.random(len(k))
    return cost


def block_ties(rng: Rng, n: int, m: int) -> np.ndarray:
    return np.kron(rng.integers(0, 3, (-(-n // 8), -(-m // 8))), np.ones((8, 8)))[:n, :m]


FAMILIES: dict[str, Family] = {
    "uniform": lambda rng, n, m: rng.random((n, m)),
    "negative": lambda rng, n, m: -rng.random((n, m)) - 7.0,
    "integers": lambda rng, n, m: rng.integers(1, 101, (n, m)).astype(float),
    "huge ties": lambda rng, n, m: np.round(rng.random((n, m))),
    "block ties": block_ties,
    "nearly equal": lambda rng, n, m: 1.0 + 1e-12 * rng.random((n, m)),
    "constant": lambda rng, n, m: np.full((n, m), 3.0),
    "equal rows": lambda rng, n, m: np.tile(rng.random(m), (n, 1)),
    "equal columns": lambda rng, n, m: np.tile(rng.random((n, 1)), (1, m)),
    "sorted rows": lambda rng, n, m: np.sort(rng.random((n, m)), axis=1),
    "Machol-Wien": lambda rng, n, m: np.outer(np.arange(1.0, n + 1), np.arange(1.0, m + 1)),
    "geometric": lambda rng, n, m: 2.0 ** -np.add.outer(np.arange(n) % 40, np.arange(m) % 40),
    "exponential": lambda rng, n, m: np.exp(rng.normal(0, 10, (n, m))),
    "low rank": low_rank,
    "Euclidean": euclidean,
    "planted": planted,
    "offset": lambda rng, n, m: 1e4 + rng.random((n, m)),
    "half forbidden": half_forbidden,
    "one permutation": one_permutation,
}
