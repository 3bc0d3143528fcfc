"""What do all fits on the same rows share? Standardised features, rotated to be uncorrelated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Design", "design"]

# Directions of less than this share of the largest variance are left out.
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


def design(X: Tensor) -> Design:
    """Which coordinates make a linear fit on the rows of X [n, D] cheap?

    A constant feature gets scale 1, as in scikit-learn's StandardScaler. The penalty of logistic
    and ridge regression does not change under the rotation, so weights are the same as without.
    """
    n = len(X)
    mean = X.mean(0)
    centred = X - mean
    deviation = centred.square().mean(0).sqrt()
    floor = 10 * torch.finfo(X.dtype).eps * (mean.abs() + 1e-30)
    scale = torch.where(deviation <= floor, torch.ones_like(deviation), deviation)
    centred = centred / scale
    # in double: in single precision LAPACK fails on some matrices of low rank
    variance, basis = torch.linalg.eigh((centred.T @ centred / n).double())
    kept = variance > RANK_TOLERANCE[X.dtype] * variance[-1].clamp(min=1e-300)
    variance, basis = variance[kept].to(X.dtype), basis[:, kept].to(X.dtype)
    return Design(mean, scale, basis, centred @ basis, variance)
