"""A fitted probe on disk: arrays as safetensors, everything else as JSON, no pickles.

    probe.safetensors   mean, scale [D]; coef [C, D]; intercept [C]; query [D] of attention pooling;
                        alarms [n], the sorted scores of control rows that must raise no alarm
    probe.json          site, label, classes, calibration, thresholds, split, hashes, metrics

Applying one needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, holdings, read_json_object, write_bytes, write_json
from nfcot_model.traces import Run
from probes.calibration import Calibration
from probes.fit import ProbeResult
from probes.sites import Site, parse_site
from probes.splits import Split
from probes.thresholds import Thresholds
from probes.weights import Features, Weights

__all__ = [
    "FORMAT_VERSION",
    "Probe",
    "read_probe",
    "refuse_other_content",
    "save_probe",
    "split_of",
]

FORMAT_VERSION = 3
WEIGHTS_FILE = "probe.safetensors"
JSON_FILE = "probe.json"
PACKAGES = ("nfcot-scope", "numpy", "scikit-learn", "scipy", "safetensors", "torch")
ARRAYS = ("mean", "scale", "coef", "intercept", "alarms")
KINDS = ("binary", "multiclass", "number")
FIELDS: dict[str, type | tuple[type, ...]] = {
    "hash": str,
    "site": str,
    "label": str,
    "kind": str,
    "classes": (list, type(None)),
    "positive": (str, type(None)),
    "calibration_link": (dict, type(None)),
    "thresholds": (dict, type(None)),
    "train_groups": list,
    "test_groups": list,
    "folds": dict,
    "split_hash": str,
    "control_groups": list,
    "estimator": str,
    "headline": str,
    "run_hash": str,
    "checkpoint_hash": str,
    "seed": int,
    "settings": dict,
    "metrics": dict,
    "controls": list,
}
# What says which probe it is: another one may not take its folder.
OWN = (
    "run_hash",
    "label",
    "labels_sha256",
    "kind",
    "site",
    "estimator",
    "seed",
    "positive",
    "split_hash",
)


@dataclass(frozen=True)
class Probe:
    """A probe ready to apply: weights, the scores of its control rows, and probe.json (`meta`)."""

    weights: Weights
    alarms: NDArray[np.float64]
    meta: dict[str, Any]

    @property
    def site(self) -> Site:
        return parse_site(self.meta["site"])

    @property
    def hash(self) -> str:
        return str(self.meta["hash"])

    @property
    def kind(self) -> str:
        return str(self.meta["kind"])

    @property
    def limits(self) -> Thresholds | None:
        """Above which probability does it raise an alarm, at which rate?"""
        found = self.meta["thresholds"]
        return None if found is None else Thresholds(**found)

    def read(self, X: Features) -> NDArray[np.float64]:
        """What does it say of features at its site?

        The calibrated probability of the positive class [n], of every class [n, C], or the number
        [n]. X: [n, D], or n trajectories [K, D] for attention pooling.
        """
        raw = self.weights.scores(X)
        told = raw[:, 0] if self.kind != "multiclass" else raw
        link = self.meta["calibration_link"]
        if link is None:
            return told
        return np.asarray(Calibration(link["slope"], tuple(link["offsets"])).apply(told))

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

    def refuse_width(self, run: Run, X: Features) -> None:
        """Raise UserError when the site holds rows of another width than the probe reads."""
        width = np.shape(X[0])[-1] if len(X) else self.weights.mean.size
        if width != self.weights.mean.size:
            raise UserError(
                f"{run.name}: {width} values at --site {self.site}, the probe reads"
                f" {self.weights.mean.size}; fit a probe on this run"
            )


def save_probe(result: ProbeResult, folder: Path) -> Probe | None:
    """Keep a fitted probe in `folder`, JSON last, so that a folder with probe.json is whole.

    None, and nothing written, when its estimator is not linear and so has no arrays to keep. Raises
    UserError when the folder holds something else or another probe.
    """
    reading = result.reading
    weights = reading.fitted.weights
    if weights is None:
        return None
    link = reading.link
    meta = result.to_dict() | {
        "calibration_link": None
        if link is None
        else {"slope": link.slope, "offsets": list(link.offsets)},
        "train_groups": sorted(result.split.fold),
        "folds": dict(result.split.fold),
        "control_groups": sorted(result.split.control),
        "test_groups": sorted(result.split.test),
        "versions": {name: version(name) for name in PACKAGES},
    }
    digest = _hash(meta, weights, reading.alarms)
    meta = {"format_version": FORMAT_VERSION, "hash": digest, **meta}
    _refuse_foreign(folder, meta)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(value) for name, value in weights.arrays.items()}
    write_bytes(folder / WEIGHTS_FILE, save(arrays | {"alarms": reading.alarms}))
    write_json(folder / JSON_FILE, meta)
    return Probe(weights, reading.alarms, meta)


def _hash(meta: dict[str, Any], weights: Weights, alarms: NDArray[np.float64]) -> str:
    circumstances = ("versions", "run", "hash", "format_version")
    identity = {name: value for name, value in meta.items() if name not in circumstances}
    return content_hash([identity, weights.hash(), alarms.tolist()])


def refuse_other_content(folder: Path) -> bool:
    """Does the folder hold a probe? Raises UserError when it holds something else."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    # arrays alone are what a killed save leaves
    if not folder.is_dir() or holdings(folder) <= {WEIGHTS_FILE}:
        return False
    if not (folder / JSON_FILE).is_file():
        raise UserError(f"--out {folder}: is not empty and holds no probe; give another folder")
    return True


def _refuse_foreign(folder: Path, meta: dict[str, Any]) -> None:
    if not refuse_other_content(folder):
        return
    try:
        found = read_probe(folder).meta
    except UserError as error:
        raise UserError(f"--out {folder}: {error}, or give another folder") from None
    for name in OWN:
        if found[name] != meta[name]:
            raise UserError(
                f"--out {folder}: holds another probe ({name} is {found[name]} there,"
                f" {meta[name]} here); give another folder"
            )


def split_of(folder: Path) -> Split:
    """Which groups trained and tested the probe in the folder, or the best one of a sweep there?

    Raises UserError when there is none.
    """
    best = folder / "best"
    meta = read_probe(best if (best / JSON_FILE).is_file() else folder).meta
    return Split(meta["folds"], frozenset(meta["control_groups"]), frozenset(meta["test_groups"]))


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
    if not {*ARRAYS} <= set(arrays) <= {*ARRAYS, "query"}:
        raise UserError(f"{folder / WEIGHTS_FILE}: its arrays are not a probe's; fit it again")
    alarms = arrays.pop("alarms")
    weights = Weights(**arrays)
    if _hash(meta, weights, alarms) != meta.get("hash"):
        raise UserError(f"{folder}: the probe's hash does not fit its content; fit it again")
    _check_fields(folder, meta, weights)
    return Probe(weights, alarms, meta)


def _is_link(link: Any, classes: int) -> bool:
    """Is it a calibration of so many classes, or of none, a number's?"""
    if link is None or classes == 0:
        return link is None and classes == 0
    if set(link) != {"slope", "offsets"} or not isinstance(link["offsets"], list):
        return False
    return len(link["offsets"]) == classes and _numbers([link["slope"], *link["offsets"]])


def _are_limits(limits: Any) -> bool:
    """Are they thresholds, or none?"""
    if limits is None:
        return True
    if set(limits) != {field.name for field in fields(Thresholds)}:
        return False
    if not isinstance(limits["values"], dict) or not isinstance(limits["reasons"], dict):
        return False
    return _numbers([limits["negatives"], limits["groups"], *limits["values"].values()])


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _check_fields(folder: Path, meta: dict[str, Any], weights: Weights) -> None:
    file = folder / JSON_FILE
    for name, kind in FIELDS.items():
        if not isinstance(meta.get(name, ...), kind):
            raise UserError(
                f"{file}: field '{name}' is missing or of another type; fit the probe again"
            )
    if meta["kind"] not in KINDS or (meta["kind"] == "number") != (meta["classes"] is None):
        raise UserError(f"{file}: kind '{meta['kind']}' does not fit its classes; fit it again")
    for name in ("train_groups", "control_groups"):
        if not all(isinstance(group, str) for group in meta[name]):
            raise UserError(f"{file}: field '{name}' is not a list of names; fit the probe again")
    outputs = len(meta["classes"] or ())
    for name, fits in (
        ("calibration_link", _is_link(meta["calibration_link"], outputs)),
        ("thresholds", _are_limits(meta["thresholds"])),
    ):
        if not fits:
            raise UserError(f"{file}: field '{name}' is of another form; fit the probe again")
    try:
        parse_site(meta["site"])
    except UserError:
        raise UserError(
            f"{file}: field 'site' is no site ({meta['site']}); fit the probe again"
        ) from None
    C, D = 1 if meta["kind"] != "multiclass" else len(meta["classes"]), weights.mean.size
    shapes = {name: value.shape for name, value in weights.arrays.items()}
    expected = {"mean": (D,), "scale": (D,), "coef": (C, D), "intercept": (C,), "query": (D,)}
    if any(shape != expected[name] for name, shape in shapes.items()):
        raise UserError(
            f"{folder / WEIGHTS_FILE}: shapes {shapes} do not fit {C} outputs; fit the probe again"
        )
