"""Which places inside a model can be read and changed, and what stands there?"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from nfcot_model.errors import UserError
from nfcot_model.hooks.bridge import ThoughtBridge
from nfcot_model.hooks.walk import walk
from nfcot_model.layout import lay_out
from nfcot_model.model import NFCoTModel

__all__ = ["Site", "choose_sites", "sites"]

OURS = {
    "projection.hook_in": "thoughts u as the projection reads them",
    "projection.hook_out": "thoughts as embeddings of the backbone",
    "answer_projection.hook_in": "codec latents e as the answer reads them (Dual-Path)",
    "answer_projection.hook_out": "the same as embeddings of the backbone (Dual-Path)",
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
    "embed": "token embeddings; where a thought stands, that of its placeholder",
    "blocks.N.hook_in": "residual stream before layer N",
    "blocks.N.hook_resid_mid": "residual stream between attention and MLP of layer N",
    "blocks.N.hook_out": "residual stream after layer N",
    "blocks.N.ln1.hook_in": "residual stream before layer N",
    "blocks.N.ln1": "residual stream before layer N, normalised for attention",
    "blocks.N.ln2.hook_in": "residual stream between attention and MLP of layer N",
    "blocks.N.ln2": "residual stream inside layer N, normalised for the MLP",
    "blocks.N.attn.hook_pattern": "attention pattern (head, query, key)",
    "blocks.N.attn.hook_attn_scores": "attention scores (head, query, key)",
    "blocks.N.attn.hook_z": "what each head gathers (TransformerLens's z, not eps)",
    "blocks.N.attn.hook_in": "input of attention in layer N",
    "blocks.N.attn.hook_out": "output of attention in layer N",
    "blocks.N.attn.q": "queries",
    "blocks.N.attn.k": "keys",
    "blocks.N.attn.v": "values",
    "blocks.N.attn.hook_rot_q": "queries, rotated by position",
    "blocks.N.attn.hook_rot_k": "keys, rotated by position",
    "blocks.N.attn.o.hook_in": "what each head gathers (TransformerLens's z, not eps)",
    "blocks.N.attn.o": "output of attention in layer N",
    "blocks.N.mlp.hook_in": "input of the MLP in layer N",
    "blocks.N.mlp.hook_out": "output of the MLP in layer N",
    "blocks.N.mlp.hook_pre": "neurons of layer N before their non-linearity",
    "blocks.N.mlp.hook_post": "neurons of layer N after it",
    "ln_final.hook_in": "residual stream after the last layer",
    "ln_final.hook_out": "final state: what the NF head and the LM head read",
    "unembed.hook_in": "final state at thought k, from which thinking on is decided",
    "unembed.hook_out": "logits at thought k, of which thinking on or stopping is read",
}

_OF_THOUGHTS = (
    "projection",
    "answer_projection",
    "nf_head",
    "flow",
    "unembed",
    "hook_unembed",
)

# Two passes whose sizes differ in every axis that a letter names: (streams, thoughts, prompt).
_PROBES = ((3, 2, 5), (2, 3, 9))


@dataclass(frozen=True)
class Site:
    """One hook: its name, what stands there and how it is laid out.

    axes: B streams, T positions, K thoughts, d_model, D, vocabulary; a number where no letter
    fits; empty when the hook stays silent in a pass over embeddings. row: the shape of one
    thought's share, None when the site cannot be read by thought, and `refusal` says why. same_as:
    the hook whose other name this is.
    """

    name: str
    axes: tuple[str, ...]
    meaning: str
    row: tuple[int, ...] | None = None
    refusal: str = ""
    same_as: str = ""

    @property
    def fires(self) -> bool:
        return bool(self.axes)

    @property
    def per_thought(self) -> bool:
        """Can it be read at each thought?"""
        return self.row is not None


@torch.no_grad()
def sites(bridge: ThoughtBridge, names: Collection[str] | None = None) -> list[Site]:
    """Every hook of a model, or those called `names`, with shapes measured in two short passes.

    Raises UserError for a name that no hook has.
    """
    if names is not None:
        bridge.check_names(list(names))
    points = {n: p for n, p in bridge.hook_dict.items() if names is None or n in names}
    seen = [_shapes(bridge, points, *sizes) for sizes in _PROBES]
    model = bridge.original_model
    letters = _letters(model)
    found = []
    for name, point in sorted(points.items(), key=lambda item: _order(item[0])):
        native = str(point.name)
        shapes = [shape.get(native, ()) for shape in seen]
        pairs = list(zip(*shapes, strict=False))
        thoughts = {(model.config.D,) * 2: "D", _thoughts(model): "K"} if ours(name) else {}
        axes = tuple((letters | thoughts).get(pair, str(pair[0])) for pair in pairs)
        refusal = _refusal(name, axes, model)
        found.append(
            Site(
                name,
                axes,
                _meaning(name, native),
                None if refusal else tuple(shapes[0][2:]),
                refusal,
                "" if native == name else native,
            )
        )
    return found


def choose_sites(bridge: ThoughtBridge, patterns: Sequence[str]) -> list[Site]:
    """Which sites do names and patterns ask for, each once, in the order asked?

    A star stands for one part of a name between dots: `blocks.*.hook_out`; a hook whose other
    name (`same_as`) fits too is taken once. Raises UserError for no
    pattern, a name that no hook has, a pattern that no site fits, and a hook that cannot be read
    by thought.
    """
    plain = [pattern for pattern in patterns if "*" not in pattern]
    if plain or not patterns:
        bridge.check_names(plain)
    fits = {pattern: re.compile(_star(pattern)).fullmatch for pattern in patterns}
    asked = [name for name in bridge.hook_dict if any(fit(name) for fit in fits.values())]
    table = sites(bridge, asked) if asked else []
    chosen: dict[str, Site] = {}
    for pattern, fit in fits.items():
        found = [site for site in table if fit(site.name)]
        if pattern not in plain:
            natives = {site.name for site in found}
            found = [site for site in found if site.same_as not in natives]
        if pattern in plain and found[0].refusal:
            raise UserError(f"{pattern} {found[0].refusal}")
        readable = {site.name: site for site in found if site.per_thought}
        if not readable:
            raise UserError(
                f"no hook that can be read by thought fits {pattern}; a star stands for one part"
                " of a name, as in blocks.*.hook_out (`nfcot sites MODEL` lists them)"
            )
        chosen |= readable
    return list(chosen.values())


def ours(name: str) -> bool:
    """Does the hook see thoughts [B, K, ...] (ours, and the LM head at stop decisions)?"""
    return name.split(".")[0] in _OF_THOUGHTS


def numberless(name: str) -> str:
    """The name with N in place of a layer's number."""
    return re.sub(r"\b(blocks|shallow)\.\d+\.", r"\1.N.", name)


def _shapes(
    bridge: ThoughtBridge, points: dict[str, HookPoint], streams: int, K: int, prompt: int
) -> dict[str, tuple[int, ...]]:
    model = bridge.original_model
    K = min(K, model.config.max_thoughts)
    layout = lay_out([[model.ids.think] * prompt] * streams, [K] * streams, model.ids)
    u = torch.zeros(streams, K, model.config.D, device=model.device)
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(tensor: Tensor, hook: HookPoint) -> None:
        if isinstance(tensor, Tensor):
            shapes[str(hook.name)] = tuple(tensor.shape)

    fires = {str(point.name) for name, point in points.items() if bridge.open(name)}
    with bridge.hooks(fwd_hooks=[(name, keep) for name in fires]):
        walk(model, layout.to(model.device), u)
    return shapes


def _letters(model: NFCoTModel) -> dict[tuple[int, int], str]:
    """Which letter has an axis of these two sizes in the two passes?"""
    text = model.backbone.config.get_text_config()
    (B, _, P), (B2, _, P2) = _PROBES
    K, K2 = _thoughts(model)
    edges = 2  # <think> and </think>
    return {
        (text.hidden_size,) * 2: "d_model",
        (text.vocab_size,) * 2: "vocabulary",
        (B, B2): "B",
        (P + K + edges, P2 + K2 + edges): "T",
    }


def _thoughts(model: NFCoTModel) -> tuple[int, int]:
    """How many thoughts has a stream in the two passes? There may be as many heads."""
    (_, K, _), (_, K2, _) = _PROBES
    return min(K, model.config.max_thoughts), min(K2, model.config.max_thoughts)


def _refusal(name: str, axes: tuple[str, ...], model: NFCoTModel) -> str:
    """Why can a site not be read by thought? Empty when it can."""
    first = name.split(".")[0]
    if first in ("embed", "hook_embed"):
        return "holds a placeholder where a thought stands: read blocks.0.hook_in instead"
    if not axes:
        return "does not fire in a pass over embeddings"
    if len(axes) > 2 and axes[:2] in (("B", "T"), ("B", "K")):
        block = re.match(r"flow\.shallow\.(\d+)\.", name)
        if block and int(block[1]) % 2 and model.flow.order == "alternating":
            return "sees thoughts back to front (alternating flow); it cannot be read by thought"
        return ""
    if first == "flow":
        return "has one value per trajectory; it cannot be read by thought"
    return f"[{', '.join(axes)}] is not [B, T, …] with a vector at each position; choose another"


def _star(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", "[^.]+")


def _meaning(name: str, native: str) -> str:
    known = {**OURS, **BACKBONE}
    for own in (name, native):
        pattern = numberless(own)
        found = known.get(pattern) or known.get(pattern.removesuffix(".hook_out"))
        if found:
            return found
    stem, _, end = numberless(name).rpartition(".")
    known_ends = {"hook_in": "what goes into", "hook_out": "what comes out of"}
    return f"{known_ends[end]} {stem}" if end in known_ends else "hook of TransformerLens"


def _order(name: str) -> tuple[object, ...]:
    return not ours(name), re.sub(r"\d+", lambda m: m.group().zfill(4), name)
