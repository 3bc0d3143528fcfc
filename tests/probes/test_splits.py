"""Splits by problem group: no group in two parts, every class where it is needed, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfcot_model.errors import UserError
from probes.splits import Split, deal_groups, groups_by_class, refuse_thin_folds, split_groups


def named(groups: np.ndarray) -> np.ndarray:
    return np.array([f"g{g}" for g in groups], dtype=object)


def parts(split: Split) -> tuple[set[str], set[str], set[str]]:
    return set(split.fold), set(split.control), set(split.test)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    samples=st.integers(1, 4),
    classes=st.integers(2, 4),
    folds=st.integers(3, 6),
    control=st.booleans(),
    mixed=st.booleans(),
)
def test_no_group_is_in_two_parts_and_every_class_is_in_each(
    seed: int, samples: int, classes: int, folds: int, control: bool, mixed: bool
) -> None:
    """Groups of one class each, or of rows with several."""
    rng = np.random.default_rng(seed)
    groups = named(np.repeat(np.arange(120), samples))
    y = rng.integers(classes, size=120 * samples)
    y = y if mixed else y[np.repeat(np.arange(120), samples)]
    order = rng.permutation(len(y))
    y, groups = y[order], groups[order]
    split = split_groups(y, groups, list(range(classes)), seed, folds, control)
    train, held, test = parts(split)
    assert len(train) + len(held) + len(test) == 120
    assert train | held | test == set(groups)
    assert len(test) == 30
    assert len(held) == (30 if control else 0)
    rows = split.rows(groups)
    together = np.concatenate([rows.train, rows.control, rows.test])
    assert sorted(together) == list(range(len(y)))
    for part, names in ((rows.train, train), (rows.control, held), (rows.test, test)):
        assert set(groups[part]) == names
        assert not names or set(y[part]) == set(range(classes))
    assert split.folds == folds
    assert rows.fold.tolist() == [split.fold[g] for g in groups[rows.train]]
    for left_out in range(folds):
        for other in range(folds):
            kept = (rows.fold != left_out) & (rows.fold != other)
            assert set(y[rows.train][kept]) == set(range(classes))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), rare=st.integers(4, 12), samples=st.integers(1, 3))
def test_rare_classes_are_spread_as_evenly_as_can_be(seed: int, rare: int, samples: int) -> None:
    groups = named(np.repeat(np.arange(60), samples))
    y = (np.repeat(np.arange(60), samples) < rare).astype(np.int64)
    split = split_groups(y, groups, ["usual", "rare"], seed, 3)
    rows = split.rows(groups)
    held_out = set(groups[rows.test][y[rows.test] == 1])
    assert len(held_out) == -(-rare // 4)
    trained = [
        len(set(groups[rows.train][(y[rows.train] == 1) & (rows.fold == f)])) for f in range(3)
    ]
    assert sum(trained) == rare - len(held_out)
    assert max(trained) - min(trained) <= 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    n_groups=st.integers(1, 50),
    classes=st.integers(1, 4),
    folds=st.integers(1, 7),
)
def test_groups_are_dealt_whole_and_evenly(
    seed: int, n_groups: int, classes: int, folds: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=n_groups)
    groups, y = np.repeat(np.arange(n_groups), sizes), rng.integers(classes, size=n_groups)
    fold = deal_groups(np.repeat(y, sizes), named(groups), folds, seed)
    assert fold.shape == groups.shape
    assert all(len(set(fold[groups == g])) == 1 for g in range(n_groups))
    of = np.array([fold[groups == g][0] for g in range(n_groups)])
    for chosen in (np.ones(n_groups, dtype=bool), *(y == c for c in range(classes))):
        count = np.bincount(of[chosen], minlength=folds)
        assert count.max() - count.min() <= 1
        assert count.size == folds


def test_a_group_of_several_classes_counts_for_each_of_them() -> None:
    y, groups = np.array([0, 0, 1, 2, 2, 0]), named(np.array([0, 0, 0, 1, 1, 2]))
    assert groups_by_class(y, groups, 4).tolist() == [2, 1, 1, 0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 3))
def test_a_split_knows_groups_not_rows(seed: int, classes: int) -> None:
    """Samples added or taken away, in any order, with names of any kind, leave it as it was."""
    rng = np.random.default_rng(seed)
    of = rng.permutation(np.arange(60) % classes)
    once = split_groups(of, named(np.arange(60)), list("abc")[:classes], 7)
    rows = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 4, size=60)))
    again = split_groups(of[rows], named(rows), list("abc")[:classes], 7)
    assert once == again
    assert once.hash == again.hash


def test_the_hash_is_that_of_groups_and_folds() -> None:
    groups, y = named(np.arange(60)), np.arange(60) % 3
    first, again, other = (split_groups(y, groups, [0, 1, 2], seed) for seed in (1, 1, 2))
    assert first.hash == again.hash != other.hash
    turned = Split(dict(reversed(first.fold.items())), first.control, first.test)
    assert turned.hash == first.hash
    one, *_ = first.test
    moved = Split(first.fold, first.control | {one}, first.test - {one})
    some, *_ = first.fold
    refolded = Split({**first.fold, some: (first.fold[some] + 1) % 5}, first.control, first.test)
    renamed = Split(first.fold, first.control, first.test - {one} | {"g60"})
    hashes = {s.hash for s in (first, other, moved, refolded, renamed)}
    assert len(hashes) == 5


def test_a_group_that_the_split_does_not_know_is_in_no_part() -> None:
    split = Split({"a": 0, "b": 1}, frozenset("c"), frozenset("d"))
    rows = split.rows(np.array(["d", "x", "b", "c", "a", "x", "b"], dtype=object))
    assert rows.train.tolist() == [2, 4, 6]
    assert rows.fold.tolist() == [1, 0, 1]
    assert (rows.control.tolist(), rows.test.tolist()) == ([3], [0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), distinct=st.integers(2, 400), control=st.booleans())
def test_numbers_are_dealt_by_their_quarters(seed: int, distinct: int, control: bool) -> None:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(400) % distinct).astype(float)
    groups = named(np.arange(400))
    split = split_groups(y, groups, None, seed, control=control)
    train, held, test = parts(split)
    assert (len(held), len(test)) == (100 if control else 0, 100)
    assert len(train) == 400 - 100 - len(held)
    rows = split.rows(groups)
    quarter = np.searchsorted(np.quantile(y, (0.25, 0.5, 0.75)), y, side="right")
    for part, share in ((rows.control, 1 / 4), (rows.test, 1 / 4), (rows.train, len(train) / 400)):
        if part.size:
            wanted = share * np.bincount(quarter, minlength=4)
            assert np.abs(np.bincount(quarter[part], minlength=4) - wanted).max() <= 1.5


@pytest.mark.parametrize("classes", [["add"], []])
def test_a_single_class_is_refused(classes: list[str]) -> None:
    groups = named(np.arange(40))
    with pytest.raises(UserError, match=r"the label has a single class( \('add'\))? at this site"):
        split_groups(np.zeros(40, dtype=int), groups, classes, 0)
    with pytest.raises(UserError, match=r"single value \(2.5\) at this site"):
        split_groups(np.full(40, 2.5), groups, None, 0)


def test_few_groups_and_few_folds_are_refused() -> None:
    y, groups = np.arange(40) % 2, named(np.arange(40))
    with pytest.raises(UserError, match=r"5 problem groups have this label .* at least 12"):
        split_groups(y, named(np.arange(40) % 5), [0, 1], 0)
    for folds in (2, 21):
        with pytest.raises(UserError, match=rf"--folds {folds}: expected 3 to 20"):
            split_groups(y, groups, [0, 1], 0, folds=folds)
    few, few_groups = y[:24], groups[:24]
    with pytest.raises(UserError, match=r"18 problem groups are left to train on, .* --folds 19"):
        split_groups(few, few_groups, [0, 1], 0, folds=19)
    with pytest.raises(UserError, match=r"12 problem groups are left to train on, .* --folds 13"):
        split_groups(few, few_groups, [0, 1], 0, folds=13, control=True)
    assert split_groups(few, few_groups, [0, 1], 0, folds=18).folds == 18


@pytest.mark.parametrize("rare", [1, 2, 3])
def test_a_class_too_rare_to_train_and_test_on_is_refused(rare: int) -> None:
    y = (np.arange(40) < rare).astype(np.int64)
    with pytest.raises(UserError, match=rf"class 'odd' of the label occurs in {rare} problem gro"):
        split_groups(y, named(np.arange(40)), ["even", "odd"], 0)


def test_thresholds_take_a_quarter_of_a_rare_class_too() -> None:
    y, groups = (np.arange(40) < 4).astype(np.int64), named(np.arange(40))
    assert split_groups(y, groups, ["even", "odd"], 0).folds == 5
    with pytest.raises(UserError, match=r"\(beside those that set thresholds\): trace more"):
        split_groups(y, groups, ["even", "odd"], 0, control=True)


def test_a_class_in_few_folds_is_refused() -> None:
    """Leaving two folds out, as choosing a penalty does, could leave none of it to train on."""
    y = np.array([0, 0, 0, 0, 0, 2, 2, 1, 1, 1])
    fold = np.array([0, 1, 2, 3, 4, 1, 3, 0, 1, 2])
    with pytest.raises(UserError, match=r"class 'c' of the label is in 2 of 5 folds .* at least 3"):
        refuse_thin_folds(y, fold, ["a", "b", "c"])
    refuse_thin_folds(np.append(y, 2), np.append(fold, 0), ["a", "b", "c"])
