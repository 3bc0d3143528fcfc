"""Which standard normal value is as far out? The scale on which statistics of any K compare.

Energies and other sums of squares are nearly gamma distributed. A value is carried to the standard
normal value of the same rank in the gamma law with the given mean and variance: two-sided tests
then weigh both tails alike, and widths and lengths become comparable. Nothing trusts the gamma
law: it sets the scale only, p-values come from calibration.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["as_single", "chi2_z", "gamma_z"]

Floats = NDArray[np.float64]

_LOG_FLOOR = -1e12
_LOG_2 = float(np.log(2.0))


def gamma_z(x: Floats, mean: Floats | float, variance: Floats | float) -> Floats:
    """The normal value of the rank of `x` under the gamma law with this mean and variance.

    Works in logarithms, so it stays finite and ordered where both tails underflow. A negative or
    non-finite x gives NaN. Arrays broadcast.
    """
    value, m, v = np.broadcast_arrays(np.asarray(x, dtype=np.float64), mean, variance)
    a = m * m / v
    with np.errstate(over="ignore", invalid="ignore"):
        y = value * (m / v)
    valid = np.isfinite(y) & (y >= 0)
    safe = np.where(valid, y, a)
    upper = safe > a
    z = np.empty(safe.shape)
    z[upper] = -special.ndtri_exp(np.maximum(_log_upper(a[upper], safe[upper]), _LOG_FLOOR))
    low = ~upper
    z[low] = special.ndtri_exp(np.maximum(_log_lower(a[low], safe[low]), _LOG_FLOOR))
    return np.where(valid, z, np.nan)


def chi2_z(x: Floats, dof: Floats | float) -> Floats:
    """The normal value of the rank of `x` under chi-squared with `dof` degrees of freedom."""
    return gamma_z(x, dof, 2.0 * np.asarray(dof, dtype=np.float64))


def _log_upper(a: Floats, x: Floats) -> Floats:
    """log Q(a, x), by its continued fraction where Q itself underflows."""
    q = special.gammaincc(a, x)
    far = q < 1e-280
    result = np.log(np.where(far, 1.0, q))
    if far.any():
        y, b = x[far], a[far]
        fraction = np.zeros_like(y)
        for i in range(60, 0, -1):
            fraction = i * (i - b) / (y + 2 * i + 1 - b - fraction)
        result[far] = b * np.log(y) - y - special.gammaln(b) - np.log(y + 1 - b - fraction)
    return result


def _log_lower(a: Floats, x: Floats) -> Floats:
    """log P(a, x), by the first terms of its series where P itself underflows."""
    p = special.gammainc(a, x)
    near = p < 1e-280
    result = np.log(np.where(near, 1.0, p))
    if near.any():
        y, b = x[near], a[near]
        with np.errstate(divide="ignore"):
            leading = b * np.log(y) - y - special.gammaln(b + 1)
        term = total = np.ones_like(y)
        for i in range(1, 60):
            term = term * y / (b + i)
            total = total + term
        result[near] = leading + np.log(total)
    return result


def as_single(peak: Floats, count: NDArray[np.integer] | float) -> Floats:
    """Which |N(0,1)| value is as rare as this maximum of `count` independent ones?

    So that long trajectories are not strange for being long.
    """
    log_tail = _LOG_2 + special.log_ndtr(-peak)
    tail = np.exp(log_tail)
    with np.errstate(divide="ignore"):
        exact = np.log(-np.expm1(count * np.log1p(-np.minimum(tail, 1.0))))
    log_p = np.where(tail < 1e-10, np.log(count) + log_tail, exact)
    return np.maximum(-special.ndtri_exp(np.minimum(log_p, -1e-300) - _LOG_2), 0.0)
