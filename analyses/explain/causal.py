"""What has `nfcot causal` found about the run of a trace, and about the trace itself?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object
from nfcot_model.traces import Run

__all__ = ["causal_check", "find_causal"]

REPORT = "causal.json"
BESIDE = ("causal/*", "*", "../causal/*", "../reports/*")


def find_causal(run: Run, folder: Path | None = None) -> Path | None:
    """The folder of a causal study of this run: the one given, or the first that lies beside it.

    Looked for in RUNS/causal/*, RUNS/*, and causal/* and reports/* beside RUNS. Raises UserError
    when the one given is none of this run.
    """
    if folder is not None:
        if not (folder / REPORT).is_file():
            raise UserError(f"--causal {folder}: holds no {REPORT}; give the -o of nfcot causal")
        if _run_hash(folder) != run.hash:
            raise UserError(f"--causal {folder}: is a study of another run than {run.name}")
        return folder
    found = (p.parent for at in BESIDE for p in sorted(run.path.parent.glob(f"{at}/{REPORT}")))
    return next((path for path in found if _run_hash(path) == run.hash), None)


def _run_hash(folder: Path) -> object:
    try:
        run = read_json_object(folder / REPORT).get("run")
    except UserError:
        return None
    return run.get("hash") if isinstance(run, dict) else None


def causal_check(folder: Path, trace: pd.Series) -> dict[str, Any]:
    """The verdict of the trace's task, and what edits of this trace's thoughts did to its answer.

    `thoughts`: per k, mode and edit the share of edits that changed the answer, and of their
    placebos; empty when the trace was not among those interfered with.
    """
    summary = read_json_object(folder / REPORT)
    tasks = [t for t in summary.get("tasks", []) if t.get("task") == trace["world"]]
    task = {n: tasks[0].get(n) for n in ("task", "verdict", "meaning")} if tasks else None
    try:
        single = pd.read_parquet(folder / "single.parquet")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/single.parquet: cannot be read ({error})") from None
    mine = single[single["trace_id"] == trace["trace_id"]] if len(single) else single
    rows = []
    if len(mine):
        means = mine.groupby(["k", "mode", "edit"])[["flipped", "placebo_flipped"]].mean()
        rows = means.reset_index().to_dict("records")
    return {"folder": str(folder), "task": task, "thoughts": rows}
