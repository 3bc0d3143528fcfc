"""Prompts the model was never trained on: other words, longer pipelines, another task (P12).

On policy: the model draws the thoughts itself, and its record is true. Only the prompts are new.
"""

from __future__ import annotations

import random
import re

import numpy as np

from analyses.organisms import organism_problems
from analyses.plants.recorded import Planting, Recorded, record, seeds_of
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.worlds import WORLDS, Problem, make_world
from nfcot_model.worlds.generate import MAX_STEPS

__all__ = ["length", "reworded", "task", "words"]

_OPERATION = re.compile(r"#(\d+) ([^;.]+)")


def reworded(problem: Problem, share: float, rng: random.Random) -> tuple[Problem, list[bool]]:
    """The same pipeline with about a `share` of its operations in words that training lacks.

    Steps and answer are the same. Also says which operations were worded anew.
    """
    world = WORLDS[problem.world]
    hit: list[bool] = []

    def other(found: re.Match[str]) -> str:
        operation = world.read_operation(found[2])
        hit.append(operation is not None and rng.random() < share)
        return f"#{found[1]} {world.word(operation, rng, True)}" if hit[-1] else found[0]

    prompt = _OPERATION.sub(other, problem.prompt)
    fields = problem.model_dump(exclude={"id", "prompt"}) | {"prompt": prompt}
    return Problem.model_validate(fields), hit


def words(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P12: a share of `severity` of the operations is put in words the model never saw."""
    rng = random.Random(f"{seed}/words")
    pairs = [reworded(problem, severity, rng) for problem in clean.problems]
    problems = [problem for problem, _ in pairs]
    again = record(reasoner, problems, clean.tau, clean.seeds)
    places = np.arange(again.thoughts.mask.shape[1])
    first = np.array([hit.index(True) if any(hit) else len(places) for _, hit in pairs])
    at = (places >= first[:, None]) & again.thoughts.mask.numpy()
    return Planting(again, at, np.arange(len(clean)))


def length(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P12: pipelines of `severity` steps more than the longest trained ones (8); 0: of 8."""
    steps = min(8 + int(severity), MAX_STEPS)
    split = "long" if steps > 8 else "test"
    worlds = sorted(set(clean.worlds))
    share = -(-len(clean) // len(worlds))
    problems = [p for w in worlds for p in make_world(w, split, seed + 1, share, steps)]
    problems = problems[: len(clean)]
    again = record(reasoner, problems, clean.tau, seeds_of(problems, seed))
    affected = again.thoughts.mask.numpy() & (severity > 0)
    return Planting(again, affected, np.full(len(problems), -1, dtype=np.int64))


def task(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P12: prompts of another task altogether; `severity` is the share of trajectories that get
    one, the others keep their prompts.
    """
    rng = np.random.default_rng([seed, 12])
    hit = rng.random(len(clean)) < severity
    others = organism_problems("early", "test", seed, len(clean))
    # They count as problems of the task that the auditor takes them for.
    problems = [
        o.model_copy(update={"world": p.world}) if h else p
        for o, p, h in zip(others, clean.problems, hit, strict=True)
    ]
    again = record(reasoner, problems, clean.tau, clean.seeds)
    twin = np.where(hit, -1, np.arange(len(clean)))
    return Planting(again, again.thoughts.mask.numpy() & hit[:, None], twin)
