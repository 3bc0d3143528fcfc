"""Explicit reasoning: the thoughts are tokens, written out one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nfcot_model.baseline import BaselineModel
from nfcot_model.errors import UserError
from nfcot_model.reasoners.baseline import BaselineReasoner, open_stream
from nfcot_model.reasoners.prompting import context_of
from nfcot_model.thoughts import Decoded, Thoughts

__all__ = ["ExplicitReasoner"]


class ExplicitReasoner(BaselineReasoner):
    """Chain of thought in text: thought k is the input embedding of the k-th token written.

    K varies: the model ends its reasoning with `</think>`. Lines are steps. There is no density:
    these vectors are a finite set.
    """

    draws = True
    variable_k = True

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
        budget = self._budget(prompts, max_thoughts)
        layout = self.layout(prompts, [0] * len(prompts), close=False)
        empty = torch.zeros(len(prompts), 0, self.D, device=self.model.device)
        stream = open_stream(self.model, layout, empty)
        draws = [np.random.Generator(np.random.Philox(seed)) for seed in noise_seeds]
        alive = torch.ones(len(prompts), dtype=torch.bool, device=self.model.device)
        ends = torch.tensor([self.model.ids.end_think, self.model.ids.eos], device=alive.device)
        u: list[Tensor] = []
        lived: list[Tensor] = []
        with torch.no_grad():
            for k in range(budget + 1):
                token = _choose(self.model.lm_logits(stream.state), tau, draws)
                alive = alive & ~torch.isin(token, ends)
                if k == budget or not bool(alive.any()):
                    break
                embedded = self.model.get_input_embeddings()(token)[:, None]
                stream.extend(embedded, alive[:, None])
                u.append(embedded.float())
                lived.append(alive[:, None])
        mask = torch.cat([*lived, alive.new_zeros(len(prompts), 0)], dim=1)
        vectors = torch.cat([*u, empty], dim=1)
        return Thoughts.given(vectors.cpu(), mask.cpu(), ~alive.cpu())

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
            written = self.tokenizer.batch_decode([row], skip_special_tokens=True)[0]
            lines = written.split("\n")
            texts.append(lines if row else [])
            places.append([min(int(step), len(lines) - 1) for step in ended])
        return Decoded.without_codec(thoughts.mask, texts, step_of=places)

    def _budget(self, prompts: Sequence[str], max_thoughts: int | None) -> int:
        """How many tokens may be written, so that an answer still fits the context?"""
        budget = min(self.max_thoughts, max_thoughts or self.max_thoughts)
        context = context_of(self.model)
        if context is None:
            return budget
        longest = max(map(len, self.tokens(prompts, opening=True)))
        return max(1, min(budget, context - longest - 2 - self.model.config.max_answer_tokens))


def _choose(logits: Tensor, tau: float, draws: list[np.random.Generator]) -> Tensor:
    if tau == 0:
        return logits.argmax(-1)
    uniform = torch.tensor([draw.random() for draw in draws], device=logits.device)
    cumulative = (logits / tau).softmax(-1).cumsum(-1)
    return (cumulative < uniform[:, None] * cumulative[:, -1:]).sum(-1)
