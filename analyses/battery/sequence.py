"""How do the noises of one trajectory hang together? Statistics over all its thoughts at once.

Each takes `X` [n, K, D], n trajectories of the same K, `N(0, 1)` in every place under the scorer,
and gives [n] values, higher = stranger, that do not grow with K under that law (how far the fitted
model is from it, the reference set tells). A statistic that K is too short for is not called.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analyses.battery.scales import chi2_z, gamma_z

__all__ = ["anderson_darling", "cov_dev", "drift", "lag1", "ljung_box", "psd_cv"]

Floats = NDArray[np.float64]

LAGS = 8


def anderson_darling(X: Floats) -> Floats:
    """Are the K * D values standard normal? The statistic A², mean and variance known."""
    y = np.sort(X.reshape(len(X), -1), axis=1)
    n = y.shape[1]
    weights = 2.0 * np.arange(1, n + 1) - 1.0
    logs = special.log_ndtr(y) + special.log_ndtr(-y[:, ::-1])
    return -n - logs @ weights / n


def lag1(X: Floats) -> Floats:
    """Does a thought's noise go on in the next one? |sum of x_k . x_k+1|, as |N(0, 1)|. K >= 2."""
    _, K, D = X.shape
    return np.abs(np.einsum("nkd,nkd->n", X[:, :-1], X[:, 1:])) / np.sqrt((K - 1) * D)


def ljung_box(X: Floats) -> Floats:
    """Is there correlation at any lag up to 8, whatever the scale? As N(0, 1). K >= 3."""
    _, K, D = X.shape
    power = np.maximum(np.einsum("nkd,nkd->n", X, X), 1e-300)
    lags = range(1, min(LAGS, K - 1) + 1)
    total = np.zeros(len(X))
    for lag in lags:
        r = np.einsum("nkd,nkd->n", X[:, :-lag], X[:, lag:]) / power
        total += r**2 * K**2 * D / (K - lag)
    return chi2_z(total, float(len(lags)))


def psd_cv(X: Floats) -> Floats:
    """Is the power spectrum along the thoughts uneven? Its coefficient of variation, squared, as
    N(0, 1). Without the zero frequency; K >= 4.
    """
    spectrum = np.fft.rfft(X, axis=1)[:, 1:]
    power = np.square(spectrum.real).sum(-1) + np.square(spectrum.imag).sum(-1)
    bins = power.shape[1]
    mean = np.maximum(power.mean(axis=1), 1e-300)
    variation = power.var(axis=1, ddof=1) / mean**2
    return chi2_z((bins - 1) * X.shape[2] * variation, float(bins - 1))


def drift(X: Floats) -> Floats:
    """Do the noises lean one way? K * |mean|², chi-squared of D, as N(0, 1)."""
    return chi2_z(X.shape[1] * np.square(X.mean(axis=1)).sum(axis=1), float(X.shape[2]))


def cov_dev(X: Floats) -> Floats:
    """Is the covariance of the noises not the identity? |X'X / K - I|², as N(0, 1). K >= 2.

    Its mean and variance under the scorer are exact (moments of a Wishart matrix).
    """
    _, K, D = X.shape
    gram = X @ X.transpose(0, 2, 1) if K < D else X.transpose(0, 2, 1) @ X
    trace = np.einsum("nkd,nkd->n", X, X)
    value = np.square(gram).sum((1, 2)) / K**2 - 2 * trace / K + D
    mean = D * (D + 1) / K
    of_square = 4 * K * D * (2 * D**2 + 5 * D * K + 5 * D + 2 * K**2 + 5 * K + 5)
    variance = of_square / K**4 - 16 * D * (K + D + 1) / K**2 + 8 * D / K
    return gamma_z(np.maximum(value, 0.0), mean, variance)
