"""From scores to p-values: split-conformal calibration whose unit is the trajectory.

Clean traces are split into three sets that share no problem group: `fit` (what is learned),
`reference` (position means, quantiles) and `calibration` (ranks). Samples of one problem are not
independent of each other, so the calibration set contributes one trace per group; otherwise a band
computed from its size would be too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nfcot_model.errors import UserError

__all__ = [
    "DELTA",
    "Rule",
    "allowed_rank",
    "check_alpha",
    "clean_flag_range",
    "conformal_p",
    "fpr_band",
    "guaranteed_rank",
    "stop_threshold",
    "traces_needed",
]

Floats = NDArray[np.float64]

MIN_REFERENCE = 20
MIN_ALPHA = 1e-9
DELTA = 0.05
RANKS_IN_CELL = 5
FDR_REACH = 100


@dataclass(frozen=True)
class Rule:
    """Which trajectories are flagged? Exactly one of two rates is promised.

    alpha: the share of clean trajectories that may be flagged; guaranteed: with confidence
    1 - delta over the draw of the calibration set instead of on average over it. fdr: the expected
    share of false alarms among the flagged (Benjamini-Hochberg over the batch).
    Raises UserError for rates outside (0, 1), and for fdr with guaranteed.
    """

    alpha: float | None = 0.01
    fdr: float | None = None
    guaranteed: bool = False
    delta: float = DELTA

    def __post_init__(self) -> None:
        if self.fdr is not None:
            if self.guaranteed or self.alpha is not None:
                raise UserError("--fdr: give it alone, or --alpha with or without --guaranteed")
            check_alpha(self.fdr, "--fdr")
        else:
            check_alpha(self.alpha if self.alpha is not None else math.nan)
        if not 0 < self.delta < 1:
            raise UserError(f"--delta {self.delta:g}: expected a number between 0 and 1")

    @property
    def rate(self) -> float:
        """The promised rate, alpha or fdr."""
        return float(self.alpha if self.fdr is None else self.fdr)  # type: ignore[arg-type]

    @property
    def needed(self) -> int:
        """How many calibration trajectories can this rule flag anything with?"""
        return traces_needed(self.rate, self.delta if self.guaranteed else None)

    @property
    def cell_minimum(self) -> int:
        """How many must a cell of task x length hold to be used on its own?

        Five ranks below alpha; for fdr as many as let 1 % of the batch be flagged.
        """
        each = FDR_REACH if self.fdr is not None else RANKS_IN_CELL
        return max(self.needed, math.ceil(each / self.rate - 1e-9))

    def threshold(self, n: int) -> float:
        """The largest p-value that is flagged, with n calibration trajectories. Not for fdr."""
        if self.guaranteed:
            return guaranteed_rank(n, self.rate, self.delta) / (n + 1)
        return self.rate


def check_alpha(alpha: float, flag: str = "--alpha") -> None:
    """Raise UserError unless 0 < alpha < 1 and a calibration run for alpha could exist."""
    if not 0 < alpha < 1:
        raise UserError(f"{flag} {alpha:g}: expected a number between 0 and 1, for example 0.01")
    if alpha < MIN_ALPHA:
        raise UserError(
            f"{flag} {alpha:g}: would need more than {1 / MIN_ALPHA:.0e} clean traces; expected at"
            f" least {MIN_ALPHA:g}, for example 0.01"
        )


def traces_needed(alpha: float, delta: float | None = None) -> int:
    """How many calibration trajectories does a p-value <= alpha need at least?

    delta: so that one rank is guaranteed with confidence 1 - delta.
    """
    plain = math.ceil(1 / alpha - 1e-9) - 1
    if delta is not None:
        plain = math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)
    return max(plain, MIN_REFERENCE)


def allowed_rank(n: int, alpha: float) -> int:
    """Which l makes p <= alpha the same as (rank among n clean scores) <= l?"""
    return math.floor((n + 1) * alpha + 1e-9)


def guaranteed_rank(n: int, alpha: float, delta: float = DELTA) -> int:
    """Which l keeps the false-positive rate below alpha with confidence 1 - delta? 0: none does.

    The largest l with BetaCDF(alpha; l, n + 1 - l) >= 1 - delta, the rate at rank l being
    Beta(l, n + 1 - l) over the draw of the calibration set. Bates et al., arXiv 2104.08279.
    """
    ranks = np.arange(1, allowed_rank(n, alpha) + 1)
    if not ranks.size:
        return 0
    enough = stats.beta.cdf(alpha, ranks, n + 1 - ranks) >= 1 - delta
    return int(enough.sum())  # the law moves up with l, so those that pass come first


def conformal_p(scores: Floats, clean: Floats) -> Floats:
    """How often would an exchangeable clean trajectory score at least this high?

    p = (1 + #{clean >= score}) / (n + 1), so P(p <= alpha) <= alpha for a clean trajectory. `clean`
    [n] in any order. Higher score = stranger. Vovk et al.; Bates et al., arXiv 2104.08279.
    """
    ordered = np.sort(clean)
    above = ordered.size - np.searchsorted(ordered, scores, side="left")
    return np.asarray((1.0 + above) / (ordered.size + 1.0), dtype=np.float64)


def fpr_band(n: int, alpha: float, level: float = 0.9) -> tuple[float, float]:
    """Within which rates does the long-run false-positive rate lie, for this calibration set?

    Exact: Beta(l, n + 1 - l) with l = floor((n + 1) alpha), central `level`, continuous scores.
    """
    rank = allowed_rank(n, alpha)
    if rank < 1:
        return (0.0, 0.0)
    low, high = stats.beta.ppf([(1 - level) / 2, (1 + level) / 2], rank, n + 1 - rank)
    return (float(low), float(high))


def clean_flag_range(n: int, alpha: float, m: int, level: float = 0.9) -> tuple[int, int]:
    """How many of m clean, independent trajectories are flagged by chance? Beta-binomial range."""
    rank = allowed_rank(n, alpha)
    if rank < 1:
        return (0, 0)
    law = stats.betabinom(m, rank, n + 1 - rank)
    return (int(law.ppf((1 - level) / 2)), int(law.ppf((1 + level) / 2)))


def stop_threshold(peaks: Floats, rule: Rule) -> float:
    """Above which |z| of a thought may a generation be stopped, so that clean ones rarely are?

    peaks [n]: the largest |z| of each clean calibration trajectory. A clean generation is stopped
    anywhere at most at the rule's alpha (on average, or guaranteed): |z| of a thought depends on no
    later one, so the largest so far is known as the model thinks. +inf when n is too small for
    alpha. Raises ValueError for an fdr rule, which has no meaning for one stream.
    """
    if rule.fdr is not None:
        raise ValueError("a threshold for one generation needs alpha, not fdr")
    rank = math.floor(rule.threshold(peaks.size) * (peaks.size + 1) + 1e-9)
    if rank < 1:
        return math.inf
    return float(np.sort(peaks)[peaks.size - rank])
