"""Which places inside a model can be read and changed, and what stands there?"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from nfcot_model.hooks.bridge import ThoughtBridge
from nfcot_model.hooks.walk import walk
from nfcot_model.layout import lay_out

__all__ = ["Site", "sites"]

OURS = {
    "projection.hook_in": "thoughts u as the projection reads them",
    "projection.hook_out": "thoughts as embeddings of the backbone",
    "nf_head.hook_in": "state before thought k, from which its Gaussian is read",
    "nf_head.hook_out": "mu (the head's first output; nf_head.mu is the place to edit)",
    "nf_head.mu": "mean of thought k",
    "nf_head.sigma": "standard deviation of thought k (positive)",
    "nf_head.eps": "noise of thought k: drawn when thinking, recomputed when scoring",
    "flow.hook_in": "codec latents e as the flow reads them",
    "flow.hook_out": "thoughts u as the flow gives them",
    "flow.logdet": "log|det dF/de| of a trajectory, in nats",
    "flow.shallow.N.hook_in": "input of shallow block N, forward direction",
    "flow.shallow.N.hook_out": "output of shallow block N, forward direction",
    "flow.shallow.N.x": "what shallow block N gives in the inverse direction",
    "flow.shallow.N.y": "what shallow block N gives in the forward direction",
}
BACKBONE = {
    "blocks.N.hook_in": "residual stream before layer N",
    "blocks.N.hook_resid_mid": "residual stream between attention and MLP of layer N",
    "blocks.N.hook_out": "residual stream after layer N",
    "blocks.N.attn.hook_pattern": "attention pattern (head, query, key)",
    "blocks.N.attn.hook_attn_scores": "attention scores (head, query, key)",
    "blocks.N.attn.hook_z": "what each head gathers (TransformerLens's z, not eps)",
    "blocks.N.attn.hook_in": "input of attention in layer N",
    "blocks.N.attn.hook_out": "output of attention in layer N",
    "blocks.N.attn.q": "queries",
    "blocks.N.attn.k": "keys",
    "blocks.N.attn.v": "values",
    "blocks.N.mlp.hook_in": "input of the MLP in layer N",
    "blocks.N.mlp.hook_out": "output of the MLP in layer N",
    "ln_final.hook_out": "final state: what the NF head and the LM head read",
    "unembed.hook_out": "logits",
}


# A prompt so long that its length is no other size of the model.
_PROMPT = 211


@dataclass(frozen=True)
class Site:
    """One hook: its name, the axes of what stands there, and what it means.

    Axes: B streams, T positions, K thoughts, d_model, D; a number where no letter fits; empty when
    the hook stays silent in a pass over embeddings (`fires` is then False).
    """

    name: str
    axes: tuple[str, ...]
    meaning: str

    @property
    def fires(self) -> bool:
        return bool(self.axes)

    @property
    def per_thought(self) -> bool:
        """Can it be read at each thought?"""
        return self.axes[:2] in (("B", "T"), ("B", "K"))


def sites(bridge: ThoughtBridge) -> list[Site]:
    """Every hook of a model, with shapes measured in one pass over two short streams."""
    model = bridge.original_model
    K = min(2, model.config.max_thoughts)
    prompt = [model.ids.think] * _PROMPT
    layout = lay_out([prompt] * 2, [K] * 2, model.ids).to(model.device)
    u = torch.zeros(2, K, model.config.D, device=model.device)
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(tensor: Tensor, hook: HookPoint) -> None:
        if isinstance(tensor, Tensor):
            shapes[str(hook.name)] = tuple(tensor.shape)

    fires = [name for name in bridge.hook_dict if bridge.open(name)]
    with bridge.hooks(fwd_hooks=[(name, keep) for name in fires]), torch.no_grad():
        walk(model, layout, u)
    text = model.backbone.config.get_text_config()
    letters = {text.hidden_size: "d_model", text.vocab_size: "vocabulary"}
    at_thoughts = {K: "K", model.config.D: "D", **letters}
    at_positions = {layout.input_ids.shape[1]: "T", **letters}
    return [
        Site(
            name,
            _axes(shapes.get(str(point.name), ()), at_thoughts if ours(name) else at_positions),
            _meaning(name),
        )
        for name, point in sorted(bridge.hook_dict.items(), key=lambda item: _order(item[0]))
    ]


def ours(name: str) -> bool:
    """Does the hook see thoughts [B, K, ...] (ours, and the LM head at stop decisions)?"""
    return name.split(".")[0] in ("projection", "nf_head", "flow", "unembed", "hook_unembed")


def _axes(shape: tuple[int, ...], letters: dict[int, str]) -> tuple[str, ...]:
    return tuple("B" if i == 0 else letters.get(n, str(n)) for i, n in enumerate(shape))


def _meaning(name: str) -> str:
    pattern = re.sub(r"\b(blocks|shallow)\.\d+\.", r"\1.N.", name)
    known = {**OURS, **BACKBONE}
    short = pattern.removesuffix(".hook_out")
    return known.get(pattern) or known.get(short) or "hook of TransformerLens"


def _order(name: str) -> tuple[object, ...]:
    return not ours(name), re.sub(r"\d+", lambda m: m.group().zfill(4), name)
