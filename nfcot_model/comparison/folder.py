"""A comparison on disk: what it compares, and what of it is done already.

OUT/comparison.json                what is compared, under which settings
OUT/plans/budget.json, KIND.json   the budget, and the steps it makes for each reasoner
OUT/train/KIND-SEED/               trainings, as `nfcot train` makes them
OUT/cells/KIND-SEED-WORLD-STEPS.json   what was measured of each
OUT/causal/KIND-SEED/              a causal study of a model, if somebody made one there
OUT/speed.json                     timings, all reasoners in one run
OUT/table.json, table.md           what the command prints
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfcot_model.comparison.measure import Measured, Sampling
from nfcot_model.comparison.plan import Equal, Plan, cost_of, plan
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, holdings, read_json_object, write_json
from nfcot_model.training.config import TrainConfig
from nfcot_model.worlds.generate import GENERATOR_VERSION

__all__ = [
    "Questions",
    "Terms",
    "check_folder",
    "kept_cell",
    "plan_all",
    "speed_key",
    "write_cell",
]


@dataclass(frozen=True)
class Questions:
    """Which problems are asked, how often?

    `n` problems of the split `test` for each world and number of steps, the same for all
    reasoners and seeds; `sampling` says how pass@k is sampled.
    """

    worlds: Sequence[str]
    steps: Sequence[str]
    n: int
    sampling: Sampling
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "worlds": list(self.worlds), "steps": list(self.steps)}

    def of_a_cell(self) -> str:
        """Are a cell's problems and samples the same?"""
        cell = {"n": self.n, "sampling": asdict(self.sampling), "seed": self.seed}
        return content_hash({**cell, "generator": GENERATOR_VERSION})


@dataclass(frozen=True)
class Terms:
    """What makes two comparisons the same: trainings and budget. Questions may change.

    Without a `budget` it is what `text` spends in the joint stage's steps.
    """

    config: TrainConfig
    budget: float | None
    equal: Equal

    def to_dict(self) -> dict[str, Any]:
        # Without defaults: a setting that a later version adds makes no other comparison.
        training = self.config.model_dump(
            mode="json", exclude={"reasoner", "seed"}, exclude_defaults=True
        )
        return {
            "training": training,
            "budget": self.budget,
            "equal": self.equal,
        }


def check_folder(out: Path, terms: Terms) -> None:
    """Raises UserError when `out` holds something else, naming what differs; writes nothing."""
    path = out / "comparison.json"
    if path.exists():
        found, wanted = read_json_object(path), terms.to_dict()
        names = [name for name in wanted if found.get(name) != wanted[name]]
        if names:
            raise UserError(
                f"{out}: holds another comparison ({' and '.join(names)} differ); repeat its"
                " options, or choose another -o"
            )
    elif out.exists() and (not out.is_dir() or holdings(out)):
        raise UserError(f"{out}: not empty and no comparison; choose another -o")


def plan_all(
    out: Path, terms: Terms, configs: Mapping[str, TrainConfig]
) -> tuple[float, dict[str, Plan]]:
    """The budget, and how many steps it makes for each reasoner; counted once, with seed 0.

    What is new is kept only when all of them are possible: a budget that does not last leaves
    nothing behind.
    """
    budget_path = out / "plans" / "budget.json"
    if budget_path.exists():
        budget = float(read_json_object(budget_path)["budget"])
    elif terms.budget is not None:
        budget = terms.budget
    elif configs:
        explicit = terms.config.model_copy(update={"reasoner": "text", "seed": 0})
        budget = getattr(cost_of(explicit, "joint"), terms.equal)
    else:
        budget = 0.0
    plans, new = {}, {}
    for name, config in configs.items():
        path = out / "plans" / f"{name}.json"
        if path.exists():
            plans[name] = Plan.from_dict(read_json_object(path))
        else:
            plans[name] = new[path] = plan(config, budget, terms.equal)
    for name in ("plans", "train", "cells"):
        (out / name).mkdir(parents=True, exist_ok=True)
    if not (out / "comparison.json").exists():
        write_json(out / "comparison.json", terms.to_dict())
    if configs and not budget_path.exists():
        write_json(budget_path, {"equal": terms.equal, "budget": budget})
    for path, made in new.items():
        write_json(path, made.to_dict())
    return budget, plans


def kept_cell(path: Path, checkpoint: str, asked: Questions) -> Measured | None:
    """What was measured of this checkpoint here, with these questions?

    Raises UserError when it was another's.
    """
    if not path.exists():
        return None
    found = read_json_object(path)
    if found["checkpoint"] != checkpoint:
        raise UserError(
            f"{path}: holds figures of another checkpoint ({found['checkpoint']}, not"
            f" {checkpoint}); compare it in another -o"
        )
    if found["asked"] != asked.of_a_cell():
        return None
    return Measured.from_dict(found["measured"])


def write_cell(path: Path, checkpoint: str, asked: Questions, measured: Measured) -> None:
    """Keep what was measured of a checkpoint, in the place of what was with other questions."""
    kept = {"checkpoint": checkpoint, "asked": asked.of_a_cell(), "measured": measured.to_dict()}
    write_json(path, kept)


def speed_key(checkpoints: dict[str, str], asked: Questions, rounds: int) -> str:
    """Are kept timings those of these checkpoints, on these problems?"""
    key = {"checkpoints": checkpoints, "questions": asked.to_dict(), "rounds": rounds}
    return content_hash(key)
