"""Scores of a whole run on disk, part by part: bounded memory, resumable, nothing twice.

scores.json                       which run, against which calibration
thoughts/<first>-<last>.parquet   one row per thought of these shards
trajectories/<first>-<last>.parquet   one row per trace; the part's commit point
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analyses.battery import BatteryScores, Noise
from analyses.battery.source import blocks_of, positive_tau, shard_noise
from analyses.calibrate import Rule
from analyses.clean import CleanSet, Identity, refuse_settings, refuse_traces
from analyses.decide import decide
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object, replacing, write_json
from nfcot_model.traces import Run
from nfcot_model.traces.manifest import read_manifest
from nfcot_model.traces.reader import committed_shards
from nfcot_model.traces.writer import writing

__all__ = ["ScoreSummary", "score_run", "scored_shard", "stored_run"]

MANIFEST = "scores.json"
PART_SHARDS = 64
FOLDERS = ("thoughts", "trajectories")


@dataclass(frozen=True)
class ScoreSummary:
    """What was scored? Counts are of the whole run; `parts_resumed` were there already.

    `thoughts_per_second` counts the new parts only.
    """

    run: str
    calibration: str
    out: str
    trajectories: int
    thoughts: int
    invalid: int
    parts: int
    parts_resumed: int
    seconds: float
    thoughts_per_second: float


def stored_run(path: Path, clean: Identity, growing: bool = False) -> Run:
    """A run on disk without its tables, once its settings are those of the clean traces.

    growing: it need not hold a trace yet. Raises UserError for a mismatch, tau = 0 or a run without
    traces.
    """
    run = Run(path.resolve(), read_manifest(path), pd.DataFrame(), pd.DataFrame())
    positive_tau(run.manifest, run.name)
    if not growing and not committed_shards(path):
        raise UserError(f"{run.name}: holds no traces; trace some problems into it")
    refuse_settings(run, clean)
    return run


def scored_shard(run: Path, shard: str, clean: CleanSet) -> BatteryScores:
    """The battery's scores of one shard. Raises UserError when it shares traces with the clean."""
    tau = positive_tau(read_manifest(run), run.name)
    noise = shard_noise(run, shard, tau, clean.ranks.battery.features)
    return _scored([noise], run.name, clean)


def _scored(parts: list[Noise], name: str, clean: CleanSet) -> BatteryScores:
    for noise in parts:
        refuse_traces(name, noise.ids, noise.groups, noise.tasks, clean.identity)
    return clean.ranks.battery.score(parts)


def score_run(
    run: Path,
    clean: CleanSet,
    out: Path,
    rule: Rule,
    progress: Callable[[int], object] | None = None,
) -> ScoreSummary:
    """Write every statistic, the combined score and its p-value, of every trace and thought.

    rule: decides which cells are large enough to rank in. A repetition goes on after the last whole
    part. progress: called with the number of shards done. Raises UserError for a calibration of
    something else, damaged shards, and an `out` that holds anything else.
    """
    started = perf_counter()
    stored = stored_run(run, clean.identity)
    shards = committed_shards(run)
    parts = {
        f"{chosen[0]}-{chosen[-1]}": chosen
        for chosen in (shards[i : i + PART_SHARDS] for i in range(0, len(shards), PART_SHARDS))
    }
    _open(out, {"run": stored.name, "run_hash": stored.hash, "calibration_hash": clean.hash})
    written = 0
    with writing(out):
        kept = {path.stem for path in (out / "trajectories").glob("[!.]*.parquet")}
        _remove_stale(out, set(parts))
        for name, chosen in parts.items():
            if name not in kept:
                written += _write_part(out, name, _shards(run, chosen, clean), stored, clean, rule)
            if progress is not None:
                progress(len(chosen))
    seconds = perf_counter() - started
    counted = _count(out, list(parts))
    return ScoreSummary(
        run=str(run),
        calibration=clean.name,
        out=str(out),
        parts=len(parts),
        parts_resumed=len(kept & set(parts)),
        seconds=seconds,
        thoughts_per_second=written / seconds,
        **counted,
    )


def _write_part(
    out: Path, name: str, noise: Iterator[Noise], run: Run, clean: CleanSet, rule: Rule
) -> int:
    """Score some shards and commit them; how many thoughts?"""
    scores = _scored(list(noise), run.name, clean)
    decision = decide(scores, clean.ranks, rule)
    frames = {
        "thoughts": scores.thoughts.assign(adjusted_p=decision.thought_p),
        "trajectories": scores.trajectories.assign(cell=decision.cell, p_value=decision.p_value),
    }
    for folder in FOLDERS:
        with replacing(out / folder / f"{name}.parquet") as temporary:
            frames[folder].to_parquet(temporary, index=False, compression="zstd")
    return len(scores.thoughts)


def _shards(run: Path, shards: list[str], clean: CleanSet) -> Iterator[Noise]:
    """Their noise in blocks worth the overhead of the battery's operations."""
    tau = positive_tau(read_manifest(run), run.name)
    features = clean.ranks.battery.features
    yield from blocks_of(shard_noise(run, shard, tau, features) for shard in shards)


def _open(out: Path, identity: dict[str, str]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"-o {out}: is a file; give a folder")
    file = out / MANIFEST
    if file.is_file():
        if read_json_object(file) != identity:
            raise UserError(f"-o {out}: holds scores of another run; give another folder")
    elif out.is_dir() and any(p.suffix != ".tmp" for p in out.iterdir()):
        raise UserError(f"-o {out}: is not empty and holds no scores; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        write_json(file, identity)
    for folder in FOLDERS:
        (out / folder).mkdir(exist_ok=True)


def _remove_stale(out: Path, parts: set[str]) -> None:
    """Remove the parts of a run that has grown since."""
    for folder in FOLDERS:
        for path in (out / folder).iterdir():
            if path.stem not in parts:
                path.unlink()


def _count(out: Path, parts: list[str]) -> dict[str, Any]:
    trajectories = thoughts = invalid = 0
    for name in parts:
        try:
            table = pq.read_table(out / "trajectories" / f"{name}.parquet", columns=["invalid"])
            rows = pq.read_metadata(out / "thoughts" / f"{name}.parquet").num_rows
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{out}: part {name} is damaged ({str(error).splitlines()[0]}); delete its files"
                " and repeat the command"
            ) from None
        trajectories += table.num_rows
        invalid += sum(table["invalid"].to_pylist())
        thoughts += rows
    return {"trajectories": trajectories, "thoughts": thoughts, "invalid": invalid}
