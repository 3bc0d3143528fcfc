"""Intervals and estimators for pass rates."""

from __future__ import annotations

import math

from scipy.stats import binomtest

__all__ = ["pass_at_k", "wilson"]


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
