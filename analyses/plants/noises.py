"""The model thinks for itself, with noise that is not what the record says (P5, P7)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from analyses.plants.recorded import Planting, Recorded, record
from nfcot_model.reasoners import NFCoTReasoner

__all__ = ["aligned", "serial", "temperature"]


def _thought_with(
    reasoner: NFCoTReasoner, clean: Recorded, change: Callable[[Tensor], Tensor], real: bool
) -> Planting:
    again = record(
        reasoner,
        clean.problems,
        clean.tau,
        clean.seeds,
        change=change,
        hidden=clean.scores.hidden is not None,
    )
    return Planting(again, again.thoughts.mask.numpy() & real, np.arange(len(clean)))


def temperature(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P5: thoughts are drawn at `1 + severity` times the recorded tau, from the same seeds."""
    return _thought_with(reasoner, clean, lambda eps: eps * (1 + severity), severity != 0)


def serial(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P7: the noise of each thought correlates by `severity` with that of the one before.

    A stationary AR(1) process along k: every single thought's noise is still N(0, tau² I).
    """

    def correlated(eps: Tensor) -> Tensor:
        out = [eps[:, 0]]
        for k in range(1, eps.shape[1]):
            out.append(severity * out[-1] + (1 - severity**2) ** 0.5 * eps[:, k])
        return torch.stack(out, dim=1)

    return _thought_with(reasoner, clean, correlated, severity > 0)


def aligned(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P7: noise leans towards one fixed direction, with exactly the energy it would have had.

    An evasion that knows the likelihood: every energy is the clean one. `severity` in 0..1 is the
    weight of the common direction.
    """
    direction = np.random.default_rng([seed, 7]).normal(size=reasoner.D)
    direction /= np.linalg.norm(direction)

    def leaning(eps: Tensor) -> Tensor:
        norm = eps.norm(dim=-1, keepdim=True)
        common = torch.from_numpy(direction).to(eps)
        moved = (1 - severity) ** 0.5 * eps / norm + severity**0.5 * common
        return norm * moved / moved.norm(dim=-1, keepdim=True)

    return _thought_with(
        reasoner, clean, leaning if severity > 0 else lambda eps: eps, severity > 0
    )
