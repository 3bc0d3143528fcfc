"""Which problem groups train a probe, set its thresholds and test it? No group is in two parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash

__all__ = ["FOLDS", "MIN_GROUPS", "Rows", "Split", "deal_groups", "groups_by_class", "split_groups"]

MIN_GROUPS = 12
FOLDS = 5
PARTS = 4
MIN_TO_TRAIN = 3
# Inner fits leave out two folds each: their number grows with the square.
MAX_FOLDS = 20

Ints = NDArray[np.int64]
Labels = NDArray[np.int64] | NDArray[np.float64]
Groups = NDArray[np.object_]


@dataclass(frozen=True)
class Rows:
    """Row indices of each part of a split; `fold` is that of each training row."""

    train: Ints
    control: Ints
    test: Ints
    fold: Ints


@dataclass(frozen=True)
class Split:
    """`fold`: training group -> cross-validation fold; `control`, `test`: the other groups."""

    fold: Mapping[str, int]
    control: frozenset[str]
    test: frozenset[str]

    @property
    def folds(self) -> int:
        return 1 + max(self.fold.values())

    @property
    def hash(self) -> str:
        """Are two splits the same, group by group?"""
        return content_hash([dict(self.fold), sorted(self.control), sorted(self.test)])

    def rows(self, groups: Groups) -> Rows:
        """Which rows of a population with these groups [n] are in which part?"""
        names = groups.astype(str)
        fold = np.array([self.fold.get(name, -1) for name in names], dtype=np.int64)
        train = np.flatnonzero(fold >= 0)
        control, test = (
            np.flatnonzero(np.isin(names, sorted(part))) for part in (self.control, self.test)
        )
        return Rows(train, control, test, fold[train])


def split_groups(
    y: Labels,
    groups: Groups,
    classes: Sequence[object] | None,
    seed: int,
    folds: int = FOLDS,
    control: bool = False,
) -> Split:
    """A quarter of the groups tests, with `control` another sets thresholds, the rest trains.

    y [n]: indices into `classes`, or numbers (classes None, dealt by their quarters); groups [n].
    The groups of each class are spread as evenly as can be. Raises UserError for a single class or
    value, too few groups, more folds than groups, or a class too rare to be in three groups to
    train on and one to test on.
    """
    _refuse_small(y, groups, classes, folds)
    strata = _quarters(y) if classes is None else y.astype(np.int64)
    names = groups.astype(str)
    part = deal_groups(strata, groups, PARTS, seed)
    test, held = _chosen_parts(strata, groups, part, classes, control)
    train = (part != test) & (part != held)
    n_train = len(set(names[train]))
    if n_train < folds:
        raise UserError(
            f"{n_train} problem groups are left to train on, fewer than --folds {folds}; trace more"
            " problems or ask for fewer folds"
        )
    fold = deal_groups(strata[train], groups[train], folds, seed + 1)
    if classes is not None:
        refuse_thin_folds(strata[train], fold, classes)
    return Split(
        dict(zip(names[train].tolist(), fold.tolist(), strict=True)),
        frozenset(names[part == held].tolist()),
        frozenset(names[part == test].tolist()),
    )


def refuse_thin_folds(y: Ints, fold: Ints, classes: Sequence[object]) -> None:
    """Raise UserError when leaving out two folds can leave a class without a row."""
    present = np.zeros((int(fold.max(initial=0)) + 1, len(classes)), dtype=bool)
    present[fold, y] = True
    thin = int(present.sum(0).argmin())
    if present[:, thin].sum() < MIN_TO_TRAIN:
        raise UserError(
            f"class {classes[thin]!r} of the label is in {present[:, thin].sum()} of"
            f" {len(present)} folds of the training groups at this site, at least {MIN_TO_TRAIN}"
            " are needed: trace more problems or choose another --label or --site"
        )


def deal_groups(y: Ints, groups: Groups, folds: int, seed: int) -> Ints:
    """In which fold is each row? [n], whole groups; a class in g groups has g // folds in each.

    A group of several classes is dealt with those of its rarest.
    """
    _, cluster = np.unique(groups.astype(str), return_inverse=True)
    everywhere = groups_by_class(y, groups, int(y.max()) + 1)
    own = np.zeros(cluster.max() + 1, dtype=np.int64)
    rarest_last = np.argsort(-everywhere[y], kind="stable")
    own[cluster[rarest_last]] = y[rarest_last]
    order = np.lexsort((np.random.default_rng(seed).permutation(own.size), own))
    fold = np.empty(own.size, dtype=np.int64)
    fold[order] = np.arange(own.size) % folds
    return fold[cluster]


def groups_by_class(y: Ints, groups: Groups, classes: int) -> Ints:
    """In how many groups does each class occur? [classes]"""
    _, cluster = np.unique(groups.astype(str), return_inverse=True)
    pairs = np.unique(cluster * classes + y)
    return np.bincount(pairs % classes, minlength=classes).astype(np.int64)


def _refuse_small(y: Labels, groups: Groups, classes: Sequence[object] | None, folds: int) -> None:
    if not MIN_TO_TRAIN <= folds <= MAX_FOLDS:
        raise UserError(f"--folds {folds}: expected {MIN_TO_TRAIN} to {MAX_FOLDS}")
    if classes is not None and len(classes) < 2:
        only = f" ({classes[0]!r})" if len(classes) else ""
        raise UserError(
            f"the label has a single class{only} at this site; a probe needs at least two:"
            " choose another --label or --site, or trace more problems"
        )
    if classes is None and np.ptp(y) == 0:
        raise UserError(
            f"the label has a single value ({y[0]:g}) at this site, so there is nothing to"
            " predict: choose another --label or --site"
        )
    count = len(set(groups.astype(str)))
    if count < MIN_GROUPS:
        raise UserError(
            f"{count} problem groups have this label at this site; a probe needs at least"
            f" {MIN_GROUPS}: choose another --site or trace more problems"
        )


def _quarters(y: Labels) -> Ints:
    """In which quarter of the distribution is each number? [n], 0 .. 3"""
    return np.searchsorted(np.quantile(y, (0.25, 0.5, 0.75)), y, side="right").astype(np.int64)


def _chosen_parts(
    strata: Ints, groups: Groups, part: Ints, classes: Sequence[object] | None, control: bool
) -> tuple[int, int]:
    """Which part tests and which sets thresholds (-1 for none)? Those with most of each class.

    Raises UserError when no choice leaves every class to train and test on.
    """
    if classes is None:
        return 0, 1 if control else -1
    C = len(classes)
    inside = np.stack(
        [groups_by_class(strata[part == p], groups[part == p], C) for p in range(PARTS)]
    )
    everywhere = inside.sum(0)
    order = np.argsort(-inside.min(axis=1), kind="stable")
    test, held = int(order[0]), int(order[1]) if control else -1
    left = everywhere - inside[test] - (inside[held] if control else 0)
    lacking = np.minimum(inside[test] - 1, left - MIN_TO_TRAIN)
    if lacking.min() < 0:
        rarest = int(lacking.argmin())
        raise UserError(
            f"class {classes[rarest]!r} of the label occurs in {everywhere[rarest]} problem groups"
            f" at this site; each class needs at least {MIN_TO_TRAIN} to train on and 1 to test on"
            + (" (beside those that set thresholds)" if control else "")
            + ": trace more problems or choose another --label or --site"
        )
    return test, held
