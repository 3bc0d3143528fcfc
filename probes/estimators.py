"""How is a probe fitted? Linear on standardised features, as weak as the data asks for."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from nfcot_model.errors import UserError
from probes.splits import INNER_FOLDS, deal_groups

__all__ = ["ESTIMATOR", "class_scores", "fit_logistic"]

ESTIMATOR = "logistic"
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def fit_logistic(
    X: NDArray[np.float64], y: NDArray[np.int64], groups: NDArray[np.object_], seed: int
) -> Pipeline:
    """Which linear readout predicts y from X? X [n, D], y [n] class indices.

    Standardisation is fitted inside the pipeline; C is the best of 0.01 .. 10 by balanced accuracy
    in three inner folds that keep groups whole. Raises UserError when a class is in too few groups
    to be in the training part of each; a fit that fails is an error, never a lower score.
    """
    fold = deal_groups(y, groups, INNER_FOLDS, seed)
    if any(set(y[fold != f]) != set(y) for f in range(INNER_FOLDS)):
        raise UserError(
            f"a class of the label is in too few problem groups for {INNER_FOLDS} inner folds;"
            " trace more problems or choose another --label or --site"
        )
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": list(STRENGTHS)},
        scoring="balanced_accuracy",
        cv=PredefinedSplit(fold),
        error_score="raise",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(X, y).best_estimator_


def class_scores(model: Pipeline, X: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Which probability has each class? [n, classes], 0 for classes the model never saw."""
    scores = np.zeros((len(X), classes))
    scores[:, model.classes_] = model.predict_proba(X)
    return scores
