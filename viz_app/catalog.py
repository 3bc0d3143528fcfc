"""What lies in a folder of runs: runs, audits and probes, each in one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from viz_app.bands import decode_match

__all__ = [
    "RunLine",
    "artifact_row",
    "artifacts",
    "run_line",
    "settings",
    "stamp",
    "thought_column",
]


@dataclass(frozen=True)
class RunLine:
    """One run in one line. `trouble` holds the reader's message when the run cannot be read."""

    run: str
    trouble: str | None = None
    reasoner: str | None = None
    worlds: str | None = None
    traces: int | None = None
    thoughts: int | None = None
    pass_rate: float | None = None
    decode_match: float | None = None
    tau: float | None = None
    logp_per_dim: float | None = None
    checkpoint: str | None = None
    created: str | None = None


def run_line(run: Run) -> RunLine:
    """What was traced, with what success, and how likely were the thoughts under their model?

    `logp_per_dim` is Σ log p(u|q) / Σ K·D in nats; `pass_rate` and `decode_match` are in 0..1.
    `logp_per_dim` is None without a density. A high likelihood says nothing about intent: the model
    scores its own samples.
    """
    traces, thoughts = run.traces, run.thoughts
    worlds = sorted({str(world) for world in traces["world"].dropna()})
    return RunLine(
        run=run.name,
        reasoner=run.manifest.get("reasoner"),
        worlds=", ".join(worlds),
        traces=len(traces),
        thoughts=len(thoughts),
        pass_rate=float(traces["correct"].mean()) if len(traces) else None,
        decode_match=decode_match(thoughts["match"]),
        tau=run.manifest.get("decode", {}).get("tau"),
        logp_per_dim=float(thoughts["logp"].sum() / (len(thoughts) * run.D))
        if thoughts["logp"].notna().any()
        else None,
        checkpoint=run.manifest.get("checkpoint_hash"),
        created=run.manifest.get("created"),
    )


def settings(manifest: dict[str, Any]) -> tuple[Any, ...]:
    """What must agree before the thoughts of two runs are compared: model, tau, dtype, template?"""
    decode = manifest.get("decode") or {}
    names = ("tau", "dtype", "template")
    return (manifest.get("checkpoint_hash"), *(decode.get(name) for name in names))


def stamp(folder: Path) -> str:
    """Has anything in `folder` changed? One string from names, sizes and times, contents unread.

    Two levels deep: a run keeps its parts in folders of its own. Missing folder: the empty string.
    """
    parts = []
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.is_file():
            status = path.stat()
            parts.append((path.name, status.st_size, status.st_mtime_ns))
    return f"{len(parts)}:{hash(tuple(parts)):x}" if parts else ""


def artifacts(runs_dir: Path, kind: str, file: str) -> list[Path]:
    """Which artefacts of one kind lie here? Files `kind/*/file`, newest first."""
    found = [path for path in (runs_dir / kind).glob(f"*/{file}") if path.is_file()]
    return sorted(found, key=lambda path: (-path.stat().st_mtime_ns, str(path)))


def artifact_row(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """One audit or probe in one line: what was asked of which run, and with what result.

    Fields that the artefact lacks are None.
    """
    run = content.get("run")
    row: dict[str, Any] = {"run": run.get("name") if isinstance(run, dict) else run}
    if kind == "audits":
        names = ("scorer", "statistic", "alpha", "n")
        flagged = content.get("flagged")
        return (
            row
            | {name: content.get(name) for name in names}
            | {"flagged": None if flagged is None else len(flagged)}
        )
    accuracy = content.get("metrics", {}).get("accuracy", {})
    controls = {entry["name"]: entry["metrics"] for entry in content.get("controls", [])}
    shuffled = controls.get("shuffled_labels", {}).get("accuracy", {})
    interval = None
    if {"low", "high"} <= accuracy.keys():
        interval = f"{100 * accuracy['low']:.0f}–{100 * accuracy['high']:.0f} %"
    return (
        row
        | {name: content.get(name) for name in ("site", "label", "n")}
        | {
            "accuracy": accuracy.get("value"),
            "interval": interval,
            "shuffled": shuffled.get("value"),
        }
    )


def thought_column(run: Run, name: str) -> pd.Series:
    """One value per thought for a measure, a step label or a problem label, aligned with thoughts.

    `name` is a column of `run.thoughts`, a step label, a problem label or a trace column, looked
    up in this order. Raises UserError when there is none of that name.
    """
    if name in run.thoughts:
        return run.thoughts[name].reset_index(drop=True)
    step_labels = run.step_labels()
    if name in step_labels:
        return step_labels[name].reset_index(drop=True)
    problem_labels = run.problem_labels()
    traces = problem_labels if name in problem_labels else run.traces
    if name not in traces:
        raise UserError(f"{run.name}: no measure or label named {name!r}")
    by_trace = pd.Series(traces[name].to_numpy(), index=run.traces["trace_id"].to_numpy())
    return run.thoughts["trace_id"].map(by_trace).reset_index(drop=True)
