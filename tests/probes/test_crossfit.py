"""Nested cross-validation: what a plain loop over scikit-learn finds, on training rows alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn import metrics as sk
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.crossfit import Crossfit, crossfit, fit_all
from probes.estimators import ESTIMATORS
from probes.fitting import fit_rows
from probes.splits import deal_groups
from probes.statistics import auroc, balanced_accuracy, r2, statistic, validation_loss

KINDS = {"binary": 2, "multiclass": 3, "number": 0}
FOLDS = 4


def task(kind: str, seed: int, n: int = 240, D: int = 12) -> tuple[np.ndarray, ...]:
    """Features [n, D], labels [n] that they say something of, and folds of whole groups of two."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n // 2), 2).astype(object)
    X = rng.normal(size=(n, D)) * rng.uniform(0.1, 10, size=D) + rng.normal(size=D)
    signal = StandardScaler().fit_transform(X)[:, :3] + 0.8 * rng.normal(size=(n, 3))
    classes = KINDS[kind]
    if kind == "number":
        y = signal.sum(1) + 7
    else:
        y = signal[:, :classes].argmax(1) if classes > 2 else (signal[:, 0] > 0).astype(np.int64)
    fold = deal_groups(y if classes else np.zeros(n, dtype=np.int64), groups, FOLDS, seed)
    return X, y, fold


def nested(
    X: np.ndarray,
    y: np.ndarray,
    fold: np.ndarray,
    kind: str,
    name: str,
    permuted: np.ndarray | None = None,
) -> Crossfit:
    """`crossfit` with one estimator, in double precision."""
    found = crossfit(
        torch.from_numpy(X),
        torch.from_numpy(y),
        kind,
        KINDS[kind],
        torch.from_numpy(fold),
        [ESTIMATORS[name]],
        None if permuted is None else torch.from_numpy(permuted),
    )
    return found[name]


def model_of(name: str, penalty: float) -> BaseEstimator:
    if name == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, tol=1e-8))
    return make_pipeline(StandardScaler(), Ridge(alpha=penalty))


def told_by(model: BaseEstimator, X: np.ndarray, kind: str) -> np.ndarray:
    return model.predict(X) if kind == "number" else model.decision_function(X)


def loss_of(kind: str, y: np.ndarray, told: np.ndarray) -> float:
    if kind == "number":
        return float(sk.mean_squared_error(y, told))
    logits = told if told.ndim == 2 else np.stack([0 * told, told], 1)
    return -float(log_softmax(logits, axis=1)[np.arange(len(y)), y].mean())


def plain_loop(
    X: np.ndarray, y: np.ndarray, fold: np.ndarray, kind: str, name: str
) -> tuple[np.ndarray, tuple[float, ...], float]:
    """Out-of-fold readings, each fold's penalty and the one for all, the obvious way."""
    grid = ESTIMATORS[name].penalties
    scores: list[np.ndarray] = [np.zeros(0)] * len(y)
    chosen = []
    outer = np.zeros((FOLDS, len(grid)))
    for b in range(FOLDS):
        inner = np.zeros(len(grid))
        for i, penalty in enumerate(grid):
            for a in set(range(FOLDS)) - {b}:
                train = (fold != a) & (fold != b)
                model = model_of(name, penalty).fit(X[train], y[train])
                inner[i] += loss_of(kind, y[fold == a], told_by(model, X[fold == a], kind))
            model = model_of(name, penalty).fit(X[fold != b], y[fold != b])
            outer[b, i] = loss_of(kind, y[fold == b], told_by(model, X[fold == b], kind))
        chosen.append(grid[int(inner.argmin())])
        model = model_of(name, chosen[-1]).fit(X[fold != b], y[fold != b])
        for row, told in zip(
            np.flatnonzero(fold == b), told_by(model, X[fold == b], kind), strict=True
        ):
            scores[row] = np.atleast_1d(told)
    return np.stack(scores), tuple(chosen), grid[int(outer.mean(0).argmin())]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_plain_loop_over_scikit_learn(kind: str) -> None:
    name = "ridge" if kind == "number" else "logistic"
    X, y, fold = task(kind, seed=2)
    found = nested(X, y, fold, kind, name)
    scores, chosen, penalty = plain_loop(X, y, fold, kind, name)
    assert len(set(chosen)) > 1 or chosen[0] != ESTIMATORS[name].penalties[0]
    assert (found.penalties, found.penalty) == (chosen, penalty)
    told = found.scores.numpy()
    if kind == "multiclass":  # logits are known up to a constant
        told, scores = (z - z.mean(1, keepdims=True) for z in (told, scores))
    np.testing.assert_allclose(told, scores, atol=1e-2)
    if kind == "binary":
        assert sk.roc_auc_score(y, told[:, 0]) == pytest.approx(
            sk.roc_auc_score(y, scores[:, 0]), abs=0.005
        )
    by_fold = [_statistic(kind, y[fold == b], scores[fold == b]) for b in range(FOLDS)]
    assert found.value == pytest.approx(np.mean(by_fold), abs=0.005)
    single = fit_rows(X, y, kind, KINDS[kind], fold, name)  # in single precision
    assert single.penalty == penalty
    assert single.value == pytest.approx(found.value, abs=0.005)


def _statistic(kind: str, y: np.ndarray, scores: np.ndarray) -> float:
    if kind == "binary":
        return float(sk.roc_auc_score(y, scores[:, 0]))
    if kind == "multiclass":
        return float(sk.balanced_accuracy_score(y, scores.argmax(1)))
    return float(sk.r2_score(y, scores[:, 0]))


def test_an_estimator_without_a_penalty_is_the_plain_loop_too() -> None:
    X, y, fold = task("multiclass", seed=3)
    found = nested(X, y, fold, "multiclass", "mass_mean_whitened")
    assert np.isnan(found.penalty)
    for b in range(FOLDS):
        model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr"))
        model.fit(X[fold != b], y[fold != b])
        np.testing.assert_allclose(
            found.scores[torch.from_numpy(fold == b)].numpy(),
            model.decision_function(X[fold == b]),
            atol=1e-5,
        )


def test_several_estimators_at_once_are_each_of_them_alone() -> None:
    X, y, fold = task("binary", seed=4)
    names = ("logistic", "lda", "mass_mean")
    args = (torch.from_numpy(X), torch.from_numpy(y), "binary", 2, torch.from_numpy(fold))
    together = crossfit(*args, [ESTIMATORS[n] for n in names])
    for name in names:
        alone = nested(X, y, fold, "binary", name)
        torch.testing.assert_close(together[name].scores, alone.scores)
        assert together[name].value == alone.value


@pytest.mark.parametrize("kind", KINDS)
def test_the_null_is_the_same_fit_of_permuted_labels(kind: str) -> None:
    """With the penalties that the real labels chose; the real labels as a permutation of
    themselves give the value."""
    name = "ridge" if kind == "number" else "logistic"
    X, y, fold = task(kind, seed=5)
    rng = np.random.default_rng(0)
    permuted = np.stack([y, *(rng.permutation(y) for _ in range(20))])
    found = nested(X, y, fold, kind, name, permuted)
    assert found.null.shape == (21,)
    assert float(found.null[0]) == pytest.approx(found.value, abs=1e-4)
    chance = {"binary": 0.5, "multiclass": 1 / 3, "number": -0.05}[kind]  # fits of noise cost r2
    assert float(found.null[1:].mean()) == pytest.approx(chance, abs=0.06)
    assert found.value > float(found.null[1:].max())
    by_fold = []
    for b in range(FOLDS):
        model = model_of(name, found.penalties[b]).fit(X[fold != b], permuted[7][fold != b])
        told = told_by(model, X[fold == b], kind).reshape((fold == b).sum(), -1)
        by_fold.append(_statistic(kind, permuted[7][fold == b], told))
    assert float(found.null[7]) == pytest.approx(np.mean(by_fold), abs=0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_a_test_fold_changes_no_fit_that_leaves_it_out(kind: str) -> None:
    """An outlier of 1e6 in the features of one row and labels turned round in its fold: the other
    rows of that fold are read as before, so that neither weights nor scales have seen it."""
    name = "ridge" if kind == "number" else "logistic"
    X, y, fold = task(kind, seed=6)
    before = nested(X, y, fold, kind, name)
    row = int(np.flatnonzero(fold == 1)[0])
    others = torch.from_numpy((fold == 1) & (np.arange(len(y)) != row))
    spoilt, turned = X.copy(), y.copy()
    spoilt[row] = 1e6
    turned[fold == 1] = -y[fold == 1] if kind == "number" else (y[fold == 1] + 1) % KINDS[kind]
    after = nested(spoilt, turned, fold, kind, name)
    assert after.penalties[1] == before.penalties[1]
    torch.testing.assert_close(after.scores[others], before.scores[others], rtol=0, atol=1e-12)
    elsewhere = torch.from_numpy(fold == 2)
    assert float((after.scores - before.scores)[elsewhere].abs().max()) > 0.01


@pytest.mark.parametrize("name", ["logistic", "lda", "mass_mean", "mass_mean_whitened"])
def test_a_multiclass_label_of_which_two_classes_are_here(name: str) -> None:
    """Two logits, of which the first is 0: the readings of a binary label."""
    X, y, fold = task("binary", seed=7)
    found = {
        kind: crossfit(
            torch.from_numpy(X),
            torch.from_numpy(y),
            kind,
            2,
            torch.from_numpy(fold),
            [ESTIMATORS[name]],
        )[name]
        for kind in ("binary", "multiclass")
    }
    assert found["multiclass"].scores.shape == (len(y), 2)
    assert (found["multiclass"].scores[:, 0] == 0).all()
    torch.testing.assert_close(found["multiclass"].scores[:, 1:], found["binary"].scores)
    assert found["multiclass"].penalties == pytest.approx(found["binary"].penalties, nan_ok=True)
    fitted = fit_rows(X, y, "multiclass", 2, fold, name)
    told = fitted.read(X)
    assert fitted.out_of_fold.shape == told.shape == (len(y), 2)
    assert ((told[:, 1] > told[:, 0]) == y).mean() > 0.75


@pytest.mark.parametrize("name", ["logistic", "lda", "mass_mean", "mass_mean_whitened"])
def test_a_class_that_a_fold_has_not_seen_is_read_with_finite_logits(name: str) -> None:
    X, y, fold = task("multiclass", seed=8)
    y = np.where((y == 2) & (fold != 0), 0, y)  # class 2 is in fold 0 alone
    found = nested(X, y, fold, "multiclass", name)
    assert bool(torch.isfinite(found.scores).all())
    assert not (found.scores[torch.from_numpy(fold == 0)].argmax(1) == 2).any()
    assert np.isfinite(found.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_from_all_rows_is_scikit_learns(kind: str) -> None:
    name = "ridge" if kind == "number" else "logistic"
    X, y, fold = task(kind, seed=9)
    fitted = fit_rows(X, y, kind, KINDS[kind], fold, name)
    assert fitted.weights is not None
    assert fitted.penalty in ESTIMATORS[name].penalties
    scaler, model = model_of(name, fitted.penalty).fit(X, y)
    np.testing.assert_allclose(fitted.weights.mean, scaler.mean_)
    np.testing.assert_allclose(fitted.weights.scale, scaler.scale_)
    size = np.abs(model.coef_).max()
    np.testing.assert_allclose(fitted.weights.coef, np.atleast_2d(model.coef_), atol=1e-3 * size)
    design, fits = fit_all(
        torch.from_numpy(X), torch.from_numpy(y), KINDS[kind], ESTIMATORS[name], fitted.penalty
    )
    told = fits.scores(design.transform(torch.from_numpy(X)))[0].numpy()
    np.testing.assert_allclose(fitted.read(X), told, atol=1e-9)


def test_numbers_far_from_nought_are_read_as_well() -> None:
    X, y, fold = task("number", seed=10)
    near, far = (fit_rows(X, y + c, "number", 0, fold, "ridge") for c in (0.0, 1e7))
    assert far.value == pytest.approx(near.value, abs=1e-3)
    np.testing.assert_allclose(far.out_of_fold - 1e7, near.out_of_fold, atol=0.02)


def test_statistics_are_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=(6, 90))
    scores = rng.normal(size=(6, 90)).round(1) + 0.5 * y
    scores[5] = 0.25
    found = auroc(torch.from_numpy(y), torch.from_numpy(scores))
    wanted = [sk.roc_auc_score(*pair) for pair in zip(y, scores, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert float(found[5]) == 0.5
    y = rng.integers(4, size=(6, 90)) * rng.integers(2, size=(6, 1))  # some with one class only
    logits = rng.normal(size=(6, 90, 5))
    found = balanced_accuracy(torch.from_numpy(y), torch.from_numpy(logits))
    for b in range(6):
        recall = [(logits[b].argmax(1)[y[b] == c] == c).mean() for c in set(y[b])]
        assert float(found[b]) == pytest.approx(np.mean(recall))
        if len(set(y[b])) > 1 and set(logits[b].argmax(1)) <= set(y[b]):
            assert np.mean(recall) == pytest.approx(
                sk.balanced_accuracy_score(y[b], logits[b].argmax(1))
            )
    y = rng.normal(size=(6, 90)) + 3
    scores = y + rng.normal(size=(6, 90))
    found = r2(torch.from_numpy(y), torch.from_numpy(scores))
    wanted = [sk.r2_score(*pair) for pair in zip(y, scores, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_a_fold_that_cannot_say_is_left_out_of_the_mean() -> None:
    one = torch.zeros(1, 5, dtype=torch.int64)
    assert torch.isnan(statistic("binary", one, torch.rand(1, 5, 1))).all()
    assert torch.isnan(statistic("number", one.double(), torch.rand(1, 5, 1))).all()
    X, y, fold = task("binary", seed=11)
    y = np.where(fold == 3, 1, y)
    found = nested(X, y, fold, "binary", "mass_mean")
    by_fold = [sk.roc_auc_score(y[fold == b], found.scores[fold == b, 0]) for b in range(3)]
    assert found.value == pytest.approx(np.mean(by_fold))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_that_chooses_is_scikit_learns(kind: str) -> None:
    _, y, _ = task(kind, seed=12)
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, len(y), 3 if kind == "multiclass" else 1))
    found = validation_loss(kind, torch.from_numpy(y), torch.from_numpy(scores))
    for b in range(3):
        if kind == "number":
            wanted = sk.mean_squared_error(y, scores[b, :, 0])
        else:
            z = scores[b] if kind == "multiclass" else np.hstack([0 * scores[b], scores[b]])
            wanted = sk.log_loss(y, np.exp(log_softmax(z, axis=1)))
        assert float(found[b]) == pytest.approx(wanted)
