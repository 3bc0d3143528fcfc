"""How is a probe fitted? Linear on standardised features, as weak as the data asks for."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = ["ESTIMATOR", "class_scores", "fit_logistic"]

ESTIMATOR = "logistic"
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def fit_logistic(
    X: NDArray[np.float64], y: NDArray[np.int64], groups: NDArray[np.object_], seed: int
) -> Pipeline:
    """Which linear readout predicts y from X? X [n, D], y [n] class indices.

    Standardisation is fitted inside the pipeline; C is the best of 0.01 .. 10 by balanced accuracy
    in three inner folds that keep groups whole.
    """
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": list(STRENGTHS)},
        scoring="balanced_accuracy",
        cv=StratifiedGroupKFold(n_splits=3, shuffle=True, random_state=seed),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return search.fit(X, y, groups=groups).best_estimator_


def class_scores(model: Pipeline, X: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Which probability has each class? [n, classes], 0 for classes the model never saw."""
    scores = np.zeros((len(X), classes))
    scores[:, model.classes_] = model.predict_proba(X)
    return scores
