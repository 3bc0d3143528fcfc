"""How well does every statistic tell planted trajectories from clean ones?

The threshold of a statistic is fixed on calibration trajectories (conformal p <= alpha, within its
cell of task x length), never read off the trajectories that are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analyses.battery import Battery, Noise, fit_battery
from analyses.calibrate import Rule, conformal_p
from analyses.cells import assign_cells, cell_levels, large_cells
from analyses.plants.forged import record_checks
from analyses.plants.recorded import Recorded
from probes.intervals import cluster_bootstrap

__all__ = ["ALPHA", "Yardstick", "auroc", "compare", "noise_of", "ratings", "smallest_dose"]

Floats = NDArray[np.float64]

ALPHA = 0.01
COMBINED = "combined"


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A battery and the clean trajectories that new ones are ranked among, `clean` (scored)."""

    battery: Battery
    clean: pd.DataFrame
    statistics: tuple[str, ...]

    @classmethod
    def of(cls, fit: Noise, reference: Noise, calibration: Noise) -> Yardstick:
        """From three clean sets that share no group."""
        battery = fit_battery(reference, fit=fit)
        names = (COMBINED, *battery.names)
        return cls(battery, _scored(battery, calibration)[0], names)

    def score(self, noise: Noise, alpha: float = ALPHA) -> pd.DataFrame:
        """Every statistic of every trajectory; `combined` is the default combination.

        `first_k`: the first thought that is louder or quieter than the strangest thought of all
        but a share `alpha` of clean trajectories (maxT); -1 where none is.
        """
        frame, thoughts = _scored(self.battery, noise)
        z = np.abs(thoughts["z"].to_numpy(dtype=np.float64))
        strange = conformal_p(z, self.clean["peak"].to_numpy(dtype=np.float64)) <= alpha
        first = np.full(noise.n, -1, dtype=np.int64)
        hits = np.flatnonzero(strange)[::-1]
        first[noise.owner[hits]] = noise.k[hits]
        return frame.assign(first_k=first)

    def flags(self, frame: pd.DataFrame, alpha: float = ALPHA) -> NDArray[np.bool_]:
        """Which trajectories does each statistic flag? [n, statistics]

        Ranked within task x length where the calibration set has enough for `alpha`, else within
        the task, else among all.
        """
        clean_levels = _levels(self.clean)
        usable = large_cells(clean_levels, Rule(alpha).cell_minimum)
        cells = assign_cells(_levels(frame), usable)
        out = np.zeros((len(frame), len(self.statistics)), dtype=bool)
        for cell in np.unique(cells):
            mine = cells == cell
            among = np.any([names == cell for names in clean_levels], axis=0)
            for i, name in enumerate(self.statistics):
                p = conformal_p(frame[name].to_numpy()[mine], self.clean[name].to_numpy()[among])
                out[mine, i] = p <= alpha
        return out


def _scored(battery: Battery, noise: Noise) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores = battery.score(noise)
    frame = scores.trajectories
    return frame.assign(**{COMBINED: frame["score"]}), scores.thoughts


def _levels(frame: pd.DataFrame) -> list[NDArray[np.object_]]:
    return cell_levels(frame["task"].to_numpy(dtype=object), frame["K"].to_numpy(dtype=np.int64))


def noise_of(recorded: Recorded, budget: int, extra: Mapping[str, Floats] | None = None) -> Noise:
    """Recorded trajectories as the battery reads them, with the checks of the record.

    `budget`: how many thoughts the model draws noise for. `extra`: further statistics, [n] each.
    """
    mask = recorded.scores.mask
    return Noise(
        x=(recorded.scores.eps[mask] / recorded.tau).numpy(),
        K=recorded.K,
        ids=np.array([f"{i}" for i in range(len(recorded))], dtype=object),
        groups=recorded.groups,
        tasks=recorded.worlds,
        logvol=recorded.scores.logvol[mask].double().numpy(),
        extra={**record_checks(recorded, budget), **(extra or {})},
        tau=recorded.tau,
    )


def auroc(scores: Floats, planted: NDArray[np.bool_]) -> Floats:
    """The chance that a planted trajectory scores above a clean one, ties half. [n, S] -> [S]"""
    ranks = stats.rankdata(scores, axis=0)
    n, m = int(planted.sum()), int((~planted).sum())
    if not n or not m:
        return np.full(scores.shape[1], np.nan)
    return np.asarray((ranks[planted].sum(axis=0) - n * (n + 1) / 2) / (n * m))


def compare(
    names: Sequence[str],
    clean: tuple[Floats, NDArray[np.object_]],
    planted: tuple[Floats, NDArray[np.object_]],
    flagged: NDArray[np.bool_],
    seed: int,
    draws: int = 300,
) -> list[dict[str, Any]]:
    """AUROC and share flagged of each statistic, with 95 % intervals over problem groups.

    `clean`, `planted`: scores [n, S] and groups [n]; `flagged` [n, S]: of the planted. A planted
    trajectory and its clean twin are one group, drawn together.
    """
    first = len(clean[0])
    scores = np.vstack([clean[0], planted[0]])
    is_planted = np.arange(len(scores)) >= first
    groups = np.concatenate([clean[1], planted[1]])
    flags = flagged.astype(float)

    def metrics(rows: NDArray[np.int64]) -> dict[str, float]:
        mine = is_planted[rows]
        area = auroc(scores[rows], mine)
        share = flags[rows[mine] - first].mean(axis=0) if mine.any() else area * np.nan
        out = {f"auroc/{n}": float(v) for n, v in zip(names, area, strict=True)}
        return out | {f"tpr/{n}": float(v) for n, v in zip(names, share, strict=True)}

    found = cluster_bootstrap(metrics, groups, seed, draws)
    rows = []
    for name in names:
        area, share = found[f"auroc/{name}"], found[f"tpr/{name}"]
        rows.append(
            {
                "statistic": name,
                "n": len(flags),
                "auroc": area.value,
                "auroc_low": area.low,
                "auroc_high": area.high,
                "tpr_at_1pct": share.value,
                "low": share.low,
                "high": share.high,
            }
        )
    return rows


def ratings(frame: pd.DataFrame, names: Sequence[str]) -> Floats:
    """The statistics of a scored frame as one array [n, S]."""
    return frame[list(names)].to_numpy(dtype=np.float64)


def smallest_dose(
    doses: Sequence[float], shares: Sequence[float], wanted: float, at_zero: float
) -> float | None:
    """At which dose is the share first `wanted`? Straight lines between doses, from dose 0 on.

    None when no measured dose reaches it. Doses are ordered by their size, whatever their sign.
    """
    pairs = sorted(zip(map(abs, doses), shares, strict=True))
    before = (0.0, at_zero)
    for dose, share in pairs:
        if share >= wanted:
            if share == before[1]:
                return dose
            along = (wanted - before[1]) / (share - before[1])
            return float(before[0] + max(along, 0.0) * (dose - before[0]))
        before = (dose, share)
    return None
