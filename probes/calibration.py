"""What probability does a probe's score mean, and how unusual is it among control scores?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve

from nfcot_model.errors import UserError
from probes.intervals import Draws, Estimate, exact_share, percentile_interval
from probes.resampling import share

__all__ = ["Bin", "Calibration", "calibration_table", "conformal_p", "fit_calibration"]

Floats = NDArray[np.float64]
# On logits of unit size: weak readings keep their order, and hardly a probability.
LEAST_SLOPE = 1e-3
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """One slope for all logits and one offset per class, the first 0: p = softmax(slope z + b).

    Binary logits z [n] count as [0, z], so that slope and offset are Platt's. The slope is always
    positive: calibrated probabilities rank rows as their logits do.
    """

    slope: float
    offsets: tuple[float, ...]

    def apply(self, logits: Floats) -> Floats:
        """Which probabilities do logits [n] (binary) or [n, C] mean? The same shape."""
        p = softmax(self.slope * _columns(logits) + np.array(self.offsets), axis=1)
        return p[:, 1] if logits.ndim == 1 else p


def fit_calibration(logits: Floats, y: Ints) -> Calibration:
    """Which slope and offsets turn logits into probabilities that come true?

    logits [n] (binary decision values) or [n, C], of rows that the probe was not fitted on (out of
    fold); y [n]. Maximum likelihood of targets (N_c + 1) / (N_c + 2) for the true class instead of
    1, the rest shared by the others, so that logits without a mistake keep a finite slope: Platt
    1999, and for more classes a temperature (Guo et al. 2017) with offsets. Raises UserError for
    logits that are not finite.
    """
    z = _columns(np.asarray(logits, dtype=np.float64))
    n, C = z.shape
    if not np.isfinite(z).all():
        raise UserError(
            f"calibration: {int((~np.isfinite(z)).any(axis=1).sum())} of {n} out-of-fold scores are"
            " not finite; look for extreme values among the probe's features"
        )
    counts = np.bincount(y, minlength=C)[y][:, None]
    right = (counts + 1) / (counts + 2)
    targets = np.where(np.arange(C) == y[:, None], right, (1 - right) / max(C - 1, 1))
    scale = float(np.abs(z - z.mean(axis=0)).mean()) or 1.0
    unit = z / scale

    def loss(free: Floats) -> tuple[float, Floats]:
        log_p = log_softmax(free[0] * unit + np.append(0.0, free[1:]), axis=1)
        missed = (np.exp(log_p) - targets) / n
        slopes = np.append((missed * unit).sum(), missed.sum(axis=0)[1:])
        return -float((targets * log_p).sum()) / n, slopes

    free = minimize(
        loss,
        np.append(1.0, np.zeros(C - 1)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(LEAST_SLOPE, None), *[(None, None)] * (C - 1)],
        options={"ftol": 1e-14, "gtol": 1e-8, "maxiter": 1000},
    ).x
    return Calibration(float(free[0]) / scale, (0.0, *(float(b) for b in free[1:])))


@dataclass(frozen=True)
class Bin:
    """Rows whose probability is above `low`, up to `high`: their mean probability, how often right.

    `predicted`, `observed`: means over the n rows of `groups` groups, with 95 % intervals over
    resamples of groups (the exact binomial one over groups where all or none came true); a single
    group with both has none.
    """

    low: float
    high: float
    n: int
    groups: int
    predicted: Estimate
    observed: Estimate


def calibration_table(
    kind: str, y: Ints, p: Floats, groups: NDArray[np.object_], draws: Draws, bins: int = 10
) -> list[Bin]:
    """Do probabilities come true? Bins of equal width, those without a row left out.

    Binary: p [n] against how often the label is class 1. Multiclass: the likeliest class's of p
    [n, C] against how often it is the label. groups [n] and their resamples.
    """
    if kind == "multiclass":
        y, p = (p.argmax(axis=1) == y).astype(np.int64), p.max(axis=1)
    if not y.size:
        return []
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.searchsorted(edges[1:-1], p)
    observed, predicted = calibration_curve(y, p, n_bins=bins, pos_label=1)
    table = []
    for i, mean, often in zip(np.unique(place), predicted, observed, strict=True):
        here = place == i
        count = len(set(groups[here]))
        told, came = (
            Estimate(float(value), np.nan, np.nan)
            if count < 2
            else percentile_interval(value, share(column, here, draws))
            for value, column in ((mean, p), (often, y.astype(np.float64)))
        )
        if often in (0.0, 1.0):
            came = exact_share(often == 1.0, groups[here])
        row = Bin(float(edges[i]), float(edges[i + 1]), int(here.sum()), count, told, came)
        table.append(row)
    return table


def conformal_p(scores: Floats, control_scores: Floats) -> Floats:
    """How often would a row of the control set score as high? (1 + #{control >= s}) / (n + 1)

    scores [m], control_scores [n] -> [m]. Of rows exchangeable with the control set at most a share
    alpha has p <= alpha (Vovk et al. 2005); the smallest possible p is 1 / (n + 1). The rows of one
    trace, or of one group, are not exchangeable with those of others: give one score per group for
    a statement about groups. A score that is not finite counts as the highest, so that none is
    lost; one in the control set is refused (UserError).
    """
    bad = int((~np.isfinite(control_scores)).sum())
    if bad:
        raise UserError(
            f"control set: {bad} of {control_scores.size} scores are not finite; leave those rows"
            " out or trace them again"
        )
    below = np.searchsorted(np.sort(control_scores), scores, side="left")
    at_least = np.where(np.isfinite(scores), control_scores.size - below, 0)
    return (1 + at_least) / (control_scores.size + 1)


def _columns(logits: Floats) -> Floats:
    return np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits
