"""Looped reasoners: thinking is applying the same stack again, until the exit gate says enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nfcot_model import sampling
from nfcot_model.baseline import BaselineModel
from nfcot_model.looping import LoopStream, OpenedLoops
from nfcot_model.reasoners.baseline import BaselineReasoner, no_density
from nfcot_model.reasoners.latent import token_readout
from nfcot_model.thoughts import Decoded, Scores, Thoughts

__all__ = ["LoopedReasoner"]


class LoopedReasoner(BaselineReasoner):
    """Shared stack × loops (Ouro, arXiv 2510.25741).

    Thought k is the normed state after loop k at `</think>`, the place that predicts the first
    token of the answer; K is the number of loops (Q-exit), taken for the whole stream, so an
    early exit saves its loops in prompt and answer alike. Given thoughts replace these states
    loop by loop.
    """

    variable_k = True
    least_thoughts = 1
    on_edits = (
        "thoughts stand where the first answer token is read: that token follows the last thought"
        " by construction, later tokens read the loops of prompt and thoughts; direct edits of"
        " thoughts before the last reach them through the next loop's keys and values only"
    )

    def __init__(
        self, model: BaselineModel, tokenizer: PreTrainedTokenizerBase, checkpoint_hash: str = ""
    ) -> None:
        super().__init__(model, tokenizer, checkpoint_hash)
        self.max_thoughts = model.config.loops
        self.config |= {"loops": model.config.loops, "exit_threshold": model.config.exit_threshold}

    def think(
        self,
        prompts: Sequence[str],
        *,
        tau: float = 0.0,
        noise_seeds: Sequence[int] = (),
        max_thoughts: int | None = None,
    ) -> Thoughts:
        """Which states does the stack pass through? The same for every `tau` and seed.

        `max_thoughts` bounds the loops; a row that the gate did not release before has not
        `stopped`, unless it took all the model's own loops.
        """
        most = self.budget(prompts, max_thoughts)
        stream = self._open(prompts, most=most)
        most = int(stream.mask.sum(-1).max())
        stopped = stream.left | (stream.mask.sum(-1) == self.max_thoughts)
        mask = stream.mask[:, :most].cpu()
        return Thoughts.given(stream.thoughts[:, :most].cpu(), mask, stopped.cpu())

    def answer(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        *,
        temperature: float = 0.0,
        noise_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Which answer follows when these are the states after each loop?"""
        stream = self._reopen(prompts, thoughts)
        return self._write(cast(sampling.Stream, stream), temperature, noise_seeds)

    def answer_scored(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        *,
        tau: float,
        temperature: float = 0.0,
        noise_seeds: Sequence[int] | None = None,
        hidden: bool = False,
    ) -> tuple[list[str], Scores]:
        """`answer` and `score` from one pass over the prompt."""
        stream = self._reopen(prompts, thoughts, hidden)
        scores = self._scores(thoughts, stream)
        return self._write(cast(sampling.Stream, stream), temperature, noise_seeds), scores

    def score(
        self, prompts: Sequence[str], thoughts: Thoughts, *, tau: float, hidden: bool = False
    ) -> Scores:
        """Every layer's states inside each loop, when `hidden`; no likelihood (NaN)."""
        if not hidden:
            return no_density(thoughts.mask, self.D, None)
        return self._scores(thoughts, self._reopen(prompts, thoughts, hidden))

    def open_prompts(self, prompts: Sequence[str], max_thoughts: int | None = None) -> OpenedLoops:
        """Streams looped up to the place of the thoughts, the last one before the answer."""
        layout = self.layout(prompts, [0] * len(prompts))
        return OpenedLoops(self.model, layout, self.budget(prompts, max_thoughts))

    def think_on(self, stream: OpenedLoops, noise: Tensor, u: Tensor, K: Tensor) -> Thoughts:
        """Which states follow in a stream that holds K [B] thoughts already?

        `noise` [B, budget, 0] says how many there can be; those given come back in their places.
        """
        left = stream.think_on(noise.shape[1], self.model.config.exit_threshold)
        most = max(1, int(stream.K.max()))
        mask = torch.arange(most, device=stream.K.device) < stream.K[:, None]
        stopped = left | (self.max_thoughts == stream.K)
        return Thoughts.given(stream.u[:, :most].cpu(), mask.cpu(), stopped.cpu())

    def decode(self, thoughts: Thoughts) -> Decoded:
        """Which token would be answered first after each loop? The LM head's first choice."""
        return token_readout(self, thoughts)

    def _open(self, prompts: Sequence[str], **options: Any) -> LoopStream:
        layout = self.layout(prompts, [0] * len(prompts))
        threshold = self.model.config.exit_threshold
        return LoopStream(self.model, layout, threshold=threshold, **options)

    def _reopen(
        self, prompts: Sequence[str], thoughts: Thoughts, hidden: bool = False
    ) -> LoopStream:
        u, K = self._device(thoughts.u), self._device(thoughts.K)
        return self._open(prompts, most=u.shape[1], u=u, K=K, hidden=hidden)

    def _scores(self, thoughts: Thoughts, stream: LoopStream) -> Scores:
        hidden = None if stream.hidden is None else stream.hidden.cpu()
        return no_density(thoughts.mask, self.D, hidden)
