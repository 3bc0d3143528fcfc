"""What the lenses read, on disk: lens.json and rows.parquet in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses.lens.study import LensResult
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object, replacing, write_json
from nfcot_model.terminal import jsonable

__all__ = ["refuse_other", "write_lenses"]

SUMMARY = "lens.json"


def refuse_other(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raises UserError when the folder holds anything but what these very lenses wrote."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / SUMMARY).is_file():
        raise UserError(f"--out {folder}: is not empty and holds no {SUMMARY}; give another folder")
    if read_json_object(folder / SUMMARY).get("asked") != jsonable(dict(asked)):
        raise UserError(
            f"--out {folder}: holds what other lenses, or the same on another run, read; give"
            " another folder"
        )


def write_lenses(result: LensResult, folder: Path) -> None:
    """Put rows.parquet and, last, lens.json into `folder`, replacing those of the same lenses."""
    refuse_other(folder, result.summary["asked"])
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "rows.parquet") as temporary:
        result.rows.to_parquet(temporary, index=False, compression="zstd")
    write_json(folder / SUMMARY, jsonable(result.summary))
