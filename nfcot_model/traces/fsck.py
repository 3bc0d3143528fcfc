"""Is a run on disk whole? Names what is damaged, left behind or missing, and mends what it can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from nfcot_model.errors import UserError
from nfcot_model.traces.manifest import read_manifest, read_problem_set
from nfcot_model.traces.reader import committed_shards, read_shard
from nfcot_model.traces.replay import REPLAY_TENSORS, Replay, disagree, replay_of
from nfcot_model.traces.schema import (
    NO_SCORER,
    PROBLEMS,
    RETROFIT_SCORER,
    scorer_of,
    shard_paths,
)
from nfcot_model.traces.writer import row_hash, writing

__all__ = ["Health", "check_run"]


@dataclass(frozen=True)
class Health:
    """What is wrong with a run?

    damaged: committed shards that cannot be trusted, with the file and the reason; under
    "problems.jsonl" that file, when its problems are not those of the manifest. leftovers: files
    that no committed shard owns (a killed writer's; harmless). missing: how many of the traces
    that the manifest promises are not there (trace again to add them). carries_problems: is
    problems.jsonl there and whole? A run of an earlier version has none, which is no damage.
    repaired: files that were removed; a removed shard's traces count as missing.
    replay_error_max: the largest replay error of the undamaged shards, recomputed from their
    tensors; replay_error_stored_max: the largest one on record. A large one is no damage: honest
    records of edits have it too.
    """

    run: str
    shards: int
    traces: int
    missing: int
    carries_problems: bool = False
    replay_error_max: float = 0.0
    replay_error_stored_max: float = 0.0
    damaged: dict[str, str] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Is everything that is there in order? A run may be whole and unfinished."""
        return not self.damaged and not self.leftovers


def check_run(path: Path | str, repair: bool = False) -> Health:
    """Check every committed shard: seals, hashes, row counts, order, each trace's own hash of u.

    Replay errors and energies are recomputed from the tensors and must be those on record: `u`
    that was changed after it was scored is damage even where every hash was made to fit. Changes
    of `u`, `eps`, `mu`, `log_sigma` and the record that fit each other are not seen.

    With `repair`, what is damaged or left over is removed, so that repeating the trace command
    restores them. Raises UserError when `path` is not a run or its manifest is damaged (nothing
    can be restored then), and, with `repair`, when another process is writing the run.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if not repair:
        return _inspect(path, manifest, [])
    with writing(path, clear=False):
        found = _inspect(path, manifest, [])
        removed = [path / name for name in found.leftovers]
        for shard in found.damaged:
            if shard == PROBLEMS:
                removed.append(path / PROBLEMS)
                continue
            # the commit point goes first: a kill in between leaves leftovers, not damage
            removed += [p for p in reversed(shard_paths(path, shard)) if p.exists()]
        for file in removed:
            file.unlink()
        health = _inspect(path, manifest, [str(p.relative_to(path)) for p in removed])
    return health


def _inspect(path: Path, manifest: dict[str, Any], repaired: list[str]) -> Health:
    shards = committed_shards(path)
    damaged: dict[str, str] = {}
    traces = 0
    worst = np.zeros(2)
    seen: set[str] = set()
    for shard in shards:
        try:
            ids, errors = _check_shard(path, shard, manifest)
        except UserError as error:
            damaged[shard] = str(error)
            continue
        if not seen.isdisjoint(ids):
            damaged[shard] = f"{shard_paths(path, shard)[2]}: repeats traces of another shard"
            continue
        seen.update(ids)
        traces += len(ids)
        worst = np.maximum(worst, errors)
    owned = {file for shard in shards for file in shard_paths(path, shard)}
    inside = [p for folder in ("tensors", "thoughts", "traces") for p in (path / folder).glob("*")]
    leftovers = [p for p in inside if p not in owned] + list(path.glob(".*.tmp"))
    whole = len(shards) - len(damaged)
    carries_problems = (path / PROBLEMS).exists()
    if carries_problems:
        try:
            read_problem_set(path, manifest)
        except UserError as error:
            carries_problems = False
            damaged[PROBLEMS] = str(error)
    return Health(
        run=str(path),
        shards=whole,
        traces=traces,
        missing=max(manifest["traces"] - traces, 0),
        carries_problems=carries_problems,
        replay_error_max=float(worst[0]),
        replay_error_stored_max=float(worst[1]),
        damaged=damaged,
        leftovers=sorted(str(p.relative_to(path)) for p in leftovers),
        repaired=repaired,
    )


def _check_shard(
    path: Path, shard: str, manifest: dict[str, Any]
) -> tuple[list[str], tuple[float, float]]:
    """The shard's trace ids, and its largest replay error: recomputed and on record.

    Without a density there is nothing to replay, and both are 0.
    """
    scorer = scorer_of(manifest)
    scored = scorer != NO_SCORER
    traces, thoughts = read_shard(path, shard, verify=True)
    tensors_path, thoughts_path, _ = shard_paths(path, shard)
    ids = traces["trace_id"].to_pylist()
    K = traces["K"].to_numpy()
    first = np.cumsum(K) - K
    owners = [trace for trace, count in zip(ids, K, strict=True) for _ in range(count)]
    if thoughts["trace_id"].to_pylist() != owners or traces["row"].to_pylist() != first.tolist():
        raise UserError(f"{thoughts_path}: its rows are not those of the shard's traces")
    replayed = ("u", "eps") if scorer == RETROFIT_SCORER else REPLAY_TENSORS
    tensors = _tensors(tensors_path, len(owners), replayed if scored else ("u",))
    for trace, start, count, expected in zip(
        ids, first, K, traces["u_sha256"].to_pylist(), strict=True
    ):
        if row_hash(tensors["u"][start : start + count]) != expected:
            raise UserError(f"{tensors_path}: the thoughts of trace {trace} are not as committed")
    if not scored:
        return ids, (0.0, 0.0)
    tau = float(manifest["decode"]["tau"])
    found = replay_of(scorer, tensors.__getitem__, K, tau)
    return ids, _check_record(tensors_path, traces, thoughts, found)


def _tensors(path: Path, rows: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named tensors (what replay needs, or `u`), once all have a row for each thought."""
    try:
        with safe_open(path, framework="np") as stream:
            shapes = {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
            lengths = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
            if set(lengths.values()) != {rows}:
                raise UserError(f"{path}: holds {lengths} rows for {rows} thoughts")
            tensors = {name: stream.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len({value.shape for value in tensors.values()}) != 1 or tensors["u"].ndim != 2:
        raise UserError(f"{path}: {', '.join(names)} are not all [thoughts, D]")
    return tensors


def _check_record(
    path: Path, traces: pa.Table, thoughts: pa.Table, found: Replay
) -> tuple[float, float]:
    """The largest replay error, recomputed and on record, once record and tensors agree."""
    stored = traces["replay_error"].to_numpy()
    for trace, mine, theirs, wrong in zip(
        traces["trace_id"].to_pylist(),
        found.error,
        stored,
        disagree(stored, found.error),
        strict=True,
    ):
        if wrong:
            raise UserError(
                f"{path}: the thoughts of trace {trace} are not those that were scored: their"
                f" replay error is {mine:.3g}, on record is {theirs:.3g}"
            )
    energy = thoughts["energy"].to_numpy().astype(np.float64)
    wrong = np.flatnonzero(disagree(energy, found.energy))
    if wrong.size:
        row = int(wrong[0])
        raise UserError(
            f"{path}: thought {thoughts['k'][row]} of trace {thoughts['trace_id'][row]} is not as"
            f" it was scored: its energy is {found.energy[row]:.5g}, on record is {energy[row]:.5g}"
        )
    return float(found.error.max(initial=0.0)), float(stored.max(initial=0.0))
