"""How unusual is each trajectory and each thought, by every statistic and by their combination?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.battery.catalogue import STATISTICS
from analyses.battery.combine import QuantileReference
from analyses.battery.dimensions import max_block
from analyses.battery.hidden import HIDDEN_STATISTICS, HiddenReference
from analyses.battery.moments import Moments
from analyses.battery.noise import Noise
from analyses.battery.sequence import (
    anderson_darling,
    cov_dev,
    drift,
    lag1,
    ljung_box,
    psd_cv,
)
from analyses.battery.source import Source, blocks_of
from analyses.battery.steps import (
    QUANTITIES,
    Steps,
    quantities,
    step_scores,
    step_statistics,
    unusable,
)

__all__ = ["Battery", "BatteryScores", "Directions", "statistic_names", "statistics_of"]

Floats = NDArray[np.float64]

SEQUENCE = {
    "ad": anderson_darling,
    "lag1": lag1,
    "ljung_box": ljung_box,
    "psd_cv": psd_cv,
    "drift": drift,
    "cov_dev": cov_dev,
}
MIN_K = {statistic.name: statistic.shortest for statistic in STATISTICS}


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions in noise space to watch, such as probes': `names`, `vectors` [m, D], unit length.

    Each gives a statistic `dir:<name>`, the mean shift of a trajectory's noise along it, two-sided.
    """

    names: tuple[str, ...]
    vectors: Floats


@dataclass(frozen=True, eq=False)
class BatteryScores:
    """What does every statistic say? Higher = stranger, folded.

    `trajectories`: trace_id, every statistic, score (combined), leading (the statistic it came
    from), peak (largest |z| of a thought), peak_k, task, group, K, undefined (how many statistics K
    is too short for), invalid. An undefined statistic holds its clean median and cannot lead; an
    invalid trajectory (no thoughts, or a value that is not a number) scores +inf. `thoughts`:
    trace_id, k, energy_stored (where a run has it), energy, energy_top, energy_rest, logvol, nll;
    signed, how far each is from usual at its position (`z`, `z_top`, `z_rest`, `z_logvol`,
    `z_nll`); `dir:<name>` (signed). `undefined`: how many trajectories, by statistic. `scored`:
    scorer, context, tau, tensor, density. A low score says that the noise is usual, nothing of
    what the thoughts are for.
    """

    trajectories: pd.DataFrame
    thoughts: pd.DataFrame
    undefined: dict[str, int]
    scored: dict[str, Any]

    @property
    def statistics(self) -> list[str]:
        """Which columns of `trajectories` are statistics?"""
        return list(self.undefined)


@dataclass(frozen=True, eq=False)
class Battery:
    """What do clean trajectories look like, by every statistic? From `fit_battery`.

    `axes` [D, r]: the principal subspace of clean noise. `blocks`: clean energies of blocks of
    dimensions, for wide thoughts. `moments`: per-thought values by task and
    position. `quantiles`: clean values of the statistics. `combine`: which of them the score uses.
    `names`: all statistics, in order.
    """

    D: int
    axes: Floats
    moments: Moments
    quantiles: QuantileReference
    combine: tuple[str, ...]
    names: tuple[str, ...]
    directions: Directions | None = None
    hidden: HiddenReference | None = None
    features: str | None = None
    blocks: Floats | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    def score(
        self,
        source: Source | Iterable[Source],
        *,
        scorer: str = "self",
        context: str = "own prompt",
    ) -> BatteryScores:
        """Every statistic of every trajectory, block by block.

        source: a run, its folder, plain arrays (`Noise`), or several. scorer, context: under which
        model and after which prompt `mu, sigma` were computed; they are only named. Raises
        UserError for a run at tau = 0; ValueError for noise of another width.
        """
        trajectories, thoughts = [], []
        undefined = dict.fromkeys(self.names, 0)
        tau = None
        for noise in blocks_of(source, self.features):
            part, rows, missing = self.score_block(noise)
            trajectories.append(part)
            thoughts.append(rows)
            tau = noise.tau
            for name, count in missing.items():
                undefined[name] += count
        if not trajectories:
            raise ValueError("nothing to score: no trajectories")
        scored = {
            "scorer": scorer,
            "context": context,
            "tau": tau,
            "tensor": "u",
            "density": "p(u|q), its noise and volume parts apart",
        }
        return BatteryScores(
            pd.concat(trajectories, ignore_index=True),
            pd.concat(thoughts, ignore_index=True),
            undefined,
            scored,
        )

    def score_block(self, noise: Noise) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
        """One block's (trajectories, thoughts, undefined per statistic)."""
        if noise.D != self.D:
            raise ValueError(f"noise of width {noise.D}, the battery was fitted on {self.D}")
        found, steps, invalid, bad = statistics_of(
            noise, self.axes, self.moments, self.directions, self.hidden, self.blocks
        )
        for name in self.names:
            found.setdefault(name, np.full(noise.n, np.nan))
        score, leading = self.quantiles.combined(found, self.combine, noise.tasks, noise.K)
        z = np.where(bad, np.nan, steps.z["energy"])
        peak, peak_k = _peaks(z, noise)
        columns: dict[str, Any] = {"trace_id": noise.ids}
        missing, count = {}, np.zeros(noise.n, dtype=np.int64)
        for name in self.names:
            empty = np.isnan(found[name]) & ~invalid
            missing[name] = int(empty.sum())
            count += empty
            filled = np.where(empty, self.quantiles.neutral(name), found[name])
            keeps = name == "replay_err"  # it tells what is wrong with an invalid one
            columns[name] = filled if keeps else np.where(invalid, np.inf, filled)
        columns |= {
            "score": np.where(invalid, np.inf, score),
            "leading": np.where(invalid, "invalid", leading),
            "peak": np.where(invalid, np.inf, peak),
            "peak_k": np.where(invalid, -1, peak_k),
            "task": noise.tasks,
            "group": noise.groups,
            "K": noise.K,
            "undefined": count,
            "invalid": invalid,
        }
        rows = {"trace_id": noise.ids[noise.owner], "k": noise.k}
        if noise.stored_energy is not None:
            rows["energy_stored"] = noise.stored_energy
        rows |= {name: np.where(bad, np.nan, steps.values[name]) for name in QUANTITIES}
        rows |= {_z_name(name): np.where(bad, np.nan, steps.z[name]) for name in QUANTITIES}
        if self.directions is not None:
            along = np.where(bad[:, None], np.nan, noise.x) @ self.directions.vectors.T
            rows |= {f"dir:{name}": along[:, i] for i, name in enumerate(self.directions.names)}
        return pd.DataFrame(columns), pd.DataFrame(rows), missing


def _z_name(name: str) -> str:
    return "z" if name == "energy" else "z_" + name.removeprefix("energy_")


def _peaks(z: Floats, noise: Noise) -> tuple[Floats, NDArray[np.int64]]:
    """The largest |z| of each trajectory, and the first thought that has it."""
    magnitude = np.nan_to_num(np.abs(z))
    peak = np.zeros(noise.n)
    np.maximum.at(peak, noise.owner, magnitude)
    peak_k = np.full(noise.n, -1, dtype=np.int64)
    hits = np.flatnonzero(magnitude >= peak[noise.owner])[::-1]
    peak_k[noise.owner[hits]] = noise.k[hits]
    return peak, peak_k


def statistics_of(
    noise: Noise,
    axes: Floats,
    moments: Moments,
    directions: Directions | None,
    hidden: HiddenReference | None,
    blocks: Floats | None = None,
) -> tuple[dict[str, Floats], Steps, NDArray[np.bool_], NDArray[np.bool_]]:
    """Raw statistics [n] (NaN where undefined), per-thought values, invalid [n], bad thoughts."""
    bad = unusable(noise)
    invalid = noise.K == 0
    invalid[noise.owner[bad]] = True
    x = np.where(bad[:, None], 0.0, noise.x).astype(np.float64)
    steps = step_scores(quantities(x, noise, axes), noise, moments)
    found = step_statistics(steps, noise)
    if axes.shape[1] == noise.D:
        found["typ_rest"] = np.full(noise.n, np.nan)
    if blocks is not None:
        found["max_block"] = max_block(x, noise, blocks)
    for name in SEQUENCE:
        found[name] = np.full(noise.n, np.nan)
    if directions is not None:
        for name in directions.names:
            found[f"dir:{name}"] = np.full(noise.n, np.nan)
    for K in np.unique(noise.K[noise.K > 0]):
        mine = np.flatnonzero(noise.K == K)
        X = x[noise.first[mine][:, None] + np.arange(K)]
        for name, statistic in SEQUENCE.items():
            if MIN_K[name] <= K:
                found[name][mine] = statistic(X)
        if directions is not None:
            lean = np.abs(X.sum(axis=1) @ directions.vectors.T) / np.sqrt(K)
            for i, name in enumerate(directions.names):
                found[f"dir:{name}"][mine] = lean[:, i]
    if noise.replay_error is not None:
        found["replay_err"] = noise.replay_error
    if hidden is not None:
        found |= hidden.score(noise)
    return found | noise.extra, steps, invalid, bad


def statistic_names(
    noise: Noise,
    directions: Directions | None,
    hidden: HiddenReference | None,
    blocks: Floats | None = None,
) -> tuple[str, ...]:
    """Which statistics does a battery of these have, in order?"""
    names = [statistic.name for statistic in STATISTICS]
    if blocks is not None:
        names.append("max_block")
    if noise.replay_error is not None:
        names.append("replay_err")
    if hidden is not None:
        names += HIDDEN_STATISTICS
    if directions is not None:
        names += [f"dir:{name}" for name in directions.names]
    return (*names, *noise.extra)
