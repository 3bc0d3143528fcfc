"""Intervals and estimators for pass rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import norm

__all__ = ["Share", "pass_at_k", "share", "wilson"]


class Share(NamedTuple):
    """A share with its 95 % Wilson interval; the value is None when nothing was counted."""

    value: float | None
    low: float
    high: float


def share(hits: Sequence[bool], groups: Sequence[str]) -> Share:
    """What share of these is true, and how sure is it when members of a group are alike?

    The interval is Wilson's for as many trials as there are groups: right when a group is all true
    or all false, wider than need be when it is not.
    """
    value = sum(hits) / len(hits) if hits else None
    count = len(set(groups))
    return Share(value, *wilson((value or 0.0) * count, count))


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The 95 % Wilson interval of a share (Wilson 1927); (0, 1) when nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.975))
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def pass_at_k(correct: int, n: int, k: int) -> float:
    """The unbiased estimate of pass@k from n samples (Chen et al. 2021, arXiv 2107.03374)."""
    if n - correct < k:
        return 1.0
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
