"""Are the thoughts used? Answers under zeroed, shuffled and donated thoughts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from nfcot_model.evaluation.cells import BATCH, passed
from nfcot_model.evaluation.intervals import Share, share
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = ["SwapFigures", "evaluate_swaps", "pooled"]


@dataclass(frozen=True)
class SwapFigures:
    """What becomes of the answer when the thoughts are changed, over one world.

    Counts. Of `n` problems, so many pass with their own thoughts (`own`), with all thoughts 0
    (`zeroed`) and with those of another problem of the same K (`shuffled`). Of `pairs` of problems
    solved by both sides with different correct answers, the answer to the receiver's prompt with
    the donor's thoughts passes the donor's tests (`donor_follow`), the receiver's own
    (`own_prompt`) or neither. Following the donor shows that thoughts decide the answer here; it
    does not show that they are faithful.
    """

    world: str
    tau: float
    n: int
    own: int
    zeroed: int
    shuffled: int
    pairs: int
    donor_follow: int
    own_prompt: int

    @property
    def shares(self) -> dict[str, Share]:
        """Every count as a share with its Wilson interval."""
        neither = self.pairs - self.donor_follow - self.own_prompt
        return {
            "pass_at_1": share(self.own, self.n),
            "zeroed": share(self.zeroed, self.n),
            "shuffled": share(self.shuffled, self.n),
            "donor_follow": share(self.donor_follow, self.pairs),
            "own_prompt": share(self.own_prompt, self.pairs),
            "neither": share(neither, self.pairs),
        }

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
    totals = {
        f.name: sum(getattr(one, f.name) for one in figures)
        for f in fields(SwapFigures)
        if f.name not in ("world", "tau")
    }
    return SwapFigures(world="all", tau=figures[0].tau, **totals)


def evaluate_swaps(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    sandbox: Sandbox,
    *,
    tau: float,
    seed: int = 0,
) -> SwapFigures:
    """Do answers follow the thoughts or the prompt? See `SwapFigures`."""
    names = ("n", "own", "zeroed", "shuffled", "pairs", "donor_follow", "own_prompt")
    counts = dict.fromkeys(names, 0)
    for start in range(0, len(problems), BATCH):
        block = problems[start : start + BATCH]
        prompts = [p.prompt for p in block]
        seeds = [noise_seed(seed, p.id, 0) for p in block]
        thoughts = reasoner.think(prompts, tau=tau, noise_seeds=seeds)
        own = passed(sandbox, reasoner.answer(prompts, thoughts), block)
        zero = Thoughts.given(torch.zeros_like(thoughts.u), thoughts.mask)
        zeroed = passed(sandbox, reasoner.answer(prompts, zero), block)
        donors = _donors(thoughts.K.tolist(), random.Random(f"{seed}/{start}"))
        kept = [i for i, d in enumerate(donors) if d != i]
        if not kept:
            continue
        receivers = [block[i] for i in kept]
        givers = [block[donors[i]] for i in kept]
        donated = thoughts.rows(torch.tensor([donors[i] for i in kept]))
        answers = reasoner.answer([p.prompt for p in receivers], donated)
        follows_own = passed(sandbox, answers, receivers)
        follows_donor = passed(sandbox, answers, givers)
        counts["n"] += len(kept)
        counts["own"] += sum(own[i] for i in kept)
        counts["zeroed"] += sum(zeroed[i] for i in kept)
        counts["shuffled"] += sum(follows_own)
        for place, i in enumerate(kept):
            if own[i] and own[donors[i]] and receivers[place].check != givers[place].check:
                counts["pairs"] += 1
                counts["donor_follow"] += follows_donor[place]
                counts["own_prompt"] += follows_own[place]
    return SwapFigures(world=problems[0].world, tau=tau, **counts)


def _donors(K: list[int], rng: random.Random) -> list[int]:
    """For each row another row with the same K (itself where there is none): a shuffled cycle."""
    donors = list(range(len(K)))
    for k in set(K):
        rows = [i for i, other in enumerate(K) if other == k]
        rng.shuffle(rows)
        for here, there in zip(rows, rows[1:] + rows[:1], strict=True):
            donors[here] = there
    return donors
