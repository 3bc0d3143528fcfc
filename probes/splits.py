"""Which traces train a probe, and which test it? Groups never straddle the two."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash

__all__ = ["MIN_GROUPS", "Split", "grouped_split"]

MIN_GROUPS = 12
FOLDS = 4


@dataclass(frozen=True)
class Split:
    """`train`, `test`: row indices; `train_groups` sorted; `hash` names the groups on each side."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_groups: tuple[str, ...]
    hash: str


def grouped_split(
    y: NDArray[np.int64], groups: NDArray[np.object_], classes: Sequence[object], seed: int
) -> Split:
    """Which quarter of the groups is held out? y [n] indices into `classes`, groups [n].

    Stratified by class as far as groups allow; every class is on both sides. Raises UserError for
    a single class, too few groups, or a class too rare to be on both sides.
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
    for c, name in enumerate(classes):
        has = len(set(groups[y == c]))
        if has < 2:
            raise UserError(
                f"class {name!r} of the label occurs in {has} problem group at this site; it must"
                " be in training and test: trace more problems or choose another --site"
            )
    folds = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    with_all = [
        (train, test)
        for train, test in _quiet_folds(folds, y, groups)
        if np.unique(y[train]).size == np.unique(y[test]).size == len(classes)
    ]
    if not with_all:
        counts = np.bincount(y)
        rarest = int(counts.argmin())
        raise UserError(
            f"no grouped split has every class on both sides; the rarest, {classes[rarest]!r}, has"
            f" {counts[rarest]} traces: trace more problems or choose another --site"
        )
    train, test = with_all[0]
    names = tuple(sorted({str(g) for g in groups[train]}))
    return Split(train, test, names, content_hash([names, sorted({str(g) for g in groups[test]})]))


def _quiet_folds(
    folds: StratifiedGroupKFold, y: NDArray[np.int64], groups: NDArray[np.object_]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The folds, without the warning about classes rarer than folds: they are checked after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(folds.split(np.zeros((y.size, 1)), y, groups))
