"""Any scikit-learn estimator as a probe, named on the command line or given in Python."""

from __future__ import annotations

import ast
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from nfcot_model.errors import UserError
from probes.weights import Weights

__all__ = ["as_weights", "fit_outside", "outside_named", "outside_scores"]


def outside_named(text: str) -> BaseEstimator:
    """The estimator that `module.Class` or `module.Class(name=value, ...)` names.

    Values are literals. Raises UserError for what cannot be imported, is no estimator, or has no
    such parameter.
    """
    path, bracket, rest = text.partition("(")
    module, _, name = path.rpartition(".")
    try:
        call = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("give parameters by name")
        parameters = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        found = getattr(import_module(module), name)(**parameters)
    except (ImportError, AttributeError, SyntaxError, ValueError, TypeError) as error:
        raise UserError(
            f"--estimator '{text}': cannot be made ({error}); expected a name or a scikit-learn"
            " class such as sklearn.svm.LinearSVC(C=0.1)"
        ) from None
    if not isinstance(found, BaseEstimator) or not hasattr(found, "fit"):
        raise UserError(f"--estimator '{text}': is no scikit-learn estimator")
    return found


def fit_outside(
    estimator: BaseEstimator, X: NDArray[np.floating], y: np.ndarray, kind: str
) -> Pipeline:
    """A fresh copy of the estimator behind a StandardScaler, fitted on these rows.

    Raises UserError for a classifier asked for a number or a regressor for a class.
    """
    fits = is_regressor(estimator) if kind == "number" else is_classifier(estimator)
    if not fits:
        wanted = "a regressor" if kind == "number" else "a classifier"
        raise UserError(
            f"--estimator {type(estimator).__name__}: a {kind} label needs {wanted}; choose another"
        )
    model = make_pipeline(StandardScaler(), clone(estimator))
    try:
        return model.fit(X, y)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--estimator {type(estimator).__name__}: {reason}") from None


def outside_scores(
    model: Pipeline, X: NDArray[np.floating], kind: str, classes: int
) -> NDArray[np.float64]:
    """Its readings as every probe's: [n, 1] log-odds or numbers, [n, C] logits."""
    if kind == "number":
        return np.asarray(model.predict(X), dtype=np.float64).reshape(-1, 1)
    if hasattr(model, "decision_function"):
        told = np.asarray(model.decision_function(X), dtype=np.float64)
        told = told[:, None] if told.ndim == 1 else told
    else:
        p = np.log(np.clip(model.predict_proba(X), 1e-12, 1.0))
        told = p[:, 1:] - p[:, :1] if p.shape[1] == 2 else p
    known = model.classes_
    if kind == "binary" and len(known) == 2:
        return told
    scores = np.full((len(X), classes), told.min() - 10.0)
    scores[:, known] = told if len(known) > 2 else np.hstack([-told, told])
    return scores


def as_weights(model: Pipeline, kind: str, classes: int) -> Weights | None:
    """The same readings as plain arrays, where the estimator is linear; else None."""
    last: Any = model[-1]
    coef, intercept = getattr(last, "coef_", None), getattr(last, "intercept_", None)
    outputs = classes if kind == "multiclass" else 1
    if coef is None or intercept is None:
        return None
    coef = np.atleast_2d(np.asarray(coef, dtype=np.float64))
    intercept = np.broadcast_to(np.asarray(intercept, dtype=np.float64).ravel(), (len(coef),))
    if coef.shape[0] != outputs:
        return None
    scaler = model[0]
    return Weights(np.asarray(scaler.mean_), np.asarray(scaler.scale_), coef, np.array(intercept))
