"""Which problems does an update see, and which are kept for validation?"""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash
from nfcot_model.training.config import DataConfig, StageConfig
from nfcot_model.training.data import training_batch, validation_groups
from nfcot_model.training.grpo.settings import GRPOConfig
from nfcot_model.worlds import Problem, make_problem, problem_set_hash, read_problems

__all__ = [
    "anchor_problems",
    "check_problems",
    "file_hash",
    "update_problems",
    "validation_problems",
]


def update_problems(config: GRPOConfig, update: int, step: int, again: int = 0) -> list[Problem]:
    """The problems of one update, shortest prompts first; worlds: of the split `train`.

    `again` counts how often the same update has drawn before.
    """
    rng = random.Random(f"{config.seed}/grpo/{update}" + (f"/{again}" if again else ""))
    if config.data.problems is not None:
        chosen = rng.choices(_parts(config.data.problems)[0], k=config.prompts)
    else:
        bounds = config.lengths[0], config.longest(step)
        chosen = [_drawn(config.data, rng, "train", bounds) for _ in range(config.prompts)]
    return sorted(chosen, key=lambda p: len(p.prompt))


def validation_problems(config: GRPOConfig) -> list[Problem]:
    """Problems of the same lengths, never trained on and of no evaluation split.

    For worlds they are pipelines of the calibration split, for a file one group in twenty.
    """
    count = config.validate_problems
    if config.data.problems is not None:
        return _parts(config.data.problems)[1][:count]
    rng = random.Random(f"{config.seed}/grpo/validation")
    return [_drawn(config.data, rng, "calibration", config.lengths) for _ in range(count)]


def anchor_problems(config: GRPOConfig, step: int) -> list[Problem]:
    """Problems with reasoning; worlds: of the split `train`, as models are first trained on."""
    if config.anchor_problems is not None:
        rng = random.Random(f"{config.seed}/grpo/anchor/{step}")
        chosen = rng.choices(_read(config.anchor_problems), k=config.anchor_batch)
        return sorted(chosen, key=lambda p: len(p.prompt))
    if config.anchor_lengths is not None and config.data.problems is None:
        rng = random.Random(f"{config.seed}/grpo/anchor/{step}")
        count = range(config.anchor_batch)
        return [_drawn(config.data, rng, "train", config.anchor_lengths) for _ in count]
    stage = StageConfig(steps=config.steps, batch=config.anchor_batch)
    return training_batch(config.data, stage, config.seed, "anchor", step)


def check_problems(config: GRPOConfig) -> list[Problem]:
    """All problems of files (none for worlds), when they can be trained on as configured.

    Raises UserError naming the problem.
    """
    path, labelled = config.data.problems, config.anchor_problems
    rewarded = [] if path is None else [p for part in _parts(path) for p in part]
    told = rewarded if labelled is None else _read(labelled)
    for problem in told if config.anchor else ():
        if not problem.steps or problem.answer is None:
            raise UserError(
                f"{labelled or path}: problem '{problem.id}' has no steps or no answer, which"
                " the supervised anchor needs; add them, or set anchor: 0"
            )
    return rewarded if labelled is None else rewarded + told


def file_hash(config: GRPOConfig) -> str | None:
    """Which problems are in which of the files that are trained on? None for worlds."""
    check_problems(config)
    paths = [path for path in (config.data.problems, config.anchor_problems) if path is not None]
    hashes = [problem_set_hash(_read(path)) for path in paths]
    return content_hash(hashes) if len(hashes) > 1 else next(iter(hashes), None)


@lru_cache(maxsize=2)
def _read(path: str) -> list[Problem]:
    return read_problems(Path(path))


@lru_cache(maxsize=2)
def _parts(path: str) -> tuple[list[Problem], list[Problem]]:
    """The problems of a file to train on and to validate on."""
    problems = _read(path)
    kept = validation_groups(path, problems)
    return [p for p in problems if p.group not in kept], [p for p in problems if p.group in kept]


def _drawn(data: DataConfig, rng: random.Random, split: str, lengths: tuple[int, int]) -> Problem:
    world = rng.choices(list(data.worlds), list(data.worlds.values()))[0]
    return make_problem(world, split, rng, rng.randint(*lengths))
