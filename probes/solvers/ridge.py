"""Ridge regression for many targets and penalties: closed form in the coordinates of a design."""

from __future__ import annotations

from torch import Tensor

from probes.solvers.design import Design
from probes.solvers.linear import Linear

__all__ = ["fit_ridge"]


def fit_ridge(design: Design, y: Tensor, alpha: Tensor) -> Linear:
    """Which weights minimise `|y - Xw - b|^2 + alpha |w|^2`, for B targets y [B, n], alpha [B]?

    Equals scikit-learn's Ridge on the standardised features; the intercept is not penalised.
    """
    n = len(design.U)
    mean = y.mean(1)
    moment = design.U.T @ (y - mean[:, None]).T / n  # [r, B]
    weights = moment / (design.variance[:, None] + alpha.to(moment)[None] / n)
    return Linear(weights[..., None], mean[:, None])
