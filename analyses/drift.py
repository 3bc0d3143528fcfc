"""Has the stream changed? A conformal test martingale with a growing bag.

Each new score is ranked, ties broken at random, among the calibration scores *and all scores that
came before*; the p-values of an exchangeable stream are then independent and uniform. A bettor who
gains when they are not cannot become rich by luck: P(capital ever reaches 1 / alpha) <= alpha
(Ville). A fixed bag reused for a long stream would break that.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Drift", "alarm_level"]

BETS = (-1.0, 0.0, 1.0)
JUMP = 0.01


def alarm_level(alpha: float) -> float:
    """Above which log10 capital is the stream called changed, with false alarms at most alpha?"""
    return -math.log10(alpha)


@dataclass(eq=False)
class Drift:
    """The martingale's state. `bags`: sorted scores seen so far, by cell, calibration included.

    The simple jumper (Vovk et al.): capital is spread over the bets 1 + b (p - 1/2), b in -1, 0,
    1, and a hundredth of it is spread anew at each step. `log10` is of the total capital, `highest`
    the most it has been, `n` the scores seen. `shares` are those of the bets in it.
    """

    bags: dict[str, list[float]]
    log10: float = 0.0
    highest: float = 0.0
    n: int = 0
    shares: list[float] = field(default_factory=lambda: [1 / len(BETS)] * len(BETS))

    @classmethod
    def start(cls, clean: Mapping[str, NDArray[np.float64]]) -> Drift:
        """Nothing seen yet. clean: calibration scores by cell."""
        return cls({name: np.sort(scores).tolist() for name, scores in clean.items()})

    def step(self, score: float, cell: str, trace_id: str) -> float:
        """Bet on one score, then put it into its bag; returns the log10 capital.

        Ties are broken by the hash of the trace id, so a stream gives the same path however often
        it is followed. Scores may be infinite.
        """
        bag = self.bags[cell]
        below = bisect.bisect_left(bag, score)
        equal = bisect.bisect_right(bag, score, lo=below) - below
        above = len(bag) - below - equal
        p = (above + _uniform(trace_id) * (equal + 1)) / (len(bag) + 1)
        bag.insert(below, score)
        mixed = [(1 - JUMP) * share + JUMP / len(BETS) for share in self.shares]
        gains = [share * (1 + b * (p - 0.5)) for share, b in zip(mixed, BETS, strict=True)]
        total = sum(gains)
        self.shares = [gain / total for gain in gains]
        self.log10 += math.log10(total)
        self.highest = max(self.highest, self.log10)
        self.n += 1
        return self.log10

    def follow(
        self, scores: Iterable[float], cells: Iterable[str], ids: Iterable[str]
    ) -> list[float]:
        """The path of log10 capital over these, in order."""
        return [
            self.step(float(score), cell, trace)
            for score, cell, trace in zip(scores, cells, ids, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The state but for the bags, which follow from the scores seen."""
        return {
            "log10": self.log10,
            "highest": self.highest,
            "n": self.n,
            "shares": self.shares,
        }


def _uniform(trace_id: str) -> float:
    digest = hashlib.sha256(f"tie {trace_id}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") + 0.5) / 2**56
