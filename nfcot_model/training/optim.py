"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from nfcot_model.training.config import StageConfig

__all__ = ["make_optimizer", "set_rate"]


def make_optimizer(module: nn.Module, stage: StageConfig) -> torch.optim.Optimizer:
    """AdamW over everything that is trained; vectors are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, stage: StageConfig, step: int) -> None:
    """Linear warm-up, then a cosine to 0 at the stage's last step."""
    share = min(1.0, (step + 1) / max(1, stage.warmup))
    share *= 0.5 * (1 + math.cos(math.pi * step / max(1, stage.steps)))
    for group in optimizer.param_groups:
        group["lr"] = stage.lr * share
