"""Group-relative advantages and the clipped surrogate."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LARGEST", "advantages", "informative", "surrogate"]

LARGEST = 20.0
"""Log-ratios are clipped here before they are exponentiated (arXiv 2606.06447, appendix B)."""


def informative(rewards: Tensor) -> Tensor:
    """Which groups [P] of rewards [P, G] differ within? Only they say what is better."""
    return rewards.amax(-1) > rewards.amin(-1)


def advantages(rewards: Tensor) -> Tensor:
    """`(R − mean) / std` within each group [P, G] (arXiv 2402.03300); 0 where all are alike."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    spread = rewards.std(-1, correction=0, keepdim=True)
    differs = informative(rewards)[:, None]
    return torch.where(differs, centred / spread.clamp(min=1e-8), torch.zeros_like(centred))


def surrogate(log_ratio: Tensor, advantage: Tensor, clip_ratio: float) -> Tensor:
    """`min(r·A, clip(r, 1 ± clip_ratio)·A)` of each trajectory [B], to be maximised.

    From PPO (arXiv 1707.06347, equation 7): no gain for moving further than the clip allows.
    """
    ratio = log_ratio.clamp(-LARGEST, LARGEST).exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    return torch.minimum(ratio * advantage, clipped * advantage)
