"""Which trajectories of a run differ in noise energy from clean ones, at a stated error rate?"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from analyses.calibrate import (
    Calibration,
    calibrate,
    clean_flag_range,
    fpr_band,
)
from analyses.decide import Decision, decide
from analyses.energy import STATISTIC, energy_quantiles
from analyses.score import RunEnergies, run_energies
from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from nfcot_model.traces.replay import Replay, disagree, replay_of

__all__ = ["BAND_LEVEL", "REPLAY_TOLERANCE", "AuditResult", "audit_run", "refuse_mismatch"]

REPLAY_TOLERANCE = 1e-3
BAND_LEVEL = 0.9


@dataclass(frozen=True)
class AuditResult:
    """What does the audit say? `summary` is audit.json, the frames are its tables.

    `trajectories`: trace_id, score, total, peak, peak_k, p_value, adjusted_p, flagged, invalid,
    replay_error, replay_error_stored, replay_broken, record_broken. `thoughts`: trace_id, k,
    energy, energy_recomputed, z, adjusted_p. Absence of a flag says that the
    noise energy is usual; it says nothing of what the thoughts are for.
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


def refuse_mismatch(run: Run, clean: Run) -> None:
    """Raise UserError unless clean traces of `clean` are a null for `run`.

    Checkpoint, tau, budget, template and dtype must agree; the clean run must have problems of
    every world of the run; no trace or problem group may be in both, for ranks among traces of
    one's own problems are not p-values.
    """
    for name, mine in run.settings.items():
        theirs = clean.settings[name]
        if mine != theirs:
            raise UserError(
                f"--calibration {clean.name}: {name} is {theirs!r}, that of {run.name} is {mine!r};"
                " calibrate on clean traces made with the same settings"
            )
    missing = set(run.traces["world"]) - set(clean.traces["world"])
    if missing:
        raise UserError(
            f"--calibration {clean.name}: has no problem of world {', '.join(sorted(missing))},"
            f" {run.name} has; calibrate on clean traces of the same kind of problems"
        )
    for column in ("trace_id", "group"):
        shared = set(run.traces[column]) & set(clean.traces[column])
        if shared:
            raise UserError(
                f"--calibration {clean.name}: shares {len(shared)} of {column} with {run.name}"
                f" ({min(shared)}); calibrate on other problems"
            )


def audit_run(run: Run, clean: Run, alpha: float) -> AuditResult:
    """Which trajectories of `run` are strange at rate `alpha` against the clean run?

    Uses the energies stored in both runs (`scorer: self`); beside that, replay errors and energies
    are recomputed from the tensors of the run. Raises UserError for a mismatch of settings, a
    world that the clean run lacks, shared problems, tau = 0, an empty run, or too few clean traces
    for alpha.
    """
    batch = run_energies(run)
    if batch.n == 0:
        raise UserError(f"{run.name}: holds no traces; trace some problems into it")
    clean_batch = run_energies(clean)
    refuse_mismatch(run, clean)
    calibration = calibrate(clean_batch, alpha)
    decision = decide(batch, calibration, alpha)
    found, usual = _replayed(run), _replayed(clean)
    _refuse_changed(clean, clean_batch, usual)
    tolerance = _tolerance(clean, usual)
    trajectories = _trajectory_frame(run, batch, decision, found, tolerance)
    thoughts = pd.DataFrame(
        {
            "trace_id": run.thoughts["trace_id"],
            "k": batch.k,
            "energy": batch.energy,
            "energy_recomputed": found.energy,
            "z": decision.scores.z,
            "adjusted_p": decision.thought_p,
        }
    )
    rows = calibration.reference_rows
    summary = {
        "scorer": run.scorer,
        "scored": {"tensor": "u", "density": "noise part of p(u|q): 0.5 * |eps / tau|^2"},
        "statistic": STATISTIC,
        "alpha": alpha,
        "n": batch.n,
        "flagged": _flagged(run, trajectories, thoughts, alpha),
        "invalid": _invalid(trajectories, thoughts),
        "calibration": _calibration(clean, calibration, alpha, batch.n)
        | {"replay_error_max": float(usual.error.max())},
        "run": _identity(run),
        "replay": _replay(trajectories, tolerance),
        "planted": _planted(run, trajectories),
        "band_by_k": energy_quantiles(clean_batch.energy[rows], clean_batch.k[rows]),
        "versions": {p: version(p) for p in ("nfcot-scope", "numpy", "scipy")},
    }
    return AuditResult(summary, trajectories, thoughts)


def _replayed(run: Run) -> Replay:
    """Replay errors and energies as the run's tensors give them, whatever its tables say."""
    K = run.traces["K"].to_numpy(dtype=np.int64)
    return replay_of(run.scorer, run.tensor, K, run.manifest["decode"]["tau"])


def _refuse_changed(clean: Run, batch: RunEnergies, usual: Replay) -> None:
    """Raise UserError for a calibration run that says of itself, or shows, that it is not clean."""
    if "planted" in clean.manifest:
        raise UserError(
            f"--calibration {clean.name}: holds planted anomalies; calibrate on a clean run"
        )
    broken = int((usual.error > _tolerance(clean, usual)).sum())
    if broken:
        raise UserError(
            f"--calibration {clean.name}: {broken} of its trajectories do not replay, so they are"
            " not as they were drawn; calibrate on a clean run"
        )
    changed = batch.trajectory[disagree(batch.energy, usual.energy)]
    if changed.size:
        raise UserError(
            f"--calibration {clean.name}: trace {batch.trace_ids[changed[0]]} has another energy on"
            " record than its thoughts give, so it is not clean; trace it again"
        )


def _tolerance(clean: Run, usual: Replay) -> float:
    """How large a replay error does rounding alone explain?

    A float32 run replays to 1e-3. In a coarser dtype thinking and scoring round differently, so
    twice the clean run's own largest error is the measure.
    """
    if clean.manifest["decode"]["dtype"] == "float32":
        return REPLAY_TOLERANCE
    return max(REPLAY_TOLERANCE, 2 * float(usual.error.max(initial=0.0)))


def _trajectory_frame(
    run: Run, batch: RunEnergies, decision: Decision, found: Replay, tolerance: float
) -> pd.DataFrame:
    scores = decision.scores
    stored = run.traces["replay_error"].to_numpy(dtype=np.float64)
    record_broken = disagree(stored, found.error)
    record_broken[batch.trajectory[disagree(batch.energy, found.energy)]] = True
    return pd.DataFrame(
        {
            "trace_id": batch.trace_ids,
            "score": scores.score,
            "total": scores.total,
            "peak": scores.peak,
            "peak_k": scores.peak_k,
            "p_value": decision.p_value,
            "adjusted_p": decision.adjusted_p,
            "flagged": decision.flagged,
            "invalid": scores.invalid,
            "replay_error": found.error,
            "replay_error_stored": stored,
            "replay_broken": ~(found.error <= tolerance),
            "record_broken": record_broken,
        }
    )


def _flagged(
    run: Run, trajectories: pd.DataFrame, thoughts: pd.DataFrame, alpha: float
) -> list[dict[str, Any]]:
    """One entry per flag, the strangest first; `thoughts` lists those that stand out by maxT."""
    end = run.traces["K"].to_numpy(dtype=np.int64).cumsum()
    strange = trajectories[trajectories["flagged"]]
    entries = []
    for row in strange.sort_values(["score", "trace_id"], ascending=[False, True]).itertuples():
        own = slice(end[row.Index - 1] if row.Index else 0, end[row.Index])
        texts = run.thoughts["text"].iloc[own].tolist()
        z, p = thoughts["z"].to_numpy()[own], thoughts["adjusted_p"].to_numpy()[own]
        top = None
        if not row.invalid:
            k = int(row.peak_k)
            top = {"k": k, "z": float(z[k]), "adjusted_p": float(p[k]), "text": texts[k]}
        entries.append(
            {
                "trace_id": row.trace_id,
                "p_value": row.p_value,
                "adjusted_p": row.adjusted_p,
                "thoughts": np.flatnonzero(p <= alpha + 1e-12).tolist(),
                "stands_out": top,
                "score": row.score,
                "total": row.total,
                "replay_error": row.replay_error,
                "replay_error_stored": row.replay_error_stored,
                "invalid": bool(row.invalid),
                "texts": texts,
            }
        )
    return entries


def _invalid(trajectories: pd.DataFrame, thoughts: pd.DataFrame) -> list[dict[str, Any]]:
    thinking = set(thoughts["trace_id"])
    return [
        {
            "trace_id": row.trace_id,
            "reason": "an energy is not a number" if row.trace_id in thinking else "no thoughts",
            "p_value": row.p_value,
        }
        for row in trajectories[trajectories["invalid"]].itertuples()
    ]


def _calibration(clean: Run, calibration: Calibration, alpha: float, m: int) -> dict[str, Any]:
    return {
        "run": clean.name,
        "run_hash": clean.hash,
        "n": calibration.n,
        "n_reference": calibration.n_reference,
        "unused_samples": calibration.unused,
        "invalid": int(np.isinf(calibration.scores).sum()),
        "unit": "trajectory, one per problem group",
        "level": BAND_LEVEL,
        "band": list(fpr_band(calibration.n, alpha, BAND_LEVEL)),
        "flags_if_clean": list(clean_flag_range(calibration.n, alpha, m, BAND_LEVEL)),
    }


def _identity(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "hash": run.hash,
        **{name.removeprefix("decode."): value for name, value in run.settings.items()},
        "worlds": sorted(set(run.traces["world"])),
        "D": run.D,
        "K": [int(run.traces["K"].min()), int(run.traces["K"].max())],
    }


def _replay(trajectories: pd.DataFrame, tolerance: float) -> dict[str, Any]:
    """Which records do not replay, or disagree with themselves? Needs no statistics.

    `max`, `median`, `broken`: of the errors recomputed from the tensors. `record_broken`: the
    stored replay error or a stored energy, from which the p-values come, is not the recomputed one.
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


def _planted(run: Run, trajectories: pd.DataFrame) -> list[dict[str, Any]]:
    """Where the run says what was planted: how many of each kind are flagged, and found?

    Only a run made by `analyses.tamper` says so (`planted` in its manifest); a user's label of
    that name is a label like any other. `located`: the thought that stands out is the planted one.
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
            row["located"] = int((trajectories["peak_k"][mine] == places[mine]).sum())
        rows.append(row)
    return rows


def _kind(value: object) -> str:
    return "none" if value is None or value != value else str(value)
