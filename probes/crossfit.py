"""How well is a label read on groups that a probe has not seen, with its penalty chosen inside?

Nested cross-validation on given folds. For the outer fold b, a penalty is chosen by fits that leave
out b and one other fold each and are judged on that other; a fit that leaves out {a, b} serves
both a and b, so five folds need ten such fits instead of twenty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import add

import torch
from torch import Tensor

from probes.estimators import Estimator, Start
from probes.solvers import Design, Linear, Moments, design
from probes.statistics import statistic, validation_loss

__all__ = ["Crossfit", "crossfit", "fit_all"]


@dataclass(frozen=True)
class Crossfit:
    """Out-of-fold readings of one estimator.

    `scores` [n, outputs]: logits (one for two classes) or numbers, each from a fit that saw no row
    of its group. `value`: the statistic (`probes.statistics.STATISTIC`), averaged over folds.
    `null` [P]: the same for each permuted labelling, with each fold's chosen penalty kept: it was
    chosen inside the fold's training rows and so cannot favour its test rows. `penalties`: chosen
    in each fold; `penalty`: for a fit on all rows, the best of all inner fits (NaN: no choice).
    """

    scores: Tensor
    value: float
    null: Tensor
    penalties: tuple[float, ...]
    penalty: float


@torch.inference_mode()
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
    middle, spread = _middle_and_spread(y) if kind == "number" else (0.0, 1.0)
    if kind == "number":  # in single precision few digits are left of others, or none
        y = ((y - middle) / spread).to(X)
        permuted = None if permuted is None else ((permuted - middle) / spread).to(X)
    folds = int(fold.max()) + 1
    moments = [Moments.of(X[fold == b]) for b in range(folds)]
    losses = {e.name: _inner_losses(X, y, kind, classes, fold, e, moments) for e in estimators}
    outputs = classes if kind == "multiclass" else 1
    scores = {e.name: X.new_zeros(len(X), outputs) for e in estimators}
    values: dict[str, list[Tensor]] = {e.name: [] for e in estimators}
    nulls: dict[str, list[Tensor]] = {e.name: [] for e in estimators}
    for b in range(folds):
        train, test = fold != b, fold == b
        shared = design(X[train], _without(moments, b))
        there = shared.transform(X[test])
        labellings = y[None] if permuted is None else torch.cat([y[None], permuted])
        for e in estimators:
            penalty = X.new_tensor([_best(e, losses[e.name][b])]).expand(len(labellings))
            fits = e.fit(shared, labellings[:, train], penalty, classes, None)
            told = _told(fits, there, kind)
            scores[e.name][test] = told[0]
            found = statistic(kind, labellings[:, test], told)
            values[e.name].append(found[0])
            nulls[e.name].append(found[1:])
    return {
        e.name: Crossfit(
            scores[e.name].double() * spread + middle,
            float(torch.stack(values[e.name]).nanmean()),
            torch.stack(nulls[e.name]).nanmean(0),
            tuple(_best(e, loss) for loss in losses[e.name]),
            _best(e, losses[e.name].sum(0)),
        )
        for e in estimators
    }


def _middle_and_spread(y: Tensor) -> tuple[float, float]:
    """Numbers less the first and over the second are of unit size."""
    middle = float(y.double().mean())
    return middle, float((y.double() - middle).abs().max()) or 1.0


def fit_all(
    X: Tensor, y: Tensor, classes: int, estimator: Estimator, penalty: float | None
) -> tuple[Design, Linear]:
    """One fit on all rows, in the precision of X: its design and its weights there."""
    shared = design(X)
    grid = shared.U.new_tensor([float("nan") if penalty is None else penalty])
    labels = y[None] if y.dtype == torch.int64 else y.to(shared.U)[None]
    return shared, estimator.fit(shared, labels, grid, classes, None)


def _inner_losses(
    X: Tensor,
    y: Tensor,
    kind: str,
    classes: int,
    fold: Tensor,
    estimator: Estimator,
    moments: Sequence[Moments],
) -> Tensor:
    """The loss of each penalty inside each outer fold, [folds, penalties], by fits without both.

    They start from others, which have most rows in common. What is left of the start when a fit
    stops can touch the choice of a penalty, and nothing else.
    """
    folds = int(fold.max()) + 1
    grid = X.new_tensor(estimator.penalties)
    total = X.new_zeros(folds, len(grid))
    if len(grid) < 2:
        return total
    known: dict[tuple[int, int], Start] = {}
    for a, b in combinations(range(folds), 2):
        train = (fold != a) & (fold != b)
        shared = design(X[train], _without(moments, a, b))
        start = _expected(known, a, b)
        fits = estimator.fit(shared, y[train].expand(len(grid), -1), grid, classes, start)
        known[a, b] = fits.on_features(shared)
        for outer, judged in ((b, fold == a), (a, fold == b)):
            told = _told(fits, shared.transform(X[judged]), kind)
            total[outer] += validation_loss(kind, y[judged], told).to(total)
    return total


def _expected(known: dict[tuple[int, int], Start], a: int, b: int) -> Start:
    """What will the fit without the folds a < b be, from fits without two others each?

    What a fold does to the weights adds up in first order: without {a, b} they are those without
    {a, c}, and the difference that b instead of c makes without fold 0. Before such a pair is
    known: the last fit.
    """
    for pair, found in reversed(known.items()):
        shared = {a, b} & set(pair)
        if 0 in pair or not shared or found is None:
            continue
        (old,), (new,) = set(pair) - shared, {a, b} - shared
        more, less = known[0, new], known[0, old]
        if more is not None and less is not None:
            return found[0] + more[0] - less[0], found[1] + more[1] - less[1]
    return known[next(reversed(known))] if known else None


def _without(moments: Sequence[Moments], *folds: int) -> Moments:
    """Of the rows of all other folds."""
    return reduce(add, (m for b, m in enumerate(moments) if b not in folds))


def _best(estimator: Estimator, losses: Tensor) -> float:
    """The penalty of least loss, NaN where there is none to choose."""
    return estimator.penalties[int(losses.argmin())] if estimator.penalties else float("nan")


def _told(fits: Linear, U: Tensor, kind: str) -> Tensor:
    """Scores [B, n, outputs]; a multiclass label of two classes has two logits, the first 0."""
    told = fits.scores(U)
    if kind == "multiclass" and told.shape[-1] == 1:
        return torch.cat([torch.zeros_like(told), told], -1)
    return told
