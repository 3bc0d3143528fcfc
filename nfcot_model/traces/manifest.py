"""Which run is this, and what was it asked? run.json, checked, and the problems beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, read_json_object
from nfcot_model.traces.schema import FORMAT_VERSION, MANIFEST, PROBLEMS, manifest_hash
from nfcot_model.worlds.problem import Problem, problem_set_hash, read_problems

__all__ = ["COMPARABLE", "field_of", "read_manifest", "read_problem_set"]

FIELDS: dict[str, type | tuple[type, ...]] = {
    "hash": str,
    "reasoner": str,
    "checkpoint_hash": str,
    "config": dict,
    "traces": int,
    "activations": str,
    "decode": dict,
    "decode.tau": (int, float),
    "decode.temperature": (int, float),
    "decode.samples": int,
    "decode.seed": int,
    "decode.max_thoughts": (int, type(None)),
    "decode.dtype": str,
    "decode.template": str,
    "decode.k_policy": str,
}
MEND_MANIFEST = "restore it from a copy, or trace again into another folder"
COMPARABLE = (
    "reasoner",
    "checkpoint_hash",
    "decode.tau",
    "decode.max_thoughts",
    "decode.k_policy",
    "decode.template",
    "decode.dtype",
)


def read_manifest(path: Path | str) -> dict[str, Any]:
    """Which run is this? The checked content of run.json; raises UserError otherwise."""
    file = Path(path) / MANIFEST
    if not file.is_file():
        raise UserError(f"{path}: is not a run (no {MANIFEST}); make one with nfcot trace")
    try:
        manifest = read_json_object(file)
    except UserError as error:
        raise UserError(f"{error}; {MEND_MANIFEST}") from None
    if "format_version" not in manifest:
        raise UserError(f"{file}: is not a run manifest; make a run with nfcot trace")
    if manifest["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{file}: format_version is {manifest['format_version']!r}, this version reads"
            f" {FORMAT_VERSION}; use the matching nfcot-scope or trace again"
        )
    rest = {k: v for k, v in manifest.items() if k != "checksum"}
    checks = (manifest.get("checksum"), manifest.get("hash"))
    if checks != (content_hash(rest), manifest_hash(rest)):
        raise UserError(f"{file}: damaged (its checksum does not fit its content); {MEND_MANIFEST}")
    for name, kind in FIELDS.items():
        if not isinstance(field_of(manifest, name), kind):
            raise UserError(
                f"{file}: field '{name}' is missing or of another type, so this is not a run of"
                f" nfcot trace; {MEND_MANIFEST}"
            )
    return manifest


def read_problem_set(path: Path, manifest: Mapping[str, Any]) -> list[Problem]:
    """The problems in problems.jsonl; raises UserError unless they are those of the manifest."""
    file = path / PROBLEMS
    if not file.exists():
        raise UserError(
            f"{file}: is missing (runs of earlier versions do not carry their problems); repeat the"
            " trace command, which adds it, or give the problems"
        )
    try:
        problems = read_problems(file)
    except UserError as error:
        raise UserError(f"{error}; repeat the trace command, which writes it again") from None
    if problem_set_hash(problems) != manifest.get("problem_set_hash"):
        raise UserError(
            f"{file}: damaged (holds other problems than {MANIFEST} names); repeat the trace"
            " command, which writes it again"
        )
    return problems


def field_of(manifest: Mapping[str, Any], name: str) -> Any:
    """`decode.tau` is the field tau of decode. `...` when there is none: no JSON value is that."""
    head, _, rest = name.partition(".")
    found = manifest.get(head, ...)
    return field_of(found, rest) if rest else found
