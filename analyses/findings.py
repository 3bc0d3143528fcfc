"""Parts of an audit's summary: the batch, the calibration, replay, drift, known plants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.calibrate import (
    Rule,
    allowed_rank,
    clean_flag_range,
    fpr_band,
    guaranteed_rank,
)
from analyses.cells import ALL, HIERARCHY
from analyses.clean import CleanSet
from analyses.decide import Decision, false_share_bound, ppv
from analyses.drift import Drift, alarm_level
from analyses.ranks import Ranks
from nfcot_model.traces import Run

__all__ = [
    "BAND_LEVEL",
    "batch_summary",
    "calibration_summary",
    "drift_summary",
    "origin_of",
    "planted_summary",
    "replay_summary",
]

BAND_LEVEL = 0.9
BASE_RATES = (1e-2, 1e-3, 1e-4)
CATCH_RATES = (0.5, 0.95)
PATH_POINTS = 200


def _limits(decision: Decision, ranks: Ranks, rule: Rule) -> dict[str, float]:
    """The largest p-value that was flagged, or would be, in each cell."""
    if rule.fdr is None:
        return {name: rule.threshold(ranks.cells[name].n) for name in decision.cells}
    flagged = decision.p_value[decision.flagged]
    return dict.fromkeys(decision.cells, float(flagged.max()) if flagged.size else 0.0)


def batch_summary(decision: Decision, ranks: Ranks, rule: Rule) -> dict[str, Any]:
    """What do the flags of this batch amount to?

    `false_share_bound`: at most this share of them is false, with 95 % confidence, whatever was
    chosen after looking. `fewest_flags`: with this many calibration traces, fdr can flag only if
    at least so many trajectories reach the smallest p-value. `ppv`: the share of flags that is true
    at a base rate, if so much of what is anomalous is caught.
    """
    m, flags = decision.p_value.size, int(decision.flagged.sum())
    limits = _limits(decision, ranks, rule)
    weights = {name: decision.cells[name][1] / m for name in limits}
    fpr = sum(
        weights[name] * allowed_rank(ranks.cells[name].n, limit) / (ranks.cells[name].n + 1)
        for name, limit in limits.items()
    )
    fewest = None
    if rule.fdr is not None:
        smallest = max(1 / (n + 1) for n, _ in decision.cells.values())
        fewest = math.ceil(smallest * m / rule.fdr - 1e-9)
    return {
        "m": m,
        "flags": flags,
        "false_share_bound": false_share_bound(decision),
        "fewest_flags": fewest,
        "false_positive_rate": fpr,
        "ppv": [
            {"base_rate": pi, "caught": tpr, "ppv": ppv(pi, tpr, fpr) if fpr else None}
            for pi in BASE_RATES
            for tpr in CATCH_RATES
        ],
    }


def calibration_summary(clean: CleanSet, decision: Decision, rule: Rule) -> dict[str, Any]:
    """Against what was ranked, and how far may the realised rate be from the promised one?

    `band`: of the long-run false-positive rate given this calibration set, over all cells.
    `flags_if_clean`: how many flags this run would have if all of it were clean.
    """
    ranks = clean.ranks
    limits = _limits(decision, ranks, rule)
    cells: list[dict[str, Any]] = []
    for name, (n, m) in decision.cells.items():
        low, high = fpr_band(n, limits[name], BAND_LEVEL)
        row: dict[str, Any] = {
            "cell": name,
            "n": n,
            "m": m,
            "threshold": limits[name],
            "band": [low, high],
        }
        if rule.guaranteed:
            row["rank"] = guaranteed_rank(n, rule.rate, rule.delta)
        cells.append(row)
    fine = sum(m for name, (_, m) in decision.cells.items() if ", K " in name)
    calibration = clean.sets["calibration"]
    return {
        "run": calibration["run"],
        "run_hash": calibration["run_hash"],
        "name": clean.name,
        "hash": clean.hash,
        "sets": clean.sets,
        "n": ranks.n,
        "n_fit": ranks.n_fit,
        "n_reference": ranks.n_reference,
        "unused_samples": ranks.unused,
        "invalid": int(np.isinf(ranks.cells[ALL].scores).sum()),
        "unit": "trajectory, one per problem group",
        "level": BAND_LEVEL,
        "band": [min(c["band"][0] for c in cells), max(c["band"][1] for c in cells)],
        "flags_if_clean": list(_flags_if_clean(cells)),
        "cells": cells,
        "cell_minimum": rule.cell_minimum,
        "hierarchy": list(HIERARCHY),
        "in_own_cell": fine,
        "replay_error_max": clean.replay_error_max,
    }


def _flags_if_clean(cells: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The 90 % range of flags among clean trajectories: exact in one cell, else nearly normal."""
    if len(cells) == 1:
        cell = cells[0]
        return clean_flag_range(cell["n"], cell["threshold"], cell["m"], BAND_LEVEL)
    mean = variance = 0.0
    for cell in cells:
        rank = allowed_rank(cell["n"], cell["threshold"])
        if rank >= 1:
            law = stats.betabinom(cell["m"], rank, cell["n"] + 1 - rank)
            mean, variance = mean + float(law.mean()), variance + float(law.var())
    reach = float(stats.norm.ppf((1 + BAND_LEVEL) / 2)) * math.sqrt(variance)
    return (max(0, math.floor(mean - reach)), math.ceil(mean + reach))


def replay_summary(trajectories: pd.DataFrame, tolerance: float) -> dict[str, Any]:
    """Which records do not replay, or disagree with themselves? Needs no statistics.

    `max`, `median`, `broken`: of the errors recomputed from the tensors. `record_broken`: the
    stored replay error or a stored energy is not the recomputed one.
    """
    error, stored = trajectories["replay_error"], trajectories["replay_error_stored"]
    broken, record = trajectories["replay_broken"], trajectories["record_broken"]
    return {
        "tolerance": tolerance,
        "max": float(error.max()),
        "median": float(error.median()),
        "stored_max": float(stored.max()),
        "stored_median": float(stored.median()),
        "broken": trajectories.loc[broken, "trace_id"].tolist(),
        "broken_and_flagged": int((broken & trajectories["flagged"]).sum()),
        "record_broken": trajectories.loc[record, "trace_id"].tolist(),
    }


def drift_summary(
    drift: Drift, path: Sequence[float], ids: pd.Series, alpha: float
) -> dict[str, Any]:
    """Has the stream changed along the run? `path`: every so many steps, log10 capital."""
    level = alarm_level(alpha)
    over = np.flatnonzero(np.asarray(path) >= level)
    at = int(over[0]) if over.size else None
    every = max(1, math.ceil(len(path) / PATH_POINTS))
    return {
        "method": "conformal test martingale, simple jumper, growing bag",
        "alpha": alpha,
        "alarm_log10": level,
        "log10_highest": drift.highest,
        "log10_last": drift.log10,
        "alarm": at is not None,
        "alarm_at": at,
        "alarm_trace": None if at is None else str(ids.iloc[at]),
        "every": every,
        "path": list(path[::every]),
        "weights": "none: every clean trace counts alike, so the effective sample size is n",
    }


def planted_summary(run: Run, trajectories: pd.DataFrame) -> list[dict[str, Any]]:
    """Where the run says what was planted: how many of each kind are flagged, and found?

    Only a run made by `analyses.tamper` says so (`planted` in its manifest); a user's label of
    that name is a label like any other. `located`: the thought that is named first (the
    loudest where none is named) is the planted one.
    """
    labels = run.problem_labels()
    if "planted" not in run.manifest or "planted" not in labels.columns:
        return []
    kinds = np.array([_kind(kind) for kind in labels["planted"]], dtype=object)
    places = labels["planted_k"] if "planted_k" in labels.columns else pd.Series(np.nan, kinds)
    places = pd.to_numeric(places, errors="coerce").to_numpy(dtype=np.float64)
    rows = []
    for kind in sorted(set(kinds), key=lambda kind: (kind == "none", kind)):
        mine = kinds == kind
        row = {
            "kind": kind,
            "n": int(mine.sum()),
            "flagged": int(trajectories["flagged"][mine].sum()),
            "replay_broken": int(trajectories["replay_broken"][mine].sum()),
            "located": None,
        }
        if kind != "none" and not np.isnan(places[mine]).any():
            row["located"] = int((trajectories["named_k"][mine] == places[mine]).sum())
        rows.append(row)
    return rows


def _kind(value: object) -> str:
    return "none" if value is None or value != value else str(value)


def origin_of(flag: Mapping[str, Any]) -> dict[str, Any]:
    """Where does a flagged trajectory start to be strange? `k`, `text` and, if known, `z`.

    The first thought beyond alpha (maxT), the loudest where none is by itself; empty if invalid.
    What is changed early moves the thoughts after it, so that a later one may be louder. Audits
    of earlier versions name the thoughts beyond alpha only; of theirs it is the first of these.
    """
    loudest = flag.get("stands_out") or {}
    if flag.get("origin"):
        return dict(flag["origin"])
    k = min(flag.get("thoughts") or [], default=loudest.get("k"))
    if k is None or k == loudest.get("k"):
        return dict(loudest)
    texts = flag.get("texts") or []
    return {"k": k, "text": texts[k] if k < len(texts) else None}
