"""How many steps may each reasoner train, so that all of them spend the same?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from nfcot_model.comparison.cost import count_flops, count_passes
from nfcot_model.errors import UserError
from nfcot_model.training.config import StageConfig, TrainConfig, stages_of
from nfcot_model.training.fresh import fresh_reasoner
from nfcot_model.training.objectives import Objective, objective
from nfcot_model.training.stages import make_accelerator

__all__ = ["Equal", "Plan", "StagePlan", "cost_of", "plan", "with_steps"]

Equal = Literal["tokens", "flops"]
SAMPLED = 24  # steps of a stage whose positions are counted; all of a shorter stage
COUNTED = 6  # of these, whose floating-point operations are counted
CLOSE, TRIES = 0.003, 4  # how near to the budget a plan comes, and how often it is corrected


@dataclass(frozen=True)
class StagePlan:
    """What does a stage of so many optimizer steps cost?

    `tokens`: positions that the backbone, or the codec, computes with gradients (`Count`);
    `flops`: floating-point operations, forward and backward (`count_flops`).
    """

    steps: int
    tokens: float
    flops: float


@dataclass(frozen=True)
class Plan:
    """What one reasoner trains within a budget, stage by stage."""

    reasoner: str
    stages: dict[str, StagePlan]

    @property
    def tokens(self) -> float:
        return sum(stage.tokens for stage in self.stages.values())

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages.values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Plan:
        stages = {name: StagePlan(**stage) for name, stage in data["stages"].items()}
        return Plan(data["reasoner"], stages)


def with_steps(config: TrainConfig, plan: Plan) -> TrainConfig:
    """The configuration whose stages have the plan's steps."""
    stages = {
        name: getattr(config, name).model_copy(update={"steps": stage.steps})
        for name, stage in plan.stages.items()
    }
    return config.model_copy(update=stages)


def cost_of(config: TrainConfig, name: str) -> StagePlan:
    """What does the stage `name` of this training cost?

    Counted on the real forward passes of steps spread over the stage (all, when they are few), of
    an untrained model: what is computed does not depend on the weights. Backward passes are run
    for the operations, on fewer steps.
    """
    return _Meter(config, name).cost(getattr(config, name).steps)


def plan(config: TrainConfig, budget: float, equal: Equal = "tokens") -> Plan:
    """How many joint steps are left of the budget when the other stages have had theirs?

    `budget` is in tokens or in floating-point operations, as `equal` says. Raises UserError when
    it does not last for the joint stage's warm-up.
    """
    others = {n: cost_of(config, n) for n in stages_of(config) if n != "joint"}
    left = budget - sum(getattr(stage, equal) for stage in others.values())
    meter, least = _Meter(config, "joint"), config.joint.warmup + 1
    steps = least
    for _ in range(TRIES):
        counted = meter.cost(steps, operations=equal == "flops")
        more = max(least / steps, left / getattr(counted, equal))
        if abs(more - 1) <= CLOSE:
            break
        steps = round(more * steps)
    # The mean step of a stage almost as long is that of this one.
    counted = meter.cost(counted.steps)
    share = max(least, round(more * counted.steps)) / counted.steps
    found = StagePlan(round(share * counted.steps), share * counted.tokens, share * counted.flops)
    needed = sum(getattr(stage, equal) for stage in [*others.values(), found])
    if found.steps == least and needed > 1.01 * budget:
        raise UserError(
            f"--budget {budget:.4g}: '{config.reasoner}' needs {needed:.4g} {equal} for"
            f" {least} joint steps and its other stages ({', '.join(others) or 'none'}); give more"
        )
    stages = {n: others.get(n, found) for n in stages_of(config)}
    return Plan(config.reasoner, stages)


class _Meter:
    """Counts single steps of one stage, each of them once."""

    def __init__(self, config: TrainConfig, name: str) -> None:
        self.config, self.name = config, name
        self.reasoner: Any = fresh_reasoner(config)
        self.accelerator = make_accelerator(config)
        self.positions: dict[tuple[int, int], int] = {}
        self.flops: dict[tuple[int, int], int] = {}

    def cost(self, steps: int, operations: bool = True) -> StagePlan:
        """Of the stage with so many steps; without `operations` its `flops` are not counted."""
        config = with_steps(self.config, Plan("", {self.name: StagePlan(steps, 0, 0)}))
        aim = objective(config, self.name, self.reasoner, self.accelerator)
        stage: StageConfig = getattr(config, self.name)
        chosen = _spread(steps, SAMPLED)
        tokens = sum(self._positions(aim, stage, s) for s in chosen) / len(chosen) * steps
        if not operations:
            return StagePlan(steps, tokens, 0.0)
        counted = _spread(steps, COUNTED)
        flops = sum(self._operations(aim, stage, s) for s in counted)
        return StagePlan(
            steps, tokens, tokens * flops / sum(self._positions(aim, stage, s) for s in counted)
        )

    def _positions(self, aim: Objective, stage: StageConfig, step: int) -> int:
        key = (step, aim.part_of_stage(step))
        if key not in self.positions:
            with count_passes(self.reasoner.model) as count:
                for part in range(stage.accumulate):
                    aim.loss_of(aim.module, step, part)
            self.positions[key] = count.positions
        return self.positions[key]

    def _operations(self, aim: Objective, stage: StageConfig, step: int) -> int:
        key = (step, aim.part_of_stage(step))
        if key not in self.flops:
            with count_flops() as counter:
                for part in range(stage.accumulate):
                    aim.loss_of(aim.module, step, part)["loss"].backward()
            aim.module.zero_grad()
            self.flops[key] = int(counter.get_total_flops())
        return self.flops[key]


def _spread(steps: int, count: int) -> list[int]:
    """At most `count` of so many steps, evenly."""
    count = min(steps, count)
    return [int((i + 0.5) * steps / count) for i in range(count)]
