"""Fit one probe on the training groups: readings out of fold, and weights from all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from nfcot_model.errors import UserError
from probes.attention import ATTENTION, PENALTIES, fit_attention
from probes.crossfit import crossfit, fit_all
from probes.estimators import ESTIMATORS, estimator_named
from probes.outside import as_weights, fit_outside, outside_named, outside_scores
from probes.statistics import statistic, validation_loss
from probes.weights import Features, Weights

__all__ = ["Fitted", "estimator_name", "fit_rows", "resolve", "some"]

Labels = NDArray[np.int64] | NDArray[np.float64]
Ints = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """A probe and what it read where it had not trained.

    `out_of_fold` [n, outputs]: log-odds, logits or numbers of the training rows, each from a fit
    without its group. `value`: the choosing statistic over folds. `weights`: the probe from all
    training rows, None where the estimator is not linear; `read` applies it either way.
    """

    estimator: str
    penalty: float | None
    out_of_fold: NDArray[np.float64]
    value: float
    weights: Weights | None
    read: Callable[[Features], Scores]


def resolve(estimator: str | BaseEstimator, kind: str, pooled: bool) -> str | BaseEstimator:
    """The estimator asked for, if it fits the task and the site.

    `pooled`: is the site `@all`, which attention pooling reads and nothing else does? Raises
    UserError otherwise, or for an unknown name.
    """
    if (estimator == ATTENTION) != pooled:
        raise UserError(
            f"--estimator {estimator_name(estimator)}: "
            + (
                "a site @all is read by attention pooling; give --estimator attention"
                if pooled
                else "attention pooling reads all thoughts of a trace; give a site such as u@all"
            )
        )
    if isinstance(estimator, str) and estimator != ATTENTION:
        if "." in estimator:
            return outside_named(estimator)
        return estimator_named(estimator, kind).name
    return estimator


def estimator_name(estimator: str | BaseEstimator) -> str:
    """How is an estimator called in tables? As it was named, or by its class and parameters."""
    if isinstance(estimator, str):
        return estimator
    return " ".join(str(estimator).split())


def some(X: Features, rows: Ints | NDArray[np.bool_]) -> Features:
    """Some of the rows, whether they are a matrix or a list of trajectories."""
    if isinstance(X, np.ndarray):
        return X[rows]
    index = np.flatnonzero(rows) if rows.dtype == bool else rows
    return [X[i] for i in index]


def fit_rows(
    X: Features,
    y: Labels,
    kind: str,
    classes: int,
    fold: Ints,
    estimator: str | BaseEstimator,
    seed: int = 0,
) -> Fitted:
    """Fit a (resolved) estimator on the rows of X with their folds.

    X [n, D] or, for attention, n trajectories; y [n]; fold [n]. Penalties are chosen by grouped
    cross-validation, inside each fold for `out_of_fold` and over all folds for the weights. (Those
    of attention pooling are chosen once over all folds, so its `value` is slightly optimistic; the
    test rows are not involved either way.)
    """
    if isinstance(estimator, str) and estimator in ESTIMATORS:
        return _fit_linear(np.asarray(X), y, kind, classes, fold, estimator)
    if estimator == ATTENTION:
        return _fit_attention(X, y, kind, classes, fold, seed)
    if isinstance(estimator, str):
        raise UserError(f"--estimator '{estimator}': unknown")
    return _fit_outside(np.asarray(X), y, kind, classes, fold, estimator)


def _fit_linear(
    X: NDArray[np.floating], y: Labels, kind: str, classes: int, fold: Ints, name: str
) -> Fitted:
    estimator = ESTIMATORS[name]
    features = torch.from_numpy(estimator.features(X))
    target = torch.from_numpy(y)
    found = crossfit(features, target, kind, classes, torch.from_numpy(fold), [estimator])[name]
    exact = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64))
    shared, fit = fit_all(exact, target, classes, estimator, found.penalty)
    mean, scale, coef, intercept = (
        a.numpy() for a in (shared.mean, shared.scale, *fit.in_features(shared))
    )
    if kind == "multiclass" and classes == 2:
        coef, intercept = np.vstack([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
    weights = Weights(mean, scale, coef, intercept)
    penalty = found.penalty if estimator.penalties else None
    scores = found.scores.numpy()
    return Fitted(name, penalty, scores, found.value, weights, weights.scores)


def _fit_attention(
    X: Features, y: Labels, kind: str, classes: int, fold: Ints, seed: int
) -> Fitted:
    def fit(penalty: float, train: NDArray[np.bool_]) -> Callable[[Features], Scores]:
        part = list(some(X, train))
        return fit_attention(part, y[train], kind, classes, penalty, seed).scores

    candidates = []
    for penalty in PENALTIES:
        scores = _out_of_fold(X, kind, classes, fold, partial(fit, penalty))
        loss = validation_loss(kind, torch.from_numpy(y), torch.from_numpy(scores)[None])
        candidates.append((float(loss[0]), penalty, scores))
    _, penalty, scores = min(candidates, key=lambda c: c[0])
    weights = fit_attention(list(X), y, kind, classes, penalty, seed)
    value = _value(kind, y, scores, fold)
    return Fitted(ATTENTION, penalty, scores, value, weights, weights.scores)


def _fit_outside(
    X: NDArray[np.floating],
    y: Labels,
    kind: str,
    classes: int,
    fold: Ints,
    estimator: BaseEstimator,
) -> Fitted:
    def fit(train: NDArray[np.bool_]) -> Callable[[Features], Scores]:
        fitted = fit_outside(estimator, X[train], y[train], kind)
        return lambda rows: outside_scores(fitted, np.asarray(rows), kind, classes)

    scores = _out_of_fold(X, kind, classes, fold, fit)
    model = fit_outside(estimator, X, y, kind)
    return Fitted(
        estimator_name(estimator),
        None,
        scores,
        _value(kind, y, scores, fold),
        as_weights(model, X, kind, classes),
        lambda rows: outside_scores(model, np.asarray(rows), kind, classes),
    )


def _out_of_fold(
    X: Features,
    kind: str,
    classes: int,
    fold: Ints,
    fit: Callable[[NDArray[np.bool_]], Callable[[Features], Scores]],
) -> NDArray[np.float64]:
    scores = np.zeros((len(fold), classes if kind == "multiclass" else 1))
    for b in range(int(fold.max()) + 1):
        scores[fold == b] = fit(fold != b)(some(X, fold == b))
    return scores


def _value(kind: str, y: Labels, scores: NDArray[np.float64], fold: Ints) -> float:
    values: Sequence[float] = [
        float(
            statistic(
                kind,
                torch.from_numpy(y[fold == b])[None],
                torch.from_numpy(scores[fold == b])[None],
            )[0]
        )
        for b in range(int(fold.max()) + 1)
    ]
    return float(np.nanmean(values))
