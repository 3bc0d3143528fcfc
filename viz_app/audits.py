"""What does an audit folder say? `audit.json`, its table of trajectories and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analyses.audit import REPLAY_TOLERANCE
from analyses.findings import origin_of
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object
from nfcot_model.traces import Run
from viz_app.catalog import artifacts

__all__ = [
    "Audit",
    "audit_paths",
    "flag_table",
    "places",
    "read_audit",
    "replay_trouble",
]

CHANGED = (
    "This trace does not replay: its thoughts, its recorded noise, or their mean and scale were"
    " changed after the draw"
)
RESCORED = (
    "This trace has another replay error or energy on record than its tensors give: tensors or"
    " tables were changed after scoring"
)
NEEDED = ("scorer", "statistic", "n", "flagged", "calibration")


@dataclass(frozen=True)
class Audit:
    """One audit. `summary` is audit.json; `p_values` one per trajectory, None if not stored."""

    folder: Path
    summary: dict[str, Any]
    p_values: np.ndarray | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def flagged(self) -> list[dict[str, Any]]:
        """One entry per flagged trajectory, as in audit.json."""
        return list(self.summary["flagged"])

    @property
    def run_name(self) -> str:
        """Which run was audited? Empty when the audit does not say."""
        return str(identity(self.summary.get("run")).get("name", ""))

    @property
    def calibration_name(self) -> str:
        """Which clean run was it calibrated on? Empty when the audit does not say."""
        return str(self.summary["calibration"].get("run") or "")

    def covers(self, run: Run) -> bool:
        """Is this an audit of this very run, not only of one of that name?"""
        return identity(self.summary.get("run")).get("hash") == run.hash

    def thoughts_of(self, trace_id: str) -> list[int]:
        """Which thoughts of a flagged trajectory does the audit name? Its largest one if none."""
        for flag in self.flagged:
            if flag["trace_id"] == trace_id:
                top = loudest(flag)
                return list(flag.get("thoughts") or ([top["k"]] if "k" in top else []))
        return []

    def ring(self, trace_id: str) -> str:
        """What is the ringed thought: beyond alpha by itself, or only the largest of its trace?"""
        beyond = any(f["trace_id"] == trace_id and f.get("thoughts") for f in self.flagged)
        return "stands out" if beyond else "largest"

    @property
    def replay(self) -> dict[str, Any]:
        """What did the audit find by recomputing noise and energies? Empty if it did not."""
        return dict(self.summary.get("replay") or {})

    def band(self) -> pd.DataFrame:
        """The energies usual at each position in the reference half; as `reference_band`.

        An audit stores no lower quantile than the 5 %.
        """
        rows = self.summary.get("band_by_k") or []
        columns = ["k", "n", "q05", "q50", "q95", "q99"]
        return pd.DataFrame(rows, columns=columns).set_index("k")

    def report(self) -> str | None:
        """The Markdown report that was written with the audit, if there is one."""
        path = self.folder / "audit.md"
        return path.read_text(encoding="utf-8") if path.is_file() else None


def loudest(flag: dict[str, Any]) -> dict[str, Any]:
    """Which thought of a flagged trajectory has the largest |z|? Empty if it is invalid."""
    return flag.get("stands_out") or {}


def identity(run: Any) -> dict[str, Any]:
    """A run reference as a dictionary, whether it was stored as a name or as an object."""
    return run if isinstance(run, dict) else {"name": run or ""}


def audit_paths(runs_dir: Path) -> list[Path]:
    """Which audits lie here? Their audit.json files, newest first."""
    return artifacts(runs_dir, "audits", "audit.json")


def read_audit(path: Path) -> Audit:
    """One audit from its audit.json. Raises UserError when a needed field is missing."""
    summary = read_json_object(path)
    missing = [name for name in NEEDED if name not in summary]
    if missing:
        raise UserError(
            f"{path}: no field {', '.join(missing)}; run the audit again with nfcot audit run"
        )
    table = path.parent / "trajectories.parquet"
    p_values = None
    if table.exists():
        try:
            p_values = pq.read_table(table, columns=["p_value"])["p_value"].to_numpy()
        except (OSError, pa.ArrowException) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{table}: cannot be read ({first}); run the audit again") from error
    return Audit(path.parent, summary, p_values)


def replay_trouble(trace: pd.Series, dtype: str, audits: Sequence[Audit]) -> list[str]:
    """Is this trace as it was drawn and scored? One sentence for each way in which it is not.

    `audits`: those of its run; they recomputed the errors and know what rounding explains. Without
    one the stored error is judged, in float32 only: what is usual in a coarser dtype, only a clean
    run tells. No sentence is not a proof: a change of all tensors that fits is not seen.
    """
    recomputed = [audit for audit in audits if audit.replay]
    if not recomputed:
        if dtype == "float32" and not trace["replay_error"] <= REPLAY_TOLERANCE:
            return [f"{CHANGED} (stored replay error above {REPLAY_TOLERANCE:g})."]
        return []
    found = []
    for audit in recomputed:
        if trace["trace_id"] in audit.replay.get("broken", []):
            limit = audit.replay.get("tolerance", REPLAY_TOLERANCE)
            found.append(f"{CHANGED} (recomputed error above {limit:.2g}; audit {audit.name}).")
        if trace["trace_id"] in audit.replay.get("record_broken", []):
            found.append(f"{RESCORED} (audit {audit.name}).")
    return found


def flag_table(audit: Audit) -> pd.DataFrame:
    """One row per flagged trajectory, smallest p-value first, then the largest score.

    Columns trace_id, p_value, adjusted_p, origin (k), text (its own), stands_out (k), z (of the
    loudest), thoughts, score, replay_error.
    """
    rows = []
    for flag in audit.flagged:
        first, top = origin_of(flag), loudest(flag)
        rows.append(
            {
                "trace_id": flag["trace_id"],
                "p_value": flag.get("p_value"),
                "adjusted_p": flag.get("adjusted_p"),
                "origin": first.get("k"),
                "text": first.get("text"),
                "stands_out": top.get("k"),
                "z": top.get("z"),
                "thoughts": ", ".join(str(k) for k in flag.get("thoughts") or []),
                "score": flag.get("score"),
                "replay_error": flag.get("replay_error"),
            }
        )
    columns = [
        "trace_id", "p_value", "adjusted_p", "origin", "text", "stands_out", "z", "thoughts",
        "score", "replay_error",
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(
        ["p_value", "score"], ascending=[True, False], ignore_index=True, kind="stable"
    )


def places(flag: dict[str, Any]) -> list[tuple[str, str]]:
    """Where does a flag start, and which thought is its loudest, where that is another?

    In words (Markdown), each with the text that the thought decodes to. None if it is invalid.
    """
    first, top = origin_of(flag), loudest(flag)
    if not first:
        return []
    if not flag.get("thoughts"):
        named = {"No thought is beyond alpha by itself; the loudest is": top}
    elif first["k"] == top.get("k"):
        named = {"It starts at, and is loudest at,": top}
    else:
        named = {"It starts at": first, "It is loudest at": top}
    return [
        (f"{words} **k = {at['k']}**{_z(at)}", at.get("text") or "(not decoded)")
        for words, at in named.items()
        if at
    ]


def _z(thought: dict[str, Any]) -> str:
    return "" if thought.get("z") is None else f", z = {thought['z']:+.2f}"
