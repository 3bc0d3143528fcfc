"""Metrics and their resamples: equal to scikit-learn's, right at the nominal rate, not fooled."""

from __future__ import annotations

import math
import warnings

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
    cluster_bootstrap,
    group_draws,
    percentile_interval,
)
from probes.metrics import METRICS, difference, evaluate, point_metrics, resampled_metrics
from probes.resampling import resampled_ranks
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


def clustered(rng: np.random.Generator, groups: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels by group and a score with a part that its group shares; true AUROC 0.75."""
    y = np.repeat(rng.integers(2, size=groups), rows)
    shared = np.repeat(rng.normal(size=groups), rows)
    apart = norm.ppf(0.75) * np.sqrt(2 * (1 + 0.5**2))
    return y, expit(apart * y + shared + 0.5 * rng.normal(size=y.size))


def test_intervals_cover_a_known_auroc_at_the_nominal_rate() -> None:
    """Rows of a group are alike: resampling rows instead claims far too much."""
    rng = np.random.default_rng(0)
    groups, rows = named(np.repeat(np.arange(120), 5)), named(np.arange(600))
    apart = group_draws(rows, 400, 0)
    covered = naive = 0
    for seed in range(200):
        y, scores = clustered(rng, 120, 5)
        value = float(sk.roc_auc_score(y, scores))
        drawn, _ = resampled_ranks(y == 1, scores, group_draws(groups, 400, seed))
        interval = percentile_interval(value, drawn)
        covered += interval.low <= 0.75 <= interval.high
        if seed < 60:
            interval = percentile_interval(value, resampled_ranks(y == 1, scores, apart)[0])
            naive += interval.low <= 0.75 <= interval.high
    # 99.8 % of a binomial of 200 at 0.95 lies between 0.895 and 0.985
    assert 0.895 <= covered / 200 <= 0.985
    assert naive / 60 < 0.75


def test_intervals_of_accuracy_r2_and_a_difference_cover_their_truth() -> None:
    rng = np.random.default_rng(1)
    groups = named(np.repeat(np.arange(100), 4))
    covered = {"accuracy": 0, "r2": 0, "difference": 0}
    for seed in range(200):
        draws = group_draws(groups, 400, seed)
        shared = np.repeat(rng.normal(size=100), 4)
        z = shared + rng.normal(size=400)
        y = (z > 0).astype(int)
        # right with probability 0.7 by group and row
        right = np.repeat(rng.beta(3.5, 1.5, size=100), 4) > rng.random(400)
        p = np.where(right, y, 1 - y) * 0.8 + 0.1
        found = evaluate("binary", y, p, groups, 0, draws)[0]["accuracy"]
        covered["accuracy"] += found.low <= 0.7 <= found.high
        # of variance 2 the group's half is known
        found = evaluate("number", z, shared, groups, 0, draws)[0]["r2"]
        covered["r2"] += found.low <= 0.5 <= found.high
        noise_a, noise_b = (np.repeat(rng.normal(size=100), 4) for _ in range(2))
        found = difference("number", z, shared + noise_a, shared + noise_b, groups, 0, draws)["mae"]
        covered["difference"] += found.low <= 0 <= found.high
    assert all(0.895 <= count / 200 <= 0.985 for count in covered.values()), covered


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    y, scores = clustered(rng, 80, 5)
    groups = named(np.repeat(np.arange(80), 5))
    worse = np.clip(scores + 0.1 * rng.normal(size=400), 0, 1)
    gap = difference("binary", y, scores, worse, groups, 0)["auroc"]
    a, b = (evaluate("binary", y, s, groups, 0)[0]["auroc"] for s in (scores, worse))
    assert gap.value == pytest.approx(a.value - b.value)
    assert gap.high - gap.low < 0.5 * (a.high - a.low)
    same = difference("binary", y, scores, scores, groups, 0)
    assert vars(same["auroc"]) == {"value": 0.0, "low": 0.0, "high": 0.0}
    back = difference("binary", y, worse, scores, groups, 0)["auroc"]
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))
    assert math.isnan(same["recall_at_1pct"].value)


def test_a_leak_within_groups_is_not_rewarded() -> None:
    """Features that name the group, labels drawn per group: rows of a group tell, others cannot."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(160), 6)
    y = rng.integers(2, size=160)[groups]
    X = rng.normal(size=(160, 100))[groups] + 0.1 * rng.normal(size=(960, 100))
    for split, low, high in ((groups % 2, 0.35, 0.65), (np.arange(960) % 2, 0.9, 1.0)):
        train, test = split == 0, split == 1
        p = LogisticRegression().fit(X[train], y[train]).predict_proba(X[test])[:, 1]
        auroc = evaluate("binary", y[test], p, named(groups[test]), 0)[0]["auroc"]
        assert low <= auroc.value <= high
        assert (auroc.low <= 0.5 <= auroc.high) == (high < 0.9)


def test_a_share_of_one_or_zero_has_the_exact_interval_over_its_groups() -> None:
    y = np.arange(60) % 2
    groups = named(np.arange(60) // 2)
    metrics, _ = evaluate("binary", y, 0.2 + 0.6 * y, groups, 0, 50, LIMITS)
    bound = 0.025 ** (1 / 30)
    for name in ("accuracy", "recall_at_5pct", "recall_at_1pct"):
        assert vars(metrics[name]) == pytest.approx({"value": 1.0, "low": bound, "high": 1.0})
    assert vars(metrics["fpr_at_1pct"]) == pytest.approx(
        {"value": 0.0, "low": 0.0, "high": 1 - bound}
    )


def test_hardly_anything_has_no_interval_rather_than_a_narrow_one() -> None:
    y, p = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.2, 0.3])
    alone, withheld = evaluate("binary", y, p, named(np.zeros(4, dtype=int)), 0)
    assert alone["accuracy"].to_dict() == {"value": 0.75, "low": None, "high": None}
    assert "class 0 is in 1 held-out groups" in withheld["auroc"]
    none, _ = evaluate("number", np.zeros(0), np.zeros(0), named(np.arange(0)), 0)
    assert none["mae"].to_dict() == {"value": None, "low": None, "high": None}


def test_what_a_rare_class_or_no_control_set_leaves_open_is_withheld_with_its_reason() -> None:
    y = np.array([1] * 4 + [0] * 36)
    p, groups = np.linspace(0, 1, 40), named(np.arange(40))
    metrics, withheld = evaluate("binary", y, p, groups, 0, 50, LIMITS, classes=["clean", "swap"])
    rare = "class 'swap' is in 4 held-out groups, at least 5 are needed: trace more problems"
    rated = {"recall_at_5pct", "recall_at_1pct"}
    assert withheld == dict.fromkeys(
        {"balanced_accuracy", "auroc", "average_precision", *rated}, rare
    )
    assert all(math.isnan(metrics[name].value) for name in withheld)
    assert metrics["fpr_at_5pct"].value == pytest.approx(np.mean(p[4:] > 0.5))
    few = Thresholds({"recall_at_5pct": 0.5}, {"recall_at_1pct": "too few"}, 412, 412)
    _, withheld = evaluate("binary", np.arange(40) % 2, p, groups, 0, 50, few)
    assert withheld == {"recall_at_1pct": "too few", "fpr_at_1pct": "too few"}
    _, withheld = evaluate("binary", np.arange(40) % 2, p, groups, 0, 50)
    assert set(withheld.values()) == {"no control set fixes a threshold"}
    assert evaluate("number", np.ones(40), p, groups, 0, 50)[1] == {
        "r2": "the numbers of all held-out rows are equal"
    }


def test_scores_of_another_shape_or_not_finite_are_refused() -> None:
    y = np.array([0, 1, 1])
    with pytest.raises(UserError, match="row 1 of 3 is not finite"):
        point_metrics("binary", y, np.array([0.1, np.nan, 0.3]))
    with pytest.raises(ValueError, match=r"shape \(3, 2\) for 3 binary labels"):
        point_metrics("binary", y, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="kind 'auto'"):
        point_metrics("auto", y, np.zeros(3))
    with pytest.raises(ValueError, match="binary scores are not probabilities"):
        point_metrics("binary", y, np.array([0.0, 1.5, 1.0]))
    with pytest.raises(ValueError, match="class indices 0 to 2 for 2 classes"):
        point_metrics("binary", np.array([0, 1, 2]), np.array([0.0, 0.5, 1.0]))


def test_rounded_probabilities_and_an_absent_class_are_read_without_a_warning() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(3, size=50), rng.dirichlet(np.ones(4), size=50).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics, withheld = evaluate("multiclass", y, p, named(np.arange(50)), 0, 50)
        evaluate("binary", np.zeros(50, dtype=int), p[:, 0], named(np.arange(50)), 0, 50, LIMITS)
    assert 0 < metrics["log_loss"].low < metrics["log_loss"].value < metrics["log_loss"].high
    assert "class 3 is in 0 held-out groups" in withheld["auroc"]
