"""How uncertain is a score when the traces of one problem are not independent?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "Draws",
    "Estimate",
    "cluster_bootstrap",
    "cluster_means",
    "exact_share",
    "group_draws",
    "percentile_interval",
]

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; NaN where there is none, null in JSON."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        plain = {"value": self.value, "low": self.low, "high": self.high}
        return {name: v if math.isfinite(v) else None for name, v in plain.items()}


@dataclass(frozen=True)
class Draws:
    """Resamples of whole groups. `times` [B, G]: how often each group is drawn; `cluster` [n]: the
    group of each row."""

    times: NDArray[np.float64]
    cluster: NDArray[np.int64]

    def weights(self, part: slice = slice(None)) -> NDArray[np.float64]:
        """How often is each row drawn, in a part of the resamples? [B, n]"""
        return self.times[part][:, self.cluster]

    def sums(self, column: NDArray[np.float64]) -> NDArray[np.float64]:
        """Which sum has a column [n] in each resample? [B]"""
        return self.times @ np.bincount(self.cluster, column, self.times.shape[1])


def group_draws(groups: NDArray[np.object_], draws: int, seed: int) -> Draws:
    """Which groups are in each resample, when as many are drawn with replacement as there are?

    groups [n]. The draws of `cluster_bootstrap` for the same groups and seed, so that two probes
    tested on the same rows are compared on the same resamples.
    """
    names, cluster = np.unique(groups.astype(str), return_inverse=True)
    if not names.size:
        return Draws(np.zeros((draws, 0)), cluster)
    rng = np.random.default_rng(seed)
    times = np.empty((draws, names.size))
    for row in times:
        row[:] = np.bincount(rng.integers(names.size, size=names.size), minlength=names.size)
    return Draws(times, cluster)


def percentile_interval(value: float, drawn: NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """Between which percentiles of its resamples [B] does a value lie? NaN resamples left out."""
    known = drawn[~np.isnan(drawn)]
    if not known.size or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high))


def exact_share(right: bool, groups: NDArray[np.object_]) -> Estimate:
    """How sure is a share of one or of zero? The exact binomial interval, a trial per group."""
    n = len(set(groups))
    bounds = stats.binomtest(n if right else 0, n).proportion_ci(LEVEL, method="exact")
    return Estimate(float(right), float(bounds.low), float(bounds.high))


def cluster_bootstrap(
    metrics: Callable[[NDArray[np.int64]], dict[str, float]],
    groups: NDArray[np.object_],
    seed: int,
    draws: int = 1000,
    level: float = LEVEL,
) -> dict[str, Estimate]:
    """Which interval has each metric when whole groups are drawn anew?

    `metrics` maps row indices to values; percentile intervals over `draws` resamples of groups,
    NaN draws left out. A width of zero means that no resample contained a mistake, not that there
    can be none. The uncertainty of training is not included.
    """
    _, cluster = np.unique(groups.astype(str), return_inverse=True)
    order = np.argsort(cluster, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(cluster))[:-1])
    rng = np.random.default_rng(seed)
    values = metrics(np.arange(groups.size))
    samples: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        for name, value in metrics(rows).items():
            samples[name].append(value)
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: Estimate(float(values[name]), *(float(q) for q in np.nanquantile(drawn, tails)))
        for name, drawn in samples.items()
    }


def cluster_means(
    columns: Mapping[str, NDArray[np.float64]],
    groups: NDArray[np.object_],
    seed: int = 0,
    draws: int = 1000,
    level: float = LEVEL,
) -> dict[str, Estimate]:
    """`cluster_bootstrap` of plain means, from sums per group: the same intervals, much faster.

    columns: name -> [n], NaN rows left out of their mean. All NaN gives NaN.
    """
    names, cluster = np.unique(groups.astype(str), return_inverse=True)
    if not names.size:
        return {name: Estimate(math.nan, math.nan, math.nan) for name in columns}
    rng = np.random.default_rng(seed)
    times = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=draws)
    resamples = Draws(times.astype(np.float64), cluster)
    out = {}
    for name, column in columns.items():
        known = ~np.isnan(column)
        if not known.any():
            out[name] = Estimate(math.nan, math.nan, math.nan)
            continue
        sums, counts = np.where(known, column, 0.0), known.astype(np.float64)
        with np.errstate(invalid="ignore"):
            drawn = resamples.sums(sums) / resamples.sums(counts)
        out[name] = percentile_interval(sums.sum() / counts.sum(), drawn, level)
    return out
