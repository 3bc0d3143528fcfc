"""Whose is an output folder? A training that goes on, a new one, or somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.files import write_json

__all__ = ["claim", "goes_on"]


def claim(out: Path, name: str, record: dict[str, Any]) -> None:
    """Make `out` the folder of the training that `record` describes, kept in `out/name.json`.

    Raises UserError, and writes nothing, when it holds another training or other files.
    """
    if not goes_on(out, name, lambda found: found == record):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", record)


def goes_on(out: Path, name: str, same: Callable[[dict[str, Any]], bool]) -> bool:
    """Does `out` hold this training (its `name.json` is the `same`), or nothing yet?

    Raises UserError when it holds another training or other files.
    """
    path = out / f"{name}.json"
    if path.exists():
        try:
            mine = same(json.loads(path.read_text()))
        except (ValueError, KeyError, AttributeError):
            mine = False
        if not mine:
            raise UserError(
                f"{out}: holds another training ({path.name}, the start model or the problems"
                " differ); choose another -o"
            )
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out}: not empty, and no {path.name} of a training in it; choose another -o"
        )
    return False
