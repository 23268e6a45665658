"""Instance families: small pure functions from (shape, generator, dtype) to a dense cost matrix.

Nobody's costs are uniform noise, so the suite spans what assignment solvers meet (feature matching, geometry, integers
with ties, structure) and what is known to defeat one strategy or another (rank one, heavy tails, contention). Every
family is drawn in float64 from one seed and then rounded to the requested dtype, so that float32 and float64 versions
of an instance are the same problem up to rounding.

Example
-------
>>> make("uniform", 4, "float32", seed=0).shape
(4, 4)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Cost = npt.NDArray[Any]
Shape = tuple[int, int]
Make = Callable[[Shape, np.random.Generator, np.dtype[Any]], Cost]

DTYPES = ("float32", "float64", "int32", "int64")


@dataclass(frozen=True)
class Family:
    """One family of instances.

    Attributes
    ----------
    name : str
    make : callable
        ``(shape, rng, dtype) -> cost`` of exactly that shape and dtype.
    about : str
        One line: what it is, and what it stands for.
    source : str
        Where it comes from.
    integral : bool
        Every cost is an integer, so that optimal values compare exactly and integer dtypes are allowed.
    aspect : tuple of int
        Shape for a size n given as one number: ``(n * aspect[0], n * aspect[1])``.
    """

    name: str
    make: Make
    about: str
    source: str
    integral: bool = False
    aspect: tuple[int, int] = (1, 1)


def uniform(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """Independent U[0, 1) costs: the random assignment problem, whose optimum tends to pi^2 / 6."""
    return rng.random(shape).astype(dtype)


def unrelated(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any], d: int | None = None) -> Cost:
    """-A.B^T with A, B Gaussian and independent; inner dimension d, or the larger side when d is None."""
    d = max(shape) if d is None else d
    A, B = (rng.standard_normal((k, d)).astype(dtype) for k in shape)
    return -(A @ B.T)


def planted(
    shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any], d: int | None = None, noise: float = 1.0
) -> Cost:
    """-A.B^T where B is A with its rows permuted plus `noise` times Gaussian noise; d as in `unrelated`."""
    d = max(shape) if d is None else d
    latent = rng.standard_normal((max(shape), d))
    A = latent[: shape[0]]
    B = latent[rng.permutation(max(shape))[: shape[1]]]
    B = B + noise * rng.standard_normal(B.shape)
    return -(A.astype(dtype) @ B.astype(dtype).T)


def euclidean(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """Distances between two sets of uniform points in the unit square."""
    rows, cols = (rng.random((k, 2)) for k in shape)
    return np.hypot(rows[:, :1] - cols[:, 0], rows[:, 1:] - cols[:, 1]).astype(dtype)


def integers(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any], top: int | None = 100) -> Cost:
    """Uniform integers in [1, top]; top = 10 n when None, n being the smaller side."""
    top = 10 * min(shape) if top is None else top
    return rng.integers(1, top + 1, shape).astype(dtype)


def ties(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """round(10 u), u uniform: eleven distinct values, nearly every choice a tie."""
    return np.rint(10 * rng.random(shape)).astype(dtype)


def constant(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """Every cost 1: every permutation is optimal."""
    return np.ones(shape, dtype)


def sorted_rows(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """Uniform costs, each row sorted ascending: all rows compete for the same columns."""
    return np.sort(rng.random(shape), axis=1).astype(dtype)


def blocks(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any], groups: int = 8) -> Cost:
    """Uniform costs plus 1 outside a row's own block; blocks are unequal, so that some rows must leave theirs."""
    row_block, col_block = (rng.integers(0, groups, k) for k in shape)
    return (rng.random(shape) + (row_block[:, None] != col_block)).astype(dtype)


def clusters(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any], d: int = 32, spread: float = 0.1) -> Cost:
    """-A.B^T of feature vectors that lie close to sqrt(n) common centres."""
    centres = rng.standard_normal((max(2, round(max(shape) ** 0.5)), d))
    A, B = (centres[rng.integers(0, len(centres), k)] + spread * rng.standard_normal((k, d)) for k in shape)
    return -(A.astype(dtype) @ B.astype(dtype).T)


def lognormal(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """exp(4 z), z Gaussian: costs spread over some fifteen orders of magnitude, all positive."""
    return np.exp(4 * rng.standard_normal(shape)).astype(dtype)


def cauchy(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """Cauchy costs: heavy tails on both sides, no mean, no variance."""
    return rng.standard_cauchy(shape).astype(dtype)


def machol_wien(shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> Cost:
    """c_ij = i j, counted from 1: rank one, one optimum, the longest augmenting paths."""
    return np.multiply.outer(*(np.arange(1.0, k + 1) for k in shape)).astype(dtype)


_ALL = (
    Family("uniform", uniform, "independent U[0,1) costs", "Burkard, Dell'Amico & Martello, Assignment Problems, 2009"),
    Family("unrelated", unrelated, "-A.B^T, d = n: layers of unrelated networks", "Ainsworth et al., ICLR 2023"),
    Family("lowrank16", partial(unrelated, d=16), "-A.B^T, d = 16: narrow features", "Ainsworth et al. 2023"),
    Family("lowrank64", partial(unrelated, d=64), "-A.B^T, d = 64: narrow features", "Ainsworth et al. 2023"),
    Family("planted", planted, "-A.B^T, B = permuted A + noise, d = n: aligned networks", "Ainsworth et al. 2023"),
    Family("planted64", partial(planted, d=64, noise=3.0), "as planted, d = 64, noise 3: barely aligned", "this suite"),
    Family("euclidean", euclidean, "distances of points in the plane: tracking, optimal transport", "Crouse 2016"),
    Family("int100", partial(integers, top=100), "integers [1,100]: many ties", "Jonker & Volgenant 1987", True),
    Family("int10n", partial(integers, top=None), "integers [1,10n]: some ties", "Jonker & Volgenant 1987", True),
    Family("ties", ties, "round(10 u): nearly all ties", "this suite", True),
    Family("constant", constant, "all costs 1: one great tie", "this suite", True),
    Family("sorted", sorted_rows, "rows sorted: all rows want the same columns", "this suite"),
    Family("blocks", blocks, "eight unequal blocks, 1 to leave one's own: contention", "this suite"),
    Family("clusters", clusters, "-A.B^T of features near sqrt(n) centres", "this suite"),
    Family("lognormal", lognormal, "exp(4 z): heavy tail of costs", "this suite"),
    Family("cauchy", cauchy, "Cauchy: heavy tails of costs and rewards", "this suite"),
    Family("machol-wien", machol_wien, "c_ij = i j: rank one, worst case", "Machol & Wien, Oper. Res. 24, 1976", True),
    Family("wide", uniform, "uniform, n rows and 2n columns", "Crouse, IEEE TAES 52(4), 2016", aspect=(1, 2)),
    Family("tall", uniform, "uniform, 2n rows and n columns", "Crouse, IEEE TAES 52(4), 2016", aspect=(2, 1)),
    Family("wide4", uniform, "uniform, n rows and 4n columns", "this suite", aspect=(1, 4)),
    Family("tall4", uniform, "uniform, 4n rows and n columns", "this suite", aspect=(4, 1)),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""Every family by name, in the order of the tables."""


def family_named(name: str) -> Family:
    """Return the family of that name; ValueError names the known ones otherwise."""
    if name not in FAMILIES:
        raise ValueError(f"family is {name!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def shape_of(name: str, size: int | Shape) -> Shape:
    """Return the matrix shape of a family at `size`: one number, or (rows, columns) as they are."""
    family = family_named(name)
    shape = size if isinstance(size, tuple) else (size * family.aspect[0], size * family.aspect[1])
    if min(shape) < 1:
        raise ValueError(f"size is {size!r}; expected positive numbers")
    return shape


def make(name: str, size: int | Shape, dtype: str = "float32", seed: int = 0) -> Cost:
    """Return an instance: a new C-contiguous cost matrix, the same for the same arguments.

    Parameters
    ----------
    name : str
        A key of `FAMILIES`.
    size : int or (int, int)
        n, or (rows, columns).
    dtype : {"float32", "float64", "int32", "int64"}
        Integer types are for families of integers only.
    seed : int

    Raises
    ------
    ValueError
        Unknown family or dtype, a size below 1, or an integer dtype for a family of real costs.
    """
    family, shape = family_named(name), shape_of(name, size)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if dtype.startswith("int") and not family.integral:
        raise ValueError(f"dtype is {dtype!r}; the costs of family {name!r} are not integers, expected a float dtype")
    return np.ascontiguousarray(family.make(shape, np.random.default_rng(seed), np.dtype(dtype)))
