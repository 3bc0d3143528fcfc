"""Intervals over groups, on arrays with planted structure."""

from __future__ import annotations

import numpy as np
import pytest

from probes.intervals import Estimate, cluster_bootstrap, cluster_means


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


def test_interval_covers_the_truth_when_samples_of_a_group_agree() -> None:
    rng = np.random.default_rng(3)
    groups = named(np.repeat(np.arange(40), 10))
    covered = naive = 0
    for seed in range(100):
        hit = np.repeat(rng.random(40) < 0.6, 10)
        metric = lambda rows, hit=hit: {"accuracy": float(hit[rows].mean())}  # noqa: E731
        by_group = cluster_bootstrap(metric, groups, seed, draws=120)["accuracy"]
        by_row = cluster_bootstrap(metric, named(np.arange(400)), seed, draws=120)["accuracy"]
        covered += by_group.low <= 0.6 <= by_group.high
        naive += by_row.low <= 0.6 <= by_row.high
    assert 0.88 <= covered / 100 <= 0.99
    assert naive / 100 < 0.7


def test_the_interval_of_a_mean_counts_groups_not_rows() -> None:
    """Samples of one problem that agree are one observation: eight copies tell nothing new."""
    hit = (np.random.default_rng(0).random(60) < 0.7).astype(np.float64)
    copies = np.repeat(hit, 8)

    def interval(column: np.ndarray, groups: np.ndarray) -> Estimate:
        return cluster_means({"hit": column}, named(groups))["hit"]

    once = interval(hit, np.arange(60))
    by_group = interval(copies, np.repeat(np.arange(60), 8))
    by_row = interval(copies, np.arange(480))
    assert vars(by_group) == pytest.approx(vars(once))
    assert once.low < once.value < once.high
    assert by_row.high - by_row.low < 0.5 * (once.high - once.low)
    assert np.isnan(interval(np.zeros(0), np.zeros(0)).value)
