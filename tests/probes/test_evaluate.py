"""Splits, intervals and metrics on arrays, against closed forms and planted structure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from nfcot_model.errors import UserError
from probes.evaluate import (
    accuracy_interval,
    evaluate_predictions,
    macro_auroc,
    majority_predictions,
    permute_between_groups,
)
from probes.intervals import cluster_bootstrap
from probes.splits import deal_groups, grouped_split


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), samples=st.integers(1, 5), classes=st.integers(2, 4))
def test_split_shares_no_group_and_has_every_class_on_both_sides(
    seed: int, samples: int, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = named(np.repeat(np.arange(80), samples))
    y = np.repeat(rng.integers(classes, size=80), samples)
    split = grouped_split(y, groups, list(range(classes)), seed)
    train, test = set(groups[split.train]), set(groups[split.test])
    assert not train & test
    assert train | test == set(groups)
    assert train == set(split.train_groups)
    assert set(y[split.train]) == set(y[split.test]) == set(range(classes))
    assert 0.1 < len(split.test) / len(y) < 0.4


def test_split_is_decided_by_its_seed() -> None:
    groups, y = named(np.arange(60)), np.arange(60) % 3
    first, again, other = (grouped_split(y, groups, [0, 1, 2], seed) for seed in (1, 1, 2))
    assert first.hash == again.hash != other.hash


def test_split_refuses_a_single_class_few_groups_and_rare_classes() -> None:
    groups = named(np.arange(40))
    with pytest.raises(UserError, match=r"single class \('add'\)"):
        grouped_split(np.zeros(40, dtype=int), groups, ["add"], 0)
    with pytest.raises(UserError, match=r"5 problem groups.*at least 12"):
        grouped_split(np.arange(40) % 2, named(np.arange(40) % 5), [0, 1], 0)
    rare = np.zeros(40, dtype=int)
    rare[7] = 1
    with pytest.raises(UserError, match=r"class 'odd' of the label occurs in 1 problem group"):
        grouped_split(rare, groups, ["even", "odd"], 0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), rare=st.integers(4, 12), samples=st.integers(1, 3))
def test_rare_classes_are_spread_over_both_sides(seed: int, rare: int, samples: int) -> None:
    groups, y = named(np.repeat(np.arange(60), samples)), np.repeat(np.arange(60) < rare, samples)
    split = grouped_split(y.astype(int), groups, ["usual", "rare"], seed)
    held_out = len(set(groups[split.test][y[split.test]]))
    assert held_out == split.test_groups[1] == -(-rare // 4)
    assert rare - held_out >= 3
    inner = deal_groups(y[split.train].astype(int), groups[split.train], 3, seed)
    assert all(y[split.train][inner == fold].any() for fold in range(3))
    assert all(len(set(inner[groups[split.train] == g])) == 1 for g in set(groups[split.train]))


def test_auroc_and_balanced_accuracy_equal_sklearns() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=200)
    scores = rng.dirichlet(np.ones(4), size=200).round(2) + 0.3 * np.eye(4)[y]
    expected = np.mean([roc_auc_score(y == c, scores[:, c]) for c in range(4)])
    assert macro_auroc(y, scores) == pytest.approx(expected, abs=1e-12)
    result = evaluate_predictions(y, scores, named(np.arange(200)), 0, draws=50)
    assert result["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(y, scores.argmax(1))
    )


def test_auroc_leaves_out_absent_classes_and_is_nan_without_rivals() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    assert macro_auroc(np.array([0, 1, 0]), scores) == 1.0
    assert np.isnan(macro_auroc(np.array([1, 1, 1]), scores))


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


def test_no_mistake_in_few_groups_is_not_certainty() -> None:
    y = np.arange(20) % 2
    result = evaluate_predictions(y, np.eye(2)[y], named(np.arange(20)), 0, draws=20)["accuracy"]
    assert (result.value, result.high) == (1.0, 1.0)
    assert result.low == pytest.approx(0.025 ** (1 / 20))


def test_permuted_labels_keep_groups_together_and_forget_the_rest() -> None:
    rng = np.random.default_rng(0)
    groups = named(np.repeat(np.arange(200), 3))
    y = np.repeat(rng.integers(5, size=200), 3)
    permuted = permute_between_groups(y, groups, 1)
    assert all(len(set(permuted[groups == g])) == 1 for g in set(groups))
    assert np.bincount(permuted).tolist() == np.bincount(y).tolist()
    assert np.mean(permuted == y) < 0.35


def test_permutation_takes_groups_of_different_sizes() -> None:
    groups = named(np.array([0, 0, 0, 1, 2, 2]))
    permuted = permute_between_groups(np.array([0, 0, 0, 1, 2, 2]), groups, 3)
    assert all(len(set(permuted[groups == g])) == 1 for g in set(groups))


def test_majority_predicts_the_commonest_class_of_training() -> None:
    scores = majority_predictions(np.array([2, 2, 0]), 4, 3)
    assert scores.argmax(1).tolist() == [2, 2, 2, 2]


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
