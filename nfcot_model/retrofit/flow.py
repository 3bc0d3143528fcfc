"""`log p(u | prompt)` of thoughts that nobody drew from a density: a conditional TARFlow.

The blocks are those of the shallow flow (arXiv 2412.06329); the condition stands at the place
before the first thought, where every causal block sees it and none changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from nfcot_model.config import FlowConfig
from nfcot_model.flow import FlowBlock, ShallowFlow
from nfcot_model.head import gaussian_logp

__all__ = ["EIGENVALUE_FLOOR", "FlowScores", "RetrofitFlow"]

EIGENVALUE_FLOOR = 1e-3


@dataclass(frozen=True)
class FlowScores:
    """What the flow makes of trajectories: eps [B, K, D], 0 where masked; logp [B, K] in nats.

    The terms of `logp` sum to `log p(u | prompt)` of the trajectory; with an alternating order a
    single term is an attribution, not the log-density of that thought.
    """

    eps: Tensor
    logp: Tensor


class RetrofitFlow(nn.Module):
    """Whitening, then TARFlow blocks under a condition; shapes as in `ShallowFlow`.

    Whitening rotates to principal axes and divides by their standard deviation, at least
    sqrt(`EIGENVALUE_FLOOR`) of the largest: directions without variance count as that wide.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor

    def __init__(self, D: int, features: int, config: FlowConfig, max_thoughts: int) -> None:
        super().__init__()
        self.D = D
        self.condition = nn.Linear(features, D)
        self.flow = ShallowFlow(D, config, max_thoughts + 1)
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("axes", torch.eye(D))
        self.register_buffer("scale", torch.ones(D))

    @torch.no_grad()
    def fit_whitening(self, u: Tensor) -> None:
        """Take mean, principal axes and scales from thoughts u [N, D]."""
        centred = (u - u.mean(0)).double()
        values, axes = torch.linalg.eigh(centred.T @ centred / max(1, len(u) - 1))
        largest = float(values.max().clamp(min=1e-12))
        self.mean.copy_(u.mean(0))
        self.axes.copy_(axes.to(u.dtype))
        self.scale.copy_(values.clamp(min=EIGENVALUE_FLOOR * largest).sqrt().to(u.dtype))

    def whiten(self, u: Tensor) -> Tensor:
        """Thoughts [..., D] in the coordinates of the flow."""
        return (u - self.mean) @ self.axes / self.scale

    def forward(self, x: Tensor, mask: Tensor, features: Tensor) -> FlowScores:
        """Scores of whitened thoughts x [B, K, D] under conditions [B, features]."""
        keep = mask[..., None].to(x.dtype)
        x = x * keep
        first = self.condition(features)[:, None]
        log_scales = torch.zeros_like(x)
        for index, block in enumerate(self.flow.blocks):
            ordered = self.flow.ordered(x, mask, index)
            with_condition = torch.cat([first, ordered], dim=1)
            shift, log_scale = cast(FlowBlock, block).parameters_of(with_condition)
            ordered = (ordered - shift[:, 1:]) * torch.exp(-log_scale[:, 1:]) * keep
            x = self.flow.ordered(ordered, mask, index)
            log_scales = log_scales + self.flow.ordered(log_scale[:, 1:] * keep, mask, index)
        whole = log_scales + torch.log(self.scale)
        return FlowScores(x, gaussian_logp(x, whole) * mask)
