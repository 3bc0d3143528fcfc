"""Exact likelihoods of thoughts, in one causal pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nfcot_model.head import gaussian_logp
from nfcot_model.layout import Layout
from nfcot_model.model import NFCoTModel, at
from nfcot_model.thoughts import Scores, Thoughts

__all__ = ["hidden_at", "score"]


@torch.no_grad()
def score(
    model: NFCoTModel, layout: Layout, thoughts: Thoughts, tau: float, out: Any, hidden: bool
) -> Scores:
    """How likely is each thought, given the prompt and the thoughts before it?

    `out` is the backbone's output over the layout, from one causal pass (`NFCoTModel.stream`).
    `log p(u_k | q, u_<k)` under the model's own density (equation 3.1), in nats; `energy` is in
    units of the sampling noise, `½‖eps / tau‖²` (at `tau = 0`, where nothing is drawn, `½‖eps‖²`).
    `stop_logp` is the log-probability of the decision taken after the thought; 0 where there is
    none (fixed K, inside a step, or cut at the budget). It does not tell why a thought was had.
    """
    u, mask = thoughts.u, thoughts.mask
    states = out.last_hidden_state
    keep = mask[..., None]
    mu, log_sigma = model.nf_head(at(states, layout.thought_at - 1))
    eps = model.nf_head.eps((u - mu) * torch.exp(-log_sigma)) * keep
    energy = 0.5 * (eps / tau if tau > 0 else eps).square().sum(-1)
    return Scores(
        mu=mu * keep,
        log_sigma=log_sigma * keep,
        eps=eps,
        mask=mask,
        logp=gaussian_logp(eps, log_sigma) * mask,
        energy=energy,
        logvol=-(log_sigma * keep).sum(-1),
        stop_logp=_stop_logp(model, at(states, layout.thought_at), thoughts),
        hidden=hidden_at(out.hidden_states, layout, keep) if hidden else None,
    )


def _stop_logp(model: NFCoTModel, states: Tensor, thoughts: Thoughts) -> Tensor:
    mask = thoughts.mask
    if not model.config.variable_k:
        return mask.new_zeros(mask.shape, dtype=torch.float32)
    last = torch.arange(mask.shape[1], device=mask.device) == thoughts.K[:, None] - 1
    taken = model.decides(mask) & (~last | thoughts.stopped[:, None])
    chosen = model.stop_logp(states).gather(-1, last.long()[..., None])[..., 0]
    return chosen * taken


def hidden_at(states: tuple[Tensor, ...], layout: Layout, keep: Tensor) -> Tensor:
    """Every layer's states [B, layers + 1, Kmax, d_model] at the thoughts' own positions."""
    return torch.stack([at(h, layout.thought_at) * keep for h in states], dim=1).float()
