"""Training batches: a function of (configuration, stage, step), so that any step can be redone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash
from nfcot_model.training.config import DataConfig, StageConfig
from nfcot_model.training.examples import Streamed, examples_hash, read_examples, streamed
from nfcot_model.worlds import Problem, make_problem, problem_set_hash, read_problems
from nfcot_model.worlds.generate import MAX_STEPS

__all__ = [
    "data_hash",
    "every_problem",
    "held_out",
    "training_batch",
    "validation_groups",
    "vocabulary_texts",
]

VOCABULARY_ROWS = 100_000


def training_batch(
    data: DataConfig, stage: StageConfig, seed: int, name: str, step: int
) -> list[Problem]:
    """The problems of one optimizer step (all processes together), shortest prompts first."""
    rng = random.Random(f"{seed}/{name}/{step}")
    if data.streaming:
        problems = _stream(data, seed, name).take(step * stage.batch, stage.batch)
    elif (path := _path(data)) is not None:
        problems = rng.choices(_training_part(*path), k=stage.batch)
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


def _path(data: DataConfig) -> tuple[str, bool] | None:
    """The file that is held in memory, and whether it is of examples; None for worlds."""
    if data.examples is not None:
        return data.examples, True
    return None if data.problems is None else (data.problems, False)


def _stream(data: DataConfig, seed: int, name: str) -> Streamed:
    assert data.examples is not None
    return streamed(data.examples, data.buffer, seed, name)


@lru_cache(maxsize=2)
def _user_problems(path: str, examples: bool = False) -> list[Problem]:
    if examples:
        return read_examples(path)
    problems = read_problems(Path(path))
    for problem in problems:
        if not problem.steps or problem.answer is None:
            raise UserError(
                f"{path}: problem '{problem.id}' has no steps or no answer; training needs both"
            )
        if not all(step.strip() for step in problem.steps):
            raise UserError(
                f"{path}: problem '{problem.id}' has a step of no text; a thought has nothing to"
                " say there, remove it"
            )
    return problems


def _training_part(path: str, examples: bool = False) -> list[Problem]:
    out = _held_out_groups(path, examples)
    return [p for p in _user_problems(path, examples) if p.group not in out]


@lru_cache(maxsize=2)
def _held_out_groups(path: str, examples: bool = False) -> frozenset[str]:
    """One group in twenty and at least one, by the rank of their hashes."""
    return validation_groups(path, _user_problems(path, examples))


def validation_groups(path: str, problems: Sequence[Problem]) -> frozenset[str]:
    """The groups of a file's problems that are kept for validation: see `held_out`."""
    groups = sorted({p.group for p in problems}, key=content_hash)
    if len(groups) < 2:
        raise UserError(
            f"{path}: all problems are of one group; training needs two at least, one of them to"
            " validate on"
        )
    return frozenset(groups[: max(1, len(groups) // 20)])


def held_out(data: DataConfig, seed: int) -> list[Problem]:
    """Problems for validation during training: never trained on, never of an evaluation split.

    For worlds they are pipelines of the calibration split; for a file, one group in twenty (by the
    rank of its hash; in a stream, by the hash itself).
    """
    if data.streaming:
        return _held_out_of_stream(data)
    if (path := _path(data)) is not None:
        out = _held_out_groups(*path)
        return [p for p in _user_problems(*path) if p.group in out][: data.held_out]
    rng = random.Random(f"{seed}/validation")
    per_world = max(1, data.held_out // len(data.worlds))
    return [
        make_problem(world, "calibration", rng, rng.randint(*data.steps))
        for world in data.worlds
        for _ in range(per_world)
    ]


def _held_out_of_stream(data: DataConfig) -> list[Problem]:
    assert data.examples is not None
    return _first_held_out(data.examples, data.held_out)


@lru_cache(maxsize=2)
def _first_held_out(path: str, most: int) -> list[Problem]:
    return Streamed(path, 1, 0).held_out(most)


def every_problem(data: DataConfig, seed: int) -> Iterable[Problem]:
    """All problems of a file; for worlds, which have no end, a large draw with the longest."""
    if data.streaming:
        return _stream(data, seed, "every").every()
    if (path := _path(data)) is not None:
        return _user_problems(*path)
    rng = random.Random(f"{seed}/every")
    return [_world_problem(data, rng, data.steps[1]) for _ in range(500)]


def data_hash(data: DataConfig) -> str | None:
    """Which problems are in the file that is trained on? None for worlds."""
    if data.examples is not None:
        return examples_hash(data.examples)
    return None if data.problems is None else problem_set_hash(_user_problems(data.problems))


def vocabulary_texts(data: DataConfig, seed: int) -> Sequence[str]:
    """Training texts that a tokenizer is made from."""
    if data.problems is not None or data.examples is not None:
        problems = list(islice(every_problem(data, seed), VOCABULARY_ROWS))
    else:
        rng = random.Random(f"{seed}/vocabulary")
        every = data.model_copy(update={"renumber": 0.5})
        problems = [_world_problem(every, rng, data.steps[1]) for _ in range(2000)]
    return [t for p in problems for t in (p.prompt, *p.steps, p.answer or "")]
