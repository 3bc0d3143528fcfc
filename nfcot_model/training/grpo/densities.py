"""Log-densities of what was sampled, as ratios, divergences and entropies of whole trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

__all__ = ["Categorical", "Densities", "Gaussian", "entropy", "kl", "log_ratio"]


@dataclass(frozen=True)
class Gaussian:
    """The policy of thoughts: `u_k ~ N(mu_k, tau² sigma_k²)`, and the thoughts that were drawn."""

    u: Tensor  # [B, K, D]
    mu: Tensor  # [B, K, D]
    log_sigma: Tensor  # [B, K, D] with log tau
    mask: Tensor  # [B, K]

    def logp(self) -> Tensor:
        """Mean log-density per dimension [B], without the 2π constant."""
        z = (self.u - self.mu) * torch.exp(-self.log_sigma)
        return _mean((-0.5 * z.square() - self.log_sigma).mean(-1), self.mask)

    def kl(self, other: Gaussian) -> Tensor:
        """Mean KL(self ‖ other) per dimension [B], exact."""
        between = self.log_sigma - other.log_sigma
        away = (self.mu - other.mu) * torch.exp(-other.log_sigma)
        each = 0.5 * (torch.exp(2 * between) + away.square() - 1) - between
        return _mean(each.mean(-1), self.mask)

    def entropy(self) -> Tensor:
        """Mean entropy per dimension [B] in nats."""
        constant = 0.5 * (1 + math.log(2 * math.pi))
        return _mean(self.log_sigma.mean(-1) + constant, self.mask)


@dataclass(frozen=True)
class Categorical:
    """The policy of one kind of discrete action (tokens, stop decisions), and what was chosen."""

    logits: Tensor  # [B, n, V] log-probabilities
    chosen: Tensor  # [B, n]
    mask: Tensor  # [B, n]

    def logp(self) -> Tensor:
        """Mean log-probability per action [B]."""
        return _mean(self.logits.gather(-1, self.chosen[..., None])[..., 0], self.mask)

    def kl(self, other: Categorical) -> Tensor:
        """Mean KL(self ‖ other) per action [B], exact."""
        return _mean((self.logits.exp() * (self.logits - other.logits)).sum(-1), self.mask)

    def entropy(self) -> Tensor:
        """Mean entropy per action [B] in nats."""
        return _mean(-(self.logits.exp() * self.logits).sum(-1), self.mask)


@dataclass(frozen=True)
class Densities:
    """The factors of a trajectory's density by name: thoughts, stop decisions, answer."""

    parts: Mapping[str, Gaussian | Categorical] = field(default_factory=dict)

    def detached(self) -> Densities:
        """The same without gradients, so that no graph is kept for later steps."""
        return Densities(
            {
                name: replace(part, **{key: value.detach() for key, value in vars(part).items()})
                for name, part in self.parts.items()
            }
        )


def log_ratio(new: Densities, old: Densities) -> Tensor:
    """`log π_new − log π_old` of each trajectory [B], each factor per dimension or action.

    Unnormalised, the ratio of K·D dimensions would always stand at a clip bound.
    """
    terms = [part.logp() - old.parts[name].logp() for name, part in new.parts.items()]
    return torch.stack(terms).sum(0)


def kl(new: Densities, reference: Densities) -> Tensor:
    """`KL(π_new ‖ π_reference)` along each trajectory [B], factors normalised as in the ratio."""
    terms = [part.kl(reference.parts[name]) for name, part in new.parts.items()]  # type: ignore[arg-type]
    return torch.stack(terms).sum(0)


def entropy(densities: Densities) -> dict[str, Tensor]:
    """Mean entropy of each factor (a scalar each): per dimension, decision or token."""
    return {name: part.entropy().mean().detach() for name, part in densities.parts.items()}


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the places [B, n] that are there; 0 for a row that has none."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
