"""How well does a probe read its label on groups it has not seen?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from probes.intervals import Estimate, cluster_bootstrap

__all__ = [
    "accuracy_interval",
    "evaluate_predictions",
    "macro_auroc",
    "majority_predictions",
    "permute_between_groups",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def macro_auroc(y: Ints, scores: Floats) -> float:
    """How well does each class's score rank it above the rest? Mean one-vs-rest AUROC.

    y [n], scores [n, C]. Classes without a row or without a rival are left out; NaN if all are.
    """
    ranks = stats.rankdata(scores, axis=0)
    counts = np.bincount(y, minlength=scores.shape[1])
    usable = np.flatnonzero((counts > 0) & (counts < y.size))
    if usable.size == 0:
        return float("nan")
    sums = np.array([ranks[y == c, c].sum() for c in usable])
    n = counts[usable]
    return float(np.mean((sums - n * (n + 1) / 2) / (n * (y.size - n))))


def _balanced(y: Ints, hit: NDArray[np.bool_]) -> float:
    counts = np.bincount(y)
    return float(np.mean((np.bincount(y, weights=hit) / np.maximum(counts, 1))[counts > 0]))


def evaluate_predictions(
    y: Ints, scores: Floats, groups: NDArray[np.object_], seed: int, draws: int = 1000
) -> dict[str, Estimate]:
    """Accuracy, balanced accuracy and macro AUROC, with 95 % cluster-bootstrap intervals.

    y [n] class indices, scores [n, C] probabilities. When every row is right (or wrong), the far
    end of the accuracy interval is the exact binomial one over groups instead of a width of zero.
    """
    hit = scores.argmax(axis=1) == y

    def metrics(rows: Ints) -> dict[str, float]:
        return {
            "accuracy": float(hit[rows].mean()),
            "balanced_accuracy": _balanced(y[rows], hit[rows]),
            "auroc": macro_auroc(y[rows], scores[rows]),
        }

    result = cluster_bootstrap(metrics, groups, seed, draws)
    if hit.all() or not hit.any():
        result["accuracy"] = _exact(bool(hit.all()), groups)
    return result


def accuracy_interval(
    hit: NDArray[np.bool_], groups: NDArray[np.object_], seed: int, draws: int = 1000
) -> Estimate:
    """Which share of readings is right, with a 95 % interval over groups?

    hit [n], groups [n]; as the accuracy of `evaluate_predictions`. NaN throughout without a row,
    NaN ends where a single group with hits and misses says nothing of other groups.
    """
    if hit.size == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    if hit.all() or not hit.any():
        return _exact(bool(hit.all()), groups)
    if len(set(groups)) == 1:
        return Estimate(float(hit.mean()), float("nan"), float("nan"))
    found = cluster_bootstrap(
        lambda rows: {"accuracy": float(hit[rows].mean())}, groups, seed, draws
    )
    return found["accuracy"]


def _exact(right: bool, groups: NDArray[np.object_]) -> Estimate:
    """All right or all wrong: the exact binomial interval with as many trials as groups."""
    n = len(set(groups))
    bounds = stats.binomtest(n if right else 0, n).proportion_ci(method="exact")
    return Estimate(float(right), float(bounds.low), float(bounds.high))


def majority_predictions(y_train: Ints, n: int, classes: int) -> Floats:
    """What does a probe that has seen no thought predict? The commonest class, n rows. [n, C]"""
    scores = np.zeros((n, classes))
    scores[:, np.bincount(y_train, minlength=classes).argmax()] = 1.0
    return scores


def permute_between_groups(y: Ints, groups: NDArray[np.object_], seed: int) -> Ints:
    """Which labels would there be if they had nothing to do with the thoughts? [n] -> [n]

    Each group takes the labels of another one, repeated or cut to its size, so that whatever
    hangs together within a group still does.
    """
    rng = np.random.default_rng(seed)
    _, cluster = np.unique(groups.astype(str), return_inverse=True)
    members = [np.flatnonzero(cluster == g) for g in range(cluster.max() + 1)]
    result = y.copy()
    for target, donor in enumerate(rng.permutation(len(members))):
        result[members[target]] = np.resize(y[members[donor]], members[target].size)
    return result
