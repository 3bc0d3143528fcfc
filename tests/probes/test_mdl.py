"""The online code: nothing to read compresses nothing, and groups are not told apart by luck."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from probes.mdl import online_code


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


def logistic(X: np.ndarray, y: np.ndarray, classes: int):
    def fit_predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = LogisticRegression(C=0.1).fit(X[train], y[train])
        p = np.zeros((test.size, classes))
        p[:, model.classes_] = model.predict_proba(X[test])
        return p

    return fit_predict


def uniform(classes: int):
    return lambda train, test: np.full((test.size, classes), 1 / classes)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(2, 400),
    groups=st.integers(2, 60),
    classes=st.integers(2, 5),
)
def test_blocks_are_whole_groups_and_a_probe_of_nothing_gains_nothing(
    seed: int, n: int, groups: int, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    y, names = rng.integers(classes, size=n), named(rng.integers(groups, size=n))
    seen = []

    def fit_predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        assert not set(names[train]) & set(names[test])
        seen.append((train.size, test.size))
        return uniform(classes)(train, test)

    found = online_code(fit_predict, y, names, classes, seed)
    assert found.bits == pytest.approx(found.uniform_bits) == n * math.log2(classes)
    assert found.compression.value == pytest.approx(1.0)
    if found.groups > 1:
        assert found.compression.low == pytest.approx(1.0) == found.compression.high
    assert found.bits_per_label.value == pytest.approx(math.log2(classes))
    assert sum(b.coded for b in found.blocks) == n
    trained = np.cumsum([0, *(b.coded for b in found.blocks[:-1])])
    assert [b.trained for b in found.blocks] == trained.tolist()
    assert set(seen) <= {(b.trained, b.coded) for b in found.blocks}


def test_one_row_per_group_is_cut_where_voita_and_titov_cut() -> None:
    y = np.arange(10_000) % 2
    found = online_code(uniform(2), y, named(np.arange(10_000)), 2, 0)
    ends = np.cumsum([b.coded for b in found.blocks])
    assert ends.tolist() == [10, 20, 40, 80, 160, 320, 625, 1250, 2500, 5000, 10_000]


def test_a_stronger_signal_takes_fewer_bits_and_noise_takes_no_fewer_than_none() -> None:
    rng = np.random.default_rng(0)
    y, groups = rng.integers(3, size=2000), named(np.arange(2000) // 2)
    noise = rng.normal(size=(2000, 8))
    compression = []
    for strength in (0.0, 1.0, 3.0):
        X = noise + strength * np.eye(8)[y]
        compression.append(online_code(logistic(X, y, 3), y, groups, 3, 1).compression.value)
    none, some, much = compression
    assert 0.9 < none <= 1.0
    assert some > 1.15
    assert much > 2 * some


def test_a_fingerprint_of_the_group_is_not_knowledge_of_the_label() -> None:
    """Labels drawn per group, features that name the group: only rows of one group tell."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(150), 8)
    y = rng.integers(2, size=150)[groups]
    X = 3 * rng.normal(size=(150, 200))[groups] + 0.1 * rng.normal(size=(1200, 200))
    whole = online_code(logistic(X, y, 2), y, named(groups), 2, 0)
    by_row = online_code(logistic(X, y, 2), y, named(np.arange(1200)), 2, 0)
    assert whole.compression.high < 1.0
    assert by_row.compression.low > 2.0


def test_a_class_that_was_not_seen_costs_finitely_many_bits() -> None:
    y = np.array([0, 1] * 50 + [2] * 3)
    sure = lambda train, test: np.eye(3)[np.zeros(test.size, dtype=int)]  # noqa: E731
    found = online_code(sure, y, named(np.arange(103)), 3, 0)
    assert math.isfinite(found.bits)
    assert found.compression.value < 1


def test_the_code_is_decided_by_its_seed_and_wants_probabilities() -> None:
    rng = np.random.default_rng(2)
    X, y, groups = rng.normal(size=(200, 3)), rng.integers(2, size=200), named(np.arange(200))
    first, again, other = (online_code(logistic(X, y, 2), y, groups, 2, s) for s in (0, 0, 1))
    assert first == again != other
    with pytest.raises(ValueError, match="expected probabilities"):
        online_code(lambda train, test: np.ones((test.size, 2)), y, groups, 2, 0)


def test_the_interval_is_as_wide_as_other_groups_would_make_it() -> None:
    """Bits per label of many populations spread as the interval of one says, copies or not."""
    values, widths = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y = rng.integers(2, size=300)
        X = rng.normal(size=(300, 2)) + 1.5 * y[:, None]
        found = online_code(logistic(X, y, 2), y, named(np.arange(300)), 2, 0)
        values.append(found.bits_per_label.value)
        widths.append(found.bits_per_label.high - found.bits_per_label.low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.35)
    twice = online_code(
        logistic(np.repeat(X, 2, axis=0), np.repeat(y, 2), 2),
        np.repeat(y, 2),
        named(np.repeat(np.arange(300), 2)),
        2,
        0,
    )
    assert twice.groups == 300
    wide = twice.bits_per_label.high - twice.bits_per_label.low
    assert wide > 0.8 * widths[-1], "a second copy of every row makes no figure surer"


def test_a_single_group_has_no_interval() -> None:
    y = np.array([0, 1, 1, 0])
    found = online_code(uniform(2), y, named(np.zeros(4, dtype=int)), 2, 0)
    assert (found.groups, found.compression.value) == (1, 1.0)
    assert math.isnan(found.compression.low)
