"""What every latent reasoner can be asked, so that one set of tools reads them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from nfcot_model.thoughts import Decoded, Scores, Thoughts

__all__ = ["Reasoner", "ScoresWhileAnswering"]


class Reasoner(Protocol):
    """Turns prompts into thoughts and thoughts into answers; says what else it can do.

    has_likelihood: its thoughts have a density, under which they can be scored. has_decoder: they
    can be read as text. has_codec: text can be made its thoughts too. draws: they are drawn, so tau
    and seed matter. variable_k: it decides when to stop. thoughts_per_step: thought k belongs to
    step k // thoughts_per_step of the reference reasoning; None: no thought belongs to one step.
    constant_thoughts: they are the same vectors whatever the prompt. least_thoughts: with fewer
    there is no answer to speak of. on_edits: what to keep in mind when its thoughts are edited. D
    is the width of `u`, which docs/reasoners.md describes for each kind.

    `open_prompts`, `think_on` and `noise_of` go on from within thinking, see
    `reasoners/continuing.py`.
    """

    name: str
    model: Any
    tokenizer: Any
    has_likelihood: bool
    has_decoder: bool
    has_codec: bool
    draws: bool
    variable_k: bool
    constant_thoughts: bool
    least_thoughts: int
    on_edits: str
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

    def open_prompts(self, prompts: Sequence[str]) -> Any: ...

    def think_on(self, stream: Any, noise: Tensor, u: Tensor, K: Tensor) -> Thoughts: ...

    def noise_of(
        self,
        prompts: Sequence[str],
        noise_seeds: Sequence[int],
        tau: float,
        max_thoughts: int | None = None,
    ) -> Tensor: ...


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
