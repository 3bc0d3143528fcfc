"""Under which model, context and tau was a score computed? Every score is filed with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner

__all__ = ["MODEL_DENSITY", "Scored", "finite_rows", "refuse_without_likelihood"]

MODEL_DENSITY = "the model's own (temperature 1), nats"


@dataclass(frozen=True)
class Scored:
    """What was scored, by whom? `scorer`: self, reference-model, counterfactual-context.

    `tau` is the temperature the thoughts were drawn at (it scales energies, not densities);
    `tensor` what the density is of, `density` which one.
    """

    scorer: str
    checkpoint_hash: str
    context: str
    tau: float
    tensor: str
    density: str

    def to_dict(self) -> dict[str, str | float]:
        return asdict(self)


def refuse_without_likelihood(reasoner: Reasoner, what: str) -> None:
    """Raise UserError for a reasoner whose thoughts have no likelihood."""
    if not reasoner.has_likelihood:
        raise UserError(
            f"{what}: needs likelihoods of thoughts, the reasoner '{reasoner.name}' has none"
        )


def finite_rows(values: Tensor, mask: Tensor) -> Tensor:
    """Which rows [B] have nothing but finite numbers where mask [B, K] is set?"""
    return (torch.isfinite(values) | ~mask).all(-1)
