"""Which trajectories stand out, and which of their thoughts?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analyses.battery import BatteryScores
from analyses.calibrate import Rule, conformal_p
from analyses.cells import assign_cells, cell_levels
from analyses.ranks import Ranks

__all__ = ["Decision", "decide", "false_share_bound", "ppv"]

Floats = NDArray[np.float64]

SLACK = 1e-12


@dataclass(frozen=True, eq=False)
class Decision:
    """What does the audit say of each trajectory and each thought?

    `p_value`, `adjusted_p` (Benjamini-Hochberg over the batch), `flagged`, `cell` (which clean
    trajectories it was ranked among), [n]. `thought_p` [rows]: maxT-adjusted, the family is the
    thoughts of one trajectory; `named` [rows]: those at or below the trajectory's threshold. An
    invalid trajectory gets the p-value of a score above all others. `cells`: cell -> (how many
    ranked among, how many of the batch).
    """

    p_value: Floats
    adjusted_p: Floats
    flagged: NDArray[np.bool_]
    cell: NDArray[np.object_]
    thought_p: Floats
    named: NDArray[np.bool_]
    cells: dict[str, tuple[int, int]]


def decide(scores: BatteryScores, ranks: Ranks, rule: Rule) -> Decision:
    """Which trajectories of the batch are strange by the rule, among clean ones of their own kind?

    alpha bounds the rate of false alarms per clean trajectory; fdr instead keeps the expected share
    of false alarms among the flagged below it. Neither bounds misses. Each trajectory is ranked in
    the finest cell of task x length that is large enough for the rule, else in a coarser one.
    """
    frame = scores.trajectories
    K = frame["K"].to_numpy(dtype=np.int64)
    usable = ranks.usable(rule)
    cell = assign_cells(cell_levels(frame["task"].to_numpy(dtype=object), K), usable)
    owner = np.repeat(np.arange(len(frame)), K)
    z = np.abs(scores.thoughts["z"].to_numpy(dtype=np.float64))
    strange = np.where(np.isfinite(z), z, np.inf)
    score = frame["score"].to_numpy(dtype=np.float64)
    p, limit, thought_p = np.ones(len(frame)), np.zeros(len(frame)), np.ones(z.size)
    cells = {}
    for name in np.unique(cell):
        mine, clean = cell == name, ranks.cells[str(name)]
        rows = mine[owner]
        p[mine] = conformal_p(score[mine], clean.scores)
        thought_p[rows] = conformal_p(strange[rows], clean.peaks)
        limit[mine] = rule.rate if rule.fdr is not None else rule.threshold(clean.n)
        cells[str(name)] = (clean.n, int(mine.sum()))
    adjusted = stats.false_discovery_control(p, method="bh") if p.size else p
    flagged = (adjusted if rule.fdr is not None else p) <= limit + SLACK
    return Decision(
        p_value=p,
        adjusted_p=adjusted,
        flagged=flagged,
        cell=cell,
        thought_p=thought_p,
        named=thought_p <= limit[owner] + SLACK,
        cells=cells,
    )


def false_share_bound(decision: Decision, confidence: float = 0.95) -> float | None:
    """At most which share of the flags is false, with this confidence? None without flags.

    The number of clean trajectories with p <= t, among m independent ones, is beta-binomial over
    the draw of the calibration set. Bounds at a geometric grid of ranks in every cell hold at once
    (union bound), so they hold at whatever threshold the batch chose. All m count as clean, so the
    bound is safe and wide.
    """
    flags = int(decision.flagged.sum())
    if not flags:
        return None
    reached = float(decision.p_value[decision.flagged].max())
    false = 0
    for n, m in decision.cells.values():
        grid = sorted({*(2**i for i in range(n.bit_length())), n})
        rank = math.floor(reached * (n + 1) + 1e-9)
        above = next((r for r in grid if r >= rank), None)
        if rank < 1:
            continue
        if above is None:
            return 1.0
        share = (1 - confidence) / (len(decision.cells) * len(grid))
        false += int(stats.betabinom(m, above, n + 1 - above).isf(share))
    return min(1.0, false / flags)


def ppv(base_rate: float, tpr: float, fpr: float) -> float:
    """Which share of flags is true, when `base_rate` of the traffic is anomalous?"""
    true, false = base_rate * tpr, (1 - base_rate) * fpr
    return true / (true + false) if true + false > 0 else math.nan
