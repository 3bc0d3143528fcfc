"""Reasoners as stochastic policies: sample trajectories, and recompute their densities.

Thoughts, stop decisions and answer tokens are all actions. What was sampled is stored as `u` and
token ids; densities are recomputed from them in one causal pass, at the temperatures they were
drawn with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nfcot_model import answering, sampling
from nfcot_model.backbone import BackboneModel
from nfcot_model.layout import IGNORE, lay_out
from nfcot_model.model import NFCoTModel, at
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.reasoners.nfcot import on_cpu
from nfcot_model.thoughts import Thoughts
from nfcot_model.tokenizer import texts_of
from nfcot_model.training.grpo.densities import Categorical, Densities, Gaussian

__all__ = ["NFCoTPolicy", "Policy", "Temperatures", "Trajectories"]


@dataclass(frozen=True)
class Temperatures:
    """Of thoughts (`tau`), of answer tokens, and of the decision to stop."""

    tau: float
    answer: float = 1.0
    stop: float = 1.0


@dataclass(frozen=True)
class Trajectories:
    """What was sampled for each prompt: thoughts and tokens, enough to recompute any density.

    `reasoning` are the tokens of explicit reasoning, None where thoughts are vectors. An answer
    that was cut at its longest has not `ended`.
    """

    prompts: list[str]
    thoughts: Thoughts
    reasoning: list[list[int]] | None
    tokens: list[list[int]]
    answers: list[str]
    ended: Tensor  # [B] bool

    @staticmethod
    def joined(parts: Sequence[Trajectories]) -> Trajectories:
        """The trajectories of several draws in one."""
        reasoning = [tokens for part in parts for tokens in part.reasoning or []]
        return Trajectories(
            [prompt for part in parts for prompt in part.prompts],
            Thoughts.joined([part.thoughts for part in parts]),
            None if parts[0].reasoning is None else reasoning,
            [tokens for part in parts for tokens in part.tokens],
            [answer for part in parts for answer in part.answers],
            torch.cat([part.ended for part in parts]),
        )

    def rows(self, index: Tensor) -> Trajectories:
        """A choice of the trajectories."""
        chosen = index.tolist()
        return Trajectories(
            [self.prompts[i] for i in chosen],
            self.thoughts.rows(index),
            None if self.reasoning is None else [self.reasoning[i] for i in chosen],
            [self.tokens[i] for i in chosen],
            [self.answers[i] for i in chosen],
            self.ended[index],
        )


class Policy(Protocol):
    """A reasoner that trajectories are sampled from, and its density of them."""

    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], at: Temperatures
    ) -> Trajectories:
        """One trajectory for each prompt and seed; equal neighbours are read once."""
        ...

    def densities(self, model: nn.Module, drawn: Trajectories, at: Temperatures) -> Densities:
        """The density of each trajectory under `model`, with gradients."""
        ...


class NFCoTPolicy:
    """`log p(u|q) + log p(K|q,u) + log p(answer|q,u)`; fixed K has no stop decisions."""

    def __init__(self, reasoner: NFCoTReasoner) -> None:
        self.reasoner = reasoner

    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], at: Temperatures
    ) -> Trajectories:
        reasoner, budget = self.reasoner, self.reasoner.budget()
        unique = list(dict.fromkeys(prompts))
        place = {prompt: i for i, prompt in enumerate(unique)}
        rows = torch.tensor([place[prompt] for prompt in prompts], device=reasoner.model.device)
        stream = reasoner.open_prompts(unique).rows(rows)
        noise = sampling.draw_noise(seeds, budget, reasoner.D, at.tau).to(rows.device)
        margins = at.stop * _logistic(seeds, budget).to(rows.device)
        thoughts = on_cpu(sampling.think(stream, noise, margins=margins))
        ids = reasoner.model.ids
        close = rows.new_full((len(rows), 1), ids.end_think)
        stream.extend(reasoner.model.get_input_embeddings()(close), close > -1)
        drawn = [sampling.noise_seed("answer", seed) for seed in seeds]
        tokens = answering.answer(stream, at.answer, drawn)
        return Trajectories(
            list(prompts),
            thoughts,
            None,
            tokens,
            texts_of(reasoner.tokenizer, tokens),
            torch.tensor([len(t) < reasoner.model.config.max_answer_tokens for t in tokens]),
        )

    def densities(self, model: nn.Module, drawn: Trajectories, at_: Temperatures) -> Densities:
        assert isinstance(model, NFCoTModel)
        prompts = self.reasoner.tokens(drawn.prompts, opening=True)
        thoughts = drawn.thoughts
        layout = lay_out(prompts, thoughts.K.tolist(), model.ids, answers=drawn.tokens)
        layout = layout.to(model.device)
        mask, u = layout.mask, thoughts.u.to(model.device)
        states = model.stream(layout, u).last_hidden_state
        mu, log_sigma = model.nf_head(at(states, layout.thought_at - 1))
        parts: dict[str, Gaussian | Categorical] = {
            "thoughts": Gaussian(u, mu, log_sigma + math.log(at_.tau), mask)
        }
        if model.config.variable_k:
            last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(-1)[:, None] - 1
            taken = model.decides(mask) & (~last | thoughts.stopped.to(mask.device)[:, None])
            logits = model.stop_logp(at(states, layout.thought_at)) / at_.stop
            parts["stop"] = Categorical(logits.log_softmax(-1), last.long(), taken)
        parts["answer"] = said(model, states, layout.targets, drawn.ended, at_.answer)
        return Densities(parts)


def said(
    model: BackboneModel, states: Tensor, targets: Tensor, ended: Tensor, temperature: float
) -> Categorical:
    """The tokens that the states [B, T] had to predict; the end of the text only where it came."""
    places = targets != IGNORE
    counts = places.sum(-1)
    mask = torch.arange(int(counts.max()), device=places.device) < counts[:, None]
    logp = (model.lm_logits(states[places]) / temperature).log_softmax(-1)
    logits = logp.new_zeros(*mask.shape, logp.shape[-1]).masked_scatter(mask[..., None], logp)
    chosen = targets.new_zeros(mask.shape).masked_scatter(mask, targets[places])
    kept = torch.arange(mask.shape[1], device=mask.device) < (
        counts - (~ended).to(counts)
    ).unsqueeze(-1)
    return Categorical(logits, chosen, mask & kept)


def _logistic(seeds: Sequence[int], n: int) -> Tensor:
    """Standard logistic noise [B, n]: `end − another` exceeds it with probability p(</think>)."""
    generators = (
        np.random.Generator(np.random.Philox(sampling.noise_seed("stop", s))) for s in seeds
    )
    return torch.from_numpy(np.stack([g.logistic(size=n) for g in generators])).float()
