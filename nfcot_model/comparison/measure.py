"""What does one trained reasoner do on one world at one number of steps?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nfcot_model.comparison.cost import count_flops, count_passes
from nfcot_model.evaluation.cells import BATCH, batches, passed
from nfcot_model.evaluation.swaps import evaluate_swaps
from nfcot_model.reasoners import Reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds import Problem

__all__ = ["Measured", "Sampling", "measure"]

COSTED = 3  # problems of a cell whose answers are counted one by one


@dataclass(frozen=True)
class Sampling:
    """`samples` answers to each of the first `problems`, at temperature `tau`.

    A reasoner that draws its thoughts draws them at `tau` and answers greedily; one that draws
    none draws the tokens of its answer at `tau`.
    """

    samples: int
    problems: int
    tau: float


@dataclass(frozen=True)
class Measured:
    """Figures of one reasoner, trained with one seed, on one world at one number of steps.

    `right[i]`: does the greedy answer (tau 0) to problem i, of family `groups[i]`, pass?
    `positions` is the mean number of places between `<think>` and `</think>` (loops, for looped),
    `passes` that of all applications of the stack, one after the other, from the prompt to the
    end of the answer, `flops` the floating-point operations of an answer at batch 1.
    `sampled[i]` of `samples` answers to problem i pass, `distinct[i]` different ones. `swaps`
    are outcomes of `evaluate_swaps` at tau 0: how many of how many.
    """

    world: str
    steps: str
    groups: list[str]
    right: list[bool]
    positions: float
    passes: float
    flops: float
    samples: int
    sampled: list[int]
    distinct: list[int]
    swaps: dict[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Measured:
        swaps = {name: (int(hits), int(of)) for name, (hits, of) in data["swaps"].items()}
        return Measured(**{**data, "swaps": swaps})


def measure(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    sandbox: Sandbox,
    sampling: Sampling,
    *,
    steps: str,
    seed: int = 0,
) -> Measured:
    """Pass rates, costs, diversity and the donor test of a reasoner on these problems."""
    right: list[bool] = []
    spent = 0
    for block in batches(problems):
        prompts = [p.prompt for p in block]
        thoughts = reasoner.think(prompts, tau=0.0, noise_seeds=[0] * len(block))
        right += passed(sandbox, reasoner.answer(prompts, thoughts), block)
        spent += int(thoughts.K.sum())
    sampled, distinct = _sampled(reasoner, problems[: sampling.problems], sandbox, sampling, seed)
    passes, flops = _costs(reasoner, problems[:COSTED])
    swapped = evaluate_swaps(reasoner, problems, sandbox, tau=0.0, seed=seed)
    return Measured(
        world=problems[0].world,
        steps=steps,
        groups=[p.group for p in problems],
        right=right,
        positions=spent / len(problems),
        passes=passes,
        flops=flops,
        samples=sampling.samples,
        sampled=sampled,
        distinct=distinct,
        swaps={name: (sum(hits), len(hits)) for name, hits in swapped.outcomes.items()},
    )


def _sampled(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    sandbox: Sandbox,
    sampling: Sampling,
    seed: int,
) -> tuple[list[int], list[int]]:
    """How many of each problem's samples pass, and how many different answers are among these?"""
    counts = [0] * len(problems)
    kinds: list[set[str]] = [set() for _ in problems]
    verdicts: dict[tuple[int, str], bool] = {}
    rows = [(i, sample) for i in range(len(problems)) for sample in range(sampling.samples)]
    for start in range(0, len(rows), BATCH):
        block = rows[start : start + BATCH]
        prompts = [problems[i].prompt for i, _ in block]
        seeds = [noise_seed(seed, problems[i].id, sample) for i, sample in block]
        if reasoner.draws:
            thoughts = reasoner.think(prompts, tau=sampling.tau, noise_seeds=seeds)
            answers = reasoner.answer(prompts, thoughts)
        else:
            thoughts = reasoner.think(prompts, tau=0.0, noise_seeds=seeds)
            answers = reasoner.answer(
                prompts, thoughts, temperature=sampling.tau, noise_seeds=seeds
            )
        said = [(i, answer) for (i, _), answer in zip(block, answers, strict=True)]
        # A reasoner says the same again and again: every answer is judged once.
        new = sorted(set(said) - verdicts.keys())
        judged = passed(sandbox, [a for _, a in new], [problems[i] for i, _ in new])
        verdicts.update(zip(new, judged, strict=True))
        for i, answer in said:
            if verdicts[i, answer]:
                counts[i] += 1
                kinds[i].add(answer)
    return counts, [len(kind) for kind in kinds]


def _costs(reasoner: Any, problems: Sequence[Problem]) -> tuple[float, float]:
    """Mean passes and operations of an answer, one problem at a time."""
    passes = flops = 0
    reasoner.model.requires_grad_(False)  # torch's counter follows gradients, and there are none
    for problem in problems:
        with count_passes(reasoner.model) as count, count_flops() as counter:
            thoughts = reasoner.think([problem.prompt], tau=0.0, noise_seeds=[0])
            reasoner.answer([problem.prompt], thoughts)
        passes += count.passes
        flops += counter.get_total_flops()
    return passes / len(problems), flops / len(problems)
