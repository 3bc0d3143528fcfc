"""What every latent reasoner can be asked, so that one set of tools reads them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nfcot_model.thoughts import Decoded, Scores, Thoughts

__all__ = ["Reasoner", "ScoresWhileAnswering"]


class Reasoner(Protocol):
    """Turns prompts into thoughts and thoughts into answers; says what else it can do.

    has_likelihood: its thoughts have a density, under which they can be scored. has_decoder: they
    can be read as text. draws: they are drawn, so tau and seed matter. variable_k: it decides when
    to stop. thoughts_per_step: thought k belongs to step k // thoughts_per_step of the reference
    reasoning; None: no thought belongs to one step. D is the width of `u`, which docs/reasoners.md
    describes for each kind.
    """

    name: str
    has_likelihood: bool
    has_decoder: bool
    draws: bool
    variable_k: bool
    thoughts_per_step: int | None
    checkpoint_hash: str
    D: int
    max_thoughts: int
    prompt_template: str
    config: dict[str, Any]

    def think(
        self,
        prompts: Sequence[str],
        *,
        tau: float,
        noise_seeds: Sequence[int],
        max_thoughts: int | None = None,
    ) -> Thoughts: ...

    def answer(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        *,
        temperature: float = 0.0,
        noise_seeds: Sequence[int] | None = None,
    ) -> list[str]: ...

    def score(
        self, prompts: Sequence[str], thoughts: Thoughts, *, tau: float, hidden: bool = False
    ) -> Scores: ...

    def decode(self, thoughts: Thoughts) -> Decoded: ...

    def encode(self, steps: Sequence[Sequence[str]]) -> Thoughts: ...

    def tokens(self, texts: Sequence[str], *, opening: bool = False) -> list[list[int]]: ...

    def save(self, folder: Path) -> None: ...


@runtime_checkable
class ScoresWhileAnswering(Protocol):
    """A reasoner whose pass over prompt and thoughts, made to answer, scores them on the way."""

    def answer_scored(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        *,
        tau: float,
        temperature: float = 0.0,
        noise_seeds: Sequence[int] | None = None,
        hidden: bool = False,
    ) -> tuple[list[str], Scores]: ...
