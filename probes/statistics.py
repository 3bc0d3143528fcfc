"""One number per fit by which sweeps choose, for many labellings at once.

Only choosing and permutation nulls use these; what is reported comes from `probes.metrics`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

__all__ = ["STATISTIC", "auroc", "balanced_accuracy", "r2", "statistic", "validation_loss"]

STATISTIC = {"binary": "auroc", "multiclass": "balanced_accuracy", "number": "r2"}


def statistic(kind: str, y: Tensor, scores: Tensor) -> Tensor:
    """How well do scores [B, n, outputs] read y [B, n]? [B], NaN where a fold cannot say."""
    if kind == "binary":
        return auroc(y, scores[..., 0])
    if kind == "multiclass":
        return balanced_accuracy(y, scores)
    return r2(y, scores[..., 0])


def auroc(y: Tensor, scores: Tensor) -> Tensor:
    """How often does a positive score above a negative, ties counting half? y, scores [B, n]."""
    scores = scores.contiguous()
    ordered = scores.sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, scores)
    upto = torch.searchsorted(ordered, scores, right=True)
    ranks = (below + upto + 1).double() / 2
    positive = y.double()
    P = positive.sum(-1)
    N = y.shape[-1] - P
    above = (ranks * positive).sum(-1) - P * (P + 1) / 2
    return torch.where((P > 0) & (N > 0), above / (P * N).clamp(min=1), torch.nan)


def balanced_accuracy(y: Tensor, scores: Tensor) -> Tensor:
    """Which share of each class is told right, on average over the classes that occur?"""
    hit = (scores.argmax(-1) == y).double()
    zero = hit.new_zeros(len(y), scores.shape[-1])
    counts = zero.scatter_add(1, y, torch.ones_like(hit))
    right = zero.scatter_add(1, y, hit)
    return (right / counts.clamp(min=1)).sum(-1) / (counts > 0).sum(-1).clamp(min=1)


def r2(y: Tensor, scores: Tensor) -> Tensor:
    """Which share of the variance of y is told?"""
    y, scores = y.double(), scores.double()
    total = (y - y.mean(-1, keepdim=True)).square().sum(-1)
    return torch.where(total > 0, 1 - (y - scores).square().sum(-1) / total, torch.nan)


def validation_loss(kind: str, y: Tensor, scores: Tensor) -> Tensor:
    """Which log-loss or squared error chooses penalties? y [n], scores [B, n, outputs] -> [B]"""
    if kind == "binary":
        z = scores[..., 0]
        return (softplus(z) - y.to(z) * z).mean(-1)
    if kind == "multiclass":
        repeated = y[None].expand(len(scores), -1)
        return cross_entropy(scores.transpose(1, 2), repeated, reduction="none").mean(-1)
    return (y.to(scores)[None] - scores[..., 0]).square().mean(-1)
