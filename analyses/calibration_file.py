"""A calibration on disk: calibration.safetensors, then calibration.json, which proves it.

A killed writer leaves no calibration.json, hence no calibration: the command is repeated.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from analyses.battery import Battery
from analyses.battery.battery import Directions
from analyses.battery.combine import QuantileReference
from analyses.battery.hidden import HiddenReference
from analyses.battery.moments import Moments
from analyses.clean import CleanSet, Identity
from analyses.ranks import Cell, Ranks
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, file_hash, read_json_object, write_bytes, write_json
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run, read_run

__all__ = ["CALIBRATION", "clean_run", "is_calibration", "load_calibration", "save_calibration"]

CALIBRATION = "calibration.json"
TENSORS = "calibration.safetensors"
FORMAT_VERSION = 1
LIBRARIES = ("nfcot-scope", "numpy", "scipy", "scikit-learn")
HIDDEN = ("pooled", "positions", "precision", "within", "total")


def is_calibration(folder: Path) -> bool:
    """Does the folder hold a finished calibration?"""
    return (folder / CALIBRATION).is_file()


def clean_run(path: Path) -> Run:
    """The clean traces themselves, where a calibration made of them would not do.

    Raises UserError for a calibration, naming its run, and for what is not a run.
    """
    if not is_calibration(path):
        return read_run(path)
    name = load_calibration(path).sets["calibration"]["run"]
    raise UserError(
        f"--calibration {path}: is a calibration and holds no traces; give the clean run that it"
        f" was made of, '{name}'"
    )


def save_calibration(clean: CleanSet, folder: Path) -> None:
    """Put a calibration into `folder`. Raises UserError when it holds another or anything else."""
    _refuse_foreign(folder, clean)
    folder.mkdir(parents=True, exist_ok=True)
    for temporary in folder.glob(".*.tmp"):  # of a writer that was killed
        temporary.unlink()
    write_bytes(folder / TENSORS, save(_tensors(clean)))
    battery = clean.ranks.battery
    fields = {
        "format_version": FORMAT_VERSION,
        "kind": "nfcot audit calibration",
        "name": clean.name,
        "hash": clean.hash,
        "settings": clean.identity.settings,
        "worlds": clean.identity.worlds,
        "sets": clean.sets,
        "n_fit": clean.ranks.n_fit,
        "n_reference": clean.ranks.n_reference,
        "unused": clean.ranks.unused,
        "cells": list(clean.ranks.cells),
        "battery": {
            "D": battery.D,
            "statistics": list(battery.names),
            "combine": list(battery.combine),
            "tasks": list(battery.moments.tasks),
            "quantile_cells": list(battery.quantiles.values),
            "directions": list(battery.directions.names) if battery.directions else None,
            "hidden": battery.hidden is not None,
            "features": battery.features,
        },
        "replay_error_max": clean.replay_error_max,
        "tolerance": clean.tolerance,
        "band_by_k": clean.band_by_k,
        "versions": {library: version(library) for library in LIBRARIES},
        "tensors_sha256": file_hash(folder / TENSORS),
    }
    plain = jsonable(fields)
    write_json(folder / CALIBRATION, plain | {"checksum": content_hash(plain)})


def load_calibration(folder: Path) -> CleanSet:
    """The calibration in a folder. Raises UserError when it is missing, damaged or too new."""
    if not is_calibration(folder):
        raise UserError(
            f"{folder}: holds no {CALIBRATION}; make one with nfcot audit calibrate RUN -o {folder}"
        )
    fields = read_json_object(folder / CALIBRATION)
    rest = {name: value for name, value in fields.items() if name != "checksum"}
    if fields.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / CALIBRATION}: format_version is {fields.get('format_version')!r}, this"
            f" version reads {FORMAT_VERSION}; calibrate again"
        )
    if fields.get("checksum") != content_hash(rest):
        raise UserError(
            f"{folder / CALIBRATION}: damaged (its checksum does not fit); calibrate again"
        )
    file = folder / TENSORS
    try:
        whole = file_hash(file) == fields["tensors_sha256"]
        arrays = load_file(file) if whole else {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({error}); calibrate again") from None
    if not whole:
        raise UserError(f"{file}: damaged (its hash is not the recorded one); calibrate again")
    return _clean_set(fields, arrays)


def _refuse_foreign(folder: Path, clean: CleanSet) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder}: is a file; give a folder")
    if not folder.is_dir():
        return
    if is_calibration(folder):
        if read_json_object(folder / CALIBRATION).get("hash") != clean.hash:
            raise UserError(f"-o {folder}: holds another calibration; give another folder")
        return
    strange = [p.name for p in folder.iterdir() if p.name != TENSORS and p.suffix != ".tmp"]
    if strange:
        raise UserError(
            f"-o {folder}: is not empty and holds no calibration (found '{min(strange)}'); give"
            " another folder"
        )


def _tensors(clean: CleanSet) -> dict[str, np.ndarray]:
    battery = clean.ranks.battery
    arrays: dict[str, np.ndarray] = {
        "axes": battery.axes,
        "mean": battery.moments.mean,
        "variance": battery.moments.variance,
    }
    for i, cell in enumerate(battery.quantiles.values.values()):
        arrays |= {f"quantiles/{i}/{name}": values for name, values in cell.items()}
    for i, ranked in enumerate(clean.ranks.cells.values()):
        arrays |= {f"cell/{i}/scores": ranked.scores, f"cell/{i}/peaks": ranked.peaks}
    arrays |= {f"members/{name}": found for name, found in clean.identity.members.items()}
    if battery.blocks is not None:
        arrays["blocks"] = battery.blocks
    if battery.directions is not None:
        arrays["directions"] = battery.directions.vectors
    if battery.hidden is not None:
        arrays |= {f"hidden/{name}": getattr(battery.hidden, name) for name in HIDDEN}
    return {name: np.ascontiguousarray(values) for name, values in arrays.items()}


def _clean_set(fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> CleanSet:
    made = fields["battery"]
    names = tuple(made["statistics"])
    quantiles = {
        cell: {
            name: arrays[f"quantiles/{i}/{name}"]
            for name in names
            if f"quantiles/{i}/{name}" in arrays
        }
        for i, cell in enumerate(made["quantile_cells"])
    }
    directions = made["directions"]
    battery = Battery(
        D=made["D"],
        axes=arrays["axes"],
        moments=Moments(tuple(made["tasks"]), arrays["mean"], arrays["variance"]),
        quantiles=QuantileReference(quantiles),
        combine=tuple(made["combine"]),
        names=names,
        directions=Directions(tuple(directions), arrays["directions"]) if directions else None,
        hidden=HiddenReference(*(arrays[f"hidden/{n}"] for n in HIDDEN))
        if made["hidden"]
        else None,
        features=made["features"],
        blocks=arrays.get("blocks"),
    )
    cells = {
        cell: Cell(arrays[f"cell/{i}/scores"], arrays[f"cell/{i}/peaks"])
        for i, cell in enumerate(fields["cells"])
    }
    members = {
        name.removeprefix("members/"): found
        for name, found in arrays.items()
        if name.startswith("members/")
    }
    return CleanSet(
        ranks=Ranks(battery, cells, fields["n_fit"], fields["n_reference"], fields["unused"]),
        identity=Identity(fields["name"], fields["settings"], fields["worlds"], members),
        sets=fields["sets"],
        replay_error_max=fields["replay_error_max"],
        tolerance=fields["tolerance"],
        band_by_k=fields["band_by_k"],
        versions=fields["versions"],
    )
