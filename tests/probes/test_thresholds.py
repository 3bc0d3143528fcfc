"""Thresholds let through what they say, and are not given on too few negatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfcot_model.errors import UserError
from probes.thresholds import thresholds


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(200, 3000), ties=st.booleans())
def test_at_most_the_rate_of_the_control_set_lies_above(seed: int, n: int, ties: bool) -> None:
    scores = np.random.default_rng(seed).random(n).round(2 if ties else 9)
    found = thresholds(scores, named(np.arange(n) % 50))
    assert (found.negatives, found.groups) == (n, 50)
    for name, rate in (("recall_at_5pct", 0.05), ("recall_at_1pct", 0.01)):
        if n < 10 / rate:
            assert name in found.reasons
            continue
        limit = found.values[name]
        assert np.mean(scores > limit) <= rate
        assert np.mean(scores >= limit) > rate - 2 / n, "no lower threshold would do"


def test_new_rows_raise_false_alarms_at_the_rate_on_average() -> None:
    rng = np.random.default_rng(0)
    realised = []
    for _ in range(400):
        found = thresholds(rng.normal(size=1000), named(np.arange(1000)))
        fresh = rng.normal(size=1000)
        realised.append([np.mean(fresh > found.values[f"recall_at_{r}pct"]) for r in (5, 1)])
    five, one = np.mean(realised, axis=0)
    assert 0.045 < five < 0.051
    assert 0.0088 < one < 0.0105


def test_too_few_negatives_are_a_reason_in_words() -> None:
    found = thresholds(np.random.default_rng(0).random(412), named(np.arange(412)))
    assert set(found.values) == {"recall_at_5pct"}
    assert found.reasons == {
        "recall_at_1pct": "recall at 1 % needs 1,000 negatives in the control set, it has 412"
    }
    assert set(thresholds(np.zeros(1000), named(np.arange(1000))).reasons) == set()
    assert set(thresholds(np.zeros(0), named(np.arange(0))).values) == set()


def test_a_score_that_is_not_a_number_is_named() -> None:
    scores = np.arange(300.0)
    scores[7] = np.nan
    with pytest.raises(UserError, match="control set: score 7 is nan"):
        thresholds(scores, named(np.arange(300)))
