"""From problems to tensors, for each kind of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from nfcot_model.layout import Layout, lay_out, pad_chunks
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.worlds import Problem

__all__ = ["codec_batch", "joint_batch"]


def codec_batch(reasoner: NFCoTReasoner, problems: Sequence[Problem]) -> Tensor:
    """The reasoning texts of the problems, as the codec reads them [N, L]."""
    steps = [
        s for p in problems for s in (p.steps if reasoner.variable_k else ["\n".join(p.steps)])
    ]
    return pad_chunks(reasoner.tokens(steps))


def joint_batch(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    kind: Literal["nfcot", "text", "direct"],
) -> tuple[Layout, Tensor | None]:
    """The streams of the problems and, for NF-CoT, the latents [B, K, D] of their reasoning."""
    prompts = reasoner.tokens([p.prompt for p in problems], opening=True)
    answers = reasoner.tokens([p.answer or "" for p in problems])
    ids = reasoner.model.ids
    if kind != "nfcot":
        texts = ["\n".join(p.steps) if kind == "text" else "" for p in problems]
        reasoning = reasoner.tokens(texts)
        none = [0] * len(problems)
        return lay_out(prompts, none, ids, answers=answers, reasoning=reasoning), None
    e, mask = reasoner.latents([p.steps for p in problems])
    return lay_out(prompts, mask.sum(-1).tolist(), ids, answers=answers), torch.as_tensor(e)
