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
    return _Meter(config, name).cost(getattr(config, name).steps, SAMPLED)


def plan(config: TrainConfig, budget: float, equal: Equal = "tokens") -> Plan:
    """How many joint steps are left of the budget when the other stages have had theirs?

    `budget` is in tokens or in floating-point operations, as `equal` says. Raises UserError when
    it does not last for the joint stage's warm-up.
    """
    others = {n: cost_of(config, n) for n in stages_of(config) if n != "joint"}
    left = budget - sum(getattr(stage, equal) for stage in others.values())
    meter = _Meter(config, "joint")
    least = config.joint.warmup + 1
    steps = least
    for sampled in (COUNTED, SAMPLED):
        cost = meter.cost(steps, sampled)
        steps = max(least, round(left / getattr(cost, equal) * steps))
    found = meter.cost(steps, SAMPLED)
    needed = sum(getattr(stage, equal) for stage in [*others.values(), found])
    if steps == least and needed > 1.01 * budget:
        raise UserError(
            f"--budget {budget:.4g}: '{config.reasoner}' needs {needed:.4g} {equal} for"
            f" {least} joint steps and its other stages ({', '.join(others) or 'none'}); give more"
        )
    stages = {n: others[n] if n in others else found for n in stages_of(config)}
    return Plan(config.reasoner, stages)


class _Meter:
    """Counts single steps of one stage, each of them once."""

    def __init__(self, config: TrainConfig, name: str) -> None:
        self.config, self.name = config, name
        self.reasoner: Any = fresh_reasoner(config)
        self.accelerator = make_accelerator(config)
        self.positions: dict[tuple[int, int], int] = {}
        self.flops: dict[tuple[int, int], int] = {}

    def cost(self, steps: int, sampled: int) -> StagePlan:
        config = with_steps(self.config, Plan("", {self.name: StagePlan(steps, 0, 0)}))
        aim = objective(config, self.name, self.reasoner, self.accelerator)
        stage: StageConfig = getattr(config, self.name)
        chosen = _spread(steps, sampled)
        positions = sum(self._step(aim, stage, s, False)[0] for s in chosen)
        counted = [self._step(aim, stage, s, True) for s in _spread(steps, COUNTED)]
        per_position = sum(flops for _, flops in counted) / sum(n for n, _ in counted)
        tokens = positions / len(chosen) * steps
        return StagePlan(steps, tokens, tokens * per_position)

    def _step(
        self, aim: Objective, stage: StageConfig, step: int, backward: bool
    ) -> tuple[int, int]:
        key = (step, aim.part_of_stage(step))
        if key not in self.positions or (backward and key not in self.flops):
            with count_passes(self.reasoner.model) as count:
                if backward:
                    self.flops[key] = self._operations(aim, stage, step)
                else:
                    for part in range(stage.accumulate):
                        aim.loss_of(aim.module, step, part)
            self.positions[key] = count.positions
        return self.positions[key], self.flops.get(key, 0)

    def _operations(self, aim: Objective, stage: StageConfig, step: int) -> int:
        with count_flops() as counter:
            for part in range(stage.accumulate):
                aim.loss_of(aim.module, step, part)["loss"].backward()
        aim.module.zero_grad()
        return int(counter.get_total_flops())


def _spread(steps: int, count: int) -> list[int]:
    """At most `count` of so many steps, evenly."""
    count = min(steps, count)
    return [int((i + 0.5) * steps / count) for i in range(count)]
