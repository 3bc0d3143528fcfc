"""Labels exchanged between groups: what hangs together stays, noise is noise, no leak pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict

from nfcot_model.errors import UserError
from probes.crossfit import crossfit
from probes.estimators import ESTIMATORS
from probes.metrics import evaluate
from probes.permutations import control_task, donors, permutation_test, permute_between_groups
from probes.splits import deal_groups


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n_groups=st.integers(2, 30), places=st.integers(1, 3))
def test_whole_groups_exchange_labels_with_groups_like_them(
    seed: int, n_groups: int, places: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(n_groups), rng.integers(1, 4, size=n_groups)))
    present = rng.random((len(groups), places)) < 0.8
    profile = {
        g: tuple(sorted(tuple(row) for row in present[groups == g].tolist()))
        for g in range(n_groups)
    }
    shapes = list(profile.values())
    alone = [g for g, shape in profile.items() if shapes.count(shape) == 1]
    fixed = int(np.isin(groups, alone).sum())
    if 2 * fixed > len(groups):
        with pytest.raises(UserError, match=rf"{fixed} of {len(groups)} traces are in problem"):
            donors(named(groups), present, 5, seed)
        return
    found = donors(named(groups), present, 5, seed)
    assert found.fixed == fixed
    assert found.trace.shape == (5, len(groups))
    assert (found.trace[:, np.isin(groups, alone)] == np.flatnonzero(np.isin(groups, alone))).all()
    for trace in found.trace:
        assert sorted(trace) == list(range(len(groups)))
        assert (present[trace] == present).all()
        for g in range(n_groups):
            (donor,) = set(groups[trace[groups == g]])
            assert profile[donor] == profile[g]


def test_every_like_group_is_a_donor_as_often() -> None:
    groups = named(np.repeat(np.arange(4), 2))
    found = donors(groups, np.ones((8, 1), dtype=bool), 4000, 0)
    for column in found.trace.T:
        share = np.bincount(column // 2, minlength=4) / 4000
        assert np.abs(share - 0.25).max() < 0.03


def test_labels_of_some_traces_are_exchanged_among_them() -> None:
    """Two of four groups have a second thought: labels there come from the two alone."""
    present = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], dtype=bool)
    found = donors(named(np.arange(4)), present, 50, 0)
    second = np.array([0, 2])
    labels = found.labels(np.array([10, 12]), second)
    assert labels.shape == (50, 2)
    assert set(map(tuple, labels.tolist())) == {(10, 12), (12, 10)}
    numbers = found.labels(np.array([0.5, 1.5, 2.5, 3.5]), np.arange(4))
    assert set(numbers[:, 0]) == {0.5, 2.5}
    with pytest.raises(ValueError, match="not among the labelled"):
        found.labels(np.array([1, 2]), np.array([0, 1]))


def test_groups_that_no_other_is_like_keep_their_labels() -> None:
    groups = named(np.repeat(np.arange(4), [2, 2, 1, 1]))
    present = np.ones((6, 1), dtype=bool)
    assert donors(groups, present, 3, 0).fixed == 0
    lone = named(np.repeat(np.arange(5), [2, 2, 1, 1, 3]))
    found = donors(lone, np.ones((9, 1), dtype=bool), 30, 0)
    assert found.fixed == 3
    assert (found.trace[:, 6:] == [6, 7, 8]).all()
    most = named(np.repeat(np.arange(4), [1, 2, 3, 3]))
    assert donors(most, np.ones((9, 1), dtype=bool), 3, 0).fixed == 3
    sizes = named(np.repeat(np.arange(4), [1, 2, 3, 4]))
    with pytest.raises(UserError, match=r"10 of 10 traces .* no other group has; trace more probl"):
        donors(sizes, np.ones((10, 1), dtype=bool), 3, 0)


def noise(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forty groups of three rows that agree in their label and in what is said of them."""
    groups = np.repeat(np.arange(40), 3)
    y = rng.integers(2, size=40)[groups]
    told = expit(rng.normal(size=40)[groups] + 0.3 * rng.normal(size=120))
    return y, told, named(groups)


def test_p_values_are_uniform_on_noise_that_hangs_together() -> None:
    """And far from it if rows of one group were exchanged as if they had nothing in common."""
    rng = np.random.default_rng(0)
    by_group, by_row = [], []
    for seed in range(200):
        y, told, groups = noise(rng)
        by_group.append(permutation_test("binary", y, told, groups, 99, seed).p_value)
        by_row.append(permutation_test("binary", y, told, named(np.arange(120)), 99, seed).p_value)
    assert kstest(by_group, "uniform").pvalue > 0.01
    assert np.mean(np.array(by_group) <= 0.05) <= 0.1
    assert np.mean(np.array(by_row) <= 0.05) > 0.15


@pytest.mark.parametrize("kind", ["binary", "multiclass", "number"])
def test_signal_has_the_smallest_p_value(kind: str) -> None:
    rng = np.random.default_rng(1)
    groups = named(np.repeat(np.arange(40), 2))
    y = np.repeat(rng.permutation(np.arange(40) % (3 if kind == "multiclass" else 2)), 2)
    if kind == "multiclass":
        told = rng.dirichlet(np.ones(3), size=80) + np.eye(3)[y]
    elif kind == "number":
        y = np.repeat(rng.normal(size=40), 2)
        told = y + 0.3 * rng.normal(size=80)
    else:
        told = expit(3 * (2 * y - 1) + rng.normal(size=80))
    found = permutation_test(kind, y, told, groups, 199, 0)
    assert found.p_value == 1 / 200
    assert found.null_max is not None
    assert found.observed > found.null_max
    assert (found.permutations, found.fixed, found.reason) == (199, 0, None)


def test_readings_that_are_all_equal_say_nothing() -> None:
    y, groups = np.arange(30) % 2, named(np.arange(30))
    found = permutation_test("binary", y, np.full(30, 0.5), groups, 99, 0)
    assert (found.observed, found.p_value, found.null_max) == (0.5, 1.0, 0.5)


def test_equal_labels_and_unlike_groups_have_no_p_value() -> None:
    """A single class has no rival: no p-value, rather than the smallest one."""
    rng = np.random.default_rng(0)
    groups = named(np.arange(30))
    found = permutation_test("binary", np.zeros(30, dtype=int), rng.random(30), groups, 99, 0)
    assert (found.p_value, found.reason) == (None, "all held-out labels are equal")
    unlike = named(np.repeat(np.arange(4), [1, 2, 3, 4]))
    found = permutation_test("binary", np.arange(10) % 2, rng.random(10), unlike, 99, 0)
    assert found.p_value is None
    assert found.reason is not None
    assert "cannot be permuted: 10 of 10" in found.reason
    assert np.isfinite(found.observed)


def test_a_leak_across_the_rows_of_a_group_is_not_rewarded() -> None:
    """Labels drawn per group, features that name the group: only other rows of it tell."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(100), 8)
    y = rng.permutation(np.arange(100) % 2)[groups]
    X = 3 * rng.normal(size=(100, 150))[groups] + 0.1 * rng.normal(size=(800, 150))
    rows = KFold(5, shuffle=True, random_state=0)
    by_row = cross_val_predict(LogisticRegression(), X, y, cv=rows, method="decision_function")
    assert roc_auc_score(y, by_row) > 0.9
    fold = deal_groups(y, named(groups), 5, 0)
    features, labels, folds = (torch.from_numpy(a) for a in (X.astype(np.float32), y, fold))
    names = ("logistic", "lda", "mass_mean")
    found = crossfit(features, labels, "binary", 2, folds, [ESTIMATORS[n] for n in names])
    for name in names:
        told = expit(found[name].scores[:, 0].double().numpy())
        auroc = evaluate("binary", y, told, named(groups), 0)[0]["auroc"]
        assert auroc.low <= 0.5 <= auroc.high
        assert auroc.high < 0.75
        assert abs(found[name].value - 0.5) < 0.2


def test_control_labels_depend_on_the_kind_alone() -> None:
    rng = np.random.default_rng(3)
    y, kinds = rng.integers(3, size=600), named(rng.integers(40, size=600))
    told = control_task(y, kinds, 0)
    assert set(told) <= set(y)
    assert all(len(set(told[kinds == kind])) == 1 for kind in set(kinds))
    assert (told == control_task(y, kinds, 0)).all()
    assert (told != control_task(y, kinds, 1)).any()
    order = rng.permutation(600)
    shares = [np.mean(control_task(y, kinds, s) == y) for s in range(50)]
    assert np.mean(shares) == pytest.approx(1 / 3, abs=0.03)
    moved = control_task(np.sort(y), kinds[order], 0)
    assert all(len(set(moved[kinds[order] == kind])) == 1 for kind in set(kinds))
    numbers = control_task(rng.normal(size=600), kinds, 0)
    assert 30 < len(set(numbers)) <= 40


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
