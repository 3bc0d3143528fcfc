"""Which trajectories stand out, and which of their thoughts?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analyses.calibrate import Calibration, check_alpha, conformal_p
from analyses.energy import TrajectoryScores, score_trajectories
from analyses.score import RunEnergies

__all__ = ["Decision", "decide"]


@dataclass(frozen=True)
class Decision:
    """What does the audit say of each trajectory and each thought?

    `p_value`, `adjusted_p` (Benjamini-Hochberg over the batch), `flagged` (p_value <= alpha), [n].
    `thought_p` [rows]: maxT-adjusted, the family is the thoughts of one trajectory. An invalid
    trajectory gets the p-value of a score above all others.
    """

    scores: TrajectoryScores
    p_value: NDArray[np.float64]
    adjusted_p: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    thought_p: NDArray[np.float64]


def decide(batch: RunEnergies, calibration: Calibration, alpha: float) -> Decision:
    """Which trajectories of the batch are strange at rate alpha against the calibration set?

    `flagged` bounds the rate of false alarms per clean trajectory; `adjusted_p` <= q instead keeps
    the expected share of false alarms among the flagged below q. Neither bounds misses.
    """
    check_alpha(alpha)
    scores = score_trajectories(
        batch.energy, batch.k, batch.trajectory, batch.n, calibration.reference
    )
    p_value = conformal_p(scores.score, calibration.scores)
    magnitude = np.abs(scores.z)
    strange = np.where(np.isfinite(magnitude), magnitude, np.inf)
    return Decision(
        scores=scores,
        p_value=p_value,
        adjusted_p=stats.false_discovery_control(p_value, method="bh"),
        flagged=p_value <= alpha + 1e-12,
        thought_p=conformal_p(strange, calibration.peaks),
    )
