"""Are the thoughts used? Answers under zeroed, shuffled and donated thoughts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nfcot_model.evaluation.cells import BATCH, batches, passed
from nfcot_model.evaluation.intervals import Share, share
from nfcot_model.reasoners import Reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = ["OUTCOMES", "SwapFigures", "evaluate_swaps", "pooled"]

OUTCOMES = ("pass_at_1", "zeroed", "shuffled", "donor_follow", "own_prompt", "neither")


@dataclass(frozen=True)
class SwapFigures:
    """What becomes of the answer when the thoughts are changed, over one world.

    `outcomes[name]` says of each problem (or pair) whether it came out so, `groups[name]` which
    problem family it belongs to. Over all problems that have a donor: the answer passes with their
    own thoughts (`pass_at_1`), with all thoughts 0 (`zeroed`), with those of another problem of
    the same K (`shuffled`). Over the pairs solved by both sides whose answers do not pass each
    other's tests: with the donor's thoughts the answer passes the donor's tests (`donor_follow`),
    the receiver's own (`own_prompt`), or none (`neither`). Following the donor shows that thoughts
    decide the answer here; it does not show that they are faithful.
    """

    world: str
    tau: float
    outcomes: dict[str, list[bool]]
    groups: dict[str, list[str]]

    @property
    def n(self) -> int:
        return len(self.outcomes["pass_at_1"])

    @property
    def pairs(self) -> int:
        return len(self.outcomes["donor_follow"])

    @property
    def shares(self) -> dict[str, Share]:
        """Every outcome as a share with its interval over groups."""
        return {name: share(hits, self.groups[name]) for name, hits in self.outcomes.items()}

    def to_dict(self) -> dict[str, Any]:
        shares = self.shares
        return {
            "world": self.world,
            "tau": self.tau,
            "n": self.n,
            "pairs": self.pairs,
            **{name: s.value for name, s in shares.items()},
            "intervals": {name: [s.low, s.high] for name, s in shares.items()},
        }


def pooled(figures: Sequence[SwapFigures]) -> SwapFigures:
    """All worlds counted together, problem by problem."""
    return SwapFigures(
        "all",
        figures[0].tau,
        {name: [hit for one in figures for hit in one.outcomes[name]] for name in OUTCOMES},
        {name: [group for one in figures for group in one.groups[name]] for name in OUTCOMES},
    )


def evaluate_swaps(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    sandbox: Sandbox,
    *,
    tau: float,
    seed: int = 0,
) -> SwapFigures:
    """Do answers follow the thoughts or the prompt? See `SwapFigures`."""
    figures = SwapFigures(
        problems[0].world, tau, {name: [] for name in OUTCOMES}, {name: [] for name in OUTCOMES}
    )

    def note(name: str, problem: Problem, hit: bool) -> None:
        figures.outcomes[name].append(hit)
        figures.groups[name].append(problem.group)

    for number, block in enumerate(batches(problems)):
        prompts = [p.prompt for p in block]
        seeds = [noise_seed(seed, p.id, 0) for p in block]
        thoughts = reasoner.think(prompts, tau=tau, noise_seeds=seeds)
        said = reasoner.answer(prompts, thoughts)
        own = passed(sandbox, said, block)
        zero = Thoughts.given(torch.zeros_like(thoughts.u), thoughts.mask)
        zeroed = passed(sandbox, reasoner.answer(prompts, zero), block)
        donors = _donors(thoughts.K.tolist(), random.Random(f"{seed}/{number * BATCH}"))
        kept = [i for i, d in enumerate(donors) if d != i]
        if not kept:
            continue
        receivers = [block[i] for i in kept]
        givers = [block[donors[i]] for i in kept]
        donated = thoughts.rows(torch.tensor([donors[i] for i in kept]))
        answers = reasoner.answer([p.prompt for p in receivers], donated)
        follows_own = passed(sandbox, answers, receivers)
        follows_donor = passed(sandbox, answers, givers)
        interchangeable = passed(sandbox, [said[donors[i]] for i in kept], receivers)
        for place, i in enumerate(kept):
            receiver = receivers[place]
            note("pass_at_1", receiver, own[i])
            note("zeroed", receiver, zeroed[i])
            note("shuffled", receiver, follows_own[place])
            if own[i] and own[donors[i]] and not interchangeable[place]:
                note("donor_follow", receiver, follows_donor[place])
                note("own_prompt", receiver, follows_own[place])
                note("neither", receiver, not (follows_donor[place] or follows_own[place]))
    return figures


def _donors(K: list[int], rng: random.Random) -> list[int]:
    """For each row another row with the same K (itself where there is none): a shuffled cycle."""
    donors = list(range(len(K)))
    for k in set(K):
        rows = [i for i, other in enumerate(K) if other == k]
        rng.shuffle(rows)
        for here, there in zip(rows, rows[1:] + rows[:1], strict=True):
            donors[here] = there
    return donors
