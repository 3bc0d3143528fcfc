"""What the pages read, cached by path and change stamp: a changed folder is read again."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object
from nfcot_model.traces import Run, list_runs, read_run
from viz_app.audits import Audit, audit_paths, read_audit
from viz_app.bands import reference_band
from viz_app.catalog import RunLine, run_line, settings, stamp, thought_column
from viz_app.projection import Projection, project, stratified_sample
from viz_app.server import RUNS_DIR_VARIABLE

__all__ = [
    "audits_of",
    "band",
    "column",
    "comparable_runs",
    "document",
    "label_names",
    "load_audit",
    "load_run",
    "projection",
    "run_lines",
    "runs_dir",
    "sample",
]


def runs_dir() -> Path:
    """Which folder of runs does this dashboard show? Raises UserError when none was given."""
    given = os.environ.get(RUNS_DIR_VARIABLE)
    if not given:
        raise UserError("no folder of runs was given; start the dashboard with: nfcot app RUNS_DIR")
    return Path(given)


@st.cache_resource(max_entries=8, show_spinner="Reading the run …")
def _run(path: str, version: str) -> Run:
    return read_run(path)


def load_run(path: Path) -> Run:
    """One run, read and verified once per version. Raises UserError when it is damaged."""
    return _run(str(path), stamp(path))


@st.cache_data(max_entries=256, show_spinner=False)
def _line(path: str, version: str) -> RunLine:
    try:
        return run_line(load_run(Path(path)))
    except UserError as error:
        return RunLine(run=Path(path).name, trouble=str(error))


def run_lines(folder: Path) -> pd.DataFrame:
    """One row per run, newest first; damaged runs keep their row, with the reader's message."""
    lines = [asdict(_line(str(path), stamp(path))) for path in list_runs(folder)]
    frame = pd.DataFrame(lines, columns=list(RunLine.__dataclass_fields__))
    return frame.sort_values(["created", "run"], ascending=[False, True], ignore_index=True)


@st.cache_data(max_entries=64, show_spinner=False)
def _document(path: str, version: str) -> dict[str, Any]:
    return read_json_object(Path(path))


def document(path: Path) -> dict[str, Any]:
    """One JSON artefact. Raises UserError when it cannot be read."""
    return _document(str(path), stamp(path.parent))


@st.cache_data(max_entries=64, show_spinner=False)
def _audit(path: str, version: str) -> Audit:
    return read_audit(Path(path))


def load_audit(path: Path) -> Audit:
    """One audit by the path of its audit.json. Raises UserError when it cannot be read."""
    return _audit(str(path), stamp(path.parent))


def audits_of(run: Run) -> list[Audit]:
    """Which audits of this very run lie here? Unreadable ones are left to the audit page."""
    found = []
    for path in audit_paths(runs_dir()):
        try:
            audit = load_audit(path)
        except UserError:
            continue
        if audit.covers(run):
            found.append(audit)
    return found


def comparable_runs(run: Run) -> list[str]:
    """Which other runs were thought by the same model in the same way, so that bands compare?"""
    found = []
    for path in list_runs(runs_dir()):
        try:
            same = settings(document(path / "run.json")) == settings(run.manifest)
        except UserError:
            continue
        if same and path.name != run.name:
            found.append(path.name)
    return found


@st.cache_data(max_entries=16, show_spinner="Fitting the projection …")
def _projection(path: str, version: str, space: str) -> Projection:
    return project(load_run(Path(path)).tensor(space))


def projection(path: Path, space: str) -> Projection:
    """The principal plane of all thoughts of a run in one space (u, e, eps or mu)."""
    return _projection(str(path), stamp(path), space)


@st.cache_data(max_entries=32, show_spinner=False)
def _column(path: str, version: str, name: str) -> pd.Series:
    return thought_column(load_run(Path(path)), name)


def column(path: Path, name: str) -> pd.Series:
    """One value per thought: a measure, a step label, a trace column or a problem label."""
    return _column(str(path), stamp(path), name)


@st.cache_data(max_entries=32, show_spinner=False)
def _label_names(path: str, version: str) -> list[str]:
    return load_run(Path(path)).label_columns()


def label_names(path: Path) -> list[str]:
    """Which step and problem labels can thoughts be coloured by?"""
    return _label_names(str(path), stamp(path))


@st.cache_data(max_entries=16, show_spinner=False)
def _sample(path: str, version: str) -> np.ndarray:
    run = load_run(Path(path))
    verdicts = run.traces.set_index("trace_id")["correct"]
    thoughts = run.thoughts
    strata = thoughts["k"].astype(str) + "/" + thoughts["trace_id"].map(verdicts).astype(str)
    return stratified_sample(strata)


def sample(path: Path) -> np.ndarray:
    """Which thoughts are drawn when a run has too many? Stratified by k and verdict, seed 0."""
    return _sample(str(path), stamp(path))


@st.cache_data(max_entries=64, show_spinner=False)
def _band(path: str, version: str, measure: str) -> pd.DataFrame:
    return reference_band(load_run(Path(path)).thoughts, measure)


def band(path: Path, measure: str) -> pd.DataFrame:
    """Quantiles of a measure at each position k over all traces of a run."""
    return _band(str(path), stamp(path), measure)
