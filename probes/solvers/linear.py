"""A batch of linear readouts in the coordinates of one design."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.solvers.design import Design

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear:
    """`scores = U @ weights + intercept` for B fits with C outputs each.

    `weights` [r, B, C], `intercept` [B, C]. A binary classifier has one output, the log-odds of
    class 1; a multiclass one has a logit per class; a regression one number.
    """

    weights: Tensor
    intercept: Tensor

    def scores(self, U: Tensor) -> Tensor:
        """[m, r] -> [B, m, C]"""
        r, B, C = self.weights.shape
        flat = U @ self.weights.reshape(r, B * C)
        return flat.view(len(U), B, C).transpose(0, 1) + self.intercept[:, None]

    def in_features(self, design: Design, index: int = 0) -> tuple[Tensor, Tensor]:
        """One fit as weights on the standardised features: [C, D] and [C]."""
        return (design.basis @ self.weights[:, index]).T, self.intercept[index]

    def on_features(self, design: Design) -> tuple[Tensor, Tensor]:
        """All fits as weights on the standardised features: [D, B, C] and [B, C]."""
        return torch.einsum("dr,rbc->dbc", design.basis, self.weights), self.intercept

    @staticmethod
    def joined(parts: list[Linear]) -> Linear:
        """Fits of several batches in one."""
        return Linear(
            torch.cat([p.weights for p in parts], 1), torch.cat([p.intercept for p in parts])
        )
