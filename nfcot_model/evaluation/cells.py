"""One cell of the results table: one world, number of steps, tau and reasoner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nfcot_model.evaluation.intervals import pass_at_k, share
from nfcot_model.reasoners import NFCoTReasoner, Reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds import Problem

__all__ = ["Cell", "evaluate_cell", "evaluate_control", "evaluate_oracle"]

BATCH = 250


@dataclass(frozen=True)
class Cell:
    """Figures of one cell. Intervals are 95 % Wilson (the first sample of each problem), with as
    many trials as there are problem `groups`: wordings of one pipeline are not independent.

    `decode_exact` is the share of reference steps that the thought at the same place decodes to;
    `right_length` the share of traces that think as many steps as the reference; `nll_per_dim` is
    `-log p(u|q) / (K·D)` in nats with the 2π constant; `positions` the mean number of places
    spent between `<think>` and the answer. None where the reasoner has no such thing.
    """

    world: str
    steps: str
    tau: float | None
    reasoner: str
    n: int
    groups: int
    pass_at_1: float
    low: float
    high: float
    positions: float
    decode_exact: float | None = None
    right_length: float | None = None
    nll_per_dim: float | None = None
    pass_at_k: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def batches(problems: Sequence[Problem]) -> list[Sequence[Problem]]:
    """The problems in blocks that are evaluated together."""
    return [problems[i : i + BATCH] for i in range(0, len(problems), BATCH)]


def passed(sandbox: Sandbox, answers: Sequence[str], problems: Sequence[Problem]) -> list[bool]:
    """Which answers pass their hidden tests?"""
    pairs = [(a, p.check) for a, p in zip(answers, problems, strict=True)]
    return [v.status == "passed" for v in sandbox.check_many(pairs)]


def agreement(texts: Sequence[Sequence[str]], problems: Sequence[Problem]) -> tuple[int, int]:
    """How many reference steps does the text at the same place repeat exactly, of how many?"""
    same = sum(
        k < len(said) and said[k] == step
        for said, p in zip(texts, problems, strict=True)
        for k, step in enumerate(p.steps)
    )
    return same, sum(len(p.steps) for p in problems)


def _passes(
    right: Sequence[bool], problems: Sequence[Problem]
) -> tuple[int, int, float, float, float]:
    """n, groups, pass@1 and its interval."""
    groups = [p.group for p in problems]
    value, low, high = share(right, groups)
    return len(problems), len(set(groups)), value or 0.0, low, high


def evaluate_cell(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    sandbox: Sandbox,
    *,
    steps: str,
    tau: float,
    seed: int = 0,
    samples: int = 1,
) -> Cell:
    """How often is the answer right when the model thinks for itself at this tau?"""
    right = np.zeros((samples, len(problems)), dtype=bool)
    exact = total = length_right = thoughts_spent = 0
    slots = reasoner.model.config.codec["slots"]
    nll = 0.0
    for sample in range(samples):
        verdicts: list[bool] = []
        for block in batches(problems):
            prompts = [p.prompt for p in block]
            seeds = [noise_seed(seed, p.id, sample) for p in block]
            thoughts = reasoner.think(prompts, tau=tau, noise_seeds=seeds)
            verdicts += passed(sandbox, reasoner.answer(prompts, thoughts), block)
            if sample:
                continue
            same, of = agreement(reasoner.decode(thoughts).texts, block)
            exact, total = exact + same, total + of
            K = thoughts.K.tolist()
            length_right += sum(k == slots * len(p.steps) for k, p in zip(K, block, strict=True))
            nll -= float(reasoner.score(prompts, thoughts, tau=tau).logp.sum())
            thoughts_spent += sum(K)
        right[sample] = verdicts
    counts = right.sum(0)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    return Cell(
        problems[0].world,
        steps,
        tau,
        reasoner.name,
        *_passes(right[0].tolist(), problems),
        positions=thoughts_spent / len(problems),
        decode_exact=exact / total if total else None,
        right_length=length_right / len(problems) if total and reasoner.variable_k else None,
        nll_per_dim=nll / (thoughts_spent * reasoner.D),
        pass_at_k={
            str(k): float(np.mean([pass_at_k(int(c), samples, k) for c in counts])) for k in ks
        }
        if samples > 1
        else None,
    )


def evaluate_oracle(
    reasoner: NFCoTReasoner, problems: Sequence[Problem], sandbox: Sandbox, *, steps: str
) -> Cell:
    """How often is the answer right when the thoughts are the encoded reference reasoning?

    The gap to `evaluate_cell` is what the model loses by thinking for itself.
    """
    right: list[bool] = []
    for block in batches(problems):
        given = reasoner.encode([p.steps for p in block])
        right += passed(sandbox, reasoner.answer([p.prompt for p in block], given), block)
    n, spent = len(problems), sum(len(p.steps) for p in problems)
    slots = reasoner.model.config.codec["slots"]
    positions = spent * slots / n if reasoner.variable_k else float(slots)
    return Cell(
        problems[0].world, steps, None, "oracle thoughts", *_passes(right, problems),
        positions=positions,
    )  # fmt: skip


def evaluate_control(
    reasoner: Reasoner, problems: Sequence[Problem], sandbox: Sandbox, *, steps: str
) -> Cell:
    """How often is a reasoner of any kind right, at tau 0 and greedy?"""
    right: list[bool] = []
    spent = exact = total = 0
    readout = False
    for block in batches(problems):
        prompts = [p.prompt for p in block]
        thoughts = reasoner.think(prompts, tau=0.0, noise_seeds=[0] * len(block))
        right += passed(sandbox, reasoner.answer(prompts, thoughts), block)
        spent += int(thoughts.K.sum())
        decoded = reasoner.decode(thoughts)
        readout = decoded.readout
        same, of = agreement(decoded.texts, block)
        exact, total = exact + same, total + of
    n = len(problems)
    return Cell(
        problems[0].world, steps, None, reasoner.name, *_passes(right, problems),
        positions=spent / n, decode_exact=None if readout or not total else exact / total,
    )  # fmt: skip
