"""One site of a sweep: every estimator cross-fitted on it, beside its nulls and controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator

from probes.controls.panel import ControlFeatures
from probes.crossfit import Crossfit, crossfit
from probes.estimators import ESTIMATORS
from probes.fitting import estimator_name, fit_rows
from probes.intervals import Estimate, exact_share, group_draws, percentile_interval
from probes.metrics import CLASS_MEANS, nanmean, resampled_metrics, withheld_metrics
from probes.permutations import ALL_EQUAL
from probes.reading import Task
from probes.weights import Features

__all__ = ["SHOWN", "Cell", "Job", "done"]

SHOWN = {
    "binary": ("accuracy", "balanced_accuracy", "auroc"),
    "multiclass": ("accuracy", "balanced_accuracy", "auroc"),
    "number": ("r2", "mae"),
}


@dataclass(frozen=True)
class Cell:
    """What one estimator, or one control, reads at one site, out of fold on the training groups.

    `value`: the choosing statistic, averaged over folds. `metrics`: averaged over folds too, with
    intervals over groups. `null`: the statistic for each permuted labelling, empty for controls and
    for estimators that are not built in. `reason`: why there is nothing; `no_interval`: why means
    over classes have no interval.
    """

    site: str
    name: str
    n: int
    groups: int
    penalty: float | None
    value: float
    metrics: dict[str, Estimate]
    null: tuple[float, ...] = ()
    reason: str | None = None
    no_interval: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"metrics": {k: e.to_dict() for k, e in self.metrics.items()}}

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> Cell:
        """The cell that `to_dict` wrote."""
        numbers = {
            name: Estimate(*(float("nan") if v is None else v for v in e.values()))
            for name, e in plain["metrics"].items()
        }
        value = float("nan") if plain["value"] is None else plain["value"]
        return Cell(**(plain | {"metrics": numbers, "null": tuple(plain["null"]), "value": value}))


@dataclass(frozen=True)
class Job:
    """One unit of a sweep, complete in itself, so that it can be done in any process.

    `X`: what stands at the site, rows of training only as everything here; None for a unit of
    controls alone. `permuted` [P, n]: labellings for the null. `controls`: what is read instead;
    `memory` [n]: the labels of the control task, read from X. `own`: the estimator of controls that
    are like the probe, `strongest` that of the others.
    """

    name: str
    task: Task
    draws: int
    strongest: str
    own: str
    controls: tuple[ControlFeatures, ...]
    X: Features | None = None
    estimators: tuple[str | BaseEstimator, ...] = ()
    permuted: NDArray[Any] | None = None
    memory: NDArray[Any] | None = None
    device: str = "cpu"


def done(job: Job) -> tuple[list[Cell], list[Cell]]:
    """Do the job: the cells of its estimators, and those of its controls."""
    cells: list[Cell] = []
    controls = [_control(job, control) for control in job.controls]
    if job.X is not None:
        cells = [*_estimated(job, job.X)]
        if job.memory is not None:
            task = replace(job.task, y=job.memory)
            told = ControlFeatures("control_task", job.X, like_probe=True)
            if np.ptp(job.memory) == 0:
                told = replace(told, X=None, reason=ALL_EQUAL)
            controls.append(_control(replace(job, task=task), told))
    return cells, controls


def _estimated(job: Job, X: Features) -> Iterator[Cell]:
    """Every estimator at the site."""
    built_in = [e for e in job.estimators if isinstance(e, str) and e in ESTIMATORS]
    if built_in:
        yield from _built_in(job, np.asarray(X), built_in, job.permuted)
    for estimator in job.estimators:
        if estimator not in built_in:
            yield _other(job, X, estimator)


def _control(job: Job, control: ControlFeatures) -> Cell:
    """One control, cross-fitted with one estimator; no null."""
    if control.X is None:
        groups, nan = job.task.groups, float("nan")
        n, count = len(groups), len(set(groups))
        return Cell(job.name, control.name, n, count, None, nan, {}, (), control.reason)
    name = job.own if control.like_probe else job.strongest
    if isinstance(control.X, np.ndarray) and name in ESTIMATORS:
        (cell,) = _built_in(job, control.X, [name], None)
    else:
        cell = _other(job, control.X, name)
    return replace(cell, name=control.name)


def _built_in(
    job: Job, X: NDArray[np.floating], names: Sequence[str], permuted: NDArray[Any] | None
) -> list[Cell]:
    task = job.task

    def moved(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(job.device)

    found: dict[str, Crossfit] = {}
    for precise in {ESTIMATORS[name].precise for name in names}:
        alike = [ESTIMATORS[name] for name in names if ESTIMATORS[name].precise == precise]
        found |= crossfit(
            moved(alike[0].features(X)),
            moved(task.y),
            task.kind,
            len(task.classes or ()),
            moved(task.rows.fold),
            alike,
            None if permuted is None else moved(permuted),
        )
    return [
        _cell(
            job,
            name,
            fit.penalty if ESTIMATORS[name].penalties else None,
            fit.value,
            fit.scores.cpu().numpy(),
            tuple(float(v) for v in fit.null.cpu()),
        )
        for name, fit in ((name, found[name]) for name in names)
    ]


def _other(job: Job, X: Features, estimator: str | BaseEstimator) -> Cell:
    task = job.task
    classes = len(task.classes or ())
    fit = fit_rows(X, task.y, task.kind, classes, task.rows.fold, estimator, task.seed)
    return _cell(job, estimator_name(estimator), fit.penalty, fit.value, fit.out_of_fold)


def _cell(
    job: Job,
    name: str,
    penalty: float | None,
    value: float,
    scores: NDArray[np.float64],
    null: tuple[float, ...] = (),
) -> Cell:
    task = job.task
    told = scores[:, 0] if task.kind != "multiclass" else softmax(scores, axis=1)
    if task.kind == "binary":
        told = expit(told)
    metrics = _over_folds(task, told, job.draws)
    alone = _alone(task)
    shown = {key: metrics[key] for key in SHOWN[task.kind]}
    count = len(set(task.groups))
    why = None if alone is None else f"a fold has class {alone!r} in a single group"
    return Cell(job.name, name, len(task.y), count, penalty, value, shown, null, no_interval=why)


def _alone(task: Task) -> object | None:
    """A class that a fold has in a single group, if there is one."""
    if task.classes is None:
        return None
    for b in range(int(task.rows.fold.max()) + 1):
        here = task.rows.fold == b
        for c in np.unique(task.y[here]):
            if len(set(task.groups[here][task.y[here] == c])) == 1:
                return task.classes[int(c)]
    return None


def _over_folds(task: Task, told: NDArray[np.float64], draws: int) -> dict[str, Estimate]:
    """Metrics averaged over folds, with intervals over resamples of the groups of each.

    The first of the resamples is the sample itself: its metrics are those of scikit-learn (the
    tests hold both together), without its cost for each of hundreds of cells.

    Readings of different folds are not ranked among each other: a fold with few rows of a class
    leaves many to train on, so weak probes would rank below chance if they were. Where a fold has a
    class in a single group, no resample says how another group of it would be read: means over
    classes have no interval then.
    """
    values, drawn, alone = [], [], _alone(task) is not None
    for b in range(int(task.rows.fold.max()) + 1):
        here = task.rows.fold == b
        y, scores, groups = task.y[here], told[here], task.groups[here]
        resamples = group_draws(groups, draws, task.seed + b)
        times = np.vstack([np.ones_like(resamples.times[:1]), resamples.times])
        found = resampled_metrics(task.kind, y, scores, replace(resamples, times=times))
        values.append({name: float(sample[0]) for name, sample in found.items()})
        drawn.append({name: sample[1:] for name, sample in found.items()})
    withheld = withheld_metrics(task.kind, task.y, told, task.groups)
    out = {}
    for name in SHOWN[task.kind]:
        value = float(np.nanmean([fold[name] for fold in values]))
        if name in withheld:
            out[name] = Estimate(float("nan"), float("nan"), float("nan"))
        elif alone and name in CLASS_MEANS:
            out[name] = Estimate(value, float("nan"), float("nan"))
        elif name == "accuracy" and value in (0.0, 1.0):
            out[name] = exact_share(value == 1.0, task.groups)
        else:
            out[name] = percentile_interval(value, nanmean([d[name] for d in drawn], draws))
    return out
