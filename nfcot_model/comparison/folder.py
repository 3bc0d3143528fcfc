"""A comparison on disk: what it compares, and what of it is done already.

    OUT/comparison.json                what is compared, under which settings
    OUT/plans/budget.json, KIND.json   the budget, and the steps it makes for each reasoner
    OUT/train/KIND-SEED/               trainings, as `nfcot train` makes them
    OUT/cells/KIND-SEED-WORLD-STEPS.json   what was measured of each
    OUT/speed.json                     timings, all reasoners in one run
    OUT/table.json, table.md           what the command prints
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfcot_model.comparison.measure import Measured, Sampling
from nfcot_model.comparison.plan import Equal, Plan, cost_of, plan
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, holdings, read_json_object, write_json
from nfcot_model.training.config import TrainConfig
from nfcot_model.worlds.generate import GENERATOR_VERSION

__all__ = ["Questions", "claim", "kept_budget", "kept_cell", "kept_plan", "write_cell"]


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


def claim(out: Path, config: TrainConfig, budget: float | None, equal: Equal, asked: Questions):
    """Make `out` the folder of this comparison, or go on with it.

    Raises UserError when it holds something else, naming what differs.
    """
    wanted = {
        "training": config.model_dump(mode="json", exclude={"reasoner", "seed"}),
        "budget": budget,
        "equal": equal,
        "questions": asked.to_dict(),
        "generator": GENERATOR_VERSION,
    }
    path = out / "comparison.json"
    if path.exists():
        found = read_json_object(path)
        names = [n for n in wanted if found.get(n) != _plain(wanted[n])]
        if names:
            raise UserError(
                f"{out}: holds another comparison ({' and '.join(names)} differ); repeat its"
                " options, or choose another -o"
            )
        return
    if out.exists() and (not out.is_dir() or holdings(out)):
        raise UserError(f"{out}: not empty and no comparison; choose another -o")
    for name in ("plans", "train", "cells"):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def _plain(value: Any) -> Any:
    return [*map(_plain, value)] if isinstance(value, tuple) else value


def kept_budget(out: Path, config: TrainConfig, budget: float | None, equal: Equal) -> float:
    """What may each reasoner spend? Without a `budget`: what `text` does in the joint steps."""
    path = out / "plans" / "budget.json"
    if not path.exists():
        if budget is None:
            explicit = config.model_copy(update={"reasoner": "text"})
            budget = getattr(cost_of(explicit, "joint"), equal)
        write_json(path, {"equal": equal, "budget": budget})
    return float(read_json_object(path)["budget"])


def kept_plan(out: Path, config: TrainConfig, budget: float, equal: Equal) -> Plan:
    """How many steps may this reasoner train? Counted once, with seed 0, for all seeds."""
    path = out / "plans" / f"{config.reasoner}.json"
    if not path.exists():
        first = config.model_copy(update={"seed": 0})
        write_json(path, plan(first, budget, equal).to_dict())
    return Plan.from_dict(read_json_object(path))


def kept_cell(path: Path, checkpoint: str) -> Measured | None:
    """What was measured of this checkpoint here? Raises UserError when it was another's."""
    if not path.exists():
        return None
    found = read_json_object(path)
    if found["checkpoint"] != checkpoint:
        raise UserError(
            f"{path}: holds figures of another checkpoint ({found['checkpoint']}, not"
            f" {checkpoint}); compare it in another -o"
        )
    return Measured.from_dict(found["measured"])


def write_cell(path: Path, checkpoint: str, measured: Measured) -> None:
    """Keep what was measured of a checkpoint."""
    write_json(path, {"checkpoint": checkpoint, "measured": measured.to_dict()})


def speed_key(checkpoints: dict[str, str], rounds: int) -> str:
    """Are kept timings those of these checkpoints?"""
    return content_hash({"checkpoints": checkpoints, "rounds": rounds})
