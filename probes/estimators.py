"""How can a label be read? The estimators by name, each a fit of many labellings at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nfcot_model.errors import UserError
from probes.solvers import Design, Linear, fit_discriminant, fit_logistic, fit_ridge

__all__ = ["ESTIMATORS", "Estimator", "default_estimators", "estimator_named", "strongest"]

CLASSES = ("binary", "multiclass")
# scikit-learn's C from strong to weak, and ridge's alpha likewise.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
ALPHAS = (1e4, 1e3, 1e2, 1e1, 1.0)
Start = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Estimator:
    """A linear probe. `kinds`: the tasks it is for; `penalties`: what inner folds choose among
    (strongest first), none where nothing is to be chosen; `fit` takes labellings y [B, n] with a
    penalty each, the number of classes, and fits of similar rows to start from. `precise`: fits are
    made in double precision, because nothing keeps small directions from counting in full.
    """

    name: str
    kinds: tuple[str, ...]
    penalties: tuple[float, ...]
    fit: Callable[[Design, Tensor, Tensor, int, Start], Linear]
    precise: bool = False

    def features(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """X in the precision that fits are made in."""
        return np.ascontiguousarray(X, dtype=np.float64 if self.precise else np.float32)


def _logistic(design: Design, y: Tensor, C: Tensor, classes: int, start: Start) -> Linear:
    return fit_logistic(design, y, C, classes, start=start)


def _ridge(design: Design, y: Tensor, alpha: Tensor, classes: int, start: Start) -> Linear:
    return fit_ridge(design, y, alpha)


def _discriminant(name: str, shrinkage: float | None) -> Estimator:
    def fit(design: Design, y: Tensor, penalties: Tensor, classes: int, start: Start) -> Linear:
        return fit_discriminant(design, y, classes, shrinkage)

    return Estimator(name, CLASSES, (), fit, precise=shrinkage == 0.0)


ESTIMATORS = {
    e.name: e
    for e in (
        Estimator("logistic", CLASSES, STRENGTHS, _logistic),
        _discriminant("lda", None),
        _discriminant("mass_mean", 1.0),
        _discriminant("mass_mean_whitened", 0.0),
        Estimator("ridge", ("number",), ALPHAS, _ridge),
    )
}


def default_estimators(kind: str) -> tuple[str, ...]:
    """Which estimators does a sweep try when none is named?"""
    return ("ridge",) if kind == "number" else ("logistic", "lda", "mass_mean")


def strongest(kind: str) -> str:
    """Which estimator reads most from features of unknown kind? That of the controls."""
    return "ridge" if kind == "number" else "logistic"


def estimator_named(name: str, kind: str) -> Estimator:
    """The estimator of that name; raises UserError, listing those for the task, when it is none."""
    usable = [e for e in ESTIMATORS.values() if kind in e.kinds]
    for estimator in usable:
        if estimator.name == name:
            return estimator
    names = ", ".join(e.name for e in usable)
    raise UserError(f"--estimator '{name}': for a {kind} label expected one of {names}")
