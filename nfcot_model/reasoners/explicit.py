"""Explicit reasoning: the thoughts are tokens, written out one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nfcot_model.baseline import BaselineModel
from nfcot_model.errors import UserError
from nfcot_model.reasoners.baseline import BaselineReasoner
from nfcot_model.reasoners.prompting import context_of
from nfcot_model.sampling import Stream
from nfcot_model.thoughts import Decoded, Thoughts
from nfcot_model.tokenizer import texts_of

__all__ = ["ExplicitReasoner"]


class ExplicitReasoner(BaselineReasoner):
    """Chain of thought in text: thought k is the input embedding of the k-th token written.

    K varies: the model ends its reasoning with `</think>`. Lines are steps. There is no density:
    these vectors are a finite set.
    """

    draws = True
    variable_k = True
    on_edits = (
        "a thought is one written token: zero, position_mean, noise and placebos are no token's"
        " embedding"
    )

    def __init__(
        self, model: BaselineModel, tokenizer: PreTrainedTokenizerBase, checkpoint_hash: str = ""
    ) -> None:
        super().__init__(model, tokenizer, checkpoint_hash)
        self.max_thoughts = model.config.max_reasoning_tokens

    def think(
        self,
        prompts: Sequence[str],
        *,
        tau: float,
        noise_seeds: Sequence[int] = (),
        max_thoughts: int | None = None,
    ) -> Thoughts:
        """What does the model write before `</think>`? `tau` is the temperature of its tokens.

        `tau=0` is greedy; otherwise row i draws from `noise_seeds[i]`. An end-of-text token ends
        the reasoning too. What is cut at the budget has not `stopped`.
        """
        if tau > 0 and len(noise_seeds) != len(prompts):
            raise UserError(f"tau {tau}: give one noise seed per prompt")
        noise = self.noise_of(prompts, noise_seeds, tau, max_thoughts)
        none = torch.zeros(len(prompts), dtype=torch.long)
        empty = torch.zeros(len(prompts), 0, self.D)
        return self.think_on(self.open_prompts(prompts, max_thoughts), noise, empty, none)

    @torch.no_grad()
    def think_on(self, stream: Stream, noise: Tensor, u: Tensor, K: Tensor) -> Thoughts:
        """What is written behind a stream that holds K [B] tokens, embedded as `u` [B, ·, D]?

        `noise` as from `noise_of`; the tokens given come back in their places.
        """
        budget, device = noise.shape[1] - 1, self.model.device
        tau = float(noise[0, 0, 1]) if len(noise) else 0.0
        uniform, u, K = noise[..., 0].to(device), u.to(device), K.to(device)
        written = u.new_zeros(len(u), max(budget, u.shape[1]), self.D)
        written[:, : u.shape[1]] = u
        rows = torch.arange(len(u), device=device)
        alive = torch.ones(len(u), dtype=torch.bool, device=device)
        cut = ~alive
        ends = torch.tensor([self.model.ids.end_think, self.model.ids.eos], device=device)
        while True:
            logits = self.model.lm_logits(stream.state)
            token = _choose(logits, tau, uniform[rows, K.clamp(max=budget)])
            alive = alive & ~torch.isin(token, ends)
            cut = cut | (alive & (budget <= K))
            alive = alive & (budget > K)
            if not bool(alive.any()):
                break
            embedded = self.model.get_input_embeddings()(token)[:, None]
            stream.extend(embedded, alive[:, None])
            written[rows[alive], K[alive]] = embedded[alive, 0].to(written)
            K = K + alive.to(K)
        mask = torch.arange(int(K.max()), device=device) < K[:, None]
        return Thoughts.given(written[:, : mask.shape[1]].cpu(), mask.cpu(), ~cut.cpu())

    def noise_of(
        self,
        prompts: Sequence[str],
        noise_seeds: Sequence[int],
        tau: float,
        max_thoughts: int | None = None,
    ) -> Tensor:
        """What each row's tokens and end are drawn with, [B, budget + 1, 2]: a number, and tau."""
        noise = torch.zeros(len(prompts), self.budget(prompts, max_thoughts) + 1, 2)
        if tau > 0:
            for row, seed in zip(noise, noise_seeds, strict=True):
                drawn = np.random.Generator(np.random.Philox(seed)).random(len(row))
                row[:, 0] = torch.from_numpy(drawn)
            noise[..., 1] = tau
        return noise

    @torch.no_grad()
    def decode(self, thoughts: Thoughts) -> Decoded:
        """What was written? One text per step (line); `step_of` says which step a token is of.

        A newline belongs to the step it ends. Vectors that are no token's embedding (edited ones)
        are read as the nearest token's.
        """
        ids = iter(self.nearest_tokens(thoughts.u[thoughts.mask]).tolist())
        texts, places = [], []
        for K in thoughts.K.tolist():
            row = [next(ids) for _ in range(K)]
            # Of an empty row the tokenizer makes one empty text, not none.
            pieces = self.tokenizer.batch_decode([[token] for token in row])
            ended = np.cumsum([0, *(piece.count("\n") for piece in pieces)])[:K]
            (written,) = texts_of(self.tokenizer, [row])
            lines = written.split("\n")
            texts.append(lines if row else [])
            places.append([min(int(step), len(lines) - 1) for step in ended])
        return Decoded.without_codec(thoughts.mask, texts, step_of=places)

    def budget(self, prompts: Sequence[str], max_thoughts: int | None = None) -> int:
        """How many tokens may be written, so that an answer still fits the context?"""
        budget = super().budget(prompts, max_thoughts)
        context = context_of(self.model)
        if context is None:
            return budget
        longest = max(map(len, self.tokens(prompts, opening=True)))
        return max(1, min(budget, context - longest - 2 - self.model.config.max_answer_tokens))


def _choose(logits: Tensor, tau: float, uniform: Tensor) -> Tensor:
    """The next token [B], by a number between 0 and 1 each; the likeliest at tau 0."""
    if tau == 0:
        return logits.argmax(-1)
    cumulative = (logits / tau).softmax(-1).cumsum(-1)
    return (cumulative < uniform[:, None] * cumulative[:, -1:]).sum(-1)
