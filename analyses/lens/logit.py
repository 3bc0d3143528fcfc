"""What would the language model say if it stopped thinking at this layer? The logit lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.tools.analysis import logit_readout

from nfcot_model.hooks import ThoughtBridge, capture
from nfcot_model.layout import Layout

__all__ = ["LogitReading", "layer_count", "layer_states", "logit_lens", "site_of"]

CHUNK = 64


@dataclass(frozen=True)
class LogitReading:
    """What does one layer say at N thoughts? Likeliest tokens, and the ranks of asked ones.

    `top` and `probability` [N, n]; `rank` [N, M], 1 for the likeliest of the vocabulary, 0 where
    nothing was asked.
    """

    top: Tensor
    probability: Tensor
    rank: Tensor


def layer_count(bridge: ThoughtBridge) -> int:
    """How many places has the residual stream? The embeddings and one after each layer."""
    return int(bridge.cfg.n_layers) + 1


def site_of(layer: int) -> str:
    """Which hook stands for a layer? 0 are the embeddings, n what leaves block n - 1."""
    return "blocks.0.hook_in" if layer == 0 else f"blocks.{layer - 1}.hook_out"


def layer_states(
    bridge: ThoughtBridge, layout: Layout, u: Tensor, layers: Sequence[int]
) -> dict[int, Tensor]:
    """The residual stream [N, d_model] at each thought, in the order of the layout's mask."""
    names = [site_of(layer) for layer in layers]
    states = capture(bridge, layout, u.to(layout.input_ids.device), names)
    return {layer: states[name][layout.mask] for layer, name in zip(layers, names, strict=True)}


@torch.no_grad()
def logit_lens(
    bridge: ThoughtBridge,
    layout: Layout,
    u: Tensor,
    layers: Sequence[int],
    top: int,
    wanted: Tensor,
) -> dict[int, LogitReading]:
    """What does each layer say at each thought, through final norm and LM head? Layer -> reading.

    `u` [B, K, D] are the thoughts of `layout`; `wanted` [N, M] token ids whose ranks are asked, one
    row per thought in the order of the layout's mask, -1 for none. The last layer gives the
    model's own distribution at that position. In training the LM head decides at thoughts between
    another thought and the end only, so what it ranks below them nobody optimised.
    """
    states = layer_states(bridge, layout, u, layers)
    return {layer: _read(bridge, h, top, wanted) for layer, h in states.items()}


def _read(bridge: ThoughtBridge, h: Tensor, top: int, wanted: Tensor) -> LogitReading:
    tops, probabilities, ranks = [], [], []
    for states, ids in zip(h.split(CHUNK), wanted.to(h.device).split(CHUNK), strict=True):
        logits = logit_readout(bridge, states, return_type="log_probs", chunk_size=CHUNK).values
        best = logits.topk(top, dim=-1)
        tops.append(best.indices)
        probabilities.append(best.values.exp())
        columns = [
            (logits > logits.gather(-1, ids[:, [m]].clamp(min=0))).sum(-1) + 1
            for m in range(ids.shape[1])
        ]
        rank = torch.stack(columns, dim=-1) if columns else ids
        ranks.append(rank.masked_fill(ids < 0, 0))
    return LogitReading(*(torch.cat(part).cpu() for part in (tops, probabilities, ranks)))
