"""Means, variances and cross-moments of samples that pass by in batches: exact sums in float64, nothing kept.

References
----------
T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
COMPSTAT 1982, doi:10.1007/978-3-642-51461-6_3.
"""

from __future__ import annotations

from typing import Any

from rebasin_fast._distributed import Ranks
from rebasin_fast._extras import require

_SAMPLES = 8192
"""So many at a time are widened to float64: the feature maps of one batch may be most of a machine's memory."""

_CONSTANT = 1e-12
"""Standard deviation, relative to the mean, below which a unit is constant: float64 rounding of its mean is near."""


class Moments:
    """Mean and variance of n units over samples that come in batches.

    Parameters
    ----------
    units : int
        Number n of units.
    device : torch.device, optional
        Where the sums lie.

    Attributes
    ----------
    count : int
        Samples so far.
    mean : Tensor of float64, shape (n,)
    """

    def __init__(self, units: int, device: Any = None) -> None:
        torch = require("torch", "torch")
        self.count = 0
        self.mean = torch.zeros(units, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.mean)  # sum of squared deviations from the mean

    def update(self, samples: Any) -> None:
        """Take in samples of shape (N, n)."""
        for part in samples.split(_SAMPLES):
            if len(part):
                wide = part.to(self.mean)
                mean = wide.mean(dim=0)
                self._join(len(wide), mean, (wide - mean).square_().sum(dim=0))

    def add_up(self, ranks: Ranks) -> None:
        """Take in what every other rank has seen."""
        if ranks.size == 1:
            return
        torch = require("torch", "torch")
        counts = ranks.add_up(torch.tensor([self.count], dtype=torch.float64, device=self.mean.device))
        mean = ranks.add_up(self.count * self.mean) / counts.clamp(min=1)
        self._squares = ranks.add_up(self._squares + self.count * (self.mean - mean).square())
        self.count, self.mean = int(counts), mean

    def variance(self, *, unbiased: bool = False) -> Any:
        """Return the variances, shape (n,); of a single sample 0."""
        return self._squares / max(1, self.count - bool(unbiased))

    def deviation(self) -> Any:
        """Return the standard deviations, shape (n,); exactly 0 where the unit never changed."""
        deviation = self.variance().sqrt()
        return deviation.where(deviation > _CONSTANT * self.mean.abs(), 0.0)

    def _join(self, count: int, mean: Any, squares: Any) -> None:
        total = self.count + count
        apart = mean - self.mean
        self._squares += squares + apart.square() * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total


class CrossMoments:
    """How n units of one network go with n units of another over paired samples that come in batches.

    Parameters
    ----------
    units : int
        Number n of units on either side.
    device : torch.device, optional
        Where the sums lie.
    """

    def __init__(self, units: int, device: Any = None) -> None:
        torch = require("torch", "torch")
        self._a, self._b = Moments(units, device), Moments(units, device)
        # Sum over the samples of (a - mean a) (b - mean b)^T.
        self._products = torch.zeros(units, units, dtype=torch.float64, device=device)

    @property
    def count(self) -> int:
        """Samples so far."""
        return self._a.count

    def update(self, a: Any, b: Any) -> None:
        """Take in paired samples, each of shape (N, n)."""
        for part_a, part_b in zip(a.split(_SAMPLES), b.split(_SAMPLES), strict=True):
            if len(part_a):
                self._update(part_a.to(self._products), part_b.to(self._products))

    def _update(self, a: Any, b: Any) -> None:
        mean_a, mean_b = a.mean(dim=0), b.mean(dim=0)
        before, apart_a, apart_b = self.count, mean_a - self._a.mean, mean_b - self._b.mean
        self._a.update(a)
        self._b.update(b)
        # One centred side would do, were it not for rounding: what is left of its mean meets the other's large one.
        self._products.addmm_((a - mean_a).T, b - mean_b)
        self._products.addr_(apart_a, apart_b, alpha=before * len(a) / self.count)

    def add_up(self, ranks: Ranks) -> None:
        """Take in what every other rank has seen."""
        if ranks.size == 1:
            return
        own, mean_a, mean_b = self.count, self._a.mean, self._b.mean
        self._a.add_up(ranks)
        self._b.add_up(ranks)
        self._products.addr_(mean_a - self._a.mean, mean_b - self._b.mean, alpha=own)
        self._products = ranks.add_up(self._products)

    def inner(self) -> Any:
        """Return the uncentred products, the sum over the samples of a b^T, shape (n, n)."""
        return self._products.addr(self._a.mean, self._b.mean, alpha=self.count)

    def correlation(self) -> Any:
        """Return Pearson's correlations, shape (n, n); 0 where a unit never changed."""
        scale_a, scale_b = (self.count**0.5 * side.deviation() for side in (self._a, self._b))
        inverse_a, inverse_b = (scale.where(scale > 0, float("inf")).reciprocal() for scale in (scale_a, scale_b))
        return self._products * inverse_a[:, None] * inverse_b
