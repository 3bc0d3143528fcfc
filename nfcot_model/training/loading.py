"""Which settings does a preset or a YAML file hold, with overrides on top?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from nfcot_model.errors import UserError
from nfcot_model.faults import first_fault

__all__ = ["load_settings"]

Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(
    model: type[Settings],
    folder: Path,
    preset: str | None,
    path: Path | None,
    overrides: Mapping[str, Any],
) -> Settings:
    """The settings of a `preset` (the name of a file in `folder`) or of a YAML file.

    `overrides` go on top, those of a section (a mapping) into it; None overrides nothing.
    Raises UserError naming the file and the field.
    """
    if (preset is None) == (path is None):
        raise UserError("give either --preset or --config, one of them")
    source = path or folder / f"{preset}.yaml"
    if path is None and not source.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"--preset {preset}: no such preset; choose one of {known}")
    try:
        data = yaml.safe_load(source.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as UTF-8 YAML ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML ({str(error).splitlines()[0]})") from None
    sections = [name for name, value in overrides.items() if isinstance(value, Mapping)]
    if not isinstance(data, dict) or not all(isinstance(data.get(s, {}), dict) for s in sections):
        raise UserError(
            f"{source}: expected a mapping of settings, each section of them"
            f" ({', '.join(sections)}) a mapping"
        )
    try:
        return model.model_validate(_overlaid(data, overrides))
    except ValidationError as error:
        place, words = first_fault(error, model)
        where = f" field '{'.'.join(map(str, place))}':" if place else ""
        raise UserError(f"{source}:{where} {words}") from None


def _overlaid(data: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for name, value in overrides.items():
        if not isinstance(value, Mapping):
            merged |= {} if value is None else {name: value}
        elif section := _overlaid(data.get(name, {}), value):
            merged[name] = section
    return merged
