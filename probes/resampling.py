"""What is a metric in each resample of groups, for all resamples at once?

Equal to scikit-learn's metric with the multiplicities of a resample as sample weights, without a
loop over resamples: shares and means come from sums per group, ranks from one sort and cumulative
weights. NaN where a resample leaves nothing to compare.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from probes.intervals import Draws

__all__ = ["resampled_numbers", "resampled_ranks", "resampled_shares", "share"]

CELLS = 2**17  # thresholds times resamples held at once: they stay in the cache

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def share(hit: Floats | Bools, among: Bools, draws: Draws) -> Floats:
    """Which weighted mean has a column among some rows? hit [n], among [n] -> [B]"""
    with np.errstate(invalid="ignore"):
        return draws.sums(np.where(among, hit, 0.0)) / draws.sums(among.astype(np.float64))


def resampled_shares(y: NDArray[np.int64], p: Floats, draws: Draws) -> dict[str, Floats]:
    """Accuracy, balanced accuracy, Brier score and log-loss of probabilities p [n, C]. [B] each

    The Brier score is summed over classes; of two classes it is twice the usual one.
    """
    everywhere = np.ones(y.size, dtype=bool)
    hit = p.argmax(axis=1) == y
    truth = np.zeros_like(p)
    truth[np.arange(y.size), y] = 1.0
    tiny = np.finfo(p.dtype).eps
    surprise = -np.log(np.clip(p[np.arange(y.size), y], tiny, 1 - tiny))
    recalls = np.array([share(hit, y == c, draws) for c in np.unique(y)])
    known = ~np.isnan(recalls)
    with np.errstate(invalid="ignore"):
        balanced = np.where(known, recalls, 0.0).sum(axis=0) / known.sum(axis=0)
    return {
        "accuracy": share(hit, everywhere, draws),
        "balanced_accuracy": balanced,
        "brier": share(((p - truth) ** 2).sum(axis=1), everywhere, draws),
        "log_loss": share(surprise, everywhere, draws),
    }


def resampled_numbers(y: Floats, predicted: Floats, draws: Draws) -> dict[str, Floats]:
    """R² and mean absolute error of predicted numbers [n]. [B] each"""
    everywhere = np.ones(y.size, dtype=bool)
    centred = y - y.mean() if y.size else y
    spread = share(centred**2, everywhere, draws) - share(centred, everywhere, draws) ** 2
    missed = share((y - predicted) ** 2, everywhere, draws)
    alone = spread <= 1e-12 * (centred**2).max(initial=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(alone, np.nan, 1 - missed / spread)
    return {"r2": r2, "mae": share(np.abs(y - predicted), everywhere, draws)}


def resampled_ranks(positive: Bools, score: Floats, draws: Draws) -> tuple[Floats, Floats]:
    """AUROC and average precision of a score against one class. positive [n], score [n] -> 2 x [B]

    Only scores that a positive has are visited, from the highest down: with `own` the weight of
    positives at one, `level` that of all rows at it and `down` that of all rows down to it, `own`
    outranks total - down + level / 2 (ties count half; pairs of positives are taken off in the end)
    and precision there is positives / down.
    """
    thresholds, at = np.unique(-score[positive], return_inverse=True)
    if not thresholds.size:
        return np.full(len(draws.times), np.nan), np.full(len(draws.times), np.nan)
    above = np.searchsorted(thresholds, -score)  # the first threshold that a row is not below
    reached = above < thresholds.size
    tied = reached & ~positive
    tied[tied] = thresholds[above[tied]] == -score[tied]
    shape = (thresholds.size, draws.times.shape[1])

    def rows_at(threshold: NDArray[np.int64], rows: Bools) -> sparse.csr_array:
        where = (threshold, draws.cluster[rows])
        return sparse.csr_array((np.ones(threshold.size), where), shape=shape)

    down_by_group = rows_at(above[reached], reached)
    own_by_group = rows_at(at, positive)
    tied_by_group = rows_at(above[tied], tied)
    auroc, precision = np.empty(len(draws.times)), np.empty(len(draws.times))
    totals = draws.sums(np.ones(score.size))
    step = max(16, CELLS // thresholds.size)
    for begin in range(0, len(draws.times), step):
        part = slice(begin, begin + step)
        times = np.ascontiguousarray(draws.times[part].T)
        own = own_by_group @ times  # [thresholds, part]
        down = np.cumsum(down_by_group @ times, axis=0)
        level = own + tied_by_group @ times if tied.any() else own
        caught = np.cumsum(own, axis=0)
        pos, total = caught[-1].copy(), totals[part]
        outranked = np.einsum("tb,tb->b", own, total - down + level / 2) - pos**2 / 2
        np.divide(caught, down, out=caught, where=down > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            auroc[part] = outranked / (pos * (total - pos))
            precision[part] = np.einsum("tb,tb->b", own, caught) / pos
    return auroc, np.where(np.isnan(auroc), np.nan, precision)
