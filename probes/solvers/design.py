"""What do all fits on the same rows share? Standardised features, rotated to be uncorrelated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Design", "Moments", "design"]

# Directions of less than this share of the largest variance are left out.
SMALLEST = 1e8
RANK_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}


@dataclass(frozen=True)
class Design:
    """Training rows, standardised and rotated: `U = (X - mean) / scale @ basis`.

    `U` [n, r] has mean zero and the diagonal covariance `variance` [r]; r is the rank, so that a
    direction in which nothing varies costs nothing. `D` is the number of features before.
    """

    mean: Tensor  # [D]
    scale: Tensor  # [D]
    basis: Tensor  # [D, r]
    U: Tensor  # [n, r]
    variance: Tensor  # [r]

    @property
    def D(self) -> int:
        return len(self.mean)

    def transform(self, X: Tensor) -> Tensor:
        """Other rows [m, D] in the same coordinates, [m, r]."""
        return (X - self.mean) / self.scale @ self.basis


@dataclass(frozen=True)
class Moments:
    """Number, mean [D] and scatter [D, D] (sum of centred products) of some rows, in double.

    Of two sets of rows they add up (Chan, Golub & LeVeque 1983), so that what folds share is
    computed once; none depends on rows outside its set, not even by rounding.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, X: Tensor) -> Moments:
        mean = X.double().mean(0)
        centred = X.double() - mean
        return cls(len(X), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        apart = other.mean - self.mean
        between = torch.outer(apart, apart * (self.n * other.n / n))
        return Moments(n, self.mean + apart * (other.n / n), self.scatter + other.scatter + between)


def design(X: Tensor, moments: Moments | None = None) -> Design:
    """Which coordinates make a linear fit on the rows of X [n, D] cheap? `moments`: theirs.

    A constant feature gets scale 1, by scikit-learn's rule for its StandardScaler, and so does one
    so small that its inverse is hardly a number of X's precision. The penalty of logistic
    and ridge regression does not change under the rotation, so weights are the same as without.
    """
    known = moments or Moments.of(X)
    spread, rounding = known.scatter.diagonal() / known.n, known.n * torch.finfo(torch.double).eps
    constant = spread <= rounding * spread + (rounding * known.mean).square()
    constant |= spread.sqrt() < SMALLEST * torch.finfo(X.dtype).tiny
    scale = torch.where(constant, 1.0, spread.sqrt())
    # in double: in single precision LAPACK fails on some matrices of low rank
    variance, basis = torch.linalg.eigh(known.scatter / known.n / torch.outer(scale, scale))
    kept = variance > RANK_TOLERANCE[X.dtype] * variance[-1].clamp(min=1e-300)
    variance, basis = variance[kept].to(X), basis[:, kept]
    U = (X - known.mean.to(X)) @ (basis / scale[:, None]).to(X)
    return Design(known.mean.to(X), scale.to(X), basis.to(X), U, variance)
