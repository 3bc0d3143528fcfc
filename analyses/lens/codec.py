"""What does a thought say in the codec's words, and what was it about to say? `u → e → text`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfcot_model.reasoners import NFCoTReasoner

__all__ = [
    "codec_round_trip",
    "flow_round_trip",
    "latent_texts",
    "mean_texts",
    "thought_texts",
]


@torch.no_grad()
def thought_texts(reasoner: NFCoTReasoner, u: Tensor, mask: Tensor) -> list[str]:
    """What does each thought of [B, K, D] say? One text per thought, in the order of the mask.

    Thoughts of one step (`slots` of them) share its text. A text is the codec's reading, decoded
    greedily; it does not show that the model uses it.
    """
    return latent_texts(reasoner, _latents(reasoner, u, mask), mask)


def latent_texts(reasoner: NFCoTReasoner, e: Tensor, mask: Tensor) -> list[str]:
    """What do latents [B, K, D] say? One text per thought, as in `thought_texts`."""
    slots = reasoner.model.config.codec["slots"]
    texts = reasoner.read(e, mask)
    counts = mask.sum(-1).tolist()
    return [row[k // slots] for row, K in zip(texts, counts, strict=True) for k in range(K)]


@torch.no_grad()
def mean_texts(reasoner: NFCoTReasoner, u: Tensor, mu: Tensor, mask: Tensor) -> list[str]:
    """What was the model about to think? The text of each step with `mu_k` in place of `u_k`.

    Each thought is replaced alone, the others are the drawn ones: mu_k was predicted from exactly
    those before it. With a causal flow the later ones have no influence on step k; with an
    alternating flow they have, and they were drawn after u_k and know it. Shapes and order as in
    `thought_texts`.
    """
    slots = reasoner.model.config.codec["slots"]
    said: dict[tuple[int, int], str] = {}
    for k in range(mask.shape[1]):
        rows = mask[:, k].nonzero()[:, 0]
        replaced = u[rows].clone()
        replaced[:, k] = mu[rows, k]
        start = k // slots * slots
        e = _latents(reasoner, replaced, mask[rows])[:, start : start + slots]
        texts = reasoner.read(e, torch.ones(e.shape[:2], dtype=torch.bool))
        said |= {(i, k): text for i, (text,) in zip(rows.tolist(), texts, strict=True)}
    return [said[i, k] for i, k in mask.nonzero().tolist()]


@torch.no_grad()
def codec_round_trip(reasoner: NFCoTReasoner, texts: Sequence[str]) -> dict[str, bool]:
    """Which step texts does the codec alone write back, text → e → text?

    Texts that it cannot encode (too long, a control token) are left out.
    """
    fits = [text for text in dict.fromkeys(texts) if reasoner.encodes([[text]])]
    if not fits:
        return {}
    written = reasoner.read(*reasoner.latents([[text] for text in fits]))
    return {text: said == text for text, (said,) in zip(fits, written, strict=True)}


@torch.no_grad()
def flow_round_trip(
    reasoner: NFCoTReasoner, reasonings: Sequence[Sequence[str]]
) -> list[list[bool] | None]:
    """Which reference steps survive text → e → u → e → text? One list per reasoning.

    None for a reasoning that cannot be encoded (no steps, more than the model has thoughts, a text
    too long for the codec).
    """
    fits = [i for i, steps in enumerate(reasonings) if steps and reasoner.encodes([steps])]
    found: list[list[bool] | None] = [None] * len(reasonings)
    if not fits:
        return found
    encoded = reasoner.encode([reasonings[i] for i in fits])
    read = reasoner.read(_latents(reasoner, encoded.u, encoded.mask), encoded.mask)
    for i, written in zip(fits, read, strict=True):
        found[i] = [said == step for said, step in zip(written, reasonings[i], strict=True)]
    return found


def _latents(reasoner: NFCoTReasoner, u: Tensor, mask: Tensor) -> Tensor:
    device = reasoner.model.device
    return reasoner.model.flow.inverse(u.to(device), mask.to(device)).cpu()
