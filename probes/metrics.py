"""How well does a probe read its label, and how sure is that figure?

Point values are scikit-learn's. Their resamples over groups are computed for all draws at once
(probes.resampling), and equal scikit-learn's with a draw's multiplicities as sample weights.

y: class indices [n] (binary, multiclass) or numbers [n]. scores: probability of class 1 [n]
(binary), probabilities [n, C] (multiclass) or predicted numbers [n].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from nfcot_model.errors import UserError
from probes.intervals import Draws, Estimate, exact_share, group_draws, percentile_interval
from probes.resampling import resampled_numbers, resampled_ranks, resampled_shares, share
from probes.thresholds import RATES, Thresholds, recall_name

__all__ = [
    "CLASS_MEANS",
    "FALSE_ALARMS",
    "METRICS",
    "MIN_CLASS_GROUPS",
    "difference",
    "evaluate",
    "nanmean",
    "point_metrics",
    "resampled_metrics",
    "withheld_metrics",
]

RECALLS = tuple(recall_name(rate) for rate in RATES)
# recall_at_1pct -> fpr_at_1pct: what the threshold of that recall lets through here
FALSE_ALARMS = {name: name.replace("recall", "fpr") for name in RECALLS}
# those in which a class of few groups weighs as much as any other
CLASS_MEANS = ("balanced_accuracy", "auroc", "average_precision")
ROW_MEANS = ("brier", "log_loss")
METRICS = {
    "binary": ("accuracy", *CLASS_MEANS, *ROW_MEANS, *RECALLS),
    "multiclass": ("accuracy", *CLASS_MEANS, *ROW_MEANS),
    "number": ("r2", "mae"),
}
MIN_CLASS_GROUPS = 5

Floats = NDArray[np.float64]
Labels = NDArray[Any]
Groups = NDArray[np.object_]


def point_metrics(
    kind: str, y: Labels, scores: Floats, thresholds: Thresholds | None = None
) -> dict[str, float]:
    """How well do the scores read y? The METRICS of that kind, from scikit-learn.

    Binary also has the realised false-positive rate beside each recall (FALSE_ALARMS); both are NaN
    without a threshold. The class predicted is the likeliest, the first of equals. Multiclass AUROC
    and average precision are means one-vs-rest over classes that have a row and a rival. NaN where
    there is nothing to compare: no row, a single class, a single value. Raises UserError for scores
    that are not finite.
    """
    scores = _checked(kind, y, scores)
    if not y.size:
        return dict.fromkeys(_names(kind), math.nan)
    if kind == "number":
        r2 = sk.r2_score(y, scores) if np.ptp(y) > 0 else math.nan
        return {"r2": float(r2), "mae": float(sk.mean_absolute_error(y, scores))}
    p = _columns(kind, scores)
    predicted, labels, present = p.argmax(axis=1), np.arange(p.shape[1]), np.unique(y)
    ranked = _ranked_classes(kind, y)
    out = {
        "accuracy": sk.accuracy_score(y, predicted),
        "balanced_accuracy": sk.recall_score(y, predicted, labels=present, average="macro"),
        "auroc": _mean([sk.roc_auc_score(y == c, p[:, c]) for c in ranked]),
        "average_precision": _mean([sk.average_precision_score(y == c, p[:, c]) for c in ranked]),
        "brier": sk.brier_score_loss(y, scores, labels=labels),
        "log_loss": sk.log_loss(y, p, labels=labels),
    }
    for recall, limit in _limits(kind, thresholds).items():
        known = not math.isnan(limit)
        caught, quiet = (
            sk.recall_score(y, scores > limit, pos_label=c) if known and c in present else math.nan
            for c in (1, 0)
        )
        out |= {recall: caught, FALSE_ALARMS[recall]: 1 - quiet}
    return {name: float(value) for name, value in out.items()}


def resampled_metrics(
    kind: str, y: Labels, scores: Floats, draws: Draws, thresholds: Thresholds | None = None
) -> dict[str, Floats]:
    """What is each of the `point_metrics` in each resample of groups? name -> [B]

    NaN in draws where the metric has no value. Raises UserError for scores that are not finite.
    """
    scores = _checked(kind, y, scores)
    if kind == "number":
        return resampled_numbers(y, scores, draws)
    p = _columns(kind, scores)
    out = resampled_shares(y, p, draws)
    if kind == "binary":
        out["brier"] /= 2
    ranks = [resampled_ranks(y == c, p[:, c], draws) for c in _ranked_classes(kind, y)]
    for name, which in (("auroc", 0), ("average_precision", 1)):
        out[name] = nanmean([found[which] for found in ranks], len(draws.times))
    for recall, limit in _limits(kind, thresholds).items():
        alarm = np.full(y.size, math.nan) if math.isnan(limit) else scores > limit
        out[recall] = share(alarm, y == 1, draws)
        out[FALSE_ALARMS[recall]] = share(alarm, y == 0, draws)
    return {name: out[name] for name in _names(kind)}


def evaluate(
    kind: str,
    y: Labels,
    scores: Floats,
    groups: Groups,
    seed: int,
    draws: int | Draws = 1000,
    thresholds: Thresholds | None = None,
    classes: Sequence[object] | None = None,
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """How well do the scores read y on these groups, and which metrics are withheld, and why?

    groups [n]; `draws`: how many resamples, or the resamples; `classes`: names for the reasons.
    95 % percentile intervals over resamples of whole groups, exact binomial ones over groups for a
    share (accuracy, recall, false-positive rate) of one or zero. A width of zero of another metric
    means that no resample contained a mistake, not that there can be none. A single group has no
    interval, that of a few groups is too narrow. The uncertainty of training and of the thresholds
    is not included.
    """
    values = point_metrics(kind, y, scores, thresholds)
    withheld = withheld_metrics(kind, y, scores, groups, thresholds, classes)
    resamples = draws if isinstance(draws, Draws) else group_draws(groups, draws, seed)
    drawn = _drawn(kind, y, scores, resamples, thresholds)
    of = {"accuracy": np.ones(y.size, dtype=bool)}
    for recall in RECALLS if kind == "binary" else ():
        of |= {recall: y == 1, FALSE_ALARMS[recall]: y == 0}
    out = {}
    for name, value in values.items():
        if name in withheld:
            out[name] = Estimate(math.nan, math.nan, math.nan)
        elif name in of and value in (0.0, 1.0):
            out[name] = exact_share(value == 1.0, groups[of[name]])
        else:
            out[name] = percentile_interval(value, drawn[name])
    return out, withheld


def difference(
    kind: str,
    y: Labels,
    a: Floats,
    b: Floats,
    groups: Groups,
    seed: int,
    draws: int | Draws = 1000,
    thresholds: tuple[Thresholds | None, Thresholds | None] = (None, None),
) -> dict[str, Estimate]:
    """By how much does probe a read better than probe b on the same rows?

    Each metric of a minus that of b, with the 95 % percentile interval over resamples of groups
    that both share, so that what makes a group hard for both cancels. `thresholds`: of a, of b.
    NaN where the metric is withheld for either. Says nothing of other trainings of a or b.
    """
    resamples = draws if isinstance(draws, Draws) else group_draws(groups, draws, seed)
    sides = list(zip((a, b), thresholds, strict=True))
    value_a, value_b = (point_metrics(kind, y, scores, limits) for scores, limits in sides)
    drawn_a, drawn_b = (_drawn(kind, y, scores, resamples, limits) for scores, limits in sides)
    out = {
        name: percentile_interval(value_a[name] - value_b[name], drawn_a[name] - drawn_b[name])
        for name in value_a
    }
    for scores, limits in sides:
        for name in withheld_metrics(kind, y, scores, groups, limits):
            out[name] = Estimate(math.nan, math.nan, math.nan)
    return out


def withheld_metrics(
    kind: str,
    y: Labels,
    scores: Floats,
    groups: Groups,
    thresholds: Thresholds | None = None,
    classes: Sequence[object] | None = None,
) -> dict[str, str]:
    """Which metrics have no value, and why? name -> reason

    Means over classes when one is in fewer than MIN_CLASS_GROUPS groups, rates of a class in so
    few, recalls without a threshold, and R² of numbers that do not differ.
    """
    if kind == "number":
        alone = y.size == 0 or np.ptp(y) == 0
        return {"r2": "the numbers of all held-out rows are equal"} if alone else {}
    C = _columns(kind, scores).shape[1]
    names = list(range(C)) if classes is None else list(classes)
    counts = [len(set(groups[y == c])) for c in range(C)]
    reasons = {
        c: f"class {names[c]!r} is in {count} held-out groups, at least {MIN_CLASS_GROUPS} are"
        " needed: trace more problems"
        for c, count in enumerate(counts)
        if count < MIN_CLASS_GROUPS
    }
    out = dict.fromkeys(CLASS_MEANS, reasons[int(np.argmin(counts))]) if reasons else {}
    for recall, limit in _limits(kind, thresholds).items():
        for name, c in ((recall, 1), (FALSE_ALARMS[recall], 0)):
            if math.isnan(limit):
                given = thresholds.reasons if thresholds else {}
                out[name] = given.get(recall, "no control set fixes a threshold")
            elif c in reasons:
                out[name] = reasons[c]
    return out


def _names(kind: str) -> list[str]:
    return [*METRICS[kind], *(FALSE_ALARMS.values() if kind == "binary" else ())]


def _limits(kind: str, thresholds: Thresholds | None) -> dict[str, float]:
    if kind != "binary":
        return {}
    return {r: thresholds.values.get(r, math.nan) if thresholds else math.nan for r in RECALLS}


def _checked(kind: str, y: Labels, scores: Floats) -> Floats:
    if kind not in METRICS:
        raise ValueError(f"kind '{kind}', expected one of {', '.join(METRICS)}")
    if len(scores) != y.size or scores.ndim != (2 if kind == "multiclass" else 1):
        raise ValueError(f"scores of shape {scores.shape} for {y.size} {kind} labels")
    bad = np.argwhere(~np.isfinite(scores))
    if bad.size:
        raise UserError(
            f"scores: row {bad[0, 0]} of {y.size} is not finite; look for extreme values among the"
            " probe's features"
        )
    scores = np.asarray(scores, dtype=np.float64)
    if kind == "number" or not y.size:
        return scores
    p = _columns(kind, scores)
    if p.min() < 0 or not np.allclose(p.sum(axis=1), 1, atol=1e-4):
        raise ValueError(f"{kind} scores are not probabilities")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"class indices {y.min()} to {y.max()} for {p.shape[1]} classes")
    return p / p.sum(axis=1, keepdims=True) if kind == "multiclass" else scores


def _columns(kind: str, scores: Floats) -> Floats:
    return np.stack([1 - scores, scores], axis=1) if kind == "binary" else scores


def _ranked_classes(kind: str, y: Labels) -> list[int]:
    """Classes with a row and a rival; of two, ranking the second is ranking both."""
    present = [int(c) for c in np.unique(y)]
    if len(present) < 2:
        return []
    return [1] if kind == "binary" else present


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def nanmean(values: list[Floats], draws: int) -> Floats:
    known = [~np.isnan(v) for v in values]
    total = np.sum([np.where(k, v, 0.0) for k, v in zip(known, values, strict=True)], axis=0)
    with np.errstate(invalid="ignore"):
        return np.broadcast_to(total / np.sum(known, axis=0), draws).astype(np.float64)


def _drawn(
    kind: str, y: Labels, scores: Floats, draws: Draws, thresholds: Thresholds | None
) -> dict[str, Floats]:
    if draws.times.shape[1] < 2:
        return dict.fromkeys(_names(kind), np.full(len(draws.times), math.nan))
    return resampled_metrics(kind, y, scores, draws, thresholds)
