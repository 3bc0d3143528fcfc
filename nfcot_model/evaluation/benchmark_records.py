"""Records of an evaluation on disk: a block of problems a file, each there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.files import holdings, read_json_object, write_json, write_text

__all__ = ["Record", "Sample", "open_folder", "read_block", "write_block"]

MANIFEST = "eval.json"
_BLOCKS = "records"
_FREE = ("model", "file")  # where things lay, which may have changed


@dataclass(frozen=True)
class Sample:
    """One answer to one problem, what was judged of it, and how.

    `outcome` is "passed", or the status of the first check that it did not pass, or "unjudged".
    `K` are its thoughts; not `stopped`: thinking was cut at its budget or the context;
    `answer_cut`: the answer is as long as the model may write.
    """

    answer: str
    solution: str
    outcome: str
    verdicts: dict[str, str]
    detail: str
    K: int
    stopped: bool
    answer_cut: bool


@dataclass(frozen=True)
class Record:
    """Everything that happened with one problem.

    `n` answers count, `passed` of them passed. Without room in the context (`fits` is false) there
    are no samples, and n answers that count as wrong. `reference` is the status of the authors'
    own solution when judged here; `unjudged` says why no answer could be.
    """

    task_id: str
    labels: dict[str, str]
    n: int
    passed: int
    fits: bool
    reference: str | None
    unjudged: str | None
    samples: list[Sample]


def open_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder of an evaluation, or find it there for the same one.

    Raises UserError for a folder that holds another evaluation, or anything else.
    """
    if not folder.parent.is_dir():
        raise UserError(f"-o {folder}: the folder {folder.parent} does not exist; make it first")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder}: is a file; give a folder")
    folder.mkdir(exist_ok=True)
    path = folder / MANIFEST
    if not path.exists():
        if holdings(folder):
            raise UserError(f"-o {folder}: holds other files; give a new folder")
        write_json(path, manifest)
    found = read_json_object(path)
    for name in manifest.keys() | found.keys():
        if name not in _FREE and found.get(name) != manifest.get(name):
            raise UserError(
                f"-o {folder}: holds an evaluation with {name} {found.get(name)!r}, asked is"
                f" {manifest.get(name)!r}; give a new folder"
            )
    (folder / _BLOCKS).mkdir(exist_ok=True)


def _block_path(folder: Path, number: int) -> Path:
    return folder / _BLOCKS / f"{number:05d}.jsonl"


def write_block(folder: Path, number: int, records: Sequence[Record]) -> None:
    """Commit a block: atomically, one record a line."""
    lines = (json.dumps(asdict(record), ensure_ascii=True) + "\n" for record in records)
    write_text(_block_path(folder, number), "".join(lines))


def read_block(folder: Path, number: int, ids: Sequence[str]) -> list[Record] | None:
    """The records of a block that was committed; None when it was not.

    Raises UserError for a file that does not hold the records of these ids.
    """
    path = _block_path(folder, number)
    if not path.exists():
        return None
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        records = [Record(**{**row, "samples": _samples(row)}) for row in rows]
    except (ValueError, TypeError, KeyError):
        records = []
    if [record.task_id for record in records] != list(ids):
        raise UserError(f"{path}: damaged; remove the file and repeat the command")
    return records


def _samples(row: dict[str, Any]) -> list[Sample]:
    return [Sample(**sample) for sample in row["samples"]]
