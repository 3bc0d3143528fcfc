"""The NF head: the Gaussian of the next thought, read from the state before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["NFHead", "gaussian_logp"]


class NFHead(nn.Module):
    """`h -> mu, log_sigma`: the deep block's affine parameters (STARFlow's deep block).

    The read-out starts at zero (a standard normal); `|log_sigma| < bound`. `mu`, `sigma` (which
    carries log sigma) and `eps` are taps: identities that hooks can read and change.
    """

    def __init__(self, d_model: int, D: int, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.norm = nn.LayerNorm(d_model)
        self.out = nn.Linear(d_model, 2 * D)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.mu = nn.Identity()
        self.sigma = nn.Identity()
        self.eps = nn.Identity()

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h [..., d_model] → mu, log_sigma [..., D] in the head's own precision (fp32)."""
        with torch.autocast(h.device.type, enabled=False):
            mu, raw = self.out(self.norm(h.to(self.out.weight.dtype))).chunk(2, dim=-1)
            return self.mu(mu), self.sigma(self.bound * torch.tanh(raw / self.bound))


def gaussian_logp(eps: Tensor, log_sigma: Tensor) -> Tensor:
    """`log N(u; mu, sigma²)` per thought in nats, for `eps` [..., D]."""
    D = eps.shape[-1]
    return -0.5 * eps.square().sum(-1) - log_sigma.sum(-1) - 0.5 * D * math.log(2 * math.pi)
