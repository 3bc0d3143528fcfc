"""The shallow flow `u = F(e)`: exact, invertible, near the identity at the start.

TARFlow blocks (arXiv 2412.06329, section 2) with STARFlow's start embedding (arXiv 2506.06276),
so that the first thought has learned parameters too. The affine maths is never in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nfcot_model.config import FlowConfig
from nfcot_model.placewise import Placewise, linear, side_by_side
from nfcot_model.transformer import CausalTransformer

__all__ = ["FlowBlock", "FlowReading", "ShallowFlow"]


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
        """`y`, and what each of its numbers adds to the log-determinant, both [B, K, D]."""
        shift, log_scale = self.parameters_of(x)
        keep = mask[..., None].to(x.dtype)
        y = self.y((x - shift) * torch.exp(-log_scale) * keep)
        return y, -log_scale * keep

    def inverse(self, y: Tensor, mask: Tensor) -> Tensor:
        """Undo `forward`, place by place: `x_k = y_k * exp(a(x_<k)) + m(x_<k)`."""
        cache: list[Tensor] = []
        read = self.start.expand(len(y), -1)
        x: list[Tensor] = []
        for k in range(y.shape[1]):
            shift, raw = self.out(self.net(read[:, None], cache)[:, 0]).chunk(2, dim=-1)
            before = y[:, k] * torch.exp(self.bound * torch.tanh(raw / self.bound)) + shift
            x.append(before * mask[:, k, None].to(y.dtype))
            read = self.read(x[-1])
        return self.x(torch.stack(x, dim=1))


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
        u, terms = self.by_place(e, mask)
        return u, self.logdet(terms.sum(-1))

    def by_place(self, e: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`u = F(e)` and what each place adds to the log-determinant, [B, K].

        With `order="causal"` the term of place k is `log|det ∂u_k/∂e_k|` given the places before,
        so that likelihoods of `e` have a chain rule; otherwise it is an attribution.
        """
        u, terms = self.by_number(e, mask)
        return u, terms.sum(-1)

    def by_number(self, e: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`u = F(e)` and what each number of it adds to the log-determinant, [B, K, D].

        With `order="causal"` each number of `u_k` is affine in the same number of `e_k` given the
        places before, and its term is `log|∂u_kd/∂e_kd|`; otherwise it is an attribution.
        """
        with torch.autocast(e.device.type, enabled=False):
            terms = torch.zeros_like(e)
            x = e * mask[..., None].to(e.dtype)
            for index, block in enumerate(self.blocks):
                y, term = block(self.ordered(x, mask, index), mask)
                x = self.ordered(y, mask, index)
                terms = terms + self.ordered(term, mask, index)
        return x, terms

    def inverse(self, u: Tensor, mask: Tensor) -> Tensor:
        """`e = F⁻¹(u)` [B, K, D]. With `order="causal"`, `e_k` depends on `u_≤k` only."""
        with torch.autocast(u.device.type, enabled=False):
            x = u * mask[..., None].to(u.dtype)
            for index, block in reversed(list(enumerate(self.blocks))):
                y = cast(FlowBlock, block).inverse(self.ordered(x, mask, index), mask)
                x = self.ordered(y, mask, index)
        return x

    def reading(self) -> FlowReading:
        """Decode thoughts one after another, as they come. Raises ValueError unless causal."""
        if self.order != "causal":
            raise ValueError(f"a flow of order {self.order} is decoded as a whole only")
        return FlowReading([cast(FlowBlock, block) for block in self.blocks])

    def ordered(self, x: Tensor, mask: Tensor, index: int) -> Tensor:
        """Odd blocks of an alternating flow read each row back to front (an involution)."""
        if self.order == "causal" or index % 2 == 0:
            return x
        places = torch.arange(x.shape[1], device=x.device)
        flipped = (mask.sum(-1, keepdim=True) - 1 - places).clamp(min=0)
        source = torch.where(mask, flipped, places)
        return x.gather(1, source[..., None].expand_as(x))


class FlowReading:
    """`e_k` of each thought `u_k` as it comes; the same, to rounding, as `inverse` gives.

    Remembers what it was given: one per batch, thoughts in order from the first. Each block's
    network reads only what it gave of thoughts before, so that all of them go side by side.
    """

    @torch.inference_mode()
    def __init__(self, blocks: Sequence[FlowBlock]) -> None:
        self.bound = blocks[0].bound
        self.nets = Placewise([block.net for block in blocks])
        self.start = torch.stack([block.start for block in blocks])[:, None]
        self.read = side_by_side([block.read for block in blocks])
        self.out = side_by_side(
            [block.out for block in blocks], [block.net.norm for block in blocks]
        )
        self.before: Tensor | None = None

    @torch.inference_mode()
    def next(self, u: Tensor, alive: Tensor) -> Tensor:
        """The latents [B, D] of the next thoughts u [B, D]; 0 in rows that are not alive [B]."""
        with torch.autocast(u.device.type, enabled=False):
            if self.before is None:
                read = self.start.expand(-1, len(u), -1)
            else:
                read = linear(self.before, self.read)
            shift, raw = linear(self.nets.next(read[:, None])[:, 0], self.out).chunk(2, dim=-1)
            scale = torch.exp(self.bound * torch.tanh(raw / self.bound))
            self.before, x = torch.empty_like(shift), u
            for i in reversed(range(len(shift))):
                x = torch.addcmul(shift[i], x, scale[i], out=self.before[i])
            return x.where(alive[:, None], 0.0)
