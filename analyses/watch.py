"""Following a run while it grows: flags and drift as they come, each shard recorded once.

    watch.json            which run, against which calibration, at which rate
    events/<number>.json  what one shard brought: scores, flags, the martingale after it

An event is whole or not there, so a killed watcher goes on where the record ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.calibrate import Rule
from analyses.clean import CleanSet
from analyses.decide import decide
from analyses.drift import Drift, alarm_level
from analyses.scoring import scored_shard, stored_run
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object, write_json
from nfcot_model.terminal import jsonable
from nfcot_model.traces.columns import read_columns
from nfcot_model.traces.manifest import read_manifest
from nfcot_model.traces.reader import committed_shards
from nfcot_model.traces.writer import writing

__all__ = ["Watch", "WatchSummary", "follow"]

MANIFEST = "watch.json"


@dataclass(frozen=True)
class WatchSummary:
    """What has been seen so far? `complete`: all traces that the run's manifest promises."""

    run: str
    calibration: str
    alpha: float
    shards: int
    n: int
    flagged: list[dict[str, Any]]
    invalid: int
    drift: dict[str, Any]
    complete: bool
    missing: int


class Watch:
    """The record of a run that is followed. Raises UserError when `out` holds something else."""

    def __init__(self, run: Path, clean: CleanSet, rule: Rule, out: Path) -> None:
        if rule.fdr is not None:
            raise UserError("--fdr: needs the whole batch; watch with --alpha")
        self.run, self.clean, self.rule, self.out = run, clean, rule, out
        self.stored = stored_run(run, clean.identity, growing=True)
        self._open()
        self.drift = Drift.start({name: cell.scores for name, cell in clean.ranks.cells.items()})
        self.events = list(self._recorded())

    @property
    def seen(self) -> set[str]:
        """Which shards are on record?"""
        return {event["shard"] for event in self.events}

    def take(self) -> Iterator[dict[str, Any]]:
        """Score, record and yield the shards that have come since, in order."""
        for shard in committed_shards(self.run):
            if shard not in self.seen:
                event = self._judge(shard)
                write_json(self.out / "events" / f"{len(self.events):06d}.json", event)
                self.events.append(event)
                yield event

    def refuse_stale(self) -> None:
        """Raise UserError when another watch has written to the record since it was read."""
        if len(list((self.out / "events").glob("[!.]*.json"))) != len(self.events):
            raise UserError(f"-o {self.out}: another watch has written here; repeat the command")

    def summary(self) -> WatchSummary:
        """What the record says."""
        n = sum(event["n"] for event in self.events)
        promised = int(read_manifest(self.run)["traces"])
        level = alarm_level(self.rule.rate)
        alarm = next((e["shard"] for e in self.events if e["drift"]["highest"] >= level), None)
        return WatchSummary(
            run=self.stored.name,
            calibration=self.clean.name,
            alpha=self.rule.rate,
            shards=len(self.events),
            n=n,
            flagged=[flag for event in self.events for flag in event["flagged"]],
            invalid=sum(event["invalid"] for event in self.events),
            drift={
                "alarm": alarm is not None,
                "alarm_shard": alarm,
                "alarm_log10": level,
                "log10_highest": self.drift.highest,
                "log10_last": self.drift.log10,
            },
            complete=n >= promised,
            missing=max(promised - n, 0),
        )

    def _open(self) -> None:
        identity = {
            "run_hash": self.stored.hash,
            "calibration_hash": self.clean.hash,
            "alpha": self.rule.rate,
            "guaranteed": self.rule.guaranteed,
        }
        file, out = self.out / MANIFEST, self.out
        if out.exists() and not out.is_dir():
            raise UserError(f"-o {out}: is a file; give a folder")
        if file.is_file():
            if read_json_object(file) != identity:
                raise UserError(f"-o {out}: follows another run or rule; give another folder")
        elif out.is_dir() and any(path.suffix != ".tmp" for path in out.iterdir()):
            raise UserError(f"-o {out}: is not empty and no watch's; give another folder")
        out.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            write_json(file, identity)
        (out / "events").mkdir(exist_ok=True)

    def _recorded(self) -> Iterator[dict[str, Any]]:
        """The events on record; the martingale goes through their scores again."""
        for number, path in enumerate(sorted((self.out / "events").glob("[!.]*.json"))):
            event = read_json_object(path)
            if path.stem != f"{number:06d}":
                raise UserError(f"{self.out}: event {number:06d} is missing; start a new watch")
            scores = [float("inf") if s is None else s for s in event["scores"]]
            self.drift.follow(scores, event["cells"], event["trace_ids"])
            yield event

    def _judge(self, shard: str) -> dict[str, Any]:
        scores = scored_shard(self.run, shard, self.clean)
        decision = decide(scores, self.clean.ranks, self.rule)
        frame = scores.trajectories
        path = self.drift.follow(frame["score"], decision.cell, frame["trace_id"])
        flags = np.flatnonzero(decision.flagged)
        texts = _texts(self.run, shard) if flags.size else []
        end = frame["K"].to_numpy(dtype=np.int64).cumsum()
        flagged = []
        for i in flags:
            row, first = frame.iloc[int(i)], int(end[i] - frame["K"].iloc[int(i)])
            named = np.flatnonzero(decision.named[first : end[i]]).tolist()
            k = int(row["peak_k"])
            own = texts[first : end[i]]
            flagged.append(
                {
                    "trace_id": row["trace_id"],
                    "p_value": float(decision.p_value[i]),
                    "score": float(row["score"]),
                    "leading": row["leading"],
                    "thoughts": named,
                    "origin": _said(own, named[0] if named else k),
                    "stands_out": _said(own, k),
                }
            )
        event = {
            "shard": shard,
            "n": len(frame),
            "flagged": flagged,
            "invalid": int(frame["invalid"].sum()),
            "drift": {"highest": max(path), "last": path[-1]},
            "trace_ids": frame["trace_id"].tolist(),
            "scores": frame["score"].tolist(),
            "cells": decision.cell.tolist(),
        }
        return dict(jsonable(event))


def _texts(run: Path, shard: str) -> list[str]:
    return list(read_columns(run, shard, ["trace_id"], ["text"])[1]["text"].to_pylist())


def follow(
    watch: Watch,
    *,
    every: float = 2.0,
    until_idle: float | None = None,
    once: bool = False,
    tell: Callable[[dict[str, Any]], object] = lambda event: None,
) -> WatchSummary:
    """Take shards as they come until the run is complete; what was seen.

    every: seconds between looks. until_idle: stop when nothing has come for so long. once: take
    what is there. tell: called with each new event. Raises UserError while another process writes
    to the same record.
    """
    last = time.monotonic()
    with writing(watch.out):
        watch.refuse_stale()
        while True:
            for event in watch.take():
                tell(event)
                last = time.monotonic()
            summary = watch.summary()
            idle = until_idle is not None and time.monotonic() - last >= until_idle
            if once or summary.complete or idle:
                return summary
            time.sleep(every)


def _said(texts: Sequence[str], k: int) -> dict[str, Any] | None:
    """A thought named in an event; None of an invalid trajectory."""
    return None if k < 0 else {"k": k, "text": texts[k]}
