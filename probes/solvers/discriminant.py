"""Difference of means, whitened or not, and linear discriminants: one formula, three shrinkages.

Gaussian classes with means m_c and one covariance give the logits
`x . S^-1 m_c - m_c . S^-1 m_c / 2 + log share_c`, with S the pooled within-class covariance, shrunk
to a multiple of the identity. Shrinkage 1 leaves the difference of means (mass-mean), 0 whitens it
fully (Marks & Tegmark, arXiv 2310.06824), `None` takes the Ledoit-Wolf amount (LDA with shrinkage).
"""

from __future__ import annotations

import torch
from torch import Tensor

from probes.solvers.design import Design
from probes.solvers.linear import Linear

__all__ = ["fit_discriminant", "ledoit_wolf_shrinkage"]


# Elements of the largest intermediate (rows x labellings x classes).
MOST_ELEMENTS = 3_000_000


def fit_discriminant(design: Design, y: Tensor, classes: int, shrinkage: float | None) -> Linear:
    """Which linear logits separate Gaussian classes, for B labellings y [B, n]?

    Equals scikit-learn's LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s) on the
    standardised features, with s given or the Ledoit-Wolf amount of the class-centred rows. A class
    without a row gets a very low intercept rather than none.
    """
    most = max(1, MOST_ELEMENTS // max(1, y.shape[1] * classes))
    return Linear.joined([_fitted(design, some, classes, shrinkage) for some in y.split(most)])


def _fitted(design: Design, y: Tensor, classes: int, shrinkage: float | None) -> Linear:
    U, n = design.U, len(design.U)
    target = U.new_zeros(*y.shape, classes).scatter_(-1, y[..., None], 1.0)  # [B, n, C]
    counts = target.sum(1)
    means = target.transpose(1, 2) @ U / counts.clamp(min=1)[..., None]  # [B, C, r]
    share = counts / n
    told = share.clamp(min=1e-3 / n).log()
    if shrinkage == 1.0:
        between = (share * means.square().sum(-1)).sum(-1)
        level = (design.variance.sum() - between) / design.D
        solved = means.transpose(1, 2) / level.clamp(min=_floor(design))[:, None, None]
    else:
        solved = _solved(design, y, means, share, shrinkage)
    intercept = told - 0.5 * (means * solved.transpose(1, 2)).sum(-1)
    if classes == 2:
        solved, intercept = solved[..., 1:] - solved[..., :1], intercept[:, 1:] - intercept[:, :1]
    return Linear(solved.transpose(0, 1).contiguous(), intercept)


def _solved(
    design: Design, y: Tensor, means: Tensor, share: Tensor, shrinkage: float | None
) -> Tensor:
    """The class means [B, C, r] divided by the shrunk covariance, [B, r, C]."""
    weighted = means * share.sqrt()[..., None]
    within = torch.diag(design.variance) - weighted.transpose(1, 2) @ weighted  # [B, r, r]
    amount = (
        ledoit_wolf_shrinkage(design, y, means, within)
        if shrinkage is None
        else torch.full_like(share[:, 0], shrinkage)
    )
    level = within.diagonal(dim1=1, dim2=2).sum(1) / design.D
    covariance = (1 - amount)[:, None, None] * within
    covariance.diagonal(dim1=1, dim2=2).add_((amount * level + _floor(design))[:, None])
    return torch.cholesky_solve(means.transpose(1, 2), torch.linalg.cholesky(covariance))


def _floor(design: Design) -> float:
    """What is added to the covariance, for classes that are single points leave nothing."""
    tiny = 1e-9 if design.U.dtype == torch.float64 else 1e-5
    return tiny * float(design.variance.max()) if len(design.variance) else 1.0


def ledoit_wolf_shrinkage(design: Design, y: Tensor, means: Tensor, within: Tensor) -> Tensor:
    """How far should the within-class covariance be shrunk? [B] (Ledoit & Wolf 2004)

    scikit-learn's `ledoit_wolf_shrinkage` of the rows less their class mean, from what is known
    already: y [B, n], means [B, C, r], their covariance `within` [B, r, r].
    """
    U, n, D = design.U, len(design.U), design.D
    own = means.square().sum(-1).gather(1, y)  # [B, n]
    along = (means @ U.T).gather(1, y[:, None])[:, 0]
    squared = U.square().sum(1) - 2 * along + own
    level = within.diagonal(dim1=1, dim2=2).sum(1) / D
    second = within.square().sum((1, 2))
    noise = (squared.square().mean(1) - second) / (D * n)
    spread = second / D - level.square()
    amount = torch.minimum(noise, spread) / spread.clamp(min=torch.finfo(spread.dtype).tiny)
    return torch.where(noise <= 0, 0.0, amount.clamp(0, 1))
