"""Explicit reasoning as a stochastic policy: every token it writes is an action."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nfcot_model.baseline import BaselineModel
from nfcot_model.layout import IGNORE, lay_out
from nfcot_model.reasoners.explicit import ExplicitReasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.tokenizer import texts_of
from nfcot_model.training.grpo.densities import Categorical, Densities
from nfcot_model.training.grpo.policies import Temperatures, Trajectories, said

__all__ = ["TextPolicy"]

_NEVER = -1e4
"""A log-probability of nothing that, unlike minus infinity, can be multiplied by 0."""


class TextPolicy:
    """`log p(reasoning|q) + log p(answer|q, reasoning)`, per token; `tau` is that of reasoning."""

    def __init__(self, reasoner: ExplicitReasoner) -> None:
        self.reasoner = reasoner

    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], at: Temperatures
    ) -> Trajectories:
        reasoner = self.reasoner
        thoughts = reasoner.think(prompts, tau=at.tau, noise_seeds=seeds)
        flat = iter(reasoner.nearest_tokens(thoughts.u[thoughts.mask]).tolist())
        written = [[next(flat) for _ in range(K)] for K in thoughts.K.tolist()]
        drawn = [noise_seed("answer", seed) for seed in seeds]
        tokens = reasoner.answer_tokens(prompts, thoughts, at.answer, drawn)
        return Trajectories(
            list(prompts),
            thoughts,
            written,
            tokens,
            texts_of(reasoner.tokenizer, tokens),
            torch.tensor([len(t) < reasoner.model.config.max_answer_tokens for t in tokens]),
        )

    def densities(self, model: nn.Module, drawn: Trajectories, at: Temperatures) -> Densities:
        """The end of reasoning is one action, whether `</think>` or the end of the text is it."""
        assert isinstance(model, BaselineModel)
        assert drawn.reasoning is not None
        prompts = self.reasoner.tokens(drawn.prompts, opening=True)
        layout = lay_out(
            prompts,
            [0] * len(prompts),
            model.ids,
            answers=drawn.tokens,
            reasoning=drawn.reasoning,
        ).to(model.device)
        places = torch.arange(layout.targets.shape[1], device=model.device)
        closes = (layout.input_ids == model.ids.end_think).int().argmax(-1)[:, None]
        thinking = layout.targets.masked_fill(places >= closes, IGNORE)
        answering = layout.targets.masked_fill(places < closes, IGNORE)
        nothing = torch.zeros(len(prompts), 1, model.d_model, device=model.device)
        states = model.stream(layout, nothing).last_hidden_state
        reasoning = said(model, states, thinking, drawn.thoughts.stopped, at.tau)
        return Densities(
            {
                "reasoning": _one_end(reasoning, model.ids.end_think, model.ids.eos),
                "answer": said(model, states, answering, drawn.ended, at.answer),
            }
        )


def _one_end(tokens: Categorical, end: int, other: int) -> Categorical:
    logits = tokens.logits.clone()
    logits[..., end] = torch.logaddexp(tokens.logits[..., end], tokens.logits[..., other])
    logits[..., other] = _NEVER
    return Categorical(logits, tokens.chosen, tokens.mask)
