"""A fitted probe on disk: weights as safetensors, everything else as JSON, no pickles.

    probe.safetensors   mean, scale [D]; coef [C, D]; intercept [C]
    probe.json          site, label, classes, settings, split and run hashes, metrics, versions

Applying one needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.special import softmax
from sklearn.pipeline import Pipeline

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, read_json_object, write_bytes, write_json
from nfcot_model.traces import Run
from probes.sites import Site, parse_site

__all__ = ["FORMAT_VERSION", "Probe", "Weights", "read_probe", "weights_of", "write_probe"]

FORMAT_VERSION = 2
FIELDS: dict[str, type] = {
    "hash": str,
    "site": str,
    "label": str,
    "classes": list,
    "train_groups": list,
    "run_hash": str,
    "seed": int,
    "settings": dict,
}
WEIGHTS_FILE = "probe.safetensors"
JSON_FILE = "probe.json"


@dataclass(frozen=True)
class Weights:
    """A linear readout. `mean`, `scale`: [D]; `coef`: [C, D]; `intercept`: [C]."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def probabilities(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Which probability has each class at each row? [n, D] -> [n, C]"""
        return softmax((X - self.mean) / self.scale @ self.coef.T + self.intercept, axis=1)

    def hash(self) -> str:
        """Are two readouts the same to the last bit?"""
        return content_hash({name: value.tolist() for name, value in vars(self).items()})


@dataclass(frozen=True)
class Probe:
    """A probe ready to apply: weights and what they were fitted on (`meta`, as in probe.json)."""

    weights: Weights
    meta: dict[str, Any]

    @property
    def site(self) -> Site:
        return parse_site(self.meta["site"])

    @property
    def hash(self) -> str:
        return str(self.meta["hash"])

    def refuse_mismatch(self, run: Run) -> None:
        """Raise UserError unless the run was made as the one this probe was fitted on.

        Model, tau, K policy and budget, prompt template and dtype must agree.
        """
        for name, found in run.settings.items():
            expected = self.meta["settings"].get(name)
            if expected != found:
                raise UserError(
                    f"{run.name}: {name} is {found}, the probe was fitted on {expected};"
                    " thoughts made otherwise are not comparable: fit a probe on this run"
                )


def weights_of(model: Pipeline, classes: int) -> Weights:
    """Which plain arrays say the same as the fitted pipeline?

    A binary model's single row becomes two, so that one softmax covers both cases.
    """
    scaler, logistic = model[0], model[-1]
    if len(logistic.classes_) != classes:
        raise ValueError(f"the model knows {len(logistic.classes_)} of {classes} classes")
    coef, intercept = logistic.coef_, logistic.intercept_
    if classes == 2:
        coef, intercept = np.vstack([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
    return Weights(scaler.mean_, scaler.scale_, coef, intercept)


def write_probe(folder: Path, weights: Weights, meta: dict[str, Any]) -> Probe:
    """Put a probe into `folder`, JSON last, so that a folder with probe.json is whole.

    Raises UserError when the folder holds something else or another probe.
    """
    identity = {k: v for k, v in meta.items() if k not in ("versions", "run")}
    digest = content_hash([identity, weights.hash()])
    meta = {"format_version": FORMAT_VERSION, "hash": digest, **meta}
    _refuse_foreign(folder, meta)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(value) for name, value in vars(weights).items()}
    write_bytes(folder / WEIGHTS_FILE, save(arrays))
    write_json(folder / JSON_FILE, meta)
    return Probe(weights, meta)


def _refuse_foreign(folder: Path, meta: dict[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / JSON_FILE).is_file():
        raise UserError(f"--out {folder}: is not empty and holds no probe; give another folder")
    try:
        found = read_probe(folder).meta
    except UserError as error:
        raise UserError(f"--out {folder}: {error}, or give another folder") from None
    for name in ("run_hash", "label", "site", "seed"):
        if found[name] != meta[name]:
            raise UserError(
                f"--out {folder}: holds another probe ({name} is {found[name]} there,"
                f" {meta[name]} here); give another folder"
            )


def read_probe(folder: Path) -> Probe:
    """Which probe is in the folder? Raises UserError when there is none, or it is damaged."""
    if not (folder / JSON_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise UserError(
            f"{folder}: is not a probe (no {JSON_FILE} with {WEIGHTS_FILE});"
            " make one with nfcot probe fit"
        )
    try:
        meta = read_json_object(folder / JSON_FILE)
        arrays = load((folder / WEIGHTS_FILE).read_bytes())
    except UserError as error:
        raise UserError(f"{error}; fit the probe again") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: the probe is damaged ({error}); fit it again") from None
    if meta.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / JSON_FILE}: expected format_version {FORMAT_VERSION}; fit the probe again"
        )
    if set(arrays) != set(Weights.__annotations__):
        raise UserError(f"{folder / WEIGHTS_FILE}: its arrays are not a probe's; fit it again")
    weights = Weights(**arrays)
    identity = {
        k: v for k, v in meta.items() if k not in ("versions", "run", "hash", "format_version")
    }
    if content_hash([identity, weights.hash()]) != meta.get("hash"):
        raise UserError(f"{folder}: the probe's hash does not fit its content; fit it again")
    _check_fields(folder, meta, weights)
    return Probe(weights, meta)


def _check_fields(folder: Path, meta: dict[str, Any], weights: Weights) -> None:
    for name, kind in FIELDS.items():
        if not isinstance(meta.get(name), kind):
            raise UserError(
                f"{folder / JSON_FILE}: field '{name}' is missing or not a {kind.__name__};"
                " fit the probe again"
            )
    if not all(isinstance(group, str) for group in meta["train_groups"]):
        raise UserError(
            f"{folder / JSON_FILE}: field 'train_groups' is not a list of names;"
            " fit the probe again"
        )
    try:
        parse_site(meta["site"])
    except UserError:
        raise UserError(
            f"{folder / JSON_FILE}: field 'site' is no site ({meta['site']}); fit the probe again"
        ) from None
    C, D = len(meta["classes"]), weights.mean.size
    shapes = {name: value.shape for name, value in vars(weights).items()}
    if shapes != {"mean": (D,), "scale": (D,), "coef": (C, D), "intercept": (C,)}:
        raise UserError(
            f"{folder / WEIGHTS_FILE}: shapes {shapes} do not fit {C} classes; fit the probe again"
        )
