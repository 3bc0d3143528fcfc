"""Causal transformers of one shape, side by side, one place after another, without gradients.

The same states as `CausalTransformer` gives, to rounding, in fewer operations, whose number is what
a step over few rows costs: keys and values are written to where they stay, a norm's scale and shift
are part of the map behind it, and one query needs no kernel for attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfcot_model.transformer import Block, CausalTransformer

__all__ = ["Placewise", "linear", "side_by_side"]

ROOM = 8  # places at first; twice as many whenever they are full
FEW = 32  # up to as many places, products and sums are faster than a kernel for attention


class Placewise:
    """The states of each place of several sequences, given the places before it.

    Remembers the queries, keys and values of all places so far, and the weights as they were when
    it was made. What it gives has no gradients and is for reading only (inference mode).
    """

    @torch.inference_mode()
    def __init__(self, nets: Sequence[CausalTransformer]) -> None:
        self.place = 0
        self.position = torch.stack([net.position for net in nets])[:, :, None]
        self.layers = [
            _Layer.of(cast(Sequence[Block], blocks))
            for blocks in zip(*(net.blocks for net in nets), strict=True)
        ]
        self.kept: list[Tensor] = []

    @torch.inference_mode()
    def next(self, x: Tensor) -> Tensor:
        """States of the next places of x [nets, T, N, d_model], T > 1 only at the start.

        Same shape, normed; scale and shift of the last norm belong to what reads them
        (`side_by_side`).
        """
        nets, t, n, d = x.shape
        end = self.place + t
        if not self.kept:
            heads = self.layers[0].heads
            room = (nets, max(ROOM, t), n, 3, heads, d // heads)
            self.kept = [x.new_empty(room) for _ in self.layers]
        elif end > self.kept[0].shape[1]:
            self.kept = [torch.cat([kept, torch.empty_like(kept)], dim=1) for kept in self.kept]
        x = (x + self.position[:, self.place : end]).flatten(1, 2)
        for layer, kept in zip(self.layers, self.kept, strict=True):
            x = layer.states(x, kept[:, :end], t)
        self.place = end
        return _normed(x).view(nets, t, n, d)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the sequences (their indices) only."""
        self.kept = [kept[:, : self.place].index_select(2, rows) for kept in self.kept]


@dataclass(frozen=True)
class _Layer:
    """Weights [nets, in, out] and biases [nets, 1, out] of one block of each network."""

    heads: int
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]

    @staticmethod
    def of(blocks: Sequence[Block]) -> _Layer:
        heads, d = blocks[0].heads, blocks[0].out.in_features
        qkv = side_by_side((b.qkv for b in blocks), (b.norm_attention for b in blocks))
        for part in qkv:
            part[..., :d] *= (d // heads) ** -0.5
        return _Layer(
            heads,
            qkv,
            side_by_side(b.out for b in blocks),
            side_by_side((b.up for b in blocks), (b.norm_mlp for b in blocks)),
            side_by_side(b.down for b in blocks),
        )

    def states(self, x: Tensor, kept: Tensor, t: int) -> Tensor:
        """What the block makes of x [nets, T * N, d_model], whose places are the last T kept."""
        weight, bias = self.qkv
        torch.baddbmm(bias, _normed(x), weight, out=kept[:, -t:].flatten(3).flatten(1, 2))
        x.add_(self.out[1]).baddbmm_(self.mixed(kept, t), self.out[0])
        inner = functional.gelu(linear(_normed(x), self.up))
        return x.add_(self.down[1]).baddbmm_(inner, self.down[0])

    def mixed(self, kept: Tensor, t: int) -> Tensor:
        """What the last T places take from all up to them [nets, T * N, d_model]."""
        q, k, v = kept.unbind(3)
        if k.shape[1] == 1:
            return v[:, 0].flatten(-2)
        if t == 1 and k.shape[1] <= FEW:
            weight = (q[:, -1:] * k).sum(-1, keepdim=True).softmax(1)
            return (weight * v).sum(1).flatten(-2)
        q, k, v = (part.permute(0, 2, 3, 1, 4).flatten(0, 1) for part in (q[:, -t:], k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=t > 1, scale=1.0)
        mixed = mixed.unflatten(0, (len(kept), -1)).permute(0, 3, 1, 2, 4)
        return mixed.flatten(-2).flatten(1, 2)


def side_by_side(
    maps: Iterable[nn.Linear], norms: Iterable[nn.LayerNorm] | None = None
) -> tuple[Tensor, Tensor]:
    """Weight [nets, in, out] and bias [nets, 1, out] of linear maps, behind these norms if any."""
    weights, biases = zip(*((m.weight, m.bias) for m in maps), strict=True)
    weight, bias = torch.stack(weights).mT, torch.stack(biases)[:, None]
    if norms is None:
        return weight, bias
    scales, shifts = zip(*((n.weight, n.bias) for n in norms), strict=True)
    shift = (torch.stack(shifts)[..., None] * weight).sum(1, keepdim=True)
    return weight * torch.stack(scales)[..., None], bias + shift


def linear(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """x [nets, N, in] through maps that stand side by side: [nets, N, out]."""
    return torch.baddbmm(by[1], x, by[0])


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])
