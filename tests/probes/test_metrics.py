"""Metrics and their resamples: equal to scikit-learn's, right at the nominal rate, not fooled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from nfcot_model.errors import UserError
from probes.intervals import (
    Draws,
    accuracy_interval,
    cluster_bootstrap,
    group_draws,
    percentile_interval,
)
from probes.metrics import METRICS, difference, evaluate, point_metrics, resampled_metrics
from probes.thresholds import Thresholds

LIMITS = Thresholds({"recall_at_5pct": 0.5, "recall_at_1pct": 0.75}, {}, 1000, 200)


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


def weighted(kind: str, y: np.ndarray, scores: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """The same metrics from scikit-learn with sample weights, one resample at a time."""
    y, scores, w = y[w > 0], scores[w > 0], w[w > 0]
    if kind == "number":
        r2 = sk.r2_score(y, scores, sample_weight=w) if np.ptp(y) > 0 else math.nan
        return {"r2": r2, "mae": sk.mean_absolute_error(y, scores, sample_weight=w)}
    p = np.stack([1 - scores, scores], axis=1) if kind == "binary" else scores
    labels, predicted = np.arange(p.shape[1]), p.argmax(axis=1)
    usable = [c for c in labels if 0 < (y == c).sum() < y.size]
    usable = [c for c in usable if c == 1] if kind == "binary" else usable
    each = {
        "auroc": [sk.roc_auc_score(y == c, p[:, c], sample_weight=w) for c in usable],
        "average_precision": [
            sk.average_precision_score(y == c, p[:, c], sample_weight=w) for c in usable
        ],
    }
    out = {name: float(np.mean(v)) if v else math.nan for name, v in each.items()}
    out |= {
        "accuracy": sk.accuracy_score(y, predicted, sample_weight=w),
        "balanced_accuracy": sk.recall_score(
            y, predicted, labels=np.unique(y), average="macro", sample_weight=w
        ),
        "brier": sk.brier_score_loss(y, scores, labels=labels, sample_weight=w),
        "log_loss": sk.log_loss(y, p, labels=labels, sample_weight=w),
    }
    if kind == "binary":
        for recall, limit in LIMITS.values.items():
            alarm = scores > limit
            for name, c in ((recall, 1), (recall.replace("recall", "fpr"), 0)):
                known = (y == c).any()
                share = np.average(alarm[y == c], weights=w[y == c]) if known else math.nan
                out[name] = float(share)
    return out


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["binary", "multiclass", "number"]),
    groups=st.integers(2, 12),
    n=st.integers(1, 40),
    ties=st.booleans(),
)
def test_every_resample_is_scikit_learns_metric_with_those_weights(
    seed: int, kind: str, groups: int, n: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    C = {"binary": 2, "multiclass": 4, "number": 0}[kind]
    y = rng.integers(C, size=n) if C else rng.normal(size=n)
    scores = {
        "binary": rng.random(n),
        "multiclass": rng.dirichlet(np.ones(4), size=n),
        "number": rng.normal(size=n),
    }[kind]
    if ties and kind == "binary":
        scores = scores.round(1)
    if ties and kind == "multiclass":
        scores = np.eye(4)[scores.argmax(axis=1)] * 0.5 + 0.125
    draws = group_draws(named(rng.integers(groups, size=n)), 5, seed)
    drawn = resampled_metrics(kind, y, scores, draws, LIMITS)
    once = Draws(np.ones((1, draws.times.shape[1])), draws.cluster)
    whole = resampled_metrics(kind, y, scores, once, LIMITS)
    points = point_metrics(kind, y, scores, LIMITS)
    assert set(METRICS[kind]) <= set(drawn) == set(points)
    for name, value in points.items():
        assert whole[name] == pytest.approx([value], nan_ok=True, abs=1e-9), name
    for b, w in enumerate(draws.weights()):
        expected = weighted(kind, y, scores, w)
        got = {name: values[b] for name, values in drawn.items()}
        assert got == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_many_resamples_in_several_parts_are_those_one_by_one() -> None:
    rng = np.random.default_rng(5)
    y, scores = rng.integers(2, size=9000), rng.random(9000).round(4)
    draws = group_draws(named(np.arange(9000) % 50), 60, 1)
    drawn = resampled_metrics("binary", y, scores, draws)
    for b in (0, 17, 59):
        alone = Draws(draws.times[[b]], draws.cluster)
        again = resampled_metrics("binary", y, scores, alone)
        assert drawn["auroc"][b] == pytest.approx(again["auroc"][0], abs=1e-12)
        assert drawn["average_precision"][b] == pytest.approx(again["average_precision"][0])


def test_draws_are_those_of_the_bootstrap_that_goes_one_by_one() -> None:
    rng = np.random.default_rng(0)
    y, scores, groups = rng.integers(2, size=90), rng.random(90), named(np.arange(90) % 30)
    slow = cluster_bootstrap(
        lambda rows: {"auroc": sk.roc_auc_score(y[rows], scores[rows])}, groups, 4, draws=80
    )["auroc"]
    fast = evaluate("binary", y, scores, groups, seed=4, draws=80)[0]["auroc"]
    assert vars(fast) == pytest.approx(vars(slow), abs=1e-12)


def test_equal_scores_rank_nothing() -> None:
    y = np.arange(40) % 2
    groups = named(np.arange(40) // 2)
    metrics, _ = evaluate("binary", y, np.full(40, 0.3), groups, 0, draws=50)
    assert vars(metrics["auroc"]) == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert metrics["average_precision"].value == 0.5
    three = np.arange(60) % 3
    uniform = np.full((60, 3), 1 / 3)
    many, _ = evaluate("multiclass", three, uniform, named(np.arange(60)), 0, draws=50)
    assert many["auroc"].value == many["auroc"].low == many["auroc"].high == 0.5
    assert many["log_loss"].value == pytest.approx(math.log(3))
