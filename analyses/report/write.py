"""An audit's folder: tables, audit.md, audit.json; on request audit.html and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from analyses.audit import AuditResult
from analyses.report.markup import audit_html, audit_markdown
from analyses.report.schema import SCHEMA_FILE, AuditDocument
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object, replacing, write_json, write_text
from nfcot_model.terminal import jsonable

__all__ = ["read_audit", "write_audit", "write_report"]

TABLES = {"trajectory": "trajectories.parquet", "thought": "thoughts.parquet"}
ROWS = "rows.jsonl"
BATCH = 20_000


def write_audit(result: AuditResult, folder: Path) -> None:
    """Put audit.md, the tables and, last, audit.json into `folder`.

    Raises UserError when the folder holds something else or the audit of another run.
    """
    _refuse_foreign(folder, result.summary)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("trajectories", result.trajectories), ("thoughts", result.thoughts)):
        with replacing(folder / f"{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
    write_text(folder / "audit.md", audit_markdown(result.summary))
    write_json(folder / "audit.json", jsonable(result.summary))


def read_audit(folder: Path) -> dict[str, Any]:
    """The audit.json of a folder. Raises UserError unless it is one by the published schema."""
    file = folder / "audit.json"
    if not file.is_file():
        raise UserError(f"{folder}: holds no audit.json; make one with nfcot audit run")
    summary = read_json_object(file)
    try:
        AuditDocument.model_validate(summary)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{file}: field '{where}': {first['msg']}; it is not an audit of this version, run"
            " nfcot audit run again"
        ) from None
    return summary


def write_report(folder: Path, summary: dict[str, Any]) -> list[Path]:
    """Put audit.html, audit.md, rows.jsonl, audit.schema.json and, last, audit.json in the folder.

    rows.jsonl has one object per trajectory, then one per thought. Returns what was written.
    Raises UserError when a table of the audit is missing or damaged.
    """
    with replacing(folder / ROWS) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for kind, name in TABLES.items():
            for row in _rows(folder / name):
                stream.write(json.dumps(jsonable({"kind": kind} | row), allow_nan=False) + "\n")
    write_text(folder / "audit.html", audit_html(summary))
    write_text(folder / "audit.md", audit_markdown(summary))
    write_text(folder / SCHEMA_FILE.name, SCHEMA_FILE.read_text(encoding="utf-8"))
    write_json(folder / "audit.json", jsonable(summary))
    names = ("audit.html", "audit.md", "audit.json", ROWS, SCHEMA_FILE.name)
    return [folder / name for name in names]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(BATCH):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read ({first}); run nfcot audit run again") from None


def _refuse_foreign(folder: Path, summary: dict[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    file = folder / "audit.json"
    if not file.is_file():
        if _is_unfinished(folder):
            return
        raise UserError(f"--out {folder}: is not empty and holds no audit; give another folder")
    try:
        found = read_json_object(file)
    except UserError as error:
        raise UserError(f"--out {folder}: {error}; give another folder") from None
    if _audited(found) is None:
        raise UserError(f"--out {folder}: {file.name} there is not an audit's; give another folder")
    if _audited(found) != _audited(summary):
        raise UserError(f"--out {folder}: holds another audit; give another folder")


def _is_unfinished(folder: Path) -> bool:
    """Is all that is here what a killed writer of an audit leaves behind?"""
    own = {*TABLES.values(), "audit.md"}
    return all(path.name in own or path.suffix == ".tmp" for path in folder.iterdir())


def _audited(summary: dict[str, Any]) -> tuple[Any, ...] | None:
    """Which run was audited against which, and by which rule? None for what is no audit."""
    run, calibration = summary.get("run"), summary.get("calibration")
    if not isinstance(run, dict) or not isinstance(calibration, dict):
        return None
    rate = summary.get("alpha"), summary.get("fdr")
    found = (run.get("hash"), calibration.get("run_hash"))
    if None in found or rate == (None, None):
        return None
    return (*found, *rate, bool(summary.get("guaranteed")))
