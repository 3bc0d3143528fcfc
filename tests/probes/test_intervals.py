"""Intervals over groups, on arrays with planted structure."""

from __future__ import annotations

import numpy as np
import pytest

from probes.intervals import accuracy_interval, cluster_bootstrap


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


def test_the_accuracy_interval_counts_groups_not_rows() -> None:
    """Samples of one problem that agree are one observation: eight copies tell nothing new."""
    rng = np.random.default_rng(0)
    hit = rng.random(60) < 0.7
    once = accuracy_interval(hit, named(np.arange(60)), seed=0)
    copies = accuracy_interval(np.repeat(hit, 8), named(np.repeat(np.arange(60), 8)), seed=0)
    rows = accuracy_interval(np.repeat(hit, 8), named(np.arange(480)), seed=0)
    assert once == copies
    assert once.low < once.value < once.high
    assert rows.high - rows.low < 0.5 * (once.high - once.low)


def test_the_accuracy_interval_of_hardly_anything_is_honest() -> None:
    nothing = accuracy_interval(np.zeros(0, dtype=bool), named(np.arange(0)), seed=0)
    assert nothing.to_dict() == {"value": None, "low": None, "high": None}
    one = accuracy_interval(np.array([True, False]), named(np.zeros(2, dtype=int)), seed=0)
    assert one.to_dict() == {"value": 0.5, "low": None, "high": None}
    right = accuracy_interval(np.ones(30, dtype=bool), named(np.arange(30) % 10), seed=0)
    assert (right.value, right.high) == (1.0, 1.0)
    assert right.low == pytest.approx(0.025 ** (1 / 10))
