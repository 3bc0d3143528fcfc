"""A sweep on disk: its folder, its plan, and what is written when it is done.

plan.json                which run, label, sites and estimators: another plan is refused
units/*.json             what is done so far
sweep.json, cells.parquet, sweep.html, sweep.png, sweep.md
best/                    the probe of the best site (docs: probe artefacts)
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from nfcot_model import __version__
from nfcot_model.files import content_hash, file_hash, replacing, write_json, write_text
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from probes.artifact import save_probe
from probes.drawing import draw
from probes.report import sweep_markdown
from probes.sweep import Plan, Sweep
from probes.tables import LabelTable

__all__ = ["sweep_folder", "write_sweep"]

FORMAT_VERSION = 1


def sweep_folder(
    run: Run, label: str, plan: Plan, table: LabelTable | None, out: Path | None
) -> tuple[Path, dict[str, Any]]:
    """Where does this sweep belong, and what makes it this one? Another plan has another folder."""
    identity = {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "run_hash": run.hash,
        "traces": len(run.traces),
        "label": label,
        "labels_sha256": None if table is None else file_hash(table.path),
        "plan": jsonable(asdict(plan)),
        "activations": run.activations(),
    }
    name = f"sweep-{run.name}-{label}-{content_hash(identity)[:8]}".replace("/", "_")
    return out or run.path.parent / "probes" / name, identity


def write_sweep(found: Sweep, folder: Path) -> str | None:
    """Put the finished sweep into its folder, figures last; says why there is no PNG, if so."""
    save_probe(found.best, folder / "best")
    with replacing(folder / "cells.parquet") as temporary:
        _frame(found).to_parquet(temporary, index=False, compression="zstd")
    write_text(folder / "sweep.md", sweep_markdown(found))
    write_json(folder / "sweep.json", jsonable(found.to_dict()))
    try:
        from probes.figures import sweep_figure

        return draw([(folder / "sweep", sweep_figure(found))])
    except ImportError:
        return "plotly is not installed (extra 'app')"


def _frame(found: Sweep) -> pd.DataFrame:
    """One row per site and estimator or control, metrics in columns."""
    nan = float("nan")
    rows = []
    for cell, control, p in [
        *((c, False, p) for c, p in zip(found.cells, found.adjusted_p, strict=True)),
        *((c, True, nan) for c in found.controls),
    ]:
        row = {
            "site": cell.site,
            "name": cell.name,
            "control": control,
            "n": cell.n,
            "groups": cell.groups,
            "penalty": cell.penalty,
            "value": cell.value,
            "adjusted_p": p,
            "reason": cell.reason,
        }
        for name, estimate in cell.metrics.items():
            row |= {
                name: estimate.value,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
            }
        rows.append(row)
    return pd.DataFrame(rows)
