"""How well is a label read on groups that a probe has not seen, with its penalty chosen inside?

Nested cross-validation on given folds. For the outer fold b, a penalty is chosen by fits that leave
out b and one other fold each and are judged on that other; a fit that leaves out {a, b} serves
both a and b, so five folds need ten such fits instead of twenty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from probes.estimators import Estimator
from probes.solvers import Design, Linear, design
from probes.statistics import statistic, validation_loss

__all__ = ["Crossfit", "crossfit", "fit_all"]


@dataclass(frozen=True)
class Crossfit:
    """Out-of-fold readings of one estimator.

    `scores` [n, outputs]: logits (one for two classes) or numbers, each from a fit that saw no row
    of its group. `value`: the statistic (`probes.statistics.STATISTIC`), averaged over folds.
    `null` [P]: the same for each permuted labelling, with each fold's chosen penalty kept: it was
    chosen inside the fold's training rows and so cannot favour its test rows. `penalties`: chosen
    in each fold; `penalty`: for a fit on all rows (NaN where nothing is chosen).
    """

    scores: Tensor
    value: float
    null: Tensor
    penalties: tuple[float, ...]
    penalty: float


def crossfit(
    X: Tensor,
    y: Tensor,
    kind: str,
    classes: int,
    fold: Tensor,
    estimators: Sequence[Estimator],
    permuted: Tensor | None = None,
) -> Mapping[str, Crossfit]:
    """Nested cross-validation of several estimators on the same rows.

    X [n, D]; y [n] class indices or numbers; fold [n], 0 .. F-1; permuted [P, n] labellings for the
    null. All estimators share standardisation and basis, fitted on training rows only.
    """
    middle = y.mean() if kind == "number" else y.new_zeros(())
    if kind == "number":  # in single precision, few digits are left of numbers far from nought
        y = (y - middle).to(X)
        permuted = None if permuted is None else (permuted - middle).to(X)
    folds = int(fold.max()) + 1
    chosen = {e.name: _inner(X, y, kind, classes, fold, e) for e in estimators}
    outputs = classes if kind == "multiclass" else 1
    scores = {e.name: X.new_zeros(len(X), outputs) for e in estimators}
    values: dict[str, list[Tensor]] = {e.name: [] for e in estimators}
    nulls: dict[str, list[Tensor]] = {e.name: [] for e in estimators}
    losses: dict[str, list[Tensor]] = {e.name: [] for e in estimators}
    warm: dict[str, _Warm] = {e.name: _Warm() for e in estimators}
    for b in range(folds):
        train, test = fold != b, fold == b
        shared = design(X[train])
        there = shared.transform(X[test])
        for e in estimators:
            grid = X.new_tensor(e.penalties or (torch.nan,))
            fits = warm[e.name].fit(e, shared, y[train].expand(len(grid), -1), grid, classes)
            told = _told(fits, there, kind)
            losses[e.name].append(validation_loss(kind, y[test], told))
            best = chosen[e.name][b]
            scores[e.name][test] = told[best]
            values[e.name].append(statistic(kind, y[test][None], told[best][None]))
            if permuted is not None:
                again = grid[best].expand(len(permuted))
                fits = warm[e.name].fit(e, shared, permuted[:, train], again, classes, "null")
                found = statistic(kind, permuted[:, test], _told(fits, there, kind))
                nulls[e.name].append(found)
    result = {}
    for e in estimators:
        choices = e.penalties or (float("nan"),)
        null = torch.stack(nulls[e.name]).nanmean(0) if nulls[e.name] else X.new_zeros(0)
        result[e.name] = Crossfit(
            scores[e.name].double() + middle,
            float(torch.stack(values[e.name]).nanmean()),
            null,
            tuple(choices[i] for i in chosen[e.name]),
            choices[int(torch.stack(losses[e.name]).mean(0).argmin())],
        )
    return result


def fit_all(
    X: Tensor, y: Tensor, classes: int, estimator: Estimator, penalty: float | None
) -> tuple[Design, Linear]:
    """One fit on all rows, in the precision of X: its design and its weights there."""
    shared = design(X)
    grid = shared.U.new_tensor([float("nan") if penalty is None else penalty])
    labels = y[None] if y.dtype == torch.int64 else y.to(shared.U)[None]
    return shared, estimator.fit(shared, labels, grid, classes, None)


class _Warm:
    """Fits of one fold start where those of the last one ended: they share most of their rows."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[Tensor, Tensor]] = {}

    def fit(
        self,
        estimator: Estimator,
        shared: Design,
        y: Tensor,
        penalties: Tensor,
        classes: int,
        what: str = "labels",
    ) -> Linear:
        """The fits of labellings y [B, n], started from the last ones of `what`."""
        fits = estimator.fit(shared, y, penalties, classes, self.last.get(what))
        self.last[what] = fits.on_features(shared)
        return fits


def _inner(
    X: Tensor, y: Tensor, kind: str, classes: int, fold: Tensor, estimator: Estimator
) -> list[int]:
    """Which penalty (its place in the grid) is best for each outer fold?"""
    folds = int(fold.max()) + 1
    if len(estimator.penalties) < 2:
        return [0] * folds
    grid = X.new_tensor(estimator.penalties)
    total = X.new_zeros(folds, len(grid))
    warm = _Warm()
    for a, b in combinations(range(folds), 2):
        train = (fold != a) & (fold != b)
        shared = design(X[train])
        fits = warm.fit(estimator, shared, y[train].expand(len(grid), -1), grid, classes)
        for outer, judged in ((b, fold == a), (a, fold == b)):
            told = _told(fits, shared.transform(X[judged]), kind)
            total[outer] += validation_loss(kind, y[judged], told).to(total)
    return [int(i) for i in total.argmin(1)]


def _told(fits: Linear, U: Tensor, kind: str) -> Tensor:
    """Scores [B, n, outputs]; a multiclass label of two classes has two logits, the first 0."""
    told = fits.scores(U)
    if kind == "multiclass" and told.shape[-1] == 1:
        return torch.cat([torch.zeros_like(told), told], -1)
    return told
