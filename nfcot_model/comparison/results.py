"""From what was measured to the figures of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from nfcot_model.comparison.measure import Measured
from nfcot_model.comparison.pooling import (
    Estimate,
    difference,
    mean_pass_at_k,
    pooled_share,
)
from nfcot_model.comparison.run import Compared, Contender
from nfcot_model.evaluation.intervals import wilson

__all__ = ["REFERENCE", "DonorTest", "donor_test", "rows", "summary"]

REFERENCE = "text"
"""Explicit reasoning, which the others are set against."""
FEWEST_PAIRS = 20


class DonorTest(NamedTuple):
    """Over solved pairs with another problem's thoughts: whose tests does the answer pass?

    `verdict`: "followed" when the donor's in most cases, "ignored" when its own in most, both
    with 95 % certainty; "mixed" otherwise, "none" without thoughts, "unknown" with fewer than 20
    pairs. Followed thoughts decide the answer; that does not make them faithful.
    """

    verdict: str
    pairs: int
    donor_follow: float | None
    own_prompt: float | None


def donor_test(cells: Sequence[Measured]) -> DonorTest:
    """Do answers follow donated thoughts, over these cells together?"""
    counted = {
        name: [sum(m.swaps[name][part] for m in cells) for part in (0, 1)]
        for name in ("donor_follow", "own_prompt")
    }
    pairs = counted["donor_follow"][1]
    if all(m.positions == 0 for m in cells):
        return DonorTest("none", pairs, None, None)
    if pairs == 0:
        return DonorTest("unknown", 0, None, None)
    follow, own = (hits / of for hits, of in counted.values())
    verdict = "mixed"
    # Seeds ask the same problems: as many trials as there are pairs of one seed at most.
    trials = max(1, pairs // _seeds(cells))
    if pairs < FEWEST_PAIRS:
        verdict = "unknown"
    elif wilson(follow * trials, trials)[0] > 0.5:
        verdict = "followed"
    elif wilson(own * trials, trials)[0] > 0.5:
        verdict = "ignored"
    return DonorTest(verdict, pairs, follow, own)


def _seeds(cells: Sequence[Measured]) -> int:
    kinds = {(m.world, m.steps) for m in cells}
    return max(1, len(cells) // len(kinds))


def rows(compared: Compared) -> list[dict[str, Any]]:
    """One row for each reasoner, world and number of steps; seeds are pooled."""
    found = []
    for contender in compared.contenders:
        for cell, measured in contender.cells.items():
            right = pooled_share([m.right for m in measured], measured[0].groups)
            counts = [c for m in measured for c in m.sampled]
            speed, donor = contender.speed[cell], donor_test(measured)
            some = [d for m in measured for d in m.distinct if d]
            found.append(
                {
                    "reasoner": contender.reasoner,
                    "world": cell[0],
                    "steps": cell[1],
                    "seeds": len(measured),
                    "n": len(measured[0].right),
                    "groups": len(set(measured[0].groups)),
                    "pass_at_1": right.value,
                    "low": right.low,
                    "high": right.high,
                    "pass_at_k": mean_pass_at_k(counts, measured[0].samples),
                    "positions": mean(m.positions for m in measured),
                    "passes": mean(m.passes for m in measured),
                    "flops": mean(m.flops for m in measured),
                    "ms_batch1": speed.ms_batch1,
                    "answers_per_second_batch1": speed.per_second_batch1,
                    "answers_per_second_batch64": speed.per_second_batch,
                    "batch": speed.batch,  # fewer than 64 where fewer problems are asked
                    "distinct_passing": mean(some) if some else None,
                    "thoughts": donor.verdict,
                    "pairs": donor.pairs,
                    "donor_follow": donor.donor_follow,
                    "own_prompt": donor.own_prompt,
                }
            )
    return found


def summary(compared: Compared) -> list[dict[str, Any]]:
    """One row for each reasoner: all cells alike, training cost, and the distance to text."""
    by_name = {c.reasoner: c for c in compared.contenders}
    reference = by_name.get(REFERENCE)
    return [_summed(contender, reference) for contender in compared.contenders]


def _summed(contender: Contender, reference: Contender | None) -> dict[str, Any]:
    plan, seconds = contender.plan, contender.processor_seconds
    everything = [m for measured in contender.cells.values() for m in measured]
    donor = donor_test(everything)
    right, groups = _all_right(contender)
    overall = pooled_share(right, groups)
    row: dict[str, Any] = {
        "reasoner": contender.reasoner,
        "parameters": contender.parameters,
        "seeds": len(contender.seeds),
        "training_steps": {n: s.steps for n, s in plan.stages.items()} if plan else None,
        "training_tokens": plan.tokens if plan else None,
        "training_flops": plan.flops if plan else None,
        "processor_seconds": mean(seconds) if seconds else None,
        "pass_at_1": overall.value,
        "low": overall.low,
        "high": overall.high,
        "positions": mean(m.positions for m in everything),
        "passes": mean(m.passes for m in everything),
        "flops": mean(m.flops for m in everything),
        "thoughts": donor.verdict,
        "causal": contender.verdicts or None,
        "pairs": donor.pairs,
        "donor_follow": donor.donor_follow,
        "own_prompt": donor.own_prompt,
        "versus_text": None,
    }
    if reference is not None and reference is not contender:
        row["versus_text"] = _versus(contender, reference, row)
    return row


def _versus(contender: Contender, reference: Contender, row: Mapping[str, Any]) -> dict[str, Any]:
    mine, groups = _all_right(contender)
    theirs, _ = _all_right(reference)
    gap: Estimate = difference(mine, theirs, groups)
    other = [m for measured in reference.cells.values() for m in measured]
    faster = [s.faster_than(reference.speed[cell]) for cell, s in contender.speed.items()]
    spent = row["positions"]
    return {
        "pass_at_1": gap.value,
        "low": gap.low,
        "high": gap.high,
        "positions_fewer": mean(m.positions for m in other) / spent if spent else None,
        "passes_fewer": mean(m.passes for m in other) / row["passes"],
        "faster_batch1": mean(one for one, _ in faster),
        "faster_batch64": mean(many for _, many in faster),
    }


def _all_right(contender: Contender) -> tuple[list[list[bool]], list[str]]:
    """Verdicts [seeds][all problems of all cells], and the problems' families."""
    cells = list(contender.cells.values())
    right = [[r for m in cells for r in m[s].right] for s in range(len(contender.seeds))]
    return right, [g for m in cells for g in m[0].groups]
