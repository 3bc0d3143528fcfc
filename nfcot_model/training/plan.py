"""What will a training need, before it starts? Its sequences' lengths, and memory by stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.files import write_text
from nfcot_model.reasoners import Reasoner
from nfcot_model.reasoners.prompting import context_of
from nfcot_model.training.config import TrainConfig
from nfcot_model.training.fresh import model_of, outline
from nfcot_model.training.lengths import Lengths, survey
from nfcot_model.training.memory import ASSUMPTIONS, StageMemory, estimate
from nfcot_model.worlds import Problem, write_problems

__all__ = ["Plan", "plan_of", "plan_without_weights", "write_fitting"]


@dataclass(frozen=True)
class Plan:
    """Lengths of the data and memory of the stages that a training has."""

    lengths: Lengths
    memory: list[StageMemory]
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def refuse(self, config: TrainConfig) -> None:
        """Raises UserError for data that do not fit, and where the devices are too small."""
        self.lengths.refuse()
        machine = config.machine
        if machine is None:
            return
        worst = max(self.memory, key=lambda stage: stage.total_gb)
        if worst.total_gb > machine.memory_gb:
            raise UserError(
                f"stage '{worst.stage}' needs about {worst.total_gb:.1f} GB on each of"
                f" {worst.processes} devices, machine.memory_gb is {machine.memory_gb:g}; raise"
                f" {worst.stage}.accumulate, start more processes with fsdp, or correct machine"
            )


def plan_of(
    reasoner: Reasoner, config: TrainConfig, processes: int, keep: list[Problem] | None = None
) -> Plan:
    """The plan of a training that starts from this reasoner; problems that fit go to `keep`."""
    model, lengths = model_of(reasoner), survey(reasoner, config, keep)
    longest = lengths.positions.longest
    longest = min(longest, context_of(model) or longest)
    return Plan(lengths, estimate(model, config, longest, processes))


def plan_without_weights(
    config: TrainConfig, processes: int, keep: list[Problem] | None = None
) -> Plan:
    """The same from a backbone's config and tokenizer alone."""
    return plan_of(outline(config), config, processes, keep)


def write_fitting(path: Path, problems: Sequence[Problem], examples: bool) -> None:
    """Write the problems that fit, in the format that they came in."""
    if not examples:
        write_problems(path, problems)
        return
    rows = ({"prompt": p.prompt, "reasoning": p.steps, "answer": p.answer} for p in problems)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
