"""Fit on the training groups, set alarms on the control groups, read the test groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator

from nfcot_model.errors import UserError
from probes.calibration import Calibration, fit_calibration
from probes.crossfit import fit_all
from probes.estimators import ESTIMATORS
from probes.fitting import Fitted, fit_rows, some
from probes.mdl import Mdl, online_code
from probes.population import Population
from probes.splits import MIN_GROUPS, Rows, refuse_thin_folds
from probes.thresholds import Thresholds, thresholds
from probes.weights import Features

__all__ = ["Reading", "Task", "code_length", "read_rows", "refuse_unreadable", "task_of"]


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

    def training(self) -> Task:
        """The same task with its training rows alone, every one in its fold."""
        train, none = self.rows.train, np.zeros(0, dtype=np.int64)
        rows = Rows(np.arange(len(train)), none, none, self.rows.fold)
        return replace(self, y=self.y[train], groups=self.groups[train], rows=rows)

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
        one = raw[:, 0] if raw.shape[1] == 1 else raw
        return np.asarray(one if self.link is None else self.link.apply(one))


def task_of(found: Population, rows: Rows, seed: int) -> Task:
    """The task that a population sets."""
    return Task(found.kind, found.classes, found.y, found.groups, rows, seed)


def refuse_unreadable(found: Population, task: Task) -> None:
    """Raise UserError when a place has too little to train, validate and test on."""
    train, fold = task.rows.train, task.rows.fold
    groups = len(set(found.groups[train]))
    if groups < MIN_GROUPS or not len(task.rows.test):
        raise UserError(
            f"{groups} training groups and {len(task.rows.test)} test traces have it; at least"
            f" {MIN_GROUPS} and 1 are needed"
        )
    y = task.y[train]
    if found.classes is None:
        if min(len(set(y[fold != b].tolist())) for b in range(int(fold.max()) + 1)) < 3:
            raise UserError("fewer than three different numbers are left to train on in a fold")
    elif len(found.classes) < 2:
        raise UserError(f"the label has a single class there ({found.classes[0]!r})")
    else:
        refuse_thin_folds(y, fold, found.classes)


def read_rows(task: Task, X: Features, estimator: str | BaseEstimator) -> Reading:
    """Fit a (resolved) estimator on the training rows of X, [n, D] or n trajectories.

    Probabilities are calibrated on the out-of-fold readings of the training rows.
    """
    rows, kind = task.rows, task.kind
    y = task.y[rows.train]
    fitted = fit_rows(
        some(X, rows.train), y, kind, len(task.classes or ()), rows.fold, estimator, task.seed
    )
    logits = fitted.out_of_fold[:, 0] if kind == "binary" else fitted.out_of_fold
    link = None if kind == "number" else fit_calibration(logits, y)
    bare = Reading(fitted, link, np.zeros(0), np.zeros(0), None)
    test = bare.probabilities(some(X, rows.test))
    if kind != "binary" or not len(rows.control):
        return Reading(fitted, link, test, np.zeros(0), None)
    negative = rows.control[task.y[rows.control] == 0]
    scores = bare.probabilities(some(X, negative))
    return Reading(fitted, link, test, np.sort(scores), thresholds(scores, task.groups[negative]))


def code_length(
    task: Task, X: Features, estimator: str | BaseEstimator, penalty: float | None, draws: int
) -> Mdl | None:
    """In how many bits can the training labels be sent, learning from X on the way?

    For classes and the built-in estimators; None for others. The penalty is the one that the probe
    chose on all training rows, which the code does not pay for.
    """
    if task.kind == "number" or not isinstance(estimator, str) or estimator not in ESTIMATORS:
        return None
    y, classes = task.y[task.rows.train], len(task.classes or ())
    features = torch.from_numpy(np.asarray(some(X, task.rows.train), dtype=np.float32))
    labels = torch.from_numpy(y)

    def told(train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
        shared, fits = fit_all(
            features[train], labels[train], classes, ESTIMATORS[estimator], penalty
        )
        z = fits.scores(shared.transform(features[test]))[0].double().numpy()
        return softmax(np.hstack([0 * z, z]) if classes == 2 else z, axis=1)

    return online_code(told, y, task.groups[task.rows.train], classes, task.seed, draws)
