"""Above which score may thinking be stopped? Thresholds from clean runs, max over thoughts.

Two scores per thought, both two-sided: the noise energy (on-policy it is the energy of the drawn
noise and tells of a wrong temperature or noise source, never of intent) and the log-volume (how
sure the model was of this thought). Each is standardised with clean thoughts of the same index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.calibrate import allowed_rank, check_alpha, fpr_band, traces_needed
from analyses.stored import refuse_unscored
from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner
from nfcot_model.traces import Run

__all__ = ["STATISTICS", "LiveCalibration", "calibrate_live", "stabilised"]

STATISTICS = ("energy", "logvol")
LEAST_AT_K = 20


@dataclass(frozen=True)
class LiveCalibration:
    """When is thinking stopped? As soon as |z| of a statistic exceeds its threshold.

    `mean`, `sd` [positions + 1, 2] are those of clean thoughts at each index, of `STATISTICS`, the
    last row for any index beyond. `thresholds` [2] are for the largest |z| of a trajectory, each
    at alpha / 2, so that heavy tails of one do not hide the other. Of clean trajectories
    exchangeable with the `n` behind them (one per problem group) at most a share `alpha` is ever
    stopped, anywhere; given this one set the long-run share of either statistic lies within `band`
    (90 %, exact). `settings` are those of the clean run.
    """

    settings: Mapping[str, Any]
    run_hash: str
    D: int
    alpha: float
    thresholds: NDArray[np.float64]
    n: int
    n_reference: int
    band: tuple[float, float]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """What can be said of it in JSON, without the tables."""
        names = ("run_hash", "alpha", "n", "n_reference", "band")
        return {
            "statistic": "max over thoughts of |z| / threshold, stops above 1",
            "thresholds": dict(zip(STATISTICS, self.thresholds.tolist(), strict=True)),
            "unit": "trajectory, one per problem group",
            "settings": dict(self.settings),
            **{name: getattr(self, name) for name in names},
        }

    def check(self, reasoner: Reasoner, tau: float, max_thoughts: int | None) -> None:
        """Raise UserError unless thinking of this kind is what was calibrated on."""
        asked = {
            "reasoner": reasoner.name,
            "checkpoint_hash": reasoner.checkpoint_hash,
            "decode.tau": tau,
            "decode.max_thoughts": max_thoughts,
            "decode.k_policy": "model" if reasoner.variable_k else "fixed",
            "decode.template": reasoner.prompt_template,
            "decode.dtype": reasoner.config.get("dtype", "float32"),
        }
        for name, mine in asked.items():
            if self.settings[name] != mine:
                raise UserError(
                    f"--calibration: its {name} is {self.settings[name]!r}, that of this thinking"
                    f" is {mine!r}; calibrate on clean traces made with the same settings"
                )

    def z(self, values: NDArray[np.float64], k: int | NDArray[np.int64]) -> NDArray[np.float64]:
        """Standardised statistics [B, 2] of thoughts with index k, one for all or [B]."""
        at = np.minimum(k, len(self.mean) - 1)
        return (values - self.mean[at]) / self.sd[at]

    def score(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far out are thoughts with these z [B, 2]? [B], beyond a threshold above 1."""
        over = np.abs(z) / self.thresholds
        return np.maximum(over[..., 0], over[..., 1])


def stabilised(
    energy: NDArray[np.float64], logvol: NDArray[np.float64], D: int
) -> NDArray[np.float64]:
    """`STATISTICS` [..., 2] on scales where both tails are alike.

    Energy by the cube root of Wilson and Hilferty (1931), under which a chi-squared value is
    nearly normal; only the scale hangs on that law, thresholds come from clean runs.
    """
    spread = 2 / (9 * D)
    values = np.empty((*energy.shape, 2))
    values[..., 0] = (np.cbrt(energy * (2 / D)) - (1 - spread)) / spread**0.5
    values[..., 1] = logvol
    return values


def calibrate_live(clean: Run, alpha: float) -> LiveCalibration:
    """Which thresholds stop at most a share `alpha` of clean trajectories?

    Half of the problem groups (by hash) gives the means per index, one trajectory of each other
    group the thresholds. Raises UserError at tau = 0, for planted anomalies or values that are not
    numbers in the clean run, and for too few groups.
    """
    check_alpha(alpha)
    refuse_unscored(clean)
    tau = float(clean.manifest["decode"]["tau"])
    if tau <= 0:
        raise UserError(f"{clean.name}: traced at tau {tau:g}, without noise; trace above 0")
    if "planted" in clean.manifest:
        raise UserError(f"{clean.name}: holds planted anomalies; calibrate on a clean run")
    energy, logvol = (clean.thoughts[name].to_numpy(np.float64) for name in STATISTICS)
    values = stabilised(energy, logvol, clean.D)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise UserError(
            f"{clean.name}: trace {clean.thoughts['trace_id'].iat[row]} has a score that is not a"
            " number; a calibration run must be clean, collect it again"
        )
    K = clean.traces["K"].to_numpy(dtype=np.int64)
    owner = np.repeat(np.arange(len(K)), K)
    reference, chosen = _halves(clean)
    each = alpha / len(STATISTICS)
    needed = traces_needed(each)
    if chosen.sum() < needed or reference.sum() < LEAST_AT_K:
        raise UserError(
            f"{clean.name}: {int(chosen.sum())} calibration traces (one per group of one half) are"
            f" too few: alpha {alpha:g} needs {needed}, so a run of {2 * needed} problems; trace"
            " more problems or raise --alpha"
        )
    k = clean.thoughts["k"].to_numpy(dtype=np.int64)
    mean, sd = _moments(values[reference[owner]], k[reference[owner]])
    at = np.minimum(k, len(mean) - 1)
    largest = np.zeros((len(K), 2))
    np.maximum.at(largest, owner, np.abs((values - mean[at]) / sd[at]))
    ordered = np.sort(largest[chosen], axis=0)
    n = len(ordered)
    return LiveCalibration(
        settings=clean.settings,
        run_hash=clean.hash,
        D=clean.D,
        alpha=alpha,
        thresholds=np.maximum(ordered[n - allowed_rank(n, each)], 1e-6),
        n=n,
        n_reference=int(reference.sum()),
        band=fpr_band(n, each),
        mean=mean,
        sd=sd,
    )


def _halves(clean: Run) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The traces that give means, and one of every other group, both decided by hashes."""

    def digest(text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    groups = clean.traces["group"].to_numpy(dtype=object)
    ordered = sorted(set(groups), key=digest)
    first = np.isin(groups.astype(str), [str(g) for g in ordered[: len(ordered) // 2]])
    chosen: dict[str, int] = {}
    for i in sorted(range(len(groups)), key=lambda i: digest(clean.traces["trace_id"].iat[i])):
        if not first[i]:
            chosen.setdefault(groups[i], i)
    one = np.zeros(len(groups), dtype=bool)
    one[list(chosen.values())] = True
    return first, one


def _moments(
    values: NDArray[np.float64], k: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sd [positions + 1, 2]: of each index seen often enough from 0 on, and of all."""
    counts = np.bincount(k)
    rare = np.flatnonzero(counts < LEAST_AT_K)
    positions = int(rare[0]) if rare.size else len(counts)
    parts = [values[k == position] for position in range(positions)] + [values]
    mean = np.stack([part.mean(0) for part in parts])
    return mean, np.stack([np.maximum(part.std(0, ddof=1), 1e-6) for part in parts])
