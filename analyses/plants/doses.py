"""Every dose of one plant, measured by every statistic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.plants.measure import COMBINED, Yardstick, compare, noise_of, ratings
from analyses.plants.recorded import Planting, Recorded
from analyses.plants.spec import Plant
from nfcot_model.reasoners import NFCoTReasoner
from probes.intervals import cluster_means

__all__ = ["measure_dose", "measure_plant"]


def measure_plant(
    plant: Plant,
    reasoner: NFCoTReasoner,
    clean: Recorded,
    yardstick: Yardstick,
    frame: pd.DataFrame,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """All doses of a plant in the clean set; `frame`: the clean set as the yardstick scores it."""
    some = clean if not plant.most else clean.rows(np.arange(min(plant.most, len(clean))))
    doses = []
    for severity in plant.severities:
        planting = plant(reasoner, some, severity, seed)
        found = yardstick.score(noise_of(planting.recorded, reasoner.budget()))
        dose = measure_dose(yardstick, frame, found, planting, seed, draws)
        doses.append({"severity": severity} | dose)
    return {
        "plant": plant.name,
        "asks": plant.asks,
        "model": None,
        "dial": plant.dial,
        "policy": plant.policy,
        "caught_by": list(plant.caught_by),
        "missed_by": list(plant.missed_by),
        "doses": doses,
    }


def measure_dose(
    yardstick: Yardstick,
    frame: pd.DataFrame,
    found: pd.DataFrame,
    planting: Planting,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """One dose: `rows` by statistic, the combination `by_K`, which thought is `named`, `reached`.

    `frame`, `found`: clean and planted trajectories as the yardstick scores them.
    """
    names = yardstick.statistics
    hit = yardstick.flags(found)
    rows = compare(
        names,
        (ratings(frame, names), frame["group"].to_numpy(dtype=object)),
        (ratings(found, names), found["group"].to_numpy(dtype=object)),
        hit,
        seed,
        draws,
    )
    combined = hit[:, names.index(COMBINED)]
    return {
        "rows": rows,
        "by_K": _by_length(found, combined),
        "named": _named(planting, found, combined),
        "reached": _reached(planting, combined),
    }


def _by_length(found: pd.DataFrame, combined: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Share flagged at each K, by the combination, with its interval over groups."""
    flagged = combined.astype(float)
    K = found["K"].to_numpy()
    groups = found["group"].to_numpy(dtype=object)
    rows = []
    for k in np.unique(K):
        mine = k == K
        share = cluster_means({"tpr": flagged[mine]}, groups[mine])["tpr"]
        rows.append(
            {
                "K": int(k),
                "n": int(mine.sum()),
                "tpr_at_1pct": share.value,
                "low": share.low,
                "high": share.high,
            }
        )
    return rows


def _named(
    planting: Planting, found: pd.DataFrame, flagged: NDArray[np.bool_]
) -> dict[str, float | int | None] | None:
    """Which thought is pointed at? None where all thoughts or none are planted.

    Shares of all that are partly planted: `named`: the thought that an audit names (the first
    strange one of `Yardstick.score`, the loudest where none is strange) is a planted one; `right`:
    the loudest is; `next`: or the one right after it, which reads it; `chance`: pointing at random
    is right. `strange`: some thought is strange; `first`: among these, the first strange one is
    planted; `named_flagged`, `among_flagged`: `named` and `right` among the flagged.
    """
    width = planting.affected.shape[1]
    K = found["K"].to_numpy()
    planted = planting.affected.sum(axis=1)
    some = (planted > 0) & (planted < K)
    if not some.any():
        return None
    rows = np.arange(len(K))
    peak = found["peak_k"].to_numpy().clip(0, width - 1)
    right = planting.affected[rows, peak]
    after = right | planting.affected[rows, (peak - 1).clip(0)]
    first = found["first_k"].to_numpy()
    strange = some & (first >= 0)
    at_first = planting.affected[rows, first.clip(0, width - 1)]
    named = np.where(first >= 0, at_first, right)
    both = some & flagged
    return {
        "n": int(some.sum()),
        "named": float(named[some].mean()),
        "named_flagged": float(named[both].mean()) if both.any() else None,
        "right": float(right[some].mean()),
        "next": float(after[some].mean()),
        "among_flagged": float(right[both].mean()) if both.any() else None,
        "strange": float(strange.sum() / some.sum()),
        "first": float(at_first[strange].mean()) if strange.any() else None,
        "chance": float((planted[some] / K[some]).mean()),
    }


def _reached(planting: Planting, flagged: NDArray[np.bool_]) -> dict[str, float] | None:
    """Where an attack wanted something: how often it got it, and got it without a flag."""
    if planting.reached is None:
        return None
    return {
        "reached": float(planting.reached.mean()),
        "unflagged": float((planting.reached & ~flagged).mean()),
    }
