"""Writing a run: the manifest once, then one shard after another, each whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from nfcot_model.errors import UserError
from nfcot_model.files import holdings, write_bytes, write_json
from nfcot_model.traces.manifest import read_manifest, read_problem_set
from nfcot_model.traces.reader import committed_shards
from nfcot_model.traces.schema import (
    CIRCUMSTANCES,
    FORMAT_VERSION,
    MANIFEST,
    PROBLEMS,
    SHARD_SIZE,
    THOUGHTS_SCHEMA,
    TRACES_SCHEMA,
    manifest_hash,
    parquet_bytes,
    seal,
    sealed_manifest,
    shard_paths,
)
from nfcot_model.worlds.problem import Problem, write_problems

__all__ = [
    "commit_shard",
    "discard_empty",
    "keep_problems",
    "open_run",
    "row_hash",
    "trace_totals",
    "writing",
]

FOLDERS = ("tensors", "thoughts", "traces")


def open_run(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Which manifest holds for the run at `path`: the one found there, or this new one, written?

    `manifest` needs no format version, shard size, hash or checksum: they are added. Raises
    UserError, with nothing written, when `path` is a file, holds another run (the first field
    that differs is named) or holds anything that is not a run.
    """
    wanted = sealed_manifest(
        {"format_version": FORMAT_VERSION, "shard_size": SHARD_SIZE, **_json_plain(manifest)}
    )
    if (path / MANIFEST).exists():
        found = read_manifest(path)
        if found["hash"] != wanted["hash"]:
            raise UserError(
                f"{path}: holds another run ({_difference(found, wanted)}); give another folder"
            )
    else:
        _refuse_foreign(path)
        found = wanted
    with _space_needed(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / MANIFEST).exists():
                write_json(path / MANIFEST, found)
            for folder in FOLDERS:
                (path / folder).mkdir(exist_ok=True)
        except OSError:
            discard_empty(path)
            raise
    return found


def keep_problems(path: Path, manifest: Mapping[str, Any], problems: Sequence[Problem]) -> None:
    """Let the run carry its problems: write them unless they are there and whole."""
    try:
        read_problem_set(path, manifest)
    except UserError:
        with _space_needed(path):
            write_problems(path / PROBLEMS, problems)


def discard_empty(path: Path) -> None:
    """Leave nothing behind when no shard was committed: remove the files and folders of a run."""
    if committed_shards(path) or not path.is_dir():
        return
    for name in (PROBLEMS, MANIFEST):
        (path / name).unlink(missing_ok=True)
    for folder in (path / name for name in FOLDERS):
        for file in folder.glob("*"):
            file.unlink()
        if folder.is_dir():
            folder.rmdir()
    if not any(path.iterdir()):
        path.rmdir()


@contextmanager
def writing(path: Path, clear: bool = True) -> Iterator[None]:
    """Am I the only writer of this run? Holds the run folder's lock.

    clear: remove the temporary files of writers that were killed.
    The lock is the kernel's (flock), so a killed writer leaves none behind. Raises UserError when
    another process is writing the same run.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: another process is writing this run; wait for it") from None
        if clear:
            for temporary in [*path.glob(".*.tmp"), *path.glob("*/.*.tmp")]:
                temporary.unlink()
        yield
    finally:
        os.close(folder)


def commit_shard(
    run: Path,
    shard: str,
    traces: Mapping[str, Sequence[Any]],
    thoughts: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Make one shard part of the run: tensors, then thoughts, then traces (the commit point).

    traces: columns of TRACES_SCHEMA but shard, row and u_sha256, which follow from `K` and `u`.
    thoughts: columns of THOUGHTS_SCHEMA but trace_id, k, shard and row; one entry per thought,
    in trace order. tensors: `[rows, ...]` arrays, rows as in thoughts.
    Raises UserError when the disk is full, leaving no part of the shard behind; ValueError when
    the lengths disagree or a tensor is not finite.
    """
    K = np.asarray(traces["K"], dtype=np.int64)
    rows = int(K.sum())
    _check_tensors(tensors, rows)
    first = np.cumsum(K) - K
    owner = np.repeat(np.arange(len(K)), K)
    row = np.arange(rows)
    trace_columns: dict[str, Any] = dict(traces) | {
        "shard": [shard] * len(K),
        "row": first,
        "u_sha256": [row_hash(tensors["u"][a : a + n]) for a, n in zip(first, K, strict=True)],
    }
    thought_columns: dict[str, Any] = dict(thoughts) | {
        "trace_id": np.asarray(traces["trace_id"], dtype=object)[owner],
        "k": row - first[owner],
        "shard": [shard] * rows,
        "row": row,
    }
    little = {k: np.ascontiguousarray(v).astype("<f4", copy=False) for k, v in tensors.items()}
    tensor_bytes = save(little)
    thought_bytes = parquet_bytes(_table(thought_columns, THOUGHTS_SCHEMA), "thoughts", {})
    digests = {
        "tensors_sha256": hashlib.sha256(tensor_bytes).hexdigest(),
        "thoughts_sha256": hashlib.sha256(thought_bytes).hexdigest(),
    }
    trace_bytes = seal(_table(trace_columns, TRACES_SCHEMA), "traces", digests)
    _write_all(shard_paths(run, shard), (tensor_bytes, thought_bytes, trace_bytes))


def trace_totals(
    K: np.ndarray, thoughts: Mapping[str, np.ndarray], flow_logdet: np.ndarray
) -> dict[str, np.ndarray]:
    """What do a trace's thoughts add up to? Sums of the per-thought terms, in float64.

    K: [traces]; thoughts: logp, energy, logvol, stop_logp, each [rows] in trace order;
    flow_logdet: [traces]. A trace with K = 0 has sums of 0.
    """
    owner = np.repeat(np.arange(len(K)), K)

    def summed(name: str) -> np.ndarray:
        return np.bincount(owner, thoughts[name].astype(np.float64), minlength=len(K))

    logp = summed("logp")
    return {
        "logp_u": logp,
        "logp_u_K": logp + summed("stop_logp"),
        "logp_e": logp + flow_logdet,
        "flow_logdet": flow_logdet.astype(np.float64),
        "energy": summed("energy"),
        "logvol": summed("logvol"),
    }


def _json_plain(value: Any) -> Any:
    """The value as JSON gives it back (tuples become lists), so that hashes survive the disk."""
    return json.loads(json.dumps(value))


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    if set(columns) != set(schema.names):
        raise ValueError(f"columns differ from the schema: {set(columns) ^ set(schema.names)}")
    arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _check_tensors(tensors: Mapping[str, np.ndarray], rows: int) -> None:
    for name, value in tensors.items():
        if len(value) != rows:
            raise ValueError(f"tensor '{name}' has {len(value)} rows for {rows} thoughts")
        if not np.isfinite(value).all():
            raise ValueError(f"tensor '{name}' holds values that are not finite")


def row_hash(u: np.ndarray) -> str:
    """Are one trace's thoughts [K, D] as committed? SHA-256 of their little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(u, dtype="<f4").tobytes()).hexdigest()


def _write_all(paths: Sequence[Path], contents: Sequence[bytes]) -> None:
    with _space_needed(paths[-1].parent.parent):
        try:
            for path, data in zip(paths, contents, strict=True):
                write_bytes(path, data)
        except OSError:
            for path in paths:
                path.unlink(missing_ok=True)
            raise


@contextmanager
def _space_needed(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{run}: no space left on the device; free some, then repeat the command: it goes on"
            " after the last whole shard"
        ) from None


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; give a folder for the run")
    if not path.is_dir():
        return
    strange = holdings(path)
    if strange:
        raise UserError(
            f"{path}: is not empty and holds no {MANIFEST} (found '{min(strange)}');"
            " give a new or empty folder"
        )


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for name in sorted(set(found) | set(wanted)):
        old, new = found.get(name), wanted.get(name)
        if name in CIRCUMSTANCES or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return f"{name}.{_difference(old, new)}"
        return f"{name} is {old!r} there, {new!r} here"
    raise ValueError(f"manifests do not differ: {manifest_hash(found)}")
