"""The trainings of a comparison: one resumable folder per reasoner and seed, its cost beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nfcot_model.comparison.plan import Plan, with_steps
from nfcot_model.files import read_json_object, write_json
from nfcot_model.training.config import TrainConfig, stages_of
from nfcot_model.training.loop import Progress
from nfcot_model.training.stages import train

__all__ = ["processor_seconds", "train_one", "trained"]

Report = Callable[[Progress], None]
WRITE_EVERY = 20.0


def trained(folder: Path, config: TrainConfig) -> Path | None:
    """The finished model of this training, if it is finished."""
    model = folder / stages_of(config)[-1] / "model"
    return model if model.exists() else None


def train_one(config: TrainConfig, plan: Plan, folder: Path, report: Report | None = None) -> Path:
    """Train as planned, or go on with it; returns the folder of the model.

    The processor seconds of all sittings, validation included, are added up beside the folder.
    """
    config = with_steps(config, plan)
    stages = stages_of(config)
    if (done := trained(folder, config)) is not None:
        return done
    earlier, started = processor_seconds(folder) or 0.0, time.process_time()
    written = started

    def note(progress: Progress) -> None:
        nonlocal written
        now = time.process_time()
        if now - written > WRITE_EVERY:
            written = now
            _write_seconds(folder, earlier + now - started)
        if report is not None:
            report(progress)

    train(config, stages, folder, report=note)
    _write_seconds(folder, earlier + time.process_time() - started)
    return folder / stages[-1] / "model"


def processor_seconds(folder: Path) -> float | None:
    """How long has this training computed so far? None: it was not measured."""
    path = _seconds_file(folder)
    return float(read_json_object(path)["processor_seconds"]) if path.exists() else None


def _write_seconds(folder: Path, seconds: float) -> None:
    write_json(_seconds_file(folder), {"processor_seconds": seconds})


def _seconds_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cost.json")
