"""Long work in blocks whose tables stay on disk, so that it goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, read_json_object, replacing, write_json
from nfcot_model.terminal import jsonable

__all__ = ["claim", "keep_block", "kept_block", "write_result"]

ROWS = "rows"


def claim(out: Path, file: str, asked: Mapping[str, Any], what: str) -> None:
    """Make `out` the folder of this work, or go on in it if it is. Raises UserError otherwise.

    `file` holds the hash of what was `asked`; `what` names the work in messages.
    """
    identity = content_hash(jsonable(dict(asked)))
    path = out / file
    if path.exists():
        if read_json_object(path).get("identity") != identity:
            raise UserError(f"--out {out}: holds another {what}; give another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is not empty and holds no {what}; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {"identity": identity})


def keep_block(out: Path, block: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Put the tables of a finished block on disk, each whole or not at all."""
    (out / ROWS).mkdir(exist_ok=True)
    for name, frame in tables.items():
        with replacing(out / ROWS / f"{block}-{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
    # Written last: a block without it is done again.
    write_json(out / ROWS / f"{block}.json", {name: len(frame) for name, frame in tables.items()})


def kept_block(out: Path, block: str) -> dict[str, pd.DataFrame] | None:
    """The tables of a finished block; None when it is to be done (again)."""
    try:
        counts = read_json_object(out / ROWS / f"{block}.json")
        tables = {n: pd.read_parquet(out / ROWS / f"{block}-{n}.parquet") for n in counts}
    except (UserError, OSError, ValueError, pa.ArrowException):
        return None
    return tables if {n: len(frame) for n, frame in tables.items()} == counts else None


def write_result(
    out: Path, file: str, summary: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
) -> None:
    """Put whole tables and, last, the summary into the folder that was claimed."""
    for name, frame in tables.items():
        with replacing(out / f"{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
    write_json(out / file, jsonable(dict(summary)))
