"""The control whose head predicts codec latents by their mean alone, without a density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nfcot_model import sampling
from nfcot_model.reasoners.nfcot import NFCoTReasoner
from nfcot_model.thoughts import Scores, Thoughts

__all__ = ["RegressedReasoner"]


class RegressedReasoner(NFCoTReasoner):
    """Codec latents regressed with L2 (the failing control of arXiv 2606.06447, there LaVAE).

    Thought k is `mu_k`, so `u = e`: nothing is drawn, and there is no flow to train. Decoding,
    stop decision and answers are those of NF-CoT.
    """

    has_likelihood = False
    draws = False

    def think(
        self,
        prompts: Sequence[str],
        *,
        tau: float = 0.0,
        noise_seeds: Sequence[int] = (),
        max_thoughts: int | None = None,
        given: Thoughts | None = None,
        noise: Tensor | None = None,
        on_thought: sampling.OnThought | None = None,
        hidden: bool = False,
    ) -> Thoughts:
        """Which thoughts does the model have? The same for every `tau` and seed: none is drawn."""
        still = self.noise_of(prompts, noise_seeds, tau, max_thoughts)
        thoughts = super().think(
            prompts,
            tau=0.0,
            noise_seeds=(),
            given=given,
            noise=still,
            on_thought=on_thought,
            hidden=hidden,
        )
        return Thoughts.given(thoughts.u, thoughts.mask, thoughts.stopped)

    def think_on(
        self,
        stream: sampling.Stream,
        noise: Tensor,
        u: Tensor,
        K: Tensor,
        on_thought: sampling.OnThought | None = None,
        hidden: bool = False,
    ) -> Thoughts:
        """What is thought behind a stream that holds K [B] thoughts of `u` already?"""
        thoughts = super().think_on(stream, noise, u, K, on_thought, hidden)
        return Thoughts.given(thoughts.u, thoughts.mask, thoughts.stopped)

    def noise_of(
        self,
        prompts: Sequence[str],
        noise_seeds: Sequence[int],
        tau: float,
        max_thoughts: int | None = None,
    ) -> Tensor:
        """Nothing is drawn: zeros [B, budget, D]."""
        return torch.zeros(len(prompts), self.budget(max_thoughts), self.D)

    def score(
        self, prompts: Sequence[str], thoughts: Thoughts, *, tau: float, hidden: bool = False
    ) -> Scores:
        """Stop decisions and states; likelihoods are NaN, there is no density."""
        return _without_density(super().score(prompts, thoughts, tau=1.0, hidden=hidden))

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
        """`answer` and `score` from one pass over prompt and thoughts."""
        answers, scores = super().answer_scored(
            prompts,
            thoughts,
            tau=1.0,
            temperature=temperature,
            noise_seeds=noise_seeds,
            hidden=hidden,
        )
        return answers, _without_density(scores)


def _without_density(scores: Scores) -> Scores:
    names = ("mu", "log_sigma", "eps", "logp", "energy", "logvol")
    return replace(scores, **{n: torch.full_like(getattr(scores, n), torch.nan) for n in names})
