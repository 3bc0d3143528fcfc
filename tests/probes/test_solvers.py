"""The batched solvers: weights and rankings equal to scikit-learn's, one fit at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group, spearmanr
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from probes.solvers import Design, Linear, design, fit_discriminant, fit_logistic, fit_ridge
from probes.solvers.discriminant import ledoit_wolf_shrinkage as batched_shrinkage

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
SHRINKAGES = (1.0, 0.5, 0.0)


def planted(
    n: int, D: int, classes: int, seed: int, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unlike sizes, [n, D], whose mean depends on the class [n]."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    means = strength * rng.normal(size=(classes, D))
    mixed = rng.normal(size=(n, D)) @ (np.eye(D) + 0.5 * rng.normal(size=(D, D)))
    return (mixed + means[y]) * rng.uniform(0.1, 10, size=D) + 5 * rng.normal(size=D), y


def designed(X: np.ndarray, dtype: torch.dtype = torch.float64) -> Design:
    return design(torch.from_numpy(np.ascontiguousarray(X)).to(dtype))


def logistic(X: np.ndarray, y: np.ndarray, C: tuple[float, ...], classes: int) -> list[np.ndarray]:
    """Weights with the intercept last, [outputs, D + 1], for each C."""
    made = designed(X)
    labels = torch.from_numpy(y).expand(len(C), -1)
    fits = fit_logistic(made, labels, torch.tensor(C, dtype=torch.float64), classes, 1e-9)
    return [columns(made, fits, i) for i in range(len(C))]


def columns(made: Design, fits: Linear, index: int = 0) -> np.ndarray:
    """Intercepts of more than two outputs are only known up to a constant: their mean is 0."""
    coef, intercept = (a.double().numpy() for a in fits.in_features(made, index))
    if len(intercept) > 2:
        intercept = intercept - intercept.mean()
    return np.hstack([coef, intercept[:, None]])


def reference(X: np.ndarray, y: np.ndarray, C: float) -> np.ndarray:
    model = LogisticRegression(C=C, tol=1e-10, max_iter=20_000)
    model.fit(StandardScaler().fit_transform(X), y)
    intercept = model.intercept_ - (model.intercept_.mean() if len(model.intercept_) > 2 else 0)
    return np.hstack([model.coef_, intercept[:, None]])


def off_by(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest weight."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def decisions(X: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return StandardScaler().fit_transform(X) @ weights[:, :-1].T + weights[:, -1]


@pytest.mark.parametrize(("classes", "D"), [(2, 30), (3, 12), (10, 8)])
def test_logistic_weights_are_scikit_learns_at_every_strength(classes: int, D: int) -> None:
    X, y = planted(300, D, classes, seed=classes)
    for C, found in zip(STRENGTHS, logistic(X, y, STRENGTHS, classes), strict=True):
        expected = reference(X, y, C)
        assert off_by(found, expected) < 1e-3
        told, wanted = decisions(X, found), decisions(X, expected)
        for c in range(told.shape[1]):
            assert spearmanr(told[:, c], wanted[:, c]).statistic > 0.99999
        assert (told.argmax(1) == wanted.argmax(1)).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_more_features_than_rows(classes: int) -> None:
    X, y = planted(40, 120, classes, seed=0)
    for C, found in zip((0.01, 1.0), logistic(X, y, (0.01, 1.0), classes), strict=True):
        assert off_by(found, reference(X, y, C)) < 1e-3


@pytest.mark.parametrize("classes", [2, 4])
def test_constant_and_collinear_columns_share_the_weight(classes: int) -> None:
    X, y = planted(200, 6, classes, seed=1)
    X = np.hstack([X, X[:, :2], X[:, :1] - 3 * X[:, 1:2], np.full((200, 1), 1234.567)])
    made = designed(X)
    assert made.U.shape == (200, 6)
    (found,) = logistic(X, y, (0.1,), classes)
    assert off_by(found, reference(X, y, 0.1)) < 1e-3
    assert np.abs(found[:, -2]).max() < 1e-12
    np.testing.assert_allclose(found[:, 0], found[:, 6])


def test_a_constant_column_is_one_in_single_precision_too() -> None:
    X, _ = planted(5000, 3, 2, seed=2)
    X = np.hstack([X, np.full((5000, 1), 0.1), np.full((5000, 1), -7e5), np.zeros((5000, 1))])
    made = designed(X, torch.float32)
    assert made.U.shape == (5000, 3)
    assert made.scale[3:].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("classes", [2, 3])
def test_separable_classes_have_the_finite_weights_of_their_penalty(classes: int) -> None:
    X, y = planted(120, 5, classes, seed=3, strength=30.0)
    for C, found in zip((0.1, 100.0), logistic(X, y, (0.1, 100.0), classes), strict=True):
        expected = reference(X, y, C)
        assert off_by(found, expected) < 1e-3
        told = decisions(X, found)
        assert ((told[:, 0] > 0 if classes == 2 else told.argmax(1)) == y).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_single_precision_is_close_to_double(classes: int) -> None:
    X, y = planted(600, 20, classes, seed=4)
    labels, C = torch.from_numpy(y)[None], torch.tensor([0.1])
    found = []
    for dtype in (torch.float32, torch.float64):
        made = designed(X, dtype)
        found.append(columns(made, fit_logistic(made, labels, C, classes)))
    assert off_by(found[0], found[1]) < 5e-3
    told, wanted = (decisions(X, w)[:, 0] for w in found)
    assert spearmanr(told, wanted).statistic > 0.9999


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_batch_of_labellings_is_each_of_them_alone(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, _ = planted(150, 7, classes, seed=5)
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(classes, size=(9, 150)))
    C = torch.from_numpy(10 ** rng.uniform(-3, 1, size=9))
    made = designed(X)
    together = fit_logistic(made, y, C, classes)
    assert together.weights.shape == (7, 9, 1 if classes == 2 else classes)
    monkeypatch.setattr("probes.solvers.logistic.MOST_ELEMENTS", 4 * 150 * classes)
    in_turns = fit_logistic(made, y, C, classes)
    told = together.scores(made.U)
    torch.testing.assert_close(in_turns.scores(made.U), told, atol=1e-4, rtol=1e-4)
    for b in range(9):
        alone = fit_logistic(made, y[b : b + 1], C[b : b + 1], classes)
        torch.testing.assert_close(alone.scores(made.U)[0], told[b], atol=1e-4, rtol=1e-4)
    for shrinkage in (*SHRINKAGES, None):
        told = fit_discriminant(made, y, classes, shrinkage).scores(made.U)
        for b in range(9):
            alone = fit_discriminant(made, y[b : b + 1], classes, shrinkage)
            torch.testing.assert_close(alone.scores(made.U)[0], told[b])


def test_a_class_without_a_row_is_never_told_and_changes_no_other() -> None:
    X, y = planted(200, 6, 3, seed=6)
    y = np.where(y == 1, 3, y)  # classes 0, 2, 3 of four
    made = designed(X)
    labels = torch.from_numpy(y)[None]
    told = fit_logistic(made, labels, torch.tensor([0.1]), 4, 1e-9).scores(made.U)[0].numpy()
    assert np.isfinite(told).all()
    assert (told[:, 1] < told[:, [0, 2, 3]].min(1) - 5).all()
    kept = told[:, [0, 2, 3]]
    wanted = decisions(X, reference(X, y, 0.1))
    centred = [z - z.mean(1, keepdims=True) for z in (kept, wanted)]
    np.testing.assert_allclose(*centred, atol=2e-3 * np.abs(wanted).max())
    for shrinkage in (*SHRINKAGES, None):
        told = fit_discriminant(made, labels, 4, shrinkage).scores(made.U)[0].numpy()
        assert np.isfinite(told).all()
        assert not (told.argmax(1) == 1).any()
        if shrinkage is not None:
            scaled = StandardScaler().fit_transform(X)
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaled, y)
            np.testing.assert_allclose(
                told[:, [0, 2, 3]], model.decision_function(scaled), atol=1e-5
            )


@pytest.mark.parametrize("shrinkage", [*SHRINKAGES, None])
def test_one_class_alone_is_always_told(shrinkage: float | None) -> None:
    X, _ = planted(50, 4, 2, seed=7)
    made = designed(X)
    y = torch.zeros(1, 50, dtype=torch.int64)
    for fits in (fit_discriminant(made, y, 2, shrinkage), fit_logistic(made, y, torch.ones(1), 2)):
        told = fits.scores(made.U)[0]
        assert bool(torch.isfinite(told).all())
        assert bool((told < 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_in_which_nothing_varies_give_the_shares(dtype: torch.dtype) -> None:
    made = designed(np.full((40, 3), 2.5), dtype)
    assert made.U.shape == (40, 0)
    y = (torch.arange(40) < 10).long()[None]
    fits = [fit_discriminant(made, y, 2, s) for s in (*SHRINKAGES, None)]
    fits.append(fit_logistic(made, y, torch.ones(1), 2))
    for fit in fits:
        told = fit.scores(made.transform(torch.zeros(3, 3, dtype=dtype)))
        torch.testing.assert_close(told, torch.full((1, 3, 1), -np.log(3), dtype=dtype))
    ridge = fit_ridge(made, y.to(dtype), torch.ones(1)).scores(made.U)
    torch.testing.assert_close(ridge, torch.full((1, 40, 1), 0.25, dtype=dtype))


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_discriminants_are_scikit_learns(classes: int, shrinkage: float) -> None:
    X, y = planted(300, 9, classes, seed=8)
    keep = (y != 1) | (np.arange(300) % 3 > 0)  # shares that are not equal
    X, y = X[keep], y[keep]
    scaled = StandardScaler().fit_transform(X)
    made = designed(X)
    fits = fit_discriminant(made, torch.from_numpy(y)[None], classes, shrinkage)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaled, y)
    coef, intercept = (a.numpy() for a in fits.in_features(made))
    np.testing.assert_allclose(coef, model.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(intercept, model.intercept_, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(20, 200),
    D=st.integers(1, 60),
    classes=st.integers(2, 5),
)
def test_lda_shrinks_as_ledoit_and_wolf_do(seed: int, n: int, D: int, classes: int) -> None:
    X, y = planted(n, D, classes, seed)
    made, labels = designed(X), torch.from_numpy(y)[None]
    scaled = StandardScaler().fit_transform(X)
    means = np.stack([scaled[y == c].mean(0) for c in range(classes)])
    centred = scaled - means[y]
    expected = 0.0 if D == 1 else ledoit_wolf_shrinkage(centred)
    m = torch.from_numpy(means) @ made.basis
    rotated = torch.from_numpy(centred) @ made.basis
    found = batched_shrinkage(made, labels, m[None], (rotated.T @ rotated)[None] / n)
    if D > 1:  # of one feature, every amount gives the same covariance
        assert float(found[0]) == pytest.approx(expected, abs=1e-6)
    told = fit_discriminant(made, labels, classes, None).in_features(made)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=expected).fit(scaled, y)
    if expected > 0.01 or n > 3 * D + 3 * classes:  # else the covariance is next to singular
        np.testing.assert_allclose(told[0].numpy(), model.coef_, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(told[1].numpy(), model.intercept_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shrinkage_is_a_number_where_nothing_is_to_be_shrunk(dtype: torch.dtype) -> None:
    """One feature, and two of equal spread that do not go together: no direction stands out."""
    square = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]] * 8)
    y = torch.from_numpy(np.arange(32) // 4 % 2)[None]
    for X in (square, square[:, :1]):
        told = fit_discriminant(designed(X, dtype), y, 2, None)
        assert bool(torch.isfinite(told.weights).all())


def test_whitened_means_of_more_features_than_rows_are_finite_in_single_precision() -> None:
    """The within-class covariance is singular there, and rounding may turn it negative."""
    rng = np.random.default_rng(28)
    n, D, classes = 228, 451, 3
    spread = np.diag(np.arange(1, D + 1) ** -1.5)
    X = rng.normal(size=(n, D)) @ spread @ np.linalg.qr(rng.normal(size=(D, D)))[0]
    y = rng.integers(classes, size=(1, n))
    X += rng.normal(size=(classes, D))[y[0]]
    made = designed(X, torch.float32)
    for shrinkage in (0.0, None):
        told = fit_discriminant(made, torch.from_numpy(y), classes, shrinkage).scores(made.U)
        assert bool(torch.isfinite(told).all())


@pytest.mark.parametrize("classes", [2, 3])
def test_mass_mean_decides_for_the_nearest_mean(classes: int) -> None:
    X, y = planted(300, 8, classes, seed=9, strength=0.7)
    scaled = StandardScaler().fit_transform(X)
    made = designed(X)
    told = fit_discriminant(made, torch.from_numpy(y)[None], classes, 1.0).scores(made.U)[0].numpy()
    decided = (told[:, 0] > 0).astype(int) if classes == 2 else told.argmax(1)
    assert (decided == NearestCentroid().fit(scaled, y).predict(scaled)).all()
    assert 0.4 < (decided == y).mean() < 1  # so that equality says something


def test_ridge_is_scikit_learns_for_every_target_and_penalty() -> None:
    X, y = planted(150, 10, 5, seed=10)
    X = np.hstack([X, X[:, :1] + X[:, 1:2], np.ones((150, 1))])
    targets = np.stack([y + 40.0, X[:, 0] - 3 * X[:, 5], np.random.default_rng(0).normal(size=150)])
    alphas = (1e-3, 1.0, 1e3)
    made, scaled = designed(X), StandardScaler().fit_transform(X)
    fits = fit_ridge(made, torch.from_numpy(targets), torch.tensor(alphas, dtype=torch.float64))
    for b, alpha in enumerate(alphas):
        model = Ridge(alpha=alpha).fit(scaled, targets[b])
        found = columns(made, fits, b)[0]
        np.testing.assert_allclose(found[:-1], model.coef_, rtol=1e-6, atol=1e-8)
        assert found[-1] == pytest.approx(model.intercept_)
        told = fits.scores(made.transform(torch.from_numpy(X[:5])))[b, :, 0].numpy()
        np.testing.assert_allclose(told, model.predict(scaled[:5]), rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 4), D=st.integers(2, 8))
def test_readings_do_not_depend_on_the_units_of_the_features(
    seed: int, classes: int, D: int
) -> None:
    """Shifted, scaled and turned-round columns, in any order, give the same readings."""
    X, y = planted(80, D, classes, seed)
    rng = np.random.default_rng(seed)
    factors = 10 ** rng.uniform(-3, 3, size=D) * rng.choice([-1, 1], size=D)
    other = (X * factors + 100 * rng.normal(size=D))[:, rng.permutation(D)]
    labels = torch.from_numpy(y)[None]
    for name, told in readings(X, labels, classes).items():
        torch.testing.assert_close(
            readings(other, labels, classes)[name], told, atol=1e-3, rtol=1e-3, msg=name
        )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), D=st.integers(2, 8))
def test_readings_do_not_depend_on_the_axes(seed: int, D: int) -> None:
    """Turned features of equal spread give the same readings: penalties have no favoured axis."""
    rng = np.random.default_rng(seed)
    X, y = planted(80, D, 2, seed)
    X = X - X.mean(0)
    white = X @ np.linalg.inv(np.linalg.cholesky(X.T @ X / 80)).T
    turn = ortho_group.rvs(D, random_state=rng)
    labels = torch.from_numpy(y)[None]
    turned = readings(white @ turn, labels, 2)
    for name, told in readings(white, labels, 2).items():
        torch.testing.assert_close(turned[name], told, atol=1e-3, rtol=1e-3, msg=name)


def readings(X: np.ndarray, y: torch.Tensor, classes: int) -> dict[str, torch.Tensor]:
    made = designed(X)
    found = {f"shrinkage {s}": fit_discriminant(made, y, classes, s) for s in (*SHRINKAGES, None)}
    found["logistic"] = fit_logistic(made, y, torch.tensor([0.1]), classes)
    found["ridge"] = fit_ridge(made, y.to(made.U), torch.tensor([3.0]))
    return {name: fit.scores(made.U) for name, fit in found.items()}
