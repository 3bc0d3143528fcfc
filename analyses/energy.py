"""How unusual are the noise energies of a trajectory, thought by thought and as a whole?

`eps / tau` is N(0, I_D) under the model, so `2 * energy` is chi-squared with D degrees of freedom.
Each energy is carried to a standard normal value, which makes thoughts of different width and
energies far out in either tail comparable, then standardised per position on reference traces.
Nothing here trusts the chi-squared law: it sets the scale only, p-values come from calibration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "STATISTIC",
    "EnergyReference",
    "TrajectoryScores",
    "energy_quantiles",
    "energy_z",
    "fit_reference",
    "score_trajectories",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STATISTIC = "two_sided_energy"
MIN_AT_POSITION = 20
_LOG_FLOOR = -1e12
_LOG_2 = float(np.log(2.0))


@dataclass(frozen=True)
class EnergyReference:
    """What is usual at each position? Mean and sd of z at k, and of the trajectory total.

    `mean`, `sd`: [positions]; position k beyond them uses `pooled_mean`, `pooled_sd`.
    """

    D: int
    mean: Floats
    sd: Floats
    pooled_mean: float
    pooled_sd: float
    total_mean: float
    total_sd: float


@dataclass(frozen=True)
class TrajectoryScores:
    """How strange is each trajectory, and where?

    `score` [n]: the larger of |total| and `peak_level`, both on the scale of |N(0, 1)|; +inf where
    `invalid`. `total` [n]: standardised sum of z. `peak` [n]: max_k |z|. `peak_level` [n]: the peak
    as if there had been one thought only, so that long trajectories are not strange for being long.
    `peak_k` [n]: where, -1 without thoughts. `z` [rows]: standardised value of each thought.
    """

    score: Floats
    total: Floats
    peak: Floats
    peak_level: Floats
    peak_k: Ints
    z: Floats
    invalid: NDArray[np.bool_]


def energy_z(energy: Floats, D: int) -> Floats:
    """Which standard normal value is as far out as this energy? [rows] -> [rows]

    Positive: louder than the model's own noise; negative: too quiet. Works in logarithms, so it
    stays finite and ordered far beyond where the chi-squared tails underflow. A negative or
    non-finite energy gives NaN.
    """
    x = np.asarray(energy, dtype=np.float64)
    a = D / 2.0
    valid = np.isfinite(x) & (x >= 0)
    safe = np.where(valid, x, a)
    upper = safe > a
    z = np.where(
        upper,
        -special.ndtri_exp(np.maximum(_log_upper(a, safe), _LOG_FLOOR)),
        special.ndtri_exp(np.maximum(_log_lower(a, safe), _LOG_FLOOR)),
    )
    return np.where(valid, z, np.nan)


def _log_upper(a: float, x: Floats) -> Floats:
    """log Q(a, x), by its continued fraction where Q itself underflows."""
    q = special.gammaincc(a, x)
    far = q < 1e-280
    result = np.log(np.where(far, 1.0, q))
    if far.any():
        y = x[far]
        fraction = np.zeros_like(y)
        for i in range(60, 0, -1):
            fraction = i * (i - a) / (y + 2 * i + 1 - a - fraction)
        result[far] = a * np.log(y) - y - special.gammaln(a) - np.log(y + 1 - a - fraction)
    return result


def _log_lower(a: float, x: Floats) -> Floats:
    """log P(a, x), by the first terms of its series where P itself underflows."""
    p = special.gammainc(a, x)
    near = p < 1e-280
    result = np.log(np.where(near, 1.0, p))
    if near.any():
        y = x[near]
        with np.errstate(divide="ignore"):
            leading = a * np.log(y) - y - special.gammaln(a + 1)
        term = total = np.ones_like(y)
        for i in range(1, 60):
            term = term * y / (a + i)
            total = total + term
        result[near] = leading + np.log(total)
    return result


def fit_reference(energy: Floats, k: Ints, trajectory: Ints, n: int, D: int) -> EnergyReference:
    """What do clean energies look like at each position?

    `energy`, `k`, `trajectory`: [rows], trajectory in 0..n-1. Positions seen fewer than 20 times
    use the mean and sd over all positions.
    """
    z = energy_z(energy, D)
    pooled_mean, pooled_sd = float(z.mean()), _sd(z)
    counts = np.bincount(k)
    enough = np.flatnonzero(counts >= MIN_AT_POSITION)
    positions = int(enough.max()) + 1 if enough.size else 0
    mean, sd = np.full(positions, pooled_mean), np.full(positions, pooled_sd)
    for position in enough:
        at = z[k == position]
        mean[position], sd[position] = at.mean(), _sd(at)
    unscaled = EnergyReference(D, mean, sd, pooled_mean, pooled_sd, 0.0, 1.0)
    scores = score_trajectories(energy, k, trajectory, n, unscaled)
    totals = scores.total[~scores.invalid]
    return EnergyReference(D, mean, sd, pooled_mean, pooled_sd, float(totals.mean()), _sd(totals))


def _sd(values: Floats) -> float:
    return max(float(values.std(ddof=1)), 1e-6) if values.size > 1 else 1.0


def score_trajectories(
    energy: Floats, k: Ints, trajectory: Ints, n: int, reference: EnergyReference
) -> TrajectoryScores:
    """How strange is each of n trajectories against the reference?

    One statistic, two-sided, for three kinds of tampering: the total catches a changed
    temperature, the peak one swapped or noised thought. A trajectory without thoughts or with an
    energy that is not a number is `invalid` and scores +inf: it is never dropped.
    Low scores say nothing about what the thoughts are for.
    """
    z = energy_z(energy, reference.D)
    known = k < reference.mean.size
    at = np.where(known, k, 0)
    means = reference.mean if reference.mean.size else np.array([reference.pooled_mean])
    sds = reference.sd if reference.sd.size else np.array([reference.pooled_sd])
    z = np.where(
        known,
        (z - means[at]) / sds[at],
        (z - reference.pooled_mean) / reference.pooled_sd,
    )
    K = np.bincount(trajectory, minlength=n)
    total = np.bincount(trajectory, weights=z, minlength=n) / np.sqrt(np.maximum(K, 1))
    total = (total - reference.total_mean) / reference.total_sd
    peak = np.zeros(n)
    with np.errstate(invalid="ignore"):
        np.maximum.at(peak, trajectory, np.abs(z))
    peak_k = np.full(n, -1, dtype=np.int64)
    hits = np.flatnonzero(np.abs(z) >= peak[trajectory])[::-1]
    peak_k[trajectory[hits]] = k[hits]
    peak_level = _as_single(peak, np.maximum(K, 1))
    invalid = (K == 0) | ~np.isfinite(total) | ~np.isfinite(peak)
    score = np.where(invalid, np.inf, np.maximum(np.abs(total), peak_level))
    return TrajectoryScores(score, total, peak, peak_level, peak_k, z, invalid)


def _as_single(peak: Floats, K: Ints) -> Floats:
    """Which |N(0,1)| value is as rare as this maximum of K independent ones?"""
    log_tail = _LOG_2 + special.log_ndtr(-peak)
    tail = np.exp(log_tail)
    with np.errstate(divide="ignore"):
        exact = np.log(-np.expm1(K * np.log1p(-np.minimum(tail, 1.0))))
    log_p = np.where(tail < 1e-10, np.log(K) + log_tail, exact)
    return np.maximum(-special.ndtri_exp(np.minimum(log_p, -1e-300) - _LOG_2), 0.0)


def energy_quantiles(
    energy: Floats, k: Ints, levels: tuple[float, ...] = (0.05, 0.5, 0.95, 0.99)
) -> list[dict[str, float | int]]:
    """Which band of energies is usual at each position? One row per k with enough thoughts."""
    rows: list[dict[str, float | int]] = []
    for position in np.unique(k):
        at = energy[k == position]
        if at.size >= MIN_AT_POSITION:
            row: dict[str, float | int] = {"k": int(position), "n": int(at.size)}
            values = np.quantile(at, levels)
            row |= {f"q{round(q * 100):02d}": float(v) for q, v in zip(levels, values, strict=True)}
            rows.append(row)
    return rows
