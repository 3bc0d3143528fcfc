"""The normal-score scale against closed forms, in both tails; bands by position."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from analyses.battery.bands import energy_quantiles
from analyses.battery.scales import as_single, gamma_z


def energy_z(energy: np.ndarray, D: int) -> np.ndarray:
    """The energy of N(0, I_D) has mean and variance D / 2."""
    return gamma_z(energy, D / 2, D / 2)


@pytest.mark.parametrize("D", [1, 4, 16, 128, 2560])
def test_z_is_the_normal_value_of_the_same_rank(D: int) -> None:
    levels = np.array([1e-12, 1e-3, 0.2, 0.5, 0.9, 0.999])
    energy = stats.chi2.ppf(levels, D) / 2
    np.testing.assert_allclose(energy_z(energy, D), stats.norm.ppf(levels), atol=1e-6)
    above = stats.chi2.isf(1e-200, D) / 2
    assert energy_z(np.array([above]), D)[0] == pytest.approx(stats.norm.isf(1e-200), rel=1e-6)


@pytest.mark.parametrize("D", [1, 2, 16, 128, 2560])
def test_z_stays_finite_ordered_and_smooth_where_the_tails_underflow(D: int) -> None:
    energy = np.concatenate([[0.0], np.geomspace(1e-300, 1e9, 4000)])
    z = energy_z(energy, D)
    assert np.isfinite(z).all()
    assert (np.diff(z) >= 0).all()
    assert (np.diff(z[(energy > 1) & (energy < 1e8)]) > 0).all()


def test_far_tails_follow_the_leading_terms() -> None:
    a, x = 8.0, 5e4
    exact = (a - 1) * np.log(x) - x - special.gammaln(a) + np.log1p((a - 1) / x)
    z = energy_z(np.array([x]), 16)[0]
    assert special.log_ndtr(-z) == pytest.approx(exact, rel=1e-8)
    x = 1e-60
    exact = a * np.log(x) - special.gammaln(a + 1)
    assert special.log_ndtr(energy_z(np.array([x]), 16)[0]) == pytest.approx(exact, rel=1e-8)


def test_energies_that_are_no_energies_have_no_z() -> None:
    assert np.isnan(energy_z(np.array([np.nan, np.inf, -np.inf, -1.0]), 8)).all()


def test_a_maximum_has_the_law_of_one_whatever_its_count() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 3, 12, 64):
        peaks = np.abs(rng.normal(size=(6000, count))).max(axis=1)
        assert stats.kstest(as_single(peaks, count), stats.halfnorm.cdf).pvalue > 1e-4


def test_bands_are_quantiles_at_each_position() -> None:
    energy = np.concatenate([np.arange(101.0), np.arange(5.0)])
    k = np.concatenate([np.zeros(101, dtype=int), np.ones(5, dtype=int)])
    assert energy_quantiles(energy, k) == [
        {"k": 0, "n": 101, "q05": 5.0, "q50": 50.0, "q95": 95.0, "q99": 99.0}
    ]
