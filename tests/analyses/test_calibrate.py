"""Conformal p-values and their exact law; who may be in which half."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analyses.calibrate import (
    allowed_rank,
    calibrate,
    clean_flag_range,
    conformal_p,
    fpr_band,
    halve_groups,
    one_per_group,
    traces_needed,
)
from analyses.decide import decide
from analyses.score import RunEnergies
from nfcot_model.errors import UserError


def energies(
    n: int, seed: int, *, D: int = 16, K: tuple[int, int] = (2, 6), samples: int = 1
) -> RunEnergies:
    """A batch drawn from the model itself; groups are named by seed, so seeds never share one."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(K[0], K[1] + 1, size=n)
    return RunEnergies(
        name=f"run{seed}",
        D=D,
        energy=rng.chisquare(D, size=counts.sum()) / 2,
        k=np.concatenate([np.arange(c) for c in counts]),
        trajectory=np.repeat(np.arange(n), counts),
        trace_ids=np.array([f"{seed}-{i}" for i in range(n)], dtype=object),
        groups=np.array([f"{seed}-{i // samples}" for i in range(n)], dtype=object),
    )


def test_p_is_the_rank_with_ties_counted_against() -> None:
    clean = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([0.5, 2.0, 2.5, 9.0, np.inf])
    assert conformal_p(scores, clean).tolist() == [1.0, 0.8, 0.4, 0.2, 0.2]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(5, 60), ties=st.booleans())
def test_p_is_super_uniform_for_exchangeable_scores(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4000, n + 1))
    values = values.round(1) if ties else values
    p = np.array([conformal_p(row[:1], row[1:])[0] for row in values])
    for alpha in (0.05, 0.2, 0.5):
        rate = np.mean(p <= alpha)
        assert rate <= alpha + 4.5 * np.sqrt(alpha * (1 - alpha) / 4000)
        if not ties:
            exact = allowed_rank(n, alpha) / (n + 1)
            assert rate >= exact - 4.5 * np.sqrt(0.25 / 4000)


def test_band_has_the_published_values() -> None:
    low, high = fpr_band(5000, 0.01)
    assert (round(100 * low, 2), round(100 * high, 2)) == (0.78, 1.24)
    low, high = fpr_band(1000, 0.01)
    assert (round(100 * low, 2), round(100 * high, 2)) == (0.54, 1.57)
    assert fpr_band(98, 0.01) == (0.0, 0.0)


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 99), (0.001, 999), (0.05, 20), (0.5, 20)])
def test_needed_traces_are_just_enough(alpha: float, n: int) -> None:
    assert traces_needed(alpha) == n
    assert allowed_rank(n, alpha) >= 1
    if n > 20:
        assert allowed_rank(n - 1, alpha) == 0


def test_realised_rate_follows_the_exact_beta_law() -> None:
    alpha, n = 0.05, 120
    rates = []
    for seed in range(150):
        calibration = calibrate(energies(2 * n, seed), alpha)
        assert calibration.n == n
        rates.append(decide(energies(1500, 10_000 + seed), calibration, alpha).flagged.mean())
    low, high = fpr_band(n, alpha)
    inside = np.mean([(low - 0.006 <= r <= high + 0.006) for r in rates])
    assert inside >= 0.85
    rank = allowed_rank(n, alpha)
    counts = np.round(np.array(rates) * 1500)
    uniform = stats.betabinom(1500, rank, n + 1 - rank).cdf(counts)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    m_low, m_high = clean_flag_range(n, alpha, 1500)
    assert 0.83 <= np.mean((m_low <= counts) & (counts <= m_high)) <= 0.97


def test_reference_energies_do_not_rank_new_ones() -> None:
    clean = energies(300, 5, samples=2)
    reference = halve_groups(clean.groups)
    assert not set(clean.groups[reference]) & set(clean.groups[~reference])
    assert 0.45 < reference.mean() < 0.55
    calibration = calibrate(clean, 0.05)
    assert calibration.n == 75
    assert calibration.n_reference == 150
    assert calibration.unused == 75


def test_one_trace_stands_for_each_group() -> None:
    groups = np.array(["a", "b", "a", "a", "b"], dtype=object)
    ids = np.array(list("vwxyz"), dtype=object)
    keep = one_per_group(groups, ids)
    assert sorted(groups[keep]) == ["a", "b"]
    order = [3, 1, 4, 0, 2]
    assert set(ids[order][one_per_group(groups[order], ids[order])]) == set(ids[keep])


def test_too_few_traces_say_how_many_are_needed() -> None:
    with pytest.raises(UserError, match=r"run1: 90 calibration traces.*at least 99.*198 problems"):
        calibrate(energies(180, 1), 0.01)
    assert calibrate(energies(198, 1), 0.01).n == 99


def test_samples_of_one_problem_do_not_count_as_traces() -> None:
    with pytest.raises(UserError, match=r"50 calibration traces"):
        calibrate(energies(400, 1, samples=4), 0.01)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_alpha_is_a_rate(alpha: float) -> None:
    with pytest.raises(UserError, match=r"--alpha"):
        calibrate(energies(100, 1), alpha)


def test_calibration_run_must_be_whole() -> None:
    clean = energies(300, 1)
    clean.energy[7] = np.nan
    with pytest.raises(UserError, match=r"trace 1-.* not a number"):
        calibrate(clean, 0.05)


def test_thought_p_values_control_the_whole_trajectory() -> None:
    batch = energies(4000, 77)
    decision = decide(batch, calibrate(energies(2000, 78), 0.05), 0.05)
    best = np.ones(batch.n)
    np.minimum.at(best, batch.trajectory, decision.thought_p)
    low, high = fpr_band(1000, 0.05)
    assert low - 0.01 <= np.mean(best <= 0.05) <= high + 0.01


def test_adjusted_p_is_benjamini_hochberg() -> None:
    batch = energies(50, 3)
    batch.energy[batch.trajectory < 5] *= 6
    decision = decide(batch, calibrate(energies(800, 4), 0.05), 0.05)
    ordered = np.sort(decision.p_value)
    by_hand = np.minimum.accumulate((ordered * 50 / np.arange(1, 51))[::-1])[::-1]
    np.testing.assert_allclose(np.sort(decision.adjusted_p), np.minimum(by_hand, 1.0))
    assert decision.flagged[:5].all()
