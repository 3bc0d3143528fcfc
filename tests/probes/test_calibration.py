"""Calibrated probabilities come true, and conformal p-values are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss, roc_auc_score

from nfcot_model.errors import UserError
from probes.calibration import (
    Bin,
    Calibration,
    calibration_table,
    conformal_p,
    fit_calibration,
)
from probes.intervals import group_draws


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


class Reading(ClassifierMixin, BaseEstimator):
    """A classifier whose decision value is its only feature."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Reading:
        self.classes_ = np.unique(y)
        self.is_fitted_ = True
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0]

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[(X[:, 0] > 0).astype(int)]


def test_two_classes_are_platts_as_scikit_learn_fits_them() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=400) * 3 + 1
    y = (rng.random(400) < expit(0.5 * z - 1)).astype(int)
    reading = FrozenEstimator(Reading().fit(z[:, None], y))
    theirs = CalibratedClassifierCV(reading, method="sigmoid").fit(z[:, None], y)
    mine = fit_calibration(z, y).apply(z)
    assert mine == pytest.approx(theirs.predict_proba(z[:, None])[:, 1], abs=1e-4)


def test_an_overconfident_probe_gets_its_slope_and_offset_back() -> None:
    rng = np.random.default_rng(1)
    honest = rng.normal(size=20_000) * 2
    y = (rng.random(20_000) < expit(honest)).astype(int)
    found = fit_calibration(3 * honest + 2, y)
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.offsets[1] == pytest.approx(-2 / 3, abs=0.06)
    logits = rng.normal(size=(20_000, 4)) * 2
    y = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    found = fit_calibration(4 * logits + [0, 1, -2, 3], y)
    assert found.slope == pytest.approx(1 / 4, rel=0.05)
    assert found.offsets == pytest.approx((0, -0.25, 0.5, -0.75), abs=0.08)


def test_calibrated_bins_come_true_and_raw_ones_do_not() -> None:
    rng = np.random.default_rng(2)
    honest = rng.normal(size=20_000) * 2
    y = (rng.random(20_000) < expit(honest)).astype(int)
    fit, rest = slice(0, 10_000), slice(10_000, None)
    p = fit_calibration(4 * honest[fit], y[fit]).apply(4 * honest[rest])
    groups = named(np.arange(10_000))
    draws = group_draws(groups, 300, 0)
    for told, true in ((p, True), (expit(4 * honest[rest]), False)):
        bins = calibration_table("binary", y[rest], told, groups, draws)
        z = [
            (b.observed.value - b.predicted.value)
            / np.sqrt(b.predicted.value * (1 - b.predicted.value) / b.n)
            for b in bins
        ]
        assert sum(b.n for b in bins) == sum(b.groups for b in bins) == 10_000
        assert (np.abs(z).max() < 3.5) == true
        inside = [b.observed.low <= b.predicted.value <= b.observed.high for b in bins]
        assert (np.mean(inside) > 0.75) == true


def test_intervals_of_bins_count_groups() -> None:
    rng = np.random.default_rng(6)
    p = rng.uniform(0.05, 0.95, size=200)
    y = (rng.random(200) < p).astype(int)

    def table(times: int, groups: np.ndarray) -> list[Bin]:
        names = named(groups)
        column = (np.repeat(y, times), np.repeat(p, times))
        return calibration_table("binary", *column, names, group_draws(names, 400, 0), bins=4)

    once, copies = table(1, np.arange(200)), table(9, np.repeat(np.arange(200), 9))
    by_row = table(9, np.arange(1800))
    for one, copy, row in zip(once, copies, by_row, strict=True):
        assert (copy.n, copy.groups) == (9 * one.n, one.groups)
        assert vars(copy.observed) == pytest.approx(vars(one.observed))
        assert one.observed.low < one.observed.value < one.observed.high
        assert row.observed.high - row.observed.low < one.observed.high - one.observed.low
    alone = table(1, np.zeros(200, dtype=int))
    assert all(np.isnan(b.observed.low) and np.isnan(b.predicted.low) for b in alone)


def test_scores_that_know_nothing_become_the_base_rate() -> None:
    rng = np.random.default_rng(3)
    z, y = rng.normal(size=5000) * 4, (rng.random(5000) < 0.2).astype(int)
    assert fit_calibration(z, y).apply(z) == pytest.approx(0.2, abs=0.06)
    opposed = fit_calibration(-np.where(y == 1, 1.0, -1.0) + rng.normal(size=5000), y)
    assert 0 < opposed.slope < 0.01, "worse than chance is not turned into better, ranks are kept"
    assert roc_auc_score(y, opposed.apply(z)) == roc_auc_score(y, z)


def test_logits_without_a_mistake_stay_short_of_certainty() -> None:
    y = np.repeat([0, 1], 50)
    p = fit_calibration(np.where(y == 1, 8.0, -8.0), y).apply(np.array([-8.0, 8.0]))
    assert p == pytest.approx([1 / 52, 51 / 52], abs=1e-3)
    three = np.repeat([0, 1, 2], 50)
    p = fit_calibration(20.0 * np.eye(3)[three], three).apply(20.0 * np.eye(3))
    assert np.diag(p) == pytest.approx(51 / 52, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), C=st.integers(2, 5))
def test_calibration_never_fits_worse_than_the_logits_as_they_are(seed: int, C: int) -> None:
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(size=(60, C)) * 5, rng.integers(C, size=60)
    counts = np.bincount(y, minlength=C)[y][:, None]
    right = (counts + 1) / (counts + 2)
    targets = np.where(np.arange(C) == y[:, None], right, (1 - right) / (C - 1))
    found = fit_calibration(logits, y)
    after = -(targets * np.log(found.apply(logits))).sum(axis=1).mean()
    assert after <= -(targets * log_softmax(logits, axis=1)).sum(axis=1).mean() + 1e-9
    assert found.apply(logits).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(("C", "each"), [(10, 20), (50, 10)])
def test_many_classes_do_not_make_a_good_probe_unsure(C: int, each: int) -> None:
    """Mean confidence is near accuracy, on rows that the calibration has not seen."""
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(C), each)
    logits = 6.0 * np.eye(C)[y] + rng.normal(size=(len(y), C))
    fresh = 6.0 * np.eye(C)[y] + rng.normal(size=(len(y), C))
    p = fit_calibration(logits, y).apply(fresh)
    accuracy = (p.argmax(axis=1) == y).mean()
    assert accuracy > 0.9
    assert 0 < accuracy - p.max(axis=1).mean() < 0.25


def test_multiclass_bins_are_of_the_likeliest_class() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.15, 0.7, 0.15], [0.1, 0.85, 0.05], [0.0, 0.05, 0.95]])
    groups = named(np.arange(4))
    draws = group_draws(groups, 100, 0)
    bins = calibration_table("multiclass", np.array([0, 0, 1, 2]), p, groups, draws, bins=2)
    assert [(b.low, b.high, b.n, b.observed.value) for b in bins] == [(0.5, 1.0, 4, 0.75)]
    assert bins[0].predicted.value == pytest.approx(0.85)
    nothing = np.zeros(0, dtype=int)
    assert calibration_table("binary", nothing, np.zeros(0), named(nothing), draws) == []


def test_two_columns_and_a_difference_of_logits_are_the_same_calibration() -> None:
    rng = np.random.default_rng(4)
    z, y = rng.normal(size=300), rng.integers(2, size=300)
    one = fit_calibration(z, y)
    two = fit_calibration(np.stack([0 * z, z], axis=1), y)
    assert one.offsets == pytest.approx(two.offsets, abs=1e-5)
    assert log_loss(y, one.apply(z)) == pytest.approx(
        log_loss(y, two.apply(np.stack([0 * z, z], axis=1)))
    )
    assert Calibration(2.0, (0.0, 1.0)).apply(np.array([0.5])) == pytest.approx(expit(2.0))


def test_conformal_p_counts_controls_at_least_as_high() -> None:
    control = np.array([1.0, 2.0, 2.0, 3.0])
    p = conformal_p(np.array([0.0, 2.0, 2.5, 9.0, np.nan, -np.inf]), control)
    assert p.tolist() == [1.0, 0.8, 0.4, 0.2, 0.2, 0.2]
    with pytest.raises(UserError, match="control set: 1 of 4 scores"):
        conformal_p(control, np.array([1.0, np.inf, 2.0, 2.0]))


@pytest.mark.parametrize("digits", [8, 0])
def test_conformal_p_is_small_no_more_often_than_it_says(digits: int) -> None:
    """On exchangeable scores, with ties and without; and it is exact without."""
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(4000, 100)).round(digits)
    p = np.array([conformal_p(row[:1], row[1:])[0] for row in scores])
    for alpha in (0.01, 0.05, 0.2):
        spread = np.sqrt(alpha * (1 - alpha) / 4000)
        assert np.mean(p <= alpha) <= alpha + 3 * spread
        if digits:
            assert np.mean(p <= alpha) >= alpha - 3 * spread


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="1 of 3 out-of-fold scores are not finite"):
        fit_calibration(np.array([0.0, np.nan, 1.0]), np.array([0, 1, 1]))
