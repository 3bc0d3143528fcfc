"""Which trajectories of a run differ from clean ones in noise space, at a stated error rate?"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.battery import COMBINED, OPTIONAL_STATISTICS, STATISTICS, BatteryScores
from analyses.calibrate import Rule
from analyses.clean import REPLAY_TOLERANCE, CleanSet, clean_set, refuse_mismatch, run_identity
from analyses.decide import Decision, decide
from analyses.drift import Drift
from analyses.findings import (
    BAND_LEVEL,
    batch_summary,
    calibration_summary,
    drift_summary,
    planted_summary,
    replay_summary,
)
from analyses.known import known_validation
from analyses.ranks import refuse_too_few
from nfcot_model.traces import Run
from nfcot_model.traces.replay import disagree

__all__ = ["BAND_LEVEL", "REPLAY_TOLERANCE", "SCHEMA", "AuditResult", "audit_run"]

SCHEMA = "nfcot-audit/2"
STATISTIC = "max_quantile"
EVIDENCE = ("validation", "probes", "monitorability", "causal")


@dataclass(frozen=True)
class AuditResult:
    """What does the audit say? `summary` is audit.json, the frames are its tables.

    `trajectories`: trace_id, score (combined), leading (the statistic it came from), every
    statistic, peak, peak_k, named_k, cell, p_value, adjusted_p, flagged, invalid, replay_error,
    replay_error_stored, replay_broken, record_broken. `thoughts`: trace_id, k, energy (on record),
    energy_recomputed, z, adjusted_p, and the other per-thought values of the battery. Absence of a
    flag says that the noise is usual; it says nothing of what the thoughts are for.
    """

    summary: dict[str, Any]
    trajectories: pd.DataFrame
    thoughts: pd.DataFrame

    @property
    def flags(self) -> int:
        return len(self.summary["flagged"])

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot audit run --json`."""
        return self.summary


def audit_run(run: Run, clean: Run | CleanSet, rule: Rule | float) -> AuditResult:
    """Which trajectories of `run` are strange by the rule (a rate alone is alpha)?

    clean: a calibration, or a clean run to make one of. The noise is recomputed from the tensors of
    the run and compared with what its tables say; the density is the one that the run names as its
    scorer (`self` or `retrofit`). Raises UserError for a run without a density, a mismatch of
    settings, a world that the clean traces lack, shared problems, tau = 0, mixed tau, an empty
    run, or too few clean traces for the rule.
    """
    rule = rule if isinstance(rule, Rule) else Rule(alpha=rule)
    run_identity(run)
    refuse_mismatch(run, clean.identity if isinstance(clean, CleanSet) else run_identity(clean))
    calibration = clean if isinstance(clean, CleanSet) else clean_set(clean, rule)
    refuse_too_few(f"--calibration {calibration.name}", calibration.ranks.n, rule)
    started = perf_counter()
    scores = calibration.ranks.battery.score(run, scorer=run.scorer)
    seconds = perf_counter() - started
    decision = decide(scores, calibration.ranks, rule)
    trajectories, thoughts = _frames(run, scores, decision, calibration.tolerance)
    drift = Drift.start({name: cell.scores for name, cell in calibration.ranks.cells.items()})
    path = drift.follow(trajectories["score"], decision.cell, trajectories["trace_id"])
    summary = {
        "schema": SCHEMA,
        "scorer": scores.scored["scorer"],
        "scored": scores.scored,
        "statistic": STATISTIC,
        "statistics": _statistics(scores),
        "alpha": rule.alpha if rule.fdr is None else None,
        "fdr": rule.fdr,
        "guaranteed": rule.guaranteed,
        "delta": rule.delta if rule.guaranteed else None,
        "n": len(trajectories),
        "flagged": _flagged(run, trajectories, thoughts, scores.statistics),
        "invalid": _invalid(trajectories),
        "batch": batch_summary(decision, calibration.ranks, rule),
        "calibration": calibration_summary(calibration, decision, rule),
        "run": _identity(run),
        "replay": replay_summary(trajectories, calibration.tolerance),
        "drift": drift_summary(drift, path, trajectories["trace_id"], rule.rate),
        "coverage": _coverage(run, scores, seconds),
        "planted": planted_summary(run, trajectories),
        "band_by_k": calibration.band_by_k,
        "evidence": dict.fromkeys(EVIDENCE) | {"validation": _known(run)},
        "deviations": [],
        "versions": {p: version(p) for p in ("nfcot-scope", "numpy", "scipy", "scikit-learn")},
    }
    return AuditResult(summary, trajectories, thoughts.drop(columns="named"))


def _known(run: Run) -> dict[str, Any] | None:
    decode = run.manifest["decode"]
    return known_validation(run.manifest["checkpoint_hash"], decode["tau"])


def _frames(
    run: Run, scores: BatteryScores, decision: Decision, tolerance: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of an audit; the thoughts' has a column `named` besides."""
    own = scores.trajectories
    error = own["replay_err"].to_numpy(dtype=np.float64)
    stored = run.traces["replay_error"].to_numpy(dtype=np.float64)
    K = own["K"].to_numpy(dtype=np.int64)
    owner = np.repeat(np.arange(len(own)), K)
    peak_k = own["peak_k"].to_numpy(dtype=np.int64)
    named_k = _first(decision.named, owner, scores.thoughts["k"].to_numpy(), peak_k)
    record_broken = disagree(stored, error)
    energies = scores.thoughts["energy_stored"].to_numpy(dtype=np.float64)
    recomputed = scores.thoughts["energy"].to_numpy(dtype=np.float64)
    record_broken[owner[disagree(energies, recomputed)]] = True
    trajectories = own.drop(columns=["replay_err", "group"]).assign(
        cell=decision.cell,
        p_value=decision.p_value,
        adjusted_p=decision.adjusted_p,
        flagged=decision.flagged,
        named_k=named_k,
        replay_error=error,
        replay_error_stored=stored,
        replay_broken=~(error <= tolerance),
        record_broken=record_broken,
    )
    thoughts = scores.thoughts.rename(
        columns={"energy": "energy_recomputed", "energy_stored": "energy"}
    )
    return trajectories, thoughts.assign(adjusted_p=decision.thought_p, named=decision.named)


def _first(
    named: NDArray[np.bool_],
    owner: NDArray[np.int64],
    k: NDArray[np.int64],
    otherwise: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The first named thought of each trajectory, [n]; `otherwise` [n] where none is named."""
    first = otherwise.copy()
    hits = np.flatnonzero(named)[::-1]
    first[owner[hits]] = k[hits]
    return first


def _statistics(scores: BatteryScores) -> list[dict[str, Any]]:
    """What each statistic asks, of what, and for how many trajectories it is undefined."""
    known = {statistic.name: statistic for statistic in (*STATISTICS, *OPTIONAL_STATISTICS)}
    rows = []
    for name in scores.statistics:
        about = known.get(name)
        rows.append(
            {
                "name": name,
                "asks": about.asks if about else "",
                "tensor": about.tensor if about else "",
                "density": about.density if about else "",
                "shortest_K": about.shortest if about else 1,
                "undefined": scores.undefined[name],
                "combined": name in COMBINED,
            }
        )
    return rows


def _flagged(
    run: Run, trajectories: pd.DataFrame, thoughts: pd.DataFrame, statistics: list[str]
) -> list[dict[str, Any]]:
    """One entry per flag, the strangest first; `thoughts` lists those that stand out by maxT.

    `origin` is the first of them: what is changed early moves the thoughts after it, and maxT
    allows a clean thought before it at the rate of the rule. Where none stands out, the loudest.
    """
    end = trajectories["K"].to_numpy(dtype=np.int64).cumsum()
    columns = {name: thoughts[name].to_numpy() for name in ("z", "adjusted_p", "named", "energy")}
    shown = [name for name in statistics if name in trajectories.columns]
    strange = trajectories[trajectories["flagged"]]
    order = strange.sort_values(["p_value", "score", "trace_id"], ascending=[True, False, True])
    entries = []
    for row in order.itertuples():
        own = slice(end[row.Index - 1] if row.Index else 0, end[row.Index])
        texts = run.thoughts["text"].iloc[own].tolist()
        z, p = columns["z"][own], columns["adjusted_p"][own]
        top, origin = (
            None
            if row.invalid
            else {"k": k, "z": float(z[k]), "adjusted_p": float(p[k]), "text": texts[k]}
            for k in (int(row.peak_k), int(row.named_k))
        )
        entries.append(
            {
                "trace_id": row.trace_id,
                "p_value": row.p_value,
                "adjusted_p": row.adjusted_p,
                "thoughts": np.flatnonzero(columns["named"][own]).tolist(),
                "origin": origin,
                "stands_out": top,
                "score": row.score,
                "leading": row.leading,
                "statistics": {
                    name: float(getattr(row, name)) for name in shown if ":" not in name
                },
                "cell": row.cell,
                "replay_error": row.replay_error,
                "replay_error_stored": row.replay_error_stored,
                "invalid": bool(row.invalid),
                "texts": texts,
                "profile": {
                    "energy": columns["energy"][own].tolist(),
                    "z": z.tolist(),
                    "adjusted_p": p.tolist(),
                },
            }
        )
    return entries


def _invalid(trajectories: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "trace_id": row.trace_id,
            "reason": "an energy is not a number" if row.K else "no thoughts",
            "p_value": row.p_value,
        }
        for row in trajectories[trajectories["invalid"]].itertuples()
    ]


def _identity(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "hash": run.hash,
        **{name.removeprefix("decode."): value for name, value in run.settings.items()},
        "temperature": run.manifest["decode"]["temperature"],
        "problem_set_hash": run.manifest.get("problem_set_hash"),
        "worlds": sorted(set(run.traces["world"])),
        "D": run.D,
        "K": [int(run.traces["K"].min()), int(run.traces["K"].max())],
    }


def _coverage(run: Run, scores: BatteryScores, seconds: float) -> dict[str, Any]:
    """How much of the run was scored? `missing`: traces that its manifest promises and it lacks."""
    n = len(scores.trajectories)
    return {
        "expected": run.manifest["traces"],
        "scored": n,
        "missing": max(int(run.manifest["traces"]) - n, 0),
        "invalid": int(scores.trajectories["invalid"].sum()),
        "undefined": {name: count for name, count in scores.undefined.items() if count},
        "thoughts": len(scores.thoughts),
        "seconds": seconds,
        "thoughts_per_second": len(scores.thoughts) / max(seconds, 1e-9),
    }
