"""Pass rates over problem families and seeds, with intervals that know about both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from nfcot_model.evaluation.intervals import pass_at_k, wilson

__all__ = ["Estimate", "difference", "mean_pass_at_k", "pooled_share"]


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def pooled_share(right: Sequence[Sequence[bool]], groups: Sequence[str]) -> Estimate:
    """Which share is right, over seeds [S] × problems [n], when problems of a family are alike?

    The variance is the sum of that between families (of their means over the seeds) and that
    between seeds (0 for one seed); the interval is Wilson's for as many trials as would have this
    variance, and never more than there are families. With three seeds the second part is rough.
    """
    table = np.asarray(right, dtype=float)
    value = float(table.mean())
    count = len(set(groups))
    variance = _variance(table, groups)
    trials = float(count)
    if variance > 0:
        trials = min(trials, value * (1 - value) / variance)
    # Wilson's formula takes any positive number of trials.
    low, high = wilson(value * max(trials, 1.0), max(trials, 1.0))
    return Estimate(value, low, high)


def difference(
    right: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]], groups: Sequence[str]
) -> Estimate:
    """How much more often is the first right than the other, problem by problem?

    Both are seeds [S] × problems [n] of the same problems; where the numbers of seeds differ, the
    first ones count. A normal interval over families and seeds, never narrower than that of pairs
    which all agree (Agresti and Min 2005: half a pair more to each of the four outcomes): that no
    problem told the two apart does not show that none would.
    """
    seeds = min(len(right), len(other))
    table = np.asarray(right[:seeds], dtype=float) - np.asarray(other[:seeds], dtype=float)
    value = float(table.mean())
    least = 1 / (len(set(groups)) + 2) ** 2
    spread = float(norm.ppf(0.975)) * max(_variance(table, groups), least) ** 0.5
    return Estimate(value, max(-1.0, value - spread), min(1.0, value + spread))


def mean_pass_at_k(counts: Sequence[int], samples: int) -> dict[str, float]:
    """Unbiased pass@k for k = 1, 2, 4 … `samples`, from passing samples of each problem."""
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    return {str(k): float(np.mean([pass_at_k(c, samples, k) for c in counts])) for k in ks}


def _variance(table: np.ndarray, groups: Sequence[str]) -> float:
    """Of the mean of a table [seeds, problems]."""
    _, family = np.unique(np.asarray(groups), return_inverse=True)
    count = int(family.max()) + 1
    centred = table.mean(0) - table.mean()
    sums = np.bincount(family, weights=centred, minlength=count)
    between = float((sums**2).sum() / table.shape[1] ** 2)
    if count > 1:
        between *= count / (count - 1)
    seeds = len(table)
    return between + (float(table.mean(1).var(ddof=1)) / seeds if seeds > 1 else 0.0)
