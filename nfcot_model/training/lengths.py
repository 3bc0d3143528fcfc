"""How long are the sequences of a training, and do all of them fit?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, Reasoner
from nfcot_model.reasoners.baseline import BaselineReasoner
from nfcot_model.reasoners.prompting import context_of
from nfcot_model.training.config import TrainConfig
from nfcot_model.training.data import every_problem
from nfcot_model.worlds import Problem

__all__ = ["Lengths", "Spread", "survey"]

ROWS = 256


@dataclass(frozen=True)
class Spread:
    """Mean, median, tail and longest of a length."""

    mean: float
    p50: int
    p95: int
    p99: int
    longest: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Spread:
        p50, p95, p99 = (int(q) for q in np.quantile(values, [0.5, 0.95, 0.99], method="higher"))
        return cls(float(np.mean(values)), p50, p95, p99, max(values))


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens (thoughts in thoughts) over all `n` problems that are trained on.

    `positions` are those of the whole stream, prompt to end of text. `too_long` counts problems
    that cannot be trained on, `first` says which the first is and why.
    """

    n: int
    prompt: Spread
    reasoning: Spread
    answer: Spread
    thoughts: Spread
    positions: Spread
    too_long: int
    first: str | None

    def refuse(self) -> None:
        """Raises UserError where a problem is too long: none is ever left out in silence."""
        if self.first is not None:
            many = f" ({self.too_long:,} of {self.n:,} are too long)" if self.too_long > 1 else ""
            raise UserError(
                f"{self.first}{many}; `nfcot train plan … --fitting FILE` writes those that fit"
            )


def survey(reasoner: Reasoner, config: TrainConfig, keep: list[Problem] | None = None) -> Lengths:
    """One pass over all problems: their lengths under this tokenizer, and which do not fit.

    Problems that fit are added to `keep`.
    """
    problems = iter(every_problem(config.data, config.seed))
    lengths: list[tuple[int, int, int, int, int]] = []
    too_long, first = 0, None
    while chunk := list(islice(problems, ROWS)):
        for problem, found, fault in _measured(reasoner, chunk):
            lengths.append(found)
            if fault is not None:
                too_long += 1
                first = first or f"problem '{problem.id}': {fault}"
            elif keep is not None:
                keep.append(problem)
    if not lengths:
        raise UserError(f"{config.data.examples}: holds no rows to train on")
    prompt, reasoning, answer, K, positions = map(Spread.of, zip(*lengths, strict=True))
    return Lengths(len(lengths), prompt, reasoning, answer, K, positions, too_long, first)


def _measured(
    reasoner: Reasoner, problems: Sequence[Problem]
) -> Iterable[tuple[Problem, tuple[int, int, int, int, int], str | None]]:
    """Each problem, its lengths, and why it does not fit."""
    assert isinstance(reasoner, NFCoTReasoner | BaselineReasoner)
    prompts = [len(t) for t in reasoner.tokens([p.prompt for p in problems], opening=True)]
    answers = [len(t) for t in reasoner.tokens([p.answer or "" for p in problems])]
    wholes = [len(t) for t in reasoner.tokens(["\n".join(p.steps) for p in problems])]
    longest = list(wholes)
    if isinstance(reasoner, NFCoTReasoner) and reasoner.variable_k:
        steps = iter(reasoner.tokens([step for p in problems for step in p.steps]))
        longest = [max(len(next(steps)) for _ in p.steps) for p in problems]
    for i, problem in enumerate(problems):
        K = _thoughts(reasoner, problem)
        read = wholes[i] if reasoner.name in _READS_TEXT else 0
        # Around them `<think>`, `</think>` and the end of the text.
        positions = prompts[i] + K + read + answers[i] + 3
        found = (prompts[i], wholes[i], answers[i], K, positions)
        yield problem, found, _fault(reasoner, longest[i], K, positions)


_READS_TEXT = ("text", "coconut", "codi")


def _thoughts(reasoner: NFCoTReasoner | BaselineReasoner, problem: Problem) -> int:
    if isinstance(reasoner, BaselineReasoner):
        return int(reasoner.model.config.thoughts)
    return len(problem.steps) * (reasoner.thoughts_per_step or 0) or reasoner.budget()


def _fault(
    reasoner: NFCoTReasoner | BaselineReasoner, longest: int, K: int, positions: int
) -> str | None:
    if isinstance(reasoner, NFCoTReasoner):
        limit = reasoner.model.config.codec["max_text_tokens"]
        if longest > limit:
            return (
                f"a reasoning text has {longest} tokens, the codec reads {limit}"
                " (model.codec.max_text_tokens)"
            )
        if reasoner.max_thoughts < K:
            return (
                f"the reasoning needs {K} thoughts, the model has {reasoner.max_thoughts}"
                " (model.max_thoughts)"
            )
    context = context_of(reasoner.model)
    if context is not None and positions > context:
        return (
            f"it needs {positions} positions with reasoning and answer, the backbone has {context}"
            " (max_position_embeddings)"
        )
    return None
