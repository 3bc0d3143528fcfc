"""One site of a sweep: every estimator cross-fitted on it, beside its nulls and controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator

from probes.controls.panel import ControlFeatures
from probes.crossfit import crossfit
from probes.estimators import ESTIMATORS
from probes.fitting import estimator_name, fit_rows
from probes.intervals import Draws, Estimate
from probes.metrics import evaluate
from probes.reading import Task
from probes.weights import Features

__all__ = ["SHOWN", "Cell", "control_cells", "site_cells"]

SHOWN = {
    "binary": ("accuracy", "balanced_accuracy", "auroc"),
    "multiclass": ("accuracy", "balanced_accuracy", "auroc"),
    "number": ("r2", "mae"),
}


@dataclass(frozen=True)
class Cell:
    """What one estimator, or one control, reads at one site, out of fold on the training groups.

    `value`: the choosing statistic, averaged over folds. `metrics`: pooled over folds, with
    intervals over groups. `null`: the statistic for each permuted labelling, empty for controls and
    for estimators that are not built in. `reason`: why there is nothing.
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


def site_cells(
    site: str,
    task: Task,
    X: Features,
    estimators: Sequence[str | BaseEstimator],
    permuted: NDArray[Any] | None,
    draws: Draws,
    device: str = "cpu",
) -> Iterator[Cell]:
    """Every estimator at the site. X: the training rows [n, D]; permuted [P, n]: their labels."""
    built_in = [e for e in estimators if isinstance(e, str) and e in ESTIMATORS]
    if built_in:
        yield from _built_in(site, task, np.asarray(X), built_in, permuted, draws, device)
    for estimator in estimators:
        if estimator not in built_in:
            yield _other(site, task, X, estimator, draws)


def control_cells(
    site: str,
    task: Task,
    controls: Sequence[ControlFeatures],
    strongest: str,
    own: str,
    draws: Draws,
    device: str = "cpu",
) -> Iterator[Cell]:
    """Every control at the site, features of the training rows: one estimator each, no nulls."""
    for control in controls:
        if control.X is None:
            rows = len(task.rows.train)
            groups = len(set(task.groups[task.rows.train]))
            nan = float("nan")
            yield Cell(site, control.name, rows, groups, None, nan, {}, (), control.reason)
            continue
        name = own if control.like_probe else strongest
        if isinstance(control.X, np.ndarray) and name in ESTIMATORS:
            (cell,) = _built_in(site, task, control.X, [name], None, draws, device)
        else:
            cell = _other(site, task, control.X, name, draws)
        yield Cell(**(vars(cell) | {"name": control.name}))


def _built_in(
    site: str,
    task: Task,
    X: NDArray[np.floating],
    names: Sequence[str],
    permuted: NDArray[Any] | None,
    draws: Draws,
    device: str,
) -> list[Cell]:
    number = task.kind == "number"

    def moved(array: NDArray[Any]) -> torch.Tensor:
        kept = array.astype(np.float32) if array.dtype.kind == "f" else array
        return torch.from_numpy(np.ascontiguousarray(kept)).to(device)

    y = task.y[task.rows.train]
    found = crossfit(
        moved(X),
        moved(y),
        task.kind,
        len(task.classes or ()),
        moved(task.rows.fold),
        [ESTIMATORS[name] for name in names],
        None if permuted is None else moved(permuted),
    )
    return [
        _cell(
            site,
            name,
            task,
            None if number or ESTIMATORS[name].penalties == () else fit.penalty,
            fit.value,
            fit.scores.double().cpu().numpy(),
            draws,
            tuple(float(v) for v in fit.null.cpu()),
        )
        for name, fit in found.items()
    ]


def _other(
    site: str, task: Task, X: Features, estimator: str | BaseEstimator, draws: Draws
) -> Cell:
    rows = task.rows
    fit = fit_rows(
        X,
        task.y[rows.train],
        task.kind,
        len(task.classes or ()),
        rows.fold,
        estimator,
        task.seed,
    )
    name = estimator_name(estimator)
    return _cell(site, name, task, fit.penalty, fit.value, fit.out_of_fold, draws)


def _cell(
    site: str,
    name: str,
    task: Task,
    penalty: float | None,
    value: float,
    scores: NDArray[np.float64],
    draws: Draws,
    null: tuple[float, ...] = (),
) -> Cell:
    train = task.rows.train
    groups = task.groups[train]
    told = scores[:, 0] if task.kind != "multiclass" else softmax(scores, axis=1)
    if task.kind == "binary":
        told = expit(told)
    metrics, _ = evaluate(task.kind, task.y[train], told, groups, task.seed, draws)
    shown = {key: metrics[key] for key in SHOWN[task.kind]}
    return Cell(site, name, len(train), len(set(groups)), penalty, value, shown, null)
