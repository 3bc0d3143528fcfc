"""Any scikit-learn estimator as a probe, named on the command line or given in Python."""

from __future__ import annotations

import ast
from importlib import import_module

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from nfcot_model.errors import UserError
from probes.weights import Weights

__all__ = ["as_weights", "fit_outside", "outside_named", "outside_scores"]

# Readings that differ by less than this share of the largest are the same (single precision).
LINEAR = 1e-3


def outside_named(text: str) -> BaseEstimator:
    """The estimator that `module.Class` or `module.Class(name=value, ...)` names.

    Values are literals. Raises UserError for what cannot be imported, is no estimator, or has no
    such parameter.
    """
    path, bracket, rest = text.partition("(")
    module, _, name = path.rpartition(".")
    try:
        call = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("give parameters by name")
        parameters = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        kind = getattr(import_module(module), name)
        usable = isinstance(kind, type) and issubclass(kind, BaseEstimator)
        if not usable or not callable(getattr(kind, "fit", None)):
            raise TypeError("is no scikit-learn estimator")
        return kind(**parameters)
    except (ImportError, AttributeError, SyntaxError, ValueError, TypeError) as error:
        raise UserError(
            f"--estimator '{text}': cannot be made ({error}); expected a name or a scikit-learn"
            " class such as sklearn.svm.LinearSVC(C=0.1)"
        ) from None


def fit_outside(
    estimator: BaseEstimator, X: NDArray[np.floating], y: np.ndarray, kind: str
) -> Pipeline:
    """A fresh copy of the estimator behind a StandardScaler, fitted on these rows.

    Raises UserError for a classifier asked for a number or a regressor for a class, and for what
    the estimator itself refuses.
    """
    fits = is_regressor(estimator) if kind == "number" else is_classifier(estimator)
    if not fits:
        wanted = "a regressor" if kind == "number" else "a classifier"
        raise UserError(
            f"--estimator {type(estimator).__name__}: a {kind} label needs {wanted}; choose another"
        )
    if kind == "multiclass" and _in_pairs(estimator):
        raise UserError(
            f"--estimator {type(estimator).__name__}: compares classes in pairs and has no reading"
            " of each; leave out decision_function_shape='ovo'"
        )
    model = make_pipeline(StandardScaler(), clone(estimator))
    try:
        return model.fit(X, y)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--estimator {type(estimator).__name__}: {reason}") from None


def _in_pairs(estimator: BaseEstimator) -> bool:
    settings = estimator.get_params().items()
    return any(name.endswith("decision_function_shape") and v == "ovo" for name, v in settings)


def outside_scores(
    model: Pipeline, X: NDArray[np.floating], kind: str, classes: int
) -> NDArray[np.float64]:
    """Its readings as every probe's: [n, 1] log-odds or numbers, [n, C] logits."""
    if kind == "number":
        return np.asarray(model.predict(X), dtype=np.float64).reshape(-1, 1)
    known = model.classes_
    if hasattr(model, "decision_function"):
        told = np.asarray(model.decision_function(X), dtype=np.float64).reshape(len(X), -1)
        told = np.hstack([0 * told, told]) if len(known) == 2 else told
    else:
        told = np.log(np.clip(model.predict_proba(X), 1e-12, 1.0))
    scores = np.full((len(X), classes), told.min() - 10.0)
    scores[:, known] = told
    return scores[:, 1:] - scores[:, :1] if kind == "binary" else scores


def as_weights(model: Pipeline, X: NDArray[np.floating], kind: str, classes: int) -> Weights | None:
    """The same readings as plain arrays, where they are linear on the rows X; else None.

    Coefficients alone prove nothing: those of a Poisson regressor are of the logarithm, those of a
    support vector classifier of pairs of classes.
    """
    last, scaler = model[-1], model[0]
    coef, intercept = getattr(last, "coef_", None), getattr(last, "intercept_", None)
    if coef is None or intercept is None:
        return None
    coef = np.atleast_2d(np.asarray(coef, dtype=np.float64))
    intercept = np.broadcast_to(np.asarray(intercept, dtype=np.float64).ravel(), (len(coef),))
    if kind == "multiclass" and classes == 2:
        coef, intercept = np.vstack([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
    if coef.shape != (classes if kind == "multiclass" else 1, X.shape[1]):
        return None
    weights = Weights(np.asarray(scaler.mean_), np.asarray(scaler.scale_), coef, intercept)
    told = outside_scores(model, X, kind, classes)
    off = np.abs(weights.scores(X) - told).max()
    return weights if off <= LINEAR * np.abs(told).max() else None
