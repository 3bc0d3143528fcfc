"""Which trajectories of a run differ in noise energy from clean ones, at a stated error rate?"""

from __future__ import annotations

from collections.abc import Mapping
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
from analyses.score import SCORER, RunEnergies, run_energies
from nfcot_model.errors import UserError
from nfcot_model.traces import Run

__all__ = ["REPLAY_TOLERANCE", "AuditResult", "audit_run", "refuse_mismatch"]

REPLAY_TOLERANCE = 1e-3
BAND_LEVEL = 0.9
SAME = (
    "reasoner",
    "checkpoint_hash",
    "decode.tau",
    "decode.max_thoughts",
    "decode.k_policy",
    "decode.template",
    "decode.dtype",
)


@dataclass(frozen=True)
class AuditResult:
    """What does the audit say? `summary` is audit.json, the frames are its tables.

    `trajectories`: trace_id, score, total, peak, peak_k, p_value, adjusted_p, flagged, invalid,
    replay_error. `thoughts`: trace_id, k, energy, z, adjusted_p. Absence of a flag says that the
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

    Checkpoint, tau, budget, template and dtype must agree; no trace or problem group may be in
    both, for ranks among traces of one's own problems are not p-values.
    """
    for name in SAME:
        mine, theirs = _field(run.manifest, name), _field(clean.manifest, name)
        if mine != theirs:
            raise UserError(
                f"--calibration {clean.name}: {name} is {theirs!r}, that of {run.name} is {mine!r};"
                " calibrate on clean traces made with the same settings"
            )
    for column in ("trace_id", "group"):
        shared = set(run.traces[column]) & set(clean.traces[column])
        if shared:
            raise UserError(
                f"--calibration {clean.name}: shares {len(shared)} of {column} with {run.name}"
                f" ({min(shared)}); calibrate on other problems"
            )


def _field(manifest: Mapping[str, Any], name: str) -> Any:
    head, _, rest = name.partition(".")
    return _field(manifest[head], rest) if rest else manifest[head]


def audit_run(run: Run, clean: Run, alpha: float) -> AuditResult:
    """Which trajectories of `run` are strange at rate `alpha` against the clean run?

    Uses the energies stored in both runs (`scorer: self`). Raises UserError for a mismatch of
    settings, shared problems, tau = 0, an empty run, or too few clean traces for alpha.
    """
    batch = run_energies(run)
    if batch.n == 0:
        raise UserError(f"{run.name}: holds no traces; trace some problems into it")
    clean_batch = run_energies(clean)
    refuse_mismatch(run, clean)
    calibration = calibrate(clean_batch, alpha)
    decision = decide(batch, calibration, alpha)
    trajectories = _trajectory_frame(run, batch, decision)
    thoughts = pd.DataFrame(
        {
            "trace_id": run.thoughts["trace_id"],
            "k": batch.k,
            "energy": batch.energy,
            "z": decision.scores.z,
            "adjusted_p": decision.thought_p,
        }
    )
    rows = calibration.reference_rows
    summary = {
        "scorer": SCORER,
        "scored": {"tensor": "u", "density": "noise part of p(u|q): 0.5 * |eps / tau|^2"},
        "statistic": STATISTIC,
        "alpha": alpha,
        "n": batch.n,
        "flagged": _flagged(run, trajectories, thoughts, alpha),
        "invalid": _invalid(trajectories, thoughts),
        "calibration": _calibration(clean, calibration, alpha, batch.n),
        "run": _identity(run),
        "replay": _replay(trajectories),
        "planted": _planted(run, trajectories),
        "band_by_k": energy_quantiles(clean_batch.energy[rows], clean_batch.k[rows]),
        "versions": {p: version(p) for p in ("nfcot-scope", "numpy", "scipy")},
    }
    return AuditResult(summary, trajectories, thoughts)


def _trajectory_frame(run: Run, batch: RunEnergies, decision: Decision) -> pd.DataFrame:
    scores = decision.scores
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
            "replay_error": run.traces["replay_error"].to_numpy(),
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
        **{name.removeprefix("decode."): _field(run.manifest, name) for name in SAME},
        "D": run.D,
        "K": [int(run.traces["K"].min()), int(run.traces["K"].max())],
    }


def _replay(trajectories: pd.DataFrame) -> dict[str, Any]:
    """Which records do not replay? Evidence of changed thoughts that needs no statistics."""
    error = trajectories["replay_error"].to_numpy(dtype=np.float64)
    broken = ~(error <= REPLAY_TOLERANCE)
    return {
        "tolerance": REPLAY_TOLERANCE,
        "max": float(error.max()),
        "median": float(np.median(error)),
        "broken": trajectories.loc[broken, "trace_id"].tolist(),
        "broken_and_flagged": int((broken & trajectories["flagged"]).sum()),
    }


def _planted(run: Run, trajectories: pd.DataFrame) -> list[dict[str, Any]]:
    """Where the run says what was planted: how many of each kind are flagged, and found?

    `located`: the thought that stands out is the planted one.
    """
    labels = run.problem_labels()
    if "planted" not in labels.columns:
        return []
    kinds = labels["planted"].fillna("none").to_numpy()
    places = labels["planted_k"].to_numpy() if "planted_k" in labels.columns else None
    rows = []
    for kind in sorted(set(kinds), key=lambda kind: (kind == "none", kind)):
        mine = kinds == kind
        row = {
            "kind": kind,
            "n": int(mine.sum()),
            "flagged": int(trajectories["flagged"][mine].sum()),
            "replay_broken": int((~(trajectories["replay_error"][mine] <= REPLAY_TOLERANCE)).sum()),
            "located": None,
        }
        if places is not None and kind != "none" and not pd.isna(places[mine]).any():
            row["located"] = int((trajectories["peak_k"][mine] == places[mine]).sum())
        rows.append(row)
    return rows
