"""What a sweep has done so far, kept unit by unit, so that a killed one goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, holdings, read_json_object, write_json
from nfcot_model.terminal import jsonable
from probes.cells import Cell

__all__ = ["Units", "open_units"]

PLAN = "plan.json"
LOG = "log.txt"


@dataclass(frozen=True)
class Units:
    """Cells by the name of their unit; `folder` None keeps nothing.

    `state`: what else they depend on, such as which controls could be computed; units of another
    state are done again.
    """

    folder: Path | None = None
    state: str = ""

    def read(self, name: str) -> tuple[list[Cell], list[Cell]] | None:
        """The (cells, controls) of a finished unit; None when it is to be done, or done again."""
        if self.folder is None or not self._file(name).is_file():
            return None
        try:
            plain = read_json_object(self._file(name))
            body = {part: plain[part] for part in ("cells", "controls")}
            if plain.get("checksum") != content_hash([name, body]):
                return None
            cells, controls = ([Cell.from_dict(c) for c in body[p]] for p in ("cells", "controls"))
        except (UserError, KeyError, TypeError, ValueError):
            return None
        return cells, controls

    def write(self, name: str, cells: Sequence[Cell], controls: Sequence[Cell]) -> None:
        """Keep a finished unit, whole or not at all."""
        if self.folder is None:
            return
        body = jsonable(
            {"cells": [c.to_dict() for c in cells], "controls": [c.to_dict() for c in controls]}
        )
        write_json(self._file(name), body | {"checksum": content_hash([name, body])})
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {name} done\n")

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / "units" / f"{content_hash([name, self.state])}.json"


def open_units(folder: Path, identity: Mapping[str, Any]) -> Units:
    """The units of the sweep with this identity in `folder`, made if there is none.

    Raises UserError when the folder holds something else, or another sweep.
    """
    plan = jsonable(dict(identity))
    if (folder / PLAN).is_file():
        kept = read_json_object(folder / PLAN)
        if kept != plan:
            other = sorted(k for k in {*kept, *plan} if kept.get(k) != plan.get(k))
            raise UserError(
                f"--out {folder}: holds another sweep ({', '.join(other)} differ); give another"
                " folder"
            )
    elif folder.exists() and (not folder.is_dir() or holdings(folder)):
        raise UserError(f"--out {folder}: is not empty and holds no sweep; give another folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, plan)
    (folder / "units").mkdir(exist_ok=True)
    return Units(folder)
