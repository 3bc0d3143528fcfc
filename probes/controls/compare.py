"""What do other features, other labels and no features at all score on the same held-out rows?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.controls.panel import CONTROLS, ControlFeatures, Panel
from probes.estimators import strongest
from probes.features import gather, read_space
from probes.fitting import resolve
from probes.intervals import Draws, Estimate, percentile_interval
from probes.metrics import difference, evaluate, resampled_metrics
from probes.permutations import ALL_EQUAL, control_task, permute_between_groups
from probes.population import Population
from probes.reading import Reading, Task, read_rows
from probes.sites import parse_site, real_site, site_rows
from probes.weights import Features

__all__ = ["Control", "Judged", "controls_of"]


@dataclass(frozen=True)
class Control:
    """What does something score that should not know? The figures to read the probe's against.

    `metrics` on the same held-out rows; `difference`: the probe's less the control's, paired on the
    same resamples (of `control_task` that is the selectivity). `reason`: why there is none.
    """

    name: str
    meaning: str
    metrics: dict[str, Estimate]
    difference: dict[str, Estimate]
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        both = {"metrics": self.metrics, "difference": self.difference}
        return {
            "name": self.name,
            "meaning": self.meaning,
            **{k: {name: e.to_dict() for name, e in v.items()} for k, v in both.items()},
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Judged:
    """The probe that controls are compared with: its task, features, estimator and reading."""

    task: Task
    X: Features
    estimator: str | BaseEstimator
    reading: Reading
    draws: Draws

    def other_features(
        self, name: str, X: Features, estimator: str | BaseEstimator, meaning: str
    ) -> Control:
        """The same labels read from other features."""
        return self._compared(name, meaning, read_rows(self.task, X, estimator))

    def other_site(self, name: str, found: Population, run: Run) -> Control:
        """The same labels of the same traces read at another site, by the same estimator.

        Raises UserError when some of the traces have no such thought.
        """
        site = real_site(run, parse_site(name))
        rows = site_rows(run, site)
        kept = rows.where(np.isin(rows.trace, found.trace))
        lacking = len(found.trace) - len(kept.trace)
        if lacking:
            raise UserError(
                f"--against {name}: {lacking} of {len(found.trace)} traces at --site {found.site}"
                " have no such thought; compare sites of the same place"
            )
        X = gather(read_space(run, site), site, kept)
        estimator = resolve(self.estimator, found.kind, site.place.how == "all")
        return self.other_features(f"site {site}", X, estimator, "the same labels at another site")

    def no_features(self) -> Control:
        """The commonest class of the training rows, whatever is seen."""
        task = self.task
        counts = np.bincount(task.y[task.rows.train], minlength=len(task.classes or ()))
        share = counts / counts.sum()
        told = np.tile(share, (len(task.rows.test), 1))
        if task.kind == "binary":
            told = told[:, 1]
        blind = replace(self.reading, test=told, limits=None)
        return self._compared("majority_class", "the shares of classes in training", blind)

    def other_labels(self, name: str, y: NDArray[Any], meaning: str) -> Control:
        """Other labels read from the same features, by the same estimator.

        Left out with the reason where these labels cannot be learned, as when all are equal.
        """
        task = replace(self.task, y=y)
        if np.ptp(y[task.rows.train]) == 0:
            return Control(name, meaning, {}, {}, ALL_EQUAL)
        try:
            other = read_rows(task, self.X, self.estimator)
        except UserError as error:
            return Control(name, meaning, {}, {}, str(error))
        metrics, _ = _evaluated(task, other, self.draws)
        mine, _ = _evaluated(self.task, self.reading, self.draws)
        drawn, own = (
            resampled_metrics(t.kind, t.test_y, r.test, self.draws, r.limits)
            for t, r in ((task, other), (self.task, self.reading))
        )
        less = {
            key: percentile_interval(mine[key].value - value.value, own[key] - drawn[key])
            for key, value in metrics.items()
        }
        return Control(name, meaning, metrics, less)

    def _compared(self, name: str, meaning: str, other: Reading) -> Control:
        task = self.task
        metrics, _ = _evaluated(task, other, self.draws)
        less = difference(
            task.kind,
            task.test_y,
            self.reading.test,
            other.test,
            task.test_groups,
            task.seed,
            self.draws,
            (self.reading.limits, other.limits),
        )
        return Control(name, meaning, metrics, less)


def _evaluated(
    task: Task, reading: Reading, draws: Draws
) -> tuple[dict[str, Estimate], dict[str, str]]:
    return evaluate(
        task.kind,
        task.test_y,
        reading.test,
        task.test_groups,
        task.seed,
        draws,
        reading.limits,
        task.classes,
    )


def controls_of(
    judged: Judged, found: Population, panel: Panel, run: Run
) -> Iterator[tuple[str, Callable[[], Control]]]:
    """Every control by name, each to be computed when called."""
    best = strongest(found.kind)
    for features in (*panel.of_place(found, judged.task.rows.train), *panel.of_site(found)):
        yield features.name, _from_features(judged, features, best)
    yield "control_task", lambda: _control_task(judged, found, run)
    yield "shuffled_labels", lambda: _shuffled(judged)
    if found.kind != "number":
        yield "majority_class", judged.no_features


def _from_features(judged: Judged, features: ControlFeatures, best: str) -> Callable[[], Control]:
    name, X, meaning = features.name, features.X, CONTROLS[features.name]
    if X is None:
        return lambda: Control(name, meaning, {}, {}, features.reason)
    estimator = judged.estimator if features.like_probe else best
    return lambda: judged.other_features(name, X, estimator, meaning)


def _control_task(judged: Judged, found: Population, run: Run) -> Control:
    kinds, what = kinds_of(found, run)
    y = control_task(found.y, kinds, judged.task.seed)
    meaning = f"a random label for each {what} ({len(set(kinds))} of them); memory, not meaning"
    return judged.other_labels("control_task", y, meaning)


def kinds_of(found: Population, run: Run) -> tuple[NDArray[np.object_], str]:
    """What recurs among the rows, so that a probe could learn it by heart? [n], and what it is."""
    texts = run.thoughts["text"].iloc[found.row]
    if texts.isna().any():
        return found.groups, "problem group (nothing recurs: thoughts have no text)"
    return texts.to_numpy(dtype=object), "decoded text of the last thought read"


def _shuffled(judged: Judged) -> Control:
    y = judged.task.y.copy()
    rows = judged.task.rows
    for offset, part in enumerate((rows.train, rows.test, rows.control), start=1):
        seed = judged.task.seed + offset
        y[part] = permute_between_groups(y[part], judged.task.groups[part], seed)
    return judged.other_labels("shuffled_labels", y, "labels exchanged between problem groups")
