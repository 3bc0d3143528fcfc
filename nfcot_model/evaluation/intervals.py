"""Intervals and estimators for pass rates."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.stats import binomtest

__all__ = ["Share", "pass_at_k", "share", "wilson"]


class Share(NamedTuple):
    """A share with its 95 % Wilson interval; the value is None when nothing was counted."""

    value: float | None
    low: float
    high: float


def share(successes: int, n: int) -> Share:
    """What share is this, and how sure is it?"""
    return Share(successes / n if n else None, *wilson(successes, n))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share; (0, 1) when nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def pass_at_k(correct: int, n: int, k: int) -> float:
    """The unbiased estimate of pass@k from n samples (Chen et al. 2021, arXiv 2107.03374)."""
    if n - correct < k:
        return 1.0
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
