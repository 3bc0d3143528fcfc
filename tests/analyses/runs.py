"""Small runs for tests of scores that need a model, and runs whose tensors say something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import make_world
from tests.tiny import brief_reasoner


def brief_run(folder: Path, n: int = 14) -> tuple[Run, NFCoTReasoner]:
    """A tiny random model that thinks differently about each prompt, saved, and a run of it."""
    brief_reasoner(max_thoughts=6).save(folder / "model")
    reasoner = load_reasoner(folder / "model")
    problems = make_world("digits", "test", 1, n, (2, 4))
    collect(reasoner, problems, folder / "run", model_path=folder / "model")
    return read_run(folder / "run"), reasoner


@dataclass(frozen=True, eq=False)
class Changed(Run):
    """A run whose tensors are changed as they are read."""

    change: Callable[[str, np.ndarray], np.ndarray] = field(default=lambda name, value: value)

    def tensor(self, name: str) -> np.ndarray:
        return self.change(name, super().tensor(name).copy())


def changed(run: Run, change: Callable[[str, np.ndarray], np.ndarray]) -> Changed:
    return Changed(run.path, run.manifest, run.traces, run.thoughts, change)


def nan_thought(run: Run, row: int = 0) -> Changed:
    """The same run, but one thought is no number."""

    def broken(name: str, value: np.ndarray) -> np.ndarray:
        if name == "u":
            value[row, 0] = np.nan
        return value

    return changed(run, broken)
