"""Activations added to a run: what stands at hooks at every thought, row by row as in the run.

Other states that are made from a run later lie beside them in the same form (`set_folder`).

    derived/activations/<hash>/manifest.json         which sites, from which run and checkpoint
    derived/activations/<hash>/<shard>.safetensors   a tensor [rows, ...] per site, float32

Reading them needs no model and no hooks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, read_json_object, write_bytes

__all__ = [
    "ActivationSet",
    "activation_sets",
    "captured_sites",
    "is_whole",
    "new_set",
    "read_activation",
    "read_arrays",
    "set_folder",
    "thoughts_hash",
    "write_activations",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
KIND = "activations"


@dataclass(frozen=True)
class ActivationSet:
    """Sites that were captured together: their folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What shape has one thought's share at each site?"""
        return {site["name"]: tuple(site["row"]) for site in self.manifest["sites"]}

    def file(self, shard: str) -> Path:
        return self.folder / f"{shard}.safetensors"

    def covers(self, shards: Sequence[str]) -> bool:
        """Is there a file for each of these shards?"""
        return all(self.file(shard).is_file() for shard in shards)


def set_folder(run: Path, identity: Mapping[str, Any], kind: str = KIND) -> Path:
    """Where do the activations with these inputs belong? The folder is named after their hash."""
    return run / "derived" / kind / content_hash(dict(identity))


def new_set(run: Path, identity: Mapping[str, Any], kind: str = KIND) -> ActivationSet:
    """The set with these inputs, its manifest ready to be written (time and checksum added)."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = dict(identity) | {"created": created}
    sealed = manifest | {"checksum": content_hash(manifest)}
    return ActivationSet(set_folder(run, identity, kind), sealed)


def thoughts_hash(traces: pd.DataFrame) -> str:
    """Whose activations are in a shard's file? Hash of its traces' ids, K and thoughts."""
    columns = (traces[name].tolist() for name in ("trace_id", "K", "u_sha256"))
    return content_hash([list(row) for row in zip(*columns, strict=True)])


def activation_sets(run: Path, run_hash: str) -> list[ActivationSet]:
    """Which sets of activations does the run have, the newest first? Unfinished ones too.

    Those whose manifest is damaged or of another version are left out (`unreadable_sets`).
    """
    found = []
    for file in (run / "derived" / KIND).glob(f"*/{MANIFEST}"):
        manifest = _manifest(file)
        if manifest is not None and manifest["run_hash"] == run_hash:
            found.append(ActivationSet(file.parent, manifest))
    return sorted(found, key=lambda s: (s.manifest["created"], s.folder.name), reverse=True)


def unreadable_sets(run: Path) -> list[Path]:
    """Which manifests of activations are damaged or of another version?"""
    files = sorted((run / "derived" / KIND).glob(f"*/{MANIFEST}"))
    return [file for file in files if _manifest(file) is None]


def _manifest(file: Path) -> dict[str, Any] | None:
    try:
        manifest = read_json_object(file)
    except UserError:
        return None
    checked = {name: value for name, value in manifest.items() if name != "checksum"}
    whole = manifest.get("checksum") == content_hash(checked)
    return manifest if whole and manifest.get("format_version") == FORMAT_VERSION else None


def captured_sites(run: Path, run_hash: str, shards: Sequence[str]) -> list[str]:
    """Which sites were captured at all thoughts of these shards?"""
    whole = [found for found in activation_sets(run, run_hash) if found.covers(shards)]
    return list(dict.fromkeys(name for found in whole for name in found.shapes))


def read_activation(run: Path, run_hash: str, traces: pd.DataFrame, site: str) -> np.ndarray:
    """What stands at the site, [rows, ...] float32, a row per thought of `traces` in their order?

    The bytes of the site are checked against their hash, and the file against the thoughts.
    Raises UserError when it was not captured, not at all thoughts, or its file is damaged.
    """
    rows_of = {str(name): part for name, part in traces.groupby("shard", sort=False)}
    holding = [s for s in activation_sets(run, run_hash) if site in s.shapes]
    whole = [s for s in holding if s.covers(list(rows_of))]
    if not whole:
        have = captured_sites(run, run_hash, list(rows_of))
        state = "is captured in part only" if holding else "is not captured"
        raise UserError(
            f"{run}: site {site} {state}; run `nfcot activations {run} --sites {site}`"
            f" (captured: {', '.join(have) or 'none'}"
            + "".join(f"; {file} is damaged or of another version" for file in unreadable_sets(run))
            + ")"
        )
    for candidate in whole:
        try:
            return _read_set(candidate, rows_of, site)
        except UserError as error:
            damage = error
    raise UserError(f"{damage}; run `nfcot activations {run} --sites {site}`")


def _read_set(whole: ActivationSet, rows_of: Mapping[str, pd.DataFrame], site: str) -> np.ndarray:
    rows = sum(int(part["K"].sum()) for part in rows_of.values())
    values = np.empty((rows, *whole.shapes[site]), dtype=np.float32)
    start = 0
    for shard, part in rows_of.items():
        read = read_arrays(whole.file(shard), [site], thoughts_hash(part))[site]
        values[start : start + len(read)] = read
        start += len(read)
    return values


def write_activations(file: Path, arrays: Mapping[str, np.ndarray], thoughts: str) -> None:
    """Put one shard's activations on disk, whole or not at all, with the hashes that prove them."""
    little = {n: np.ascontiguousarray(v).astype("<f4", copy=False) for n, v in arrays.items()}
    proof = {"thoughts": thoughts, "sha256": {n: _digest(v) for n, v in little.items()}}
    # one entry only: safetensors writes several in any order, and equal input gives equal bytes
    write_bytes(file, save(little, metadata={"proof": json.dumps(proof, sort_keys=True)}))


def is_whole(file: Path, sites: Sequence[str], thoughts: str) -> bool:
    """Does the file hold these sites at these thoughts, every byte as written?"""
    try:
        read_arrays(file, sites, thoughts)
    except UserError:
        return False
    return True


def read_arrays(file: Path, sites: Sequence[str], thoughts: str) -> dict[str, np.ndarray]:
    """One shard's activations at these sites; raises UserError unless every byte is as written."""
    try:
        with safe_open(file, framework="np") as stream:
            proof = json.loads((stream.metadata() or {})["proof"])
            arrays = {name: stream.get_tensor(name) for name in sites}
        hashes = {name: proof["sha256"][name] for name in sites}
        owner = proof["thoughts"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, str(error)) from None
    if owner != thoughts:
        raise _damaged(file, "it was captured at other thoughts than the run now holds")
    for name, value in arrays.items():
        if _digest(value) != hashes[name]:
            raise _damaged(file, f"the bytes of {name} are not as written")
    return arrays


def _digest(value: np.ndarray) -> str:
    digest = hashlib.sha256(f"{value.dtype.str}{value.shape}".encode())
    digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file}: damaged or missing ({reason})")
