"""Training batches: a function of (configuration, stage, step), so that any step can be redone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash
from nfcot_model.training.config import DataConfig, StageConfig
from nfcot_model.worlds import Problem, make_problem, problem_set_hash, read_problems
from nfcot_model.worlds.generate import MAX_STEPS

__all__ = ["data_hash", "every_problem", "held_out", "training_batch", "vocabulary_texts"]

HELD_OUT = 256


def training_batch(
    data: DataConfig, stage: StageConfig, seed: int, name: str, step: int
) -> list[Problem]:
    """The problems of one optimizer step (all processes together), shortest prompts first."""
    rng = random.Random(f"{seed}/{name}/{step}")
    if data.problems is not None:
        problems = rng.choices(_training_part(data.problems), k=stage.batch)
    else:
        longest = _longest(data, stage, step)
        problems = [_world_problem(data, rng, longest) for _ in range(stage.batch)]
    return sorted(problems, key=lambda p: len(p.prompt))


def _longest(data: DataConfig, stage: StageConfig, step: int) -> int:
    shortest, top = data.steps
    if step >= stage.curriculum:
        return top
    first = min(max(stage.first_length, shortest), top)
    return first + (top - first) * step // stage.curriculum


def _world_problem(data: DataConfig, rng: random.Random, longest: int) -> Problem:
    world = rng.choices(list(data.worlds), list(data.worlds.values()))[0]
    # Longer problems more often: the fewer pipelines of a length there are, the sooner their
    # answers are learned by heart, past the thoughts.
    lengths = range(data.steps[0], longest + 1)
    steps = rng.choices(lengths, lengths)[0]
    renumbered = rng.random() < data.renumber
    first = rng.randint(1, MAX_STEPS + 1 - steps) if renumbered else 1
    return make_problem(world, "train", rng, steps, first)


@lru_cache(maxsize=2)
def _user_problems(path: str) -> list[Problem]:
    problems = read_problems(Path(path))
    for problem in problems:
        if not problem.steps or problem.answer is None:
            raise UserError(
                f"{path}: problem '{problem.id}' has no steps or no answer; training needs both"
            )
    return problems


def _training_part(path: str) -> list[Problem]:
    out = _held_out_groups(path)
    return [p for p in _user_problems(path) if p.group not in out]


@lru_cache(maxsize=2)
def _held_out_groups(path: str) -> frozenset[str]:
    """One group in twenty and at least one, by the rank of their hashes."""
    groups = sorted({p.group for p in _user_problems(path)}, key=content_hash)
    if len(groups) < 2:
        raise UserError(
            f"{path}: all problems are of one group; training needs two at least, one of them to"
            " validate on"
        )
    return frozenset(groups[: max(1, len(groups) // 20)])


def held_out(data: DataConfig, seed: int) -> list[Problem]:
    """Problems for validation during training: never trained on, never of an evaluation split.

    For worlds they are pipelines of the calibration split; for a file, one group in twenty.
    """
    if data.problems is not None:
        out = _held_out_groups(data.problems)
        return [p for p in _user_problems(data.problems) if p.group in out][:HELD_OUT]
    rng = random.Random(f"{seed}/validation")
    per_world = HELD_OUT // len(data.worlds)
    return [
        make_problem(world, "calibration", rng, rng.randint(*data.steps))
        for world in data.worlds
        for _ in range(per_world)
    ]


def every_problem(data: DataConfig, seed: int) -> list[Problem]:
    """All problems of a file; for worlds, which have no end, a large draw with the longest."""
    if data.problems is not None:
        return _user_problems(data.problems)
    rng = random.Random(f"{seed}/every")
    return [_world_problem(data, rng, data.steps[1]) for _ in range(500)]


def data_hash(data: DataConfig) -> str | None:
    """Which problems are in the file that is trained on? None for worlds."""
    return None if data.problems is None else problem_set_hash(_user_problems(data.problems))


def vocabulary_texts(data: DataConfig, seed: int) -> Sequence[str]:
    """Training texts that a tokenizer is made from."""
    if data.problems is not None:
        problems = _user_problems(data.problems)
    else:
        rng = random.Random(f"{seed}/vocabulary")
        every = data.model_copy(update={"renumber": 0.5})
        problems = [_world_problem(every, rng, data.steps[1]) for _ in range(2000)]
    return [t for p in problems for t in (p.prompt, *p.steps, p.answer or "")]
