"""Seeded problem sets with ground truth at every step; splits share no pipeline by construction."""

from __future__ import annotations

import hashlib
import random
import re
from types import ModuleType

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash
from nfcot_model.worlds import digits, shuffle
from nfcot_model.worlds.problem import Problem

__all__ = [
    "GENERATOR_VERSION",
    "MAX_STEPS",
    "SPLITS",
    "WORLDS",
    "make_problem",
    "make_world",
    "read_steps",
]

GENERATOR_VERSION = 1
WORLDS: dict[str, ModuleType] = {"digits": digits, "shuffle": shuffle}
SPLITS = ("train", "calibration", "test", "long", "unseen-words")
# One-step pipelines are so few that a model learns their answers by heart, past the thoughts.
TRAINED_STEPS = (2, 8)
LONG_STEPS = (9, 12)
MAX_STEPS = 12
# Every pipeline falls, by its hash, into one of 20 buckets; a split owns buckets.
BUCKETS = {
    "train": range(0, 11),
    "calibration": range(11, 14),
    "test": range(14, 17),
    "long": range(17, 18),
    "unseen-words": range(18, 20),
}


def _bucket(world: str, keys: list[str]) -> int:
    return hashlib.sha256(" ".join([world, *keys]).encode()).digest()[0] % 20


def make_problem(world: str, split: str, rng: random.Random, steps: int, first: int = 1) -> Problem:
    """One random problem of `steps` steps, its pipeline owned by `split`.

    `first` numbers the first operation; training varies it so that the numbers of longer
    pipelines are not new at test time.
    """
    module = WORLDS[world]
    owned = BUCKETS[split]
    while True:
        operations = [module.draw(rng) for _ in range(steps)]
        keys = [operation.key for operation in operations]
        if _bucket(world, keys) in owned:
            break
    unseen = split == "unseen-words"
    wording = "; ".join(
        f"#{first + i} {module.word(operation, rng, unseen)}"
        for i, operation in enumerate(operations)
    )
    opening, closing = rng.choice(module.OPENINGS), rng.choice(module.CLOSINGS)
    texts, step_labels, answer, check = module.compile_pipeline(operations)
    final = {key: value for key, value in step_labels[-1].items() if key != "operation"}
    return Problem(
        world=world,
        split=split,
        group=f"{world}-{content_hash(keys)}",
        prompt=f"{opening} {wording}. {closing}",
        steps=[f"#{first + i} {text}" for i, text in enumerate(texts)],
        answer=answer,
        check=check,
        labels={"steps": steps, **{f"final_{key}": value for key, value in final.items()}},
        step_labels=step_labels,
    )


def read_steps(text: str) -> tuple[int, int]:
    """Which numbers of steps does `6` or `2-6` name? Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if not found:
        raise UserError(f"--steps {text}: expected a number or a range such as 2-6")
    low, high = int(found[1]), int(found[2] or found[1])
    if low > high:
        raise UserError(f"--steps {text}: is empty; write the smaller number first, {high}-{low}")
    return low, high


def make_world(
    name: str, split: str, seed: int, n: int, steps: int | tuple[int, int] | None = None
) -> list[Problem]:
    """`n` different problems of one world and split.

    `steps` is a number or an inclusive range; by default 2-8, and 9-12 for the split `long`.
    The same arguments give the same problems. Raises UserError for an unknown world or split, a
    number of steps the world does not have, or more problems than the split can hold.
    """
    if name not in WORLDS:
        raise UserError(f"world '{name}' does not exist; choose one of {', '.join(WORLDS)}")
    if split not in SPLITS:
        raise UserError(f"split '{split}' does not exist; choose one of {', '.join(SPLITS)}")
    if n < 1:
        raise UserError(f"-n {n}: ask for at least one problem")
    default = LONG_STEPS if split == "long" else TRAINED_STEPS
    low, high = default if steps is None else (steps, steps) if isinstance(steps, int) else steps
    if not 1 <= low <= high <= MAX_STEPS:
        raise UserError(f"--steps {low}-{high}: a pipeline has 1 to {MAX_STEPS} steps")
    rng = random.Random(f"{GENERATOR_VERSION}/{name}/{split}/{seed}/{low}-{high}")
    problems: dict[str, Problem] = {}
    misses = 0
    while len(problems) < n:
        problem = make_problem(name, split, rng, rng.randint(low, high))
        misses = misses + 1 if problem.id in problems else 0
        problems[problem.id] = problem
        if misses > 2000:
            raise UserError(
                f"-n {n}: world '{name}', split '{split}', steps {low}-{high} has only about"
                f" {len(problems)} different problems; ask for fewer or for more steps"
            )
    return list(problems.values())
