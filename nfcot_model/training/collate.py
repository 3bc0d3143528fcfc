"""From problems to tensors, for each kind of training."""

from __future__ import annotations

from collections.abc import Sequence

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


def joint_batch(reasoner: NFCoTReasoner, problems: Sequence[Problem]) -> tuple[Layout, Tensor]:
    """The streams of the problems and the codec's latents [B, K, D] of their reasoning."""
    prompts = reasoner.tokens([p.prompt for p in problems], opening=True)
    answers = reasoner.tokens([p.answer or "" for p in problems])
    e, mask = reasoner.latents([p.steps for p in problems])
    ids = reasoner.model.ids
    return lay_out(prompts, mask.sum(-1).tolist(), ids, answers=answers), torch.as_tensor(e)
