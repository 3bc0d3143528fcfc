"""What one training is: model, data and stages, from a preset or a YAML file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nfcot_model.config import CodecConfig, FlowConfig
from nfcot_model.training.loading import load_settings
from nfcot_model.worlds import WORLDS
from nfcot_model.worlds.generate import MAX_STEPS, TRAINED_STEPS

__all__ = [
    "STAGES",
    "WITH_CODEC",
    "BaselineSettings",
    "DataConfig",
    "LoraSettings",
    "MachineSettings",
    "ModelConfig",
    "StageConfig",
    "TrainConfig",
    "load_config",
    "stages_of",
]

Reasoner = Literal[
    "nfcot", "dual", "regressed", "text", "direct", "pause", "coconut", "codi", "looped"
]
PRESETS = Path(__file__).parent / "presets"
STAGES = ("codec", "warmup", "joint", "gate")
WITH_CODEC = ("nfcot", "dual", "regressed")
UNROLLED = ("coconut", "codi")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaselineSettings(_Section):
    """What reasoners without a flow need to know; docs/reasoners.md has the recipes.

    `thoughts`: K of pause and codi. Coconut: `per_step` thoughts replace a step, in `stages`
    stages; `cot_share` of the steps first train on the whole text, `last_share` at the end without
    any. CODI: `projector` is its MLP's inner width, `distill` the weight of the distillation loss,
    `drop_last_step` leaves the last step out of the teacher's reasoning. Looped: at most `loops`,
    `entropy` the weight of the exit distribution's entropy, `exit_threshold` the probability of
    having left at which a trained model stops.
    """

    thoughts: int = Field(default=6, ge=1)
    per_step: int = Field(default=1, ge=1)
    stages: int = Field(default=6, ge=1)
    cot_share: float = Field(default=0.3, ge=0, lt=1)
    last_share: float = Field(default=0.3, gt=0, lt=1)
    projector: int = Field(default=256, ge=1)
    distill: float = Field(default=1.0, ge=0)
    drop_last_step: bool = True
    loops: int = Field(default=4, ge=2)
    entropy: float = Field(default=0.1, ge=0)
    exit_threshold: float = Field(default=0.9, gt=0, le=1)
    max_reasoning_tokens: int = Field(default=160, ge=1)

    @model_validator(mode="after")
    def _shares_leave_room(self) -> BaselineSettings:
        if self.cot_share + self.last_share > 1:
            raise ValueError("cot_share and last_share together are more than 1")
        return self


class LoraSettings(_Section):
    """Low-rank adapters on the backbone instead of its own weights (arXiv 2106.09685).

    `targets` are the names of the layers that get one, or "all-linear". With `tokens` the
    embeddings of the framing tokens, which the backbone may never have seen, are trained too.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    tokens: bool = True


class MachineSettings(_Section):
    """What a training was written for: `processes`, each with a device of `memory_gb` (10^9 bytes).

    A training whose memory estimate is above that is refused before it starts.
    """

    processes: int = Field(default=1, ge=1)
    memory_gb: float = Field(gt=0)


class ModelConfig(_Section):
    """`backbone` is a Hugging Face config as a dict, or a local folder with its tokenizer.

    With `chat`, prompts are put into the tokenizer's chat template as the one message of a user,
    after the message of a `system` where there is one; the checkpoint remembers it.
    """

    backbone: dict[str, Any] | str
    D: int = Field(default=16, ge=1)
    codec: CodecConfig = CodecConfig()
    flow: FlowConfig = FlowConfig()
    baseline: BaselineSettings = BaselineSettings()
    max_thoughts: int = Field(default=16, ge=1)
    max_answer_tokens: int = Field(default=40, ge=1)
    vocab_size: int = Field(default=640, ge=300)
    chat: bool = False
    system: str | None = None

    @model_validator(mode="after")
    def _system_needs_a_chat(self) -> ModelConfig:
        if self.system is not None and not self.chat:
            raise ValueError("system is given without chat: true")
        return self


class DataConfig(_Section):
    """Built-in worlds, drawn afresh at every step, or a JSONL file of problems or of examples.

    `renumber` is the share of world problems whose first operation carries a number above 1,
    `steps` the shortest and the longest pipeline of the worlds.
    `examples` are rows of prompt, reasoning and answer (`nfcot_model.training.examples`); with
    `streaming` they are read in passing, shuffled within `buffer` rows, instead of held in memory.
    `packing`: streams share rows of so many positions, so that little is computed on padding.
    At most `held_out` problems validate, `validate_batch` at a time.
    """

    worlds: dict[str, float] = Field(default_factory=lambda: {"digits": 1.0, "shuffle": 1.0})
    problems: str | None = None
    renumber: float = Field(default=0.0, ge=0, le=1)
    steps: tuple[int, int] = TRAINED_STEPS
    examples: str | None = None
    streaming: bool = False
    buffer: int = Field(default=10_000, ge=1)
    packing: int | None = Field(default=None, ge=8)
    held_out: int = Field(default=256, ge=1)
    validate_batch: int = Field(default=256, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.problems is not None and self.examples is not None:
            raise ValueError("problems and examples are both given; give one of them")
        if self.streaming and self.examples is None:
            raise ValueError("streaming needs examples")
        return self

    @field_validator("steps")
    @classmethod
    def _range_of_steps(cls, steps: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= steps[0] <= steps[1] <= MAX_STEPS:
            raise ValueError(f"expected [shortest, longest] within 1 to {MAX_STEPS}")
        return steps

    @field_validator("worlds")
    @classmethod
    def _known_worlds(cls, worlds: dict[str, float]) -> dict[str, float]:
        unknown = worlds.keys() - WORLDS.keys()
        if unknown or not worlds or not all(0 < w < math.inf for w in worlds.values()):
            raise ValueError(f"expected positive weights for some of {', '.join(WORLDS)}")
        return worlds


class StageConfig(_Section):
    """One stage. A learning rate warms up over `warmup` steps and decays to 0 by a cosine.

    `batch` problems make one optimizer step, computed in `accumulate` micro-batches; world
    problems grow from `first_length` steps to the world's longest over `curriculum` steps.
    `nll_beta`: from 0, where the likelihood's gradient weighs the squared error of each number by
    1/sigma², to 1, where it weighs them alike (docs/training.md).
    """

    steps: int = Field(ge=0)
    batch: int = Field(default=96, ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    curriculum: int = Field(default=0, ge=0)
    first_length: int = Field(default=3, ge=2)
    target_noise: float = Field(default=0.3, ge=0)
    nll_beta: float = Field(default=0.0, ge=0, le=1)
    kl_weight: float = Field(default=1e-2, ge=0)
    validate_every: int = Field(default=250, ge=1)

    @model_validator(mode="after")
    def _parts_are_not_empty(self) -> StageConfig:
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate {self.accumulate} is more than batch {self.batch}")
        return self


class TrainConfig(_Section):
    """A whole training of a `reasoner`, in the stages that its kind has (`stages_of`)."""

    model: ModelConfig
    data: DataConfig = Field(default_factory=DataConfig)
    codec: StageConfig
    warmup: StageConfig
    joint: StageConfig
    gate: StageConfig = StageConfig(steps=0)
    reasoner: Reasoner = "nfcot"
    seed: int = Field(default=0, ge=0, lt=2**63)
    save_minutes: float = Field(default=3.0, ge=0)
    mixed_precision: Literal["no", "bf16"] = "no"
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    fsdp: bool = False
    machine: MachineSettings | None = None

    @model_validator(mode="after")
    def _possible_together(self) -> TrainConfig:
        kind = self.reasoner
        if self.gradient_checkpointing and kind in UNROLLED:
            raise ValueError(
                f"gradient_checkpointing: {kind} trains through its key-value cache, which"
                " checkpointing does not keep; set it to false"
            )
        weighted = any(stage.nll_beta > 0 for stage in (self.warmup, self.joint))
        if weighted and kind in ("nfcot", "dual") and self.model.flow.order != "causal":
            raise ValueError(
                "nll_beta: weights the density of each thought given those before it, which a flow"
                f" of order {self.model.flow.order} does not have; set it to 0, or order to causal"
            )
        if self.fsdp and kind in (*UNROLLED, "looped", "dual"):
            raise ValueError(f"fsdp: not for {kind}, whose layers run several times a step")
        if self.data.packing is not None and kind in (*UNROLLED, "looped", "dual"):
            raise ValueError(f"data.packing: not for {kind}; leave it out")
        return self


def stages_of(config: TrainConfig) -> list[str]:
    """The stages of this training that do anything, in order."""
    names: dict[str, tuple[str, ...]] = {kind: ("codec", "warmup", "joint") for kind in WITH_CODEC}
    kinds = names | {"looped": ("joint", "gate")}
    asked = kinds.get(config.reasoner, ("joint",))
    return [name for name in asked if getattr(config, name).steps > 0]


def load_config(
    preset: str | None,
    path: Path | None,
    *,
    reasoner: str | None = None,
    backbone: Path | None = None,
    problems: Path | None = None,
    examples: Path | None = None,
    seed: int | None = None,
) -> TrainConfig:
    """The training of a preset (a name in `configs/`) or of a YAML file, with overrides on top.

    Raises UserError naming the file and the field.
    """
    overrides = {
        "reasoner": reasoner,
        "seed": seed,
        "model": {"backbone": backbone and str(backbone)},
        "data": {
            "problems": problems and str(problems),
            "examples": examples and str(examples),
        },
    }
    return load_settings(TrainConfig, PRESETS, preset, path, overrides)
