"""Is a run on disk whole? Names what is damaged, left behind or missing, and mends what it can."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from nfcot_model.errors import UserError
from nfcot_model.traces.reader import (
    committed_shards,
    read_manifest,
    read_shard,
)
from nfcot_model.traces.schema import shard_paths
from nfcot_model.traces.writer import row_hash, writing

__all__ = ["Health", "check_run"]


@dataclass(frozen=True)
class Health:
    """What is wrong with a run?

    damaged: committed shards that cannot be trusted, with the file and the reason. leftovers:
    files that no committed shard owns (a killed writer's; harmless). missing: how many of the
    traces that the manifest promises are not there (trace again to add them). repaired: files
    that were removed; a removed shard's traces count as missing.
    """

    run: str
    shards: int
    traces: int
    missing: int
    damaged: dict[str, str] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Is everything that is there in order? A run may be whole and unfinished."""
        return not self.damaged and not self.leftovers


def check_run(path: Path | str, repair: bool = False) -> Health:
    """Check every committed shard: seals, hashes, row counts, order, each trace's own hash of u.

    With `repair`, damaged shards and leftovers are removed, so that repeating the trace command
    restores them. Raises UserError when `path` is not a run or its manifest is damaged (nothing
    can be restored then), and, with `repair`, when another process is writing the run.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if not repair:
        return _inspect(path, manifest["traces"], [])
    with writing(path, clear=False):
        found = _inspect(path, manifest["traces"], [])
        removed = [path / name for name in found.leftovers]
        for shard in found.damaged:
            # the commit point goes first: a kill in between leaves leftovers, not damage
            removed += [p for p in reversed(shard_paths(path, shard)) if p.exists()]
        for file in removed:
            file.unlink()
        health = _inspect(path, manifest["traces"], [str(p.relative_to(path)) for p in removed])
    return health


def _inspect(path: Path, promised: int, repaired: list[str]) -> Health:
    shards = committed_shards(path)
    damaged: dict[str, str] = {}
    traces = 0
    seen: set[str] = set()
    for shard in shards:
        try:
            ids = _check_shard(path, shard)
        except UserError as error:
            damaged[shard] = str(error)
            continue
        if not seen.isdisjoint(ids):
            damaged[shard] = f"{shard_paths(path, shard)[2]}: repeats traces of another shard"
            continue
        seen.update(ids)
        traces += len(ids)
    owned = {file for shard in shards for file in shard_paths(path, shard)}
    inside = [p for folder in ("tensors", "thoughts", "traces") for p in (path / folder).glob("*")]
    leftovers = [p for p in inside if p not in owned] + list(path.glob(".*.tmp"))
    return Health(
        run=str(path),
        shards=len(shards) - len(damaged),
        traces=traces,
        missing=max(promised - traces, 0),
        damaged=damaged,
        leftovers=sorted(str(p.relative_to(path)) for p in leftovers),
        repaired=repaired,
    )


def _check_shard(path: Path, shard: str) -> list[str]:
    traces, thoughts = read_shard(path, shard, verify=True)
    tensors_path, thoughts_path, _ = shard_paths(path, shard)
    ids = traces["trace_id"].to_pylist()
    K = traces["K"].to_numpy()
    first = np.cumsum(K) - K
    owners = [trace for trace, count in zip(ids, K, strict=True) for _ in range(count)]
    if thoughts["trace_id"].to_pylist() != owners or traces["row"].to_pylist() != first.tolist():
        raise UserError(f"{thoughts_path}: its rows are not those of the shard's traces")
    try:
        with safe_open(tensors_path, framework="np") as stream:
            lengths = {name: stream.get_slice(name).get_shape()[0] for name in stream.keys()}  # noqa: SIM118
            u = stream.get_tensor("u")
    except SafetensorError as error:
        raise UserError(f"{tensors_path}: cannot be read ({error})") from None
    if set(lengths.values()) != {len(owners)}:
        raise UserError(f"{tensors_path}: holds {lengths} rows for {len(owners)} thoughts")
    for trace, start, count, expected in zip(
        ids, first, K, traces["u_sha256"].to_pylist(), strict=True
    ):
        if row_hash(u[start : start + count]) != expected:
            raise UserError(f"{tensors_path}: the thoughts of trace {trace} are not as committed")
    return ids
