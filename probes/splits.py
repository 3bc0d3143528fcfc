"""Which traces train a probe, and which test it? Groups never straddle the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash

__all__ = ["INNER_FOLDS", "MIN_GROUPS", "Split", "deal_groups", "grouped_split", "groups_by_class"]

MIN_GROUPS = 12
FOLDS = 4
INNER_FOLDS = 3

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """`train`, `test`: row indices; `train_groups` sorted; `hash` names the groups on each side.

    `test_groups` [classes]: in how many held-out groups each class occurs.
    """

    train: Ints
    test: Ints
    train_groups: tuple[str, ...]
    test_groups: Ints
    hash: str


def grouped_split(
    y: Ints, groups: NDArray[np.object_], classes: Sequence[object], seed: int
) -> Split:
    """Which quarter of the groups is held out? y [n] indices into `classes`, groups [n].

    The groups of each class are spread as evenly as can be. Every class is in at least three
    groups to train on (one for each inner fold) and one to test on. Raises UserError for a single
    class, too few groups, or a class too rare for that.
    """
    if len(classes) < 2:
        only = f" ({classes[0]!r})" if len(classes) else ""
        raise UserError(
            f"the label has a single class{only} at this site; a probe needs at least two:"
            " choose another --label or --site, or trace more problems"
        )
    n_groups = len(set(groups))
    if n_groups < MIN_GROUPS:
        raise UserError(
            f"{n_groups} problem groups have this label at this site; a probe needs at least"
            f" {MIN_GROUPS}: choose another --site or trace more problems"
        )
    C = len(classes)
    fold = deal_groups(y, groups, FOLDS, seed)
    held_out = np.stack([groups_by_class(y[fold == f], groups[fold == f], C) for f in range(FOLDS)])
    everywhere = groups_by_class(y, groups, C)
    usable = (everywhere - held_out >= INNER_FOLDS).all(axis=1) & (held_out >= 1).all(axis=1)
    if not usable.any():
        rarest = int(everywhere.argmin())
        raise UserError(
            f"class {classes[rarest]!r} of the label occurs in {everywhere[rarest]} problem groups"
            f" at this site; each class needs at least {INNER_FOLDS} to train on and 1 to test on:"
            " trace more problems or choose another --label or --site"
        )
    chosen = int(np.where(usable, held_out.min(axis=1), -1).argmax())
    train, test = np.flatnonzero(fold != chosen), np.flatnonzero(fold == chosen)
    names = tuple(sorted({str(g) for g in groups[train]}))
    digest = content_hash([names, sorted({str(g) for g in groups[test]})])
    return Split(train, test, names, held_out[chosen], digest)


def deal_groups(y: Ints, groups: NDArray[np.object_], folds: int, seed: int) -> Ints:
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


def groups_by_class(y: Ints, groups: NDArray[np.object_], classes: int) -> Ints:
    """In how many groups does each class occur? [classes]"""
    return np.array([len(set(groups[y == c])) for c in range(classes)], dtype=np.int64)
