"""Are the thoughts used? Answers under zeroed, shuffled and donated thoughts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nfcot_model.evaluation.cells import BATCH, passed
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = ["SwapFigures", "evaluate_swaps"]


@dataclass(frozen=True)
class SwapFigures:
    """What becomes of the answer when the thoughts are changed, over one world.

    `zeroed` and `shuffled` are pass rates on `n` problems with all thoughts 0, or taken from
    another problem with the same K. Among `pairs` problems solved by both sides with different
    correct answers, the answer to the receiver's prompt with the donor's thoughts passes the
    donor's tests (`donor_follow`), the receiver's own (`own_prompt`), or neither; None where there
    is nothing to take a share of. Following the
    donor shows that thoughts decide the answer here; it does not show that they are faithful.
    """

    world: str
    tau: float
    n: int
    pass_at_1: float | None
    zeroed: float | None
    shuffled: float | None
    pairs: int
    donor_follow: float | None
    own_prompt: float | None
    neither: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_swaps(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    sandbox: Sandbox,
    *,
    tau: float,
    seed: int = 0,
) -> SwapFigures:
    """Do answers follow the thoughts or the prompt? See `SwapFigures`."""
    counts = dict.fromkeys(("own", "zeroed", "shuffled", "pairs", "donor", "receiver"), 0)
    n = 0
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
        n += len(kept)
        counts["own"] += sum(own[i] for i in kept)
        counts["zeroed"] += sum(zeroed[i] for i in kept)
        counts["shuffled"] += sum(follows_own)
        for place, i in enumerate(kept):
            if own[i] and own[donors[i]] and receivers[place].check != givers[place].check:
                counts["pairs"] += 1
                counts["donor"] += follows_donor[place]
                counts["receiver"] += follows_own[place]
    pairs = counts["pairs"]
    neither = pairs - counts["donor"] - counts["receiver"]
    return SwapFigures(
        problems[0].world,
        tau,
        n,
        _share(counts["own"], n),
        _share(counts["zeroed"], n),
        _share(counts["shuffled"], n),
        pairs,
        _share(counts["donor"], pairs),
        _share(counts["receiver"], pairs),
        _share(neither, pairs),
    )


def _share(count: int, of: int) -> float | None:
    return count / of if of else None


def _donors(K: list[int], rng: random.Random) -> list[int]:
    """For each row another row with the same K (itself where there is none): a shuffled cycle."""
    donors = list(range(len(K)))
    for k in set(K):
        rows = [i for i, other in enumerate(K) if other == k]
        rng.shuffle(rows)
        for here, there in zip(rows, rows[1:] + rows[:1], strict=True):
            donors[here] = there
    return donors
