"""The energy statistic against closed forms, in both tails and for any K."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from analyses.energy import energy_quantiles, energy_z, fit_reference, score_trajectories

RNG = np.random.default_rng(0)


def drawn(n: int, K: tuple[int, int], D: int, rng: np.random.Generator, scale: float = 1.0):
    """Energies of n trajectories under the model: energy, k, trajectory."""
    counts = rng.integers(K[0], K[1] + 1, size=n)
    trajectory = np.repeat(np.arange(n), counts)
    k = np.concatenate([np.arange(c) for c in counts])
    return scale * rng.chisquare(D, size=k.size) / 2, k, trajectory


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


def test_under_the_model_every_length_scores_alike() -> None:
    rng = np.random.default_rng(1)
    reference = fit_reference(*drawn(3000, (1, 12), 16, rng), 3000, 16)
    energy, k, trajectory = drawn(6000, (1, 12), 16, rng)
    scores = score_trajectories(energy, k, trajectory, 6000, reference)
    K = np.bincount(trajectory)
    short, long = scores.peak_level[K <= 3], scores.peak_level[K >= 10]
    assert stats.ks_2samp(short, long).pvalue > 1e-3
    assert stats.kstest(scores.peak_level, stats.halfnorm.cdf).pvalue > 1e-4
    assert stats.kstest(scores.total, "norm").pvalue > 1e-4


def test_score_is_two_sided_and_names_the_thought() -> None:
    rng = np.random.default_rng(2)
    reference = fit_reference(*drawn(500, (4, 4), 16, rng), 500, 16)
    energy = np.full(12, 8.0)
    k, trajectory = np.tile(np.arange(4), 3), np.repeat(np.arange(3), 4)
    energy[[2, 7]] = [40.0, 0.2]
    scores = score_trajectories(energy, k, trajectory, 3, reference)
    assert scores.peak_k[:2].tolist() == [2, 3]
    assert scores.z[2] > 5
    assert scores.z[7] < -5
    assert scores.score[0] > 5 > scores.score[2]
    assert scores.score[1] > 5


def test_positions_have_their_own_means_and_rare_ones_the_pooled() -> None:
    rng = np.random.default_rng(3)
    energy, k, trajectory = drawn(400, (3, 3), 8, rng)
    energy = np.where(k == 1, 2 * energy, energy)
    reference = fit_reference(energy, k, trajectory, 400, 8)
    assert reference.mean.size == 3
    assert reference.mean[1] > reference.mean[0] + 1
    later = score_trajectories(
        np.array([4.0, 4.0]), np.array([0, 9]), np.array([0, 0]), 1, reference
    )
    expected = (energy_z(np.array([4.0]), 8)[0] - reference.pooled_mean) / reference.pooled_sd
    assert later.z[1] == pytest.approx(expected)


def test_what_cannot_be_scored_is_invalid_and_infinite() -> None:
    rng = np.random.default_rng(4)
    reference = fit_reference(*drawn(100, (2, 2), 8, rng), 100, 8)
    scores = score_trajectories(
        np.array([4.0, np.nan, 4.0, 4.0]),
        np.array([0, 1, 0, 1]),
        np.array([0, 0, 2, 2]),
        3,
        reference,
    )
    assert scores.invalid.tolist() == [True, True, False]
    assert np.isinf(scores.score[:2]).all()
    assert np.isfinite(scores.score[2])


def test_bands_are_quantiles_at_each_position() -> None:
    energy = np.concatenate([np.arange(101.0), np.arange(5.0)])
    k = np.concatenate([np.zeros(101, dtype=int), np.ones(5, dtype=int)])
    assert energy_quantiles(energy, k) == [
        {"k": 0, "n": 101, "q05": 5.0, "q50": 50.0, "q95": 95.0, "q99": 99.0}
    ]
