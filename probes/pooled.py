"""Several sets of traces, one split of their problem groups, and probes fitted on some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from nfcot_model.errors import UserError
from probes.reading import Reading, Task, read_rows
from probes.splits import Rows, Split, refuse_thin_folds, split_groups
from probes.weights import Features

__all__ = ["Pool", "split_parts"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows of several parts (runs, families): `part` [n] indexes `names`; the rest as Population.

    A group that is in several parts has the same role in all of them.
    """

    names: list[str]
    kind: str
    classes: list[Any] | None
    X: Features
    y: NDArray[Any]
    groups: NDArray[np.object_]
    part: NDArray[np.int64]

    @property
    def shared(self) -> int:
        """How many groups are in more than one part?"""
        return sum(len(owners) > 1 for owners in _owners(self).values())

    def read(
        self, trains: NDArray[np.bool_], rows: Rows, estimator: str | BaseEstimator, seed: int
    ) -> Reading:
        """Fit on the training rows of some parts, read the test rows of all. trains [parts]"""
        ours = trains[self.part]
        keep, held = ours[rows.train], ours[rows.control]
        own = Rows(rows.train[keep], rows.control[held], rows.test, rows.fold[keep])
        task = Task(self.kind, self.classes, self.y, self.groups, own, seed)
        return read_rows(task, self.X, estimator)


def _owners(pool: Pool) -> dict[str, set[int]]:
    """In which parts is each group?"""
    owners: dict[str, set[int]] = {}
    for group, part in zip(pool.groups.astype(str), pool.part.tolist(), strict=True):
        owners.setdefault(group, set()).add(part)
    return owners


def split_parts(pool: Pool, seed: int, folds: int) -> Split:
    """Who trains, fixes thresholds and tests in each part?

    Parts that share no group with another are split as `fit_probe` would split them alone; those
    that do are split together, so that no probe is tested on a group that trained it, whichever
    part either is from. Raises UserError naming the part when it has too few groups of a class.
    """
    fold: dict[str, int] = {}
    control: set[str] = set()
    test: set[str] = set()
    for together in _connected(pool):
        rows = np.isin(pool.part, together)
        named = " and ".join(pool.names[i] for i in together)
        binary = pool.kind == "binary"
        try:
            found = split_groups(pool.y[rows], pool.groups[rows], pool.classes, seed, folds, binary)
        except UserError as error:
            raise UserError(f"{named}: {error}") from None
        fold |= found.fold
        control |= found.control
        test |= found.test
        if len(together) > 1:
            for i in together:
                _refuse_unequal(pool, found, i)
    return Split(fold, frozenset(control), frozenset(test))


def _connected(pool: Pool) -> list[list[int]]:
    """Parts that share groups, directly or by way of others."""
    home = list(range(len(pool.names)))
    for owners in _owners(pool).values():
        joined = {home[i] for i in owners}
        home = [min(joined) if h in joined else h for h in home]
    return [[i for i, h in enumerate(home) if h == first] for first in dict.fromkeys(home)]


def _refuse_unequal(pool: Pool, split: Split, part: int) -> None:
    """Raise UserError when a split that parts share leaves one of them too little."""
    mine = pool.part == part
    y, rows = pool.y[mine], split.rows(pool.groups[mine])
    name = pool.names[part]
    if len(set(rows.fold.tolist())) < split.folds or not rows.test.size:
        raise UserError(
            f"{name}: has too few problem groups beside those of the others; trace more problems or"
            " ask for fewer folds"
        )
    if pool.classes is None:
        return
    try:
        refuse_thin_folds(y[rows.train], rows.fold, pool.classes)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
