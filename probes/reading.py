"""Fit on the training groups, set alarms on the control groups, read the test groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from probes.calibration import Calibration, fit_calibration
from probes.features import Features
from probes.fitting import Fitted, fit_rows, some
from probes.population import Population
from probes.splits import Rows
from probes.thresholds import Thresholds, thresholds

__all__ = ["Reading", "Task", "read_rows", "task_of"]


@dataclass(frozen=True)
class Task:
    """What is asked of every feature set alike: labels, groups and who trains and tests.

    `y` [n] class indices or numbers; `groups` [n]; `rows`: their parts; `seed`: of what is random.
    """

    kind: str
    classes: list[Any] | None
    y: NDArray[Any]
    groups: NDArray[np.object_]
    rows: Rows
    seed: int

    @property
    def test_y(self) -> NDArray[Any]:
        return np.asarray(self.y[self.rows.test])

    @property
    def test_groups(self) -> NDArray[np.object_]:
        return np.asarray(self.groups[self.rows.test])


@dataclass(frozen=True)
class Reading:
    """What a fit says of the test rows.

    `test`: probabilities of the positive class [n], of each class [n, C], or numbers [n].
    `alarms`: the sorted scores of the control rows that must raise no alarm, of a binary label;
    `limits`: the thresholds they give.
    """

    fitted: Fitted
    link: Calibration | None
    test: NDArray[np.float64]
    alarms: NDArray[np.float64]
    limits: Thresholds | None

    def probabilities(self, X: Features) -> NDArray[np.float64]:
        """The same for other rows."""
        raw = self.fitted.read(X)
        return np.asarray(raw[:, 0] if self.link is None else self.link.apply(raw))


def task_of(found: Population, rows: Rows, seed: int) -> Task:
    """The task that a population sets."""
    return Task(found.kind, found.classes, found.y, found.groups, rows, seed)


def read_rows(task: Task, X: Features, estimator: str | BaseEstimator) -> Reading:
    """Fit a (resolved) estimator on the training rows of X, [n, D] or n trajectories.

    Probabilities are calibrated on the out-of-fold readings of the training rows.
    """
    rows, kind = task.rows, task.kind
    y = task.y[rows.train]
    fitted = fit_rows(
        some(X, rows.train), y, kind, len(task.classes or ()), rows.fold, estimator, task.seed
    )
    link = None if kind == "number" else fit_calibration(kind, y, fitted.out_of_fold)
    bare = Reading(fitted, link, np.zeros(0), np.zeros(0), None)
    test = bare.probabilities(some(X, rows.test))
    if kind != "binary" or not len(rows.control):
        return Reading(fitted, link, test, np.zeros(0), None)
    negative = rows.control[task.y[rows.control] == 0]
    scores = bare.probabilities(some(X, negative))
    return Reading(
        fitted, link, test, np.sort(scores), thresholds(scores, task.groups[negative])
    )
