"""The shallow flow `u = F(e)`: exact, invertible, near the identity at the start.

TARFlow blocks (arXiv 2412.06329, section 2) with STARFlow's start embedding (arXiv 2506.06276),
so that the first thought has learned parameters too. The affine maths is never in half precision.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from nfcot_model.config import FlowConfig
from nfcot_model.transformer import CausalTransformer

__all__ = ["FlowBlock", "ShallowFlow"]


class FlowBlock(nn.Module):
    """One causal affine map: `y_k = (x_k - m(x_<k)) * exp(-a(x_<k))`, `log|det| = -Σ a`.

    `|a|` is bounded by `max_log_scale`; the output layer starts at zero, so the block starts as
    the identity. `x` and `y` are taps on what the inverse and the forward direction give.
    """

    def __init__(self, D: int, config: FlowConfig, max_thoughts: int) -> None:
        super().__init__()
        self.bound = config.max_log_scale
        self.start = nn.Parameter(torch.zeros(config.d_model))
        self.read = nn.Linear(D, config.d_model)
        self.net = CausalTransformer(config.d_model, config.layers, config.heads, max_thoughts)
        self.out = nn.Linear(config.d_model, 2 * D)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.x = nn.Identity()
        self.y = nn.Identity()

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift `m` and log-scale `a` [B, K, D] for each place, from the places before it."""
        start = self.start.expand(len(x), 1, -1)
        states = self.net(torch.cat([start, self.read(x[:, :-1])], dim=1))
        shift, raw = self.out(states).chunk(2, dim=-1)
        return shift, self.bound * torch.tanh(raw / self.bound)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.parameters_of(x)
        keep = mask[..., None].to(x.dtype)
        y = self.y((x - shift) * torch.exp(-log_scale) * keep)
        return y, -(log_scale * keep).sum((1, 2))

    def inverse(self, y: Tensor, mask: Tensor) -> Tensor:
        """Undo `forward`, place by place: `x_k = y_k * exp(a(x_<k)) + m(x_<k)`."""
        x = torch.zeros_like(y)
        keep = mask[..., None].to(y.dtype)
        for k in range(y.shape[1]):
            shift, log_scale = self.parameters_of(x[:, : k + 1])
            x_k = (y[:, k] * torch.exp(log_scale[:, k]) + shift[:, k]) * keep[:, k]
            x = torch.cat([x[:, :k], x_k[:, None], x[:, k + 1 :]], dim=1)
        return self.x(x)


class ShallowFlow(nn.Module):
    """`u = F(e)` and `log|det ∂F/∂e|` for ragged batches of trajectories.

    Shapes: e, u [B, K, D]; mask [B, K] bool with each row's thoughts in front; log-determinant
    [B] in nats. Where `mask` is False the output is 0 and nothing is added to the determinant.
    """

    def __init__(self, D: int, config: FlowConfig, max_thoughts: int) -> None:
        super().__init__()
        self.order = config.order
        self.blocks = nn.ModuleList(
            FlowBlock(D, config, max_thoughts) for _ in range(config.blocks)
        )
        self.logdet = nn.Identity()

    def forward(self, e: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(e.device.type, enabled=False):
            logdet = e.new_zeros(len(e))
            x = e * mask[..., None].to(e.dtype)
            for index, block in enumerate(self.blocks):
                y, term = block(self.ordered(x, mask, index), mask)
                x, logdet = self.ordered(y, mask, index), logdet + term
        return x, self.logdet(logdet)

    def inverse(self, u: Tensor, mask: Tensor) -> Tensor:
        """`e = F⁻¹(u)` [B, K, D]. With `order="causal"`, `e_k` depends on `u_≤k` only."""
        with torch.autocast(u.device.type, enabled=False):
            x = u * mask[..., None].to(u.dtype)
            for index, block in reversed(list(enumerate(self.blocks))):
                y = cast(FlowBlock, block).inverse(self.ordered(x, mask, index), mask)
                x = self.ordered(y, mask, index)
        return x

    def ordered(self, x: Tensor, mask: Tensor, index: int) -> Tensor:
        """Odd blocks of an alternating flow read each row back to front (an involution)."""
        if self.order == "causal" or index % 2 == 0:
            return x
        places = torch.arange(x.shape[1], device=x.device)
        flipped = (mask.sum(-1, keepdim=True) - 1 - places).clamp(min=0)
        source = torch.where(mask, flipped, places)
        return x.gather(1, source[..., None].expand_as(x))
