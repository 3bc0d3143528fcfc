"""How fast does each reasoner answer? Side by side, in one run, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from nfcot_model.reasoners import Reasoner
from nfcot_model.worlds import Problem

__all__ = ["BATCH", "Speed", "measure_speed"]

BATCH = 64


@dataclass(frozen=True)
class Speed:
    """Seconds of one reasoner's answers, a figure per round; round i of all is of one minute.

    `one` at batch 1, `many` a whole batch of `batch`. Ratios within a round are what holds on
    another machine; absolute figures are this one's, with whatever ran beside.
    """

    one: list[float]
    many: list[float]
    batch: int

    @property
    def ms_batch1(self) -> float:
        return 1000 * median(self.one)

    @property
    def per_second_batch1(self) -> float:
        return 1 / median(self.one)

    @property
    def per_second_batch(self) -> float:
        return self.batch / median(self.many)

    def faster_than(self, other: Speed) -> tuple[float, float]:
        """How many times as many answers per second as the other's, at batch 1 and in batches?

        Medians of the ratios within rounds.
        """
        pairs = ((other.one, self.one), (other.many, self.many))
        one, many = (median(b / a for b, a in zip(*both, strict=True)) for both in pairs)
        return one, many

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_speed(
    reasoners: Mapping[str, Reasoner], problems: Sequence[Problem], rounds: int
) -> dict[str, Speed]:
    """Time `think` and `answer` of every reasoner on the same problems, `rounds` times each.

    Each round asks one problem alone and a batch of `BATCH` (of all problems, when they are
    fewer), in another order of reasoners; a first round is not counted.
    """
    names = list(reasoners)
    batch = list(problems[:BATCH])
    one: dict[str, list[float]] = {name: [] for name in names}
    many: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            alone = _seconds(reasoners[name], [problems[number % len(problems)]])
            together = _seconds(reasoners[name], batch)
            if number:
                one[name].append(alone)
                many[name].append(together)
    return {name: Speed(one[name], many[name], len(batch)) for name in names}


def _seconds(reasoner: Reasoner, problems: Sequence[Problem]) -> float:
    prompts = [p.prompt for p in problems]
    started = time.perf_counter()
    thoughts = reasoner.think(prompts, tau=0.0, noise_seeds=[0] * len(prompts))
    reasoner.answer(prompts, thoughts)
    return time.perf_counter() - started
