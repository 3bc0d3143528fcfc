"""Whose is an output folder? A training that goes on, a new one, or somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.files import write_json

__all__ = ["claim"]


def claim(out: Path, name: str, record: dict[str, Any]) -> None:
    """Make `out` the folder of the training that `record` describes, kept in `out/name.json`.

    Raises UserError, and writes nothing, when it holds another training or other files.
    """
    path = out / f"{name}.json"
    if path.exists():
        try:
            same = json.loads(path.read_text()) == record
        except ValueError:
            same = False
        if not same:
            raise UserError(
                f"{out}: holds another training ({name}.json, the start model or the problems"
                " differ); choose another -o"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out}: not empty and not a folder of `nfcot train {name}`; choose another -o"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
