"""How likely are thoughts as `u` and as `e`, thought by thought, under a model and prompts?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.scored import finite_rows, refuse_without_likelihood
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts

__all__ = ["Densities", "densities", "latents_of"]

BATCH = 64


@dataclass(frozen=True)
class Densities:
    """All [B, K], nats, 0 where `mask` is False.

    `logp_u` is the model's own density of `u_k` given prompt and thoughts before; `logdet` what
    the flow adds at that place, so `logp_e` is their sum: a chain rule with a causal flow, an
    attribution with an alternating one. `stop_logp` is the decision after the thought, `energy`
    `½‖eps / tau‖²`, `valid` [B]: everything is a number.
    """

    logp_u: Tensor
    logdet: Tensor
    stop_logp: Tensor
    energy: Tensor
    logvol: Tensor
    mask: Tensor
    valid: Tensor

    @property
    def logp_e(self) -> Tensor:
        return self.logp_u + self.logdet


@torch.no_grad()
def latents_of(reasoner: NFCoTReasoner, thoughts: Thoughts) -> Tensor:
    """The codec latents `e` [B, K, D] of thoughts, through the model's own flow."""
    device = reasoner.model.device
    return reasoner.model.flow.inverse(thoughts.u.to(device), thoughts.mask.to(device)).cpu()


@torch.no_grad()
def densities(
    reasoner: NFCoTReasoner, prompts: Sequence[str], thoughts: Thoughts, e: Tensor, tau: float
) -> Densities:
    """How likely are thoughts `u = F(e)` under this model, its flow, these prompts?

    `e` [B, K, D] as `latents_of` gives it. Raises UserError for a reasoner without likelihood.
    Comparable between models of one codec as `logp_e` only: `u` is each flow's own.
    """
    refuse_without_likelihood(reasoner, "scoring")
    device, parts = reasoner.model.device, []
    for some in torch.arange(len(thoughts)).split(BATCH):
        part = thoughts.rows(some)
        K = part.mask.shape[1]
        _, logdet = reasoner.model.flow.by_place(e[some][:, :K].to(device), part.mask.to(device))
        scores = reasoner.score([prompts[i] for i in some.tolist()], part, tau=tau)
        values = (scores.logp, logdet.cpu(), scores.stop_logp, scores.energy, scores.logvol)
        parts.append([_widened(value, thoughts.mask.shape[1]) for value in values])
    logp_u, logdet, stop, energy, logvol = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    valid = finite_rows(logp_u + logdet + stop + energy, thoughts.mask)
    return Densities(logp_u, logdet, stop, energy, logvol, thoughts.mask, valid)


def _widened(values: Tensor, K: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, K - values.shape[1]))
