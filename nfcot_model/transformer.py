"""A small pre-norm causal transformer, shared by the codec and the shallow flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Block", "CausalTransformer"]


class CausalTransformer(nn.Module):
    """States of a causal transformer over given input vectors.

    Input and output [N, T, d_model]; position t attends to positions ≤ t only, so places behind
    a sequence's end cannot reach it and no padding mask is needed.
    """

    def __init__(self, d_model: int, layers: int, heads: int, max_length: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(max_length, d_model) * 0.02)
        self.blocks = nn.ModuleList(Block(d_model, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """States [N, T, d_model] of x, as the class says.

        `cache`, an empty list at first, is filled with every layer's keys and values; a later call
        with the same list gives one further position [N, 1, d_model] and gets its state.
        """
        past = cache[0].shape[-2] if cache else 0
        x = x + self.position[past : past + x.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer)
        return self.norm(x)


class Block(nn.Module):
    """One layer: attention, then a perceptron, each on normed states and added to them."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor, cache: list[Tensor] | None = None, layer: int = 0) -> Tensor:
        n, t, d = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(n, t, 3, self.heads, d // self.heads)
        q, kv = qkv.permute(2, 0, 3, 1, 4).split([1, 2])
        goes_on = cache is not None and len(cache) > layer
        if cache is not None:
            if goes_on:
                kv = cache[layer] = torch.cat([cache[layer], kv], dim=-2)
            else:
                cache.append(kv)
        k, v = kv
        mixed = functional.scaled_dot_product_attention(q[0], k, v, is_causal=not goes_on)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x))))
