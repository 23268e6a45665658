"""Cost matrices that are hard in different ways, for the solver's own tests.

`FAMILIES` are float64, to be rounded to any dtype; `ADVERSARIAL` are of the dtype that makes them hard, and aim each at
one weakness: of float64 prices, of short candidate lists, of bidding, of one pass over the columns.
"""

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


def geometric_rows(rng: Rng, n: int, m: int) -> np.ndarray:
    """r**(i*j) with r such that the largest stays finite: Machol and Wien's long paths over 260 orders of magnitude."""
    return np.exp(600.0 * np.outer(np.arange(1.0, n + 1), np.arange(1.0, m + 1)) / (n * m))


def exponential_rows(rng: Rng, n: int, m: int) -> np.ndarray:
    """Rows fall exponentially, each at its own rate, the steep ones down to zero."""
    return np.exp(-np.outer(rng.uniform(0.01, 5.0, n), np.arange(m)))


def one_huge_entry(rng: Rng, n: int, m: int) -> np.ndarray:
    cost = 1e-150 * rng.random((n, m))
    cost[n // 2, m // 3] = 1e150
    return cost


def on_a_line(distance: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Family:
    """Return a family of points on a line, both sides sorted: Monge or anti-Monge, ties in every exchange."""

    def make(rng: Rng, n: int, m: int) -> np.ndarray:
        return distance(np.sort(rng.random(n))[:, None], np.sort(rng.random(m))[None, :])

    return make


def favourite_columns(rng: Rng, n: int, m: int) -> np.ndarray:
    """Every row's cheapest entries lie in the same 200 columns, so a list of the cheapest holds nothing else."""
    cost = 1.0 + rng.random((n, m))
    favourites = rng.permutation(m)[: min(200, m // 2)]
    cost[:, favourites] = 1e-3 * rng.random((n, len(favourites)))
    return cost


def price_war(rng: Rng, n: int, m: int) -> np.ndarray:
    """k+1 rows fight for k columns; the loser pays 1e9, which bids of ordinary size reach only after very many."""
    k = min(n, m) // 2
    cost = np.full((n, m), 1e9)
    cost[: k + 1, :k] = rng.integers(0, 4, (k + 1, k))
    cost[k + 1 :, k:] = rng.random((n - k - 1, m - k))
    return cost


def staircase(rng: Rng, n: int, m: int) -> np.ndarray:
    """Infinite below the diagonal that ends in the last corner: a square one allows the identity alone."""
    return np.where(np.arange(n)[:, None] - max(0, n - m) > np.arange(m), np.inf, rng.random((n, m)))


def of_two_values(dtype: type, low: int, high: int) -> Family:
    return lambda rng, n, m: rng.choice(np.array([low, high], dtype), (n, m))


ADVERSARIAL: dict[str, Family] = {
    **{
        name: FAMILIES[name]
        for name in ("Machol-Wien", "equal rows", "equal columns", "block ties", "one permutation", "sorted rows")
    },
    "geometric rows": geometric_rows,
    "exponential rows": exponential_rows,
    "perturbed ties": lambda rng, n, m: rng.integers(0, 3, (n, m)) + 1e-12 * rng.random((n, m)),
    "rank one, float32": lambda rng, n, m: np.outer(rng.random(n), rng.random(m)).astype(np.float32),
    "offset, float32": lambda rng, n, m: (1e4 + rng.random((n, m))).astype(np.float32),
    "above 1e6, float32": lambda rng, n, m: (1e6 * (1 + 50 * rng.random((n, m)))).astype(np.float32),
    "1e-300": lambda rng, n, m: 1e-300 * rng.standard_normal((n, m)),
    "1e300": lambda rng, n, m: 1e300 * rng.standard_normal((n, m)),
    "denormals": lambda rng, n, m: 5e-324 * rng.integers(0, 1000, (n, m)),
    "denormals, float32": lambda rng, n, m: np.float32(1e-45) * rng.integers(0, 1000, (n, m)).astype(np.float32),
    "2**53 + 1": lambda rng, n, m: 2**53 + rng.integers(-3, 4, (n, m)),
    "one huge entry": one_huge_entry,
    "Monge": on_a_line(lambda x, y: (x - y) ** 2),
    "anti-Monge": on_a_line(lambda x, y: x * y),
    "distances on a line": on_a_line(lambda x, y: np.abs(x - y)),
    "favourite columns": favourite_columns,
    "favourite rows": lambda rng, n, m: favourite_columns(rng, m, n).T,
    "price war": price_war,
    "heavy tails": lambda rng, n, m: rng.standard_cauchy((n, m)) ** 3,
    "int8 extremes": of_two_values(np.int8, -128, 127),
    "uint8 extremes": of_two_values(np.uint8, 0, 255),
    "staircase": staircase,
    "staircase, steepest first": lambda rng, n, m: staircase(rng, n, m)[::-1],
}
