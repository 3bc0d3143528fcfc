"""Any scikit-learn estimator as a probe: by name, in one shape of readings, as arrays if linear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    Lasso,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from nfcot_model.errors import UserError
from probes.cells import Job, done
from probes.controls.compare import Judged
from probes.fitting import Fitted, estimator_name, fit_rows, resolve
from probes.intervals import group_draws
from probes.outside import fit_outside, outside_named, outside_scores
from probes.permutations import ALL_EQUAL
from probes.reading import Task, read_rows
from probes.splits import Rows

FOLD = np.arange(120) % 4
NOT_LINEAR = (KNeighborsClassifier, DecisionTreeClassifier, Pipeline)


def rows(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(120) % classes)
    X = rng.normal(size=(120, 5)) * [1, 10, 0.1, 3, 1] + 100
    return (X + 2 * np.eye(5)[y] * [1, 10, 0.1, 3, 1]).astype(np.float32), y


def fitted(
    estimator: BaseEstimator, X: np.ndarray, y: np.ndarray, kind: str, classes: int
) -> Fitted:
    return fit_rows(X, y, kind, classes, FOLD, estimator)


def test_an_estimator_is_named_with_its_parameters() -> None:
    found = outside_named("sklearn.svm.LinearSVC(C=0.1, class_weight={0: 2.0}, tol=1e-3)")
    assert isinstance(found, LinearSVC)
    assert (found.C, found.class_weight, found.tol) == (0.1, {0: 2.0}, 1e-3)
    for text in ("sklearn.svm.LinearSVC", "sklearn.svm.LinearSVC()"):
        assert isinstance(outside_named(text), LinearSVC)
        assert estimator_name(resolve(text, "binary", pooled=False)) == "LinearSVC()"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sklearn.nowhere.Linear", "No module named"),
        ("sklearn.svm.NoSuch", "no attribute 'NoSuch'"),
        ("sklearn.svm", "cannot be made"),
        (".svm.LinearSVC", "cannot be made"),
        ("sklearn.svm.LinearSVC(size=3)", "unexpected keyword argument 'size'"),
        ("sklearn.svm.LinearSVC(0.1)", "parameters by name"),
        ("sklearn.svm.LinearSVC(C=1).fit()", "parameters by name"),
        ("sklearn.svm.LinearSVC(C=1)(C=2)", "parameters by name"),
        ("sklearn.svm.LinearSVC(C=", "cannot be made"),
        ("sklearn.svm.LinearSVC(C=open('x'))", "malformed"),
        ("os.getcwd", "is no scikit-learn estimator"),
        ("sklearn.base.BaseEstimator", "is no scikit-learn estimator"),
    ],
)
def test_what_is_no_estimator_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        outside_named(text)
    assert str(error.value).startswith(f"--estimator '{text}': ")
    assert "\n" not in str(error.value)


def test_names_that_do_not_fit_the_task_or_the_site_are_refused() -> None:
    with pytest.raises(UserError, match=r"for a binary label expected one of logistic, lda, mass_"):
        resolve("ridge", "binary", pooled=False)
    with pytest.raises(UserError, match=r"'logistc': for a multiclass label expected one of"):
        resolve("logistc", "multiclass", pooled=False)
    with pytest.raises(UserError, match=r"a site @all is read by attention pooling"):
        resolve("logistic", "binary", pooled=True)
    with pytest.raises(UserError, match=r"give a site such as u@all"):
        resolve("attention", "binary", pooled=False)
    with pytest.raises(UserError, match=r"LinearSVC\(\): a site @all is read by attention"):
        resolve(LinearSVC(), "binary", pooled=True)


def test_regressors_for_classes_and_classifiers_for_numbers_are_refused() -> None:
    X, y = rows(2)
    with pytest.raises(UserError, match=r"Ridge: a binary label needs a classifier"):
        fit_outside(Ridge(), X, y, "binary")
    with pytest.raises(UserError, match=r"LogisticRegression: a number label needs a regressor"):
        fit_outside(LogisticRegression(), X, y.astype(float), "number")
    with pytest.raises(UserError, match=r"StandardScaler: a multiclass label needs a classifier"):
        fit_outside(StandardScaler(), X, y, "multiclass")
    with pytest.raises(UserError, match=r"LinearSVC: The 'C' parameter .* Got -1") as error:
        fit_outside(LinearSVC(C=-1), X, y, "binary")
    assert "\n" not in str(error.value)
    pairs = SVC(decision_function_shape="ovo")
    for estimator in (pairs, make_pipeline(PCA(3), pairs)):
        with pytest.raises(UserError, match="compares classes in pairs"):
            fit_outside(estimator, X, y, "multiclass")


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(C=0.3),
        LinearSVC(),
        RidgeClassifier(),
        SGDClassifier(random_state=0),
        LinearDiscriminantAnalysis(),
        SVC(kernel="linear"),
        KNeighborsClassifier(7),
        DecisionTreeClassifier(max_depth=3),
        make_pipeline(PCA(4), LogisticRegression()),
    ],
    ids=lambda e: type(e[-1] if hasattr(e, "steps") else e).__name__,
)
@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("multiclass", 2), ("multiclass", 3)])
def test_readings_decide_as_the_estimator_and_weights_read_the_same(
    estimator: BaseEstimator, kind: str, classes: int
) -> None:
    X, y = rows(classes)
    found = fitted(estimator, X, y, kind, classes)
    model = fit_outside(estimator, X, y, kind)
    told = found.read(X)
    assert told.shape == found.out_of_fold.shape == (120, 1 if kind == "binary" else classes)
    decided = (told[:, 0] > 0).astype(int) if kind == "binary" else told.argmax(1)
    assert (decided == model.predict(X)).mean() > 0.95  # ties, and SVC's votes
    assert found.value > 0.5
    assert found.penalty is None
    in_pairs = isinstance(estimator, SVC) and classes > 2  # its coefficients are of other readings
    linear = not in_pairs and not isinstance(estimator, NOT_LINEAR)
    assert (found.weights is not None) == linear
    if found.weights is not None:
        np.testing.assert_allclose(found.weights.scores(X), told, atol=1e-4 * np.abs(told).max())


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("multiclass", 2), ("multiclass", 4)])
def test_log_odds_give_the_probabilities_of_the_estimator(kind: str, classes: int) -> None:
    X, y = rows(classes)
    for estimator in (LogisticRegression(), KNeighborsClassifier(20)):
        model = fit_outside(estimator, X, y, kind)
        told = outside_scores(model, X, kind, classes)
        pair = np.hstack([0 * told, told]) if kind == "binary" else told
        np.testing.assert_allclose(softmax(pair, axis=1), model.predict_proba(X), atol=1e-6)


def test_classes_that_a_fit_has_not_seen_are_never_told() -> None:
    X, y = rows(4)
    for estimator in (LogisticRegression(), KNeighborsClassifier(5), LinearSVC()):
        for seen in ([0, 2], [0, 1, 3]):
            kept = np.isin(y, seen)
            model = fit_outside(estimator, X[kept], y[kept], "multiclass")
            told = outside_scores(model, X, "multiclass", 4)
            assert told.shape == (120, 4)
            assert set(told.argmax(1)) <= set(seen)
    for kind, shape in (("binary", (120, 1)), ("multiclass", (120, 2))):
        only = fit_outside(KNeighborsClassifier(3), X, np.zeros(120, dtype=int), kind)
        told = outside_scores(only, X, kind, 2)
        assert told.shape == shape
        assert (told[:, -1] <= -10).all()


def test_numbers_are_read_as_predicted() -> None:
    X, _ = rows(2)
    y = np.exp(0.3 * StandardScaler().fit_transform(X)[:, 0]) + 1.0
    for estimator, linear in (
        (Ridge(alpha=2.0), True),
        (Lasso(alpha=0.01), True),
        (PoissonRegressor(), False),
        (KNeighborsRegressor(), False),
    ):
        found = fitted(estimator, X, y, "number", 0)
        told = found.read(X)
        expected = make_pipeline(StandardScaler(), estimator).fit(X, y).predict(X)
        np.testing.assert_allclose(told[:, 0], expected, rtol=1e-6)
        assert (found.weights is not None) == linear
        if found.weights is not None:
            np.testing.assert_allclose(found.weights.scores(X), told, rtol=1e-4)


def test_each_fold_is_read_by_a_fresh_fit_without_it() -> None:
    X, y = rows(2)
    given = LogisticRegression()
    found = fitted(given, X, y, "binary", 2)
    for b in range(4):
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(
            X[b != FOLD], y[b != FOLD]
        )
        np.testing.assert_allclose(
            found.out_of_fold[b == FOLD, 0], model.decision_function(X[b == FOLD]), atol=1e-6
        )
    assert not hasattr(given, "coef_")


def test_a_control_that_cannot_be_learned_is_left_out_and_nothing_fails() -> None:
    """A classifier that wants two classes, and a control task of one label or of a rare one."""
    X, y = rows(2)
    groups = np.array([f"g{i}" for i in range(120)], dtype=object)
    parts = Rows(np.arange(80), np.arange(80, 100), np.arange(100, 120), FOLD[:80])
    task = Task("binary", ["no", "yes"], y, groups, parts, 0)
    equal, rare = np.zeros(120, dtype=np.int64), (np.arange(120) % 4 == 1).astype(np.int64)
    for estimator in (SVC(kernel="linear"), "lda"):
        draws = group_draws(groups[parts.test], 100, 0)
        judged = Judged(task, X, estimator, read_rows(task, X, estimator), draws)
        assert judged.other_labels("control_task", y, "").metrics["auroc"].value > 0.9
        assert judged.other_labels("control_task", equal, "").reason == ALL_EQUAL
        lone = np.where(FOLD == 1, rare, 0)  # a label of one fold alone
        outcome = judged.other_labels("control_task", lone, "")
        assert (outcome.reason is None) == (estimator == "lda")
        training = task.training()
        job = Job(
            "u@0",
            training,
            100,
            "logistic",
            "lda",
            (),
            X=X[:80],
            estimators=(estimator,),
        )
        for memory, reason in ((y, None), (equal, ALL_EQUAL)):
            (cell,), (control,) = done(replace(job, memory=memory[:80]))
            assert cell.metrics["auroc"].value > 0.9
            assert (control.name, control.reason) == ("control_task", reason)
