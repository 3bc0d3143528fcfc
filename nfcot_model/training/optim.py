"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from nfcot_model.training.config import StageConfig

__all__ = ["make_optimizers", "set_rate"]


def make_optimizers(module: nn.Module, stage: StageConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the hidden matrices of the backbone and AdamW for the rest.

    Muon: Jordan et al. 2024, as in `torch.optim.Muon`.
    """
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    matrices = {
        n
        for n, p in trained.items()
        if stage.optimizer == "muon" and p.ndim == 2 and ".layers." in n
    }
    rest = [p for n, p in trained.items() if n not in matrices]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=stage.lr, betas=(0.9, 0.98), weight_decay=stage.weight_decay)
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                [trained[n] for n in sorted(matrices)],
                lr=stage.muon_lr,
                weight_decay=stage.weight_decay,
            )
        )
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], stage: StageConfig, step: int) -> None:
    """Linear warm-up, then a cosine to 0 at the stage's last step."""
    share = min(1.0, (step + 1) / max(1, stage.warmup))
    share *= 0.5 * (1 + math.cos(math.pi * step / max(1, stage.steps)))
    for optimizer, rate in zip(optimizers, (stage.lr, stage.muon_lr), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * share
