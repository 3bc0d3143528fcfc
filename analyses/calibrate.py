"""From scores to p-values: split-conformal calibration whose unit is the trajectory.

Clean traces are split into two halves that share no problem group: `reference` (position means)
and `calibration` (ranks). Samples of one problem are not independent of each other, so the
calibration half contributes one trace per group; otherwise a band computed from its size would be
too narrow.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analyses.energy import EnergyReference, fit_reference, score_trajectories
from analyses.score import RunEnergies
from nfcot_model.errors import UserError

__all__ = [
    "Calibration",
    "allowed_rank",
    "calibrate",
    "check_alpha",
    "clean_flag_range",
    "conformal_p",
    "fpr_band",
    "halve_groups",
    "one_per_group",
    "traces_needed",
]

MIN_REFERENCE = 20
MIN_ALPHA = 1e-9


@dataclass(frozen=True)
class Calibration:
    """Which clean scores is a new trajectory ranked against?

    `scores` [n]: sorted clean scores, one trajectory per group. `peaks` [n]: sorted max_k |z| of
    the same trajectories, for naming thoughts. `n_reference`: traces behind the position means.
    `unused`: further samples of calibration groups that were left out.
    """

    reference: EnergyReference
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    n_reference: int
    unused: int
    reference_rows: NDArray[np.bool_]

    @property
    def n(self) -> int:
        return int(self.scores.size)


def check_alpha(alpha: float) -> None:
    """Raise UserError unless 0 < alpha < 1 and a calibration run for alpha could exist."""
    if not 0 < alpha < 1:
        raise UserError(f"--alpha {alpha:g}: expected a number between 0 and 1, for example 0.01")
    if alpha < MIN_ALPHA:
        raise UserError(
            f"--alpha {alpha:g}: would need more than {1 / MIN_ALPHA:.0e} clean traces; expected at"
            f" least {MIN_ALPHA:g}, for example 0.01"
        )


def traces_needed(alpha: float) -> int:
    """How many calibration trajectories does a p-value <= alpha need at least?"""
    return max(math.ceil(1 / alpha - 1e-9) - 1, MIN_REFERENCE)


def allowed_rank(n: int, alpha: float) -> int:
    """Which l makes p <= alpha the same as (rank among n clean scores) <= l?"""
    return math.floor((n + 1) * alpha + 1e-9)


def conformal_p(scores: NDArray[np.float64], clean: NDArray[np.float64]) -> NDArray[np.float64]:
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


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def halve_groups(groups: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Which traces belong to the reference half? [n], whole groups, decided by the group's hash."""
    ordered = sorted(set(groups), key=_digest)
    reference = set(ordered[: len(ordered) // 2])
    return np.array([group in reference for group in groups], dtype=bool)


def one_per_group(groups: NDArray[np.object_], trace_ids: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Which one trace stands for each group? [n], decided by the hash of the trace id."""
    chosen: dict[str, int] = {}
    for i in sorted(range(len(groups)), key=lambda i: _digest(str(trace_ids[i]))):
        chosen.setdefault(groups[i], i)
    keep = np.zeros(len(groups), dtype=bool)
    keep[list(chosen.values())] = True
    return keep


def calibrate(clean: RunEnergies, alpha: float) -> Calibration:
    """What do clean trajectories score, on the terms that new ones will be judged by?

    Raises UserError when the run has too few groups for a p-value <= alpha, or holds an energy
    that is not a number. Valid for new trajectories exchangeable with these: same model, tau,
    template, and the same kind of problems.
    """
    check_alpha(alpha)
    bad = np.unique(clean.trajectory[~np.isfinite(clean.energy)])
    if bad.size:
        raise UserError(
            f"{clean.name}: trace {clean.trace_ids[bad[0]]} has an energy that is not a number;"
            " a calibration run must be clean, collect it again"
        )
    in_reference = halve_groups(clean.groups)
    chosen = ~in_reference & one_per_group(clean.groups, clean.trace_ids)
    needed = traces_needed(alpha)
    found = int(chosen.sum())
    if found < needed or int(in_reference.sum()) < MIN_REFERENCE:
        raise UserError(
            f"{clean.name}: {found} calibration traces (one per group, half of"
            f" {len(set(clean.groups))} groups; the other half is the reference) are too few:"
            f" alpha {alpha:g} needs at least {needed}, so a run of {2 * needed} problems;"
            " trace more problems or raise --alpha"
        )
    reference_rows = in_reference[clean.trajectory]
    reference = fit_reference(
        clean.energy[reference_rows],
        clean.k[reference_rows],
        clean.trajectory[reference_rows],
        clean.n,
        clean.D,
    )
    scored = score_trajectories(clean.energy, clean.k, clean.trajectory, clean.n, reference)
    return Calibration(
        reference=reference,
        scores=np.sort(scored.score[chosen]),
        peaks=np.sort(scored.peak[chosen]),
        n_reference=int(in_reference.sum()),
        unused=int((~in_reference & ~chosen).sum()),
        reference_rows=reference_rows,
    )
