"""What one policy-gradient training is: start model, problems, sampling, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nfcot_model.training.config import DataConfig, StageConfig
from nfcot_model.training.loading import load_settings
from nfcot_model.worlds.generate import MAX_STEPS

__all__ = ["GRPOConfig", "load_grpo_config"]

PRESETS = Path(__file__).parent / "presets"


class GRPOConfig(BaseModel):
    """One training by GRPO (arXiv 2402.03300; on thoughts: arXiv 2606.06447, section 3).

    An update samples `group` answers to each of `prompts` problems of `lengths` steps (worlds) at
    `tau`, `temperature` (answers) and `stop_temperature` (stop decisions), and takes `inner`
    optimizer steps on them. With `draws` above 1 it samples so many times at most, until `prompts`
    groups are mixed (arXiv 2503.14476). `clip_ratio` bounds the ratio of new to old density.
    `policy` weighs the surrogate (0: nothing is sampled, the supervised control), `kl` the
    divergence from the start model, `anchor` the supervised loss of `anchor_batch` problems: of the
    file `anchor_problems`, of worlds at `anchor_lengths`, or of the lengths that models are first
    trained on. World problems grow to the longest over `curriculum` steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    start: str
    reasoner: Literal["nfcot", "text"] = "nfcot"
    data: DataConfig = Field(default_factory=DataConfig)
    lengths: tuple[int, int] = (8, 12)
    curriculum: int = Field(default=0, ge=0)
    first_longest: int = Field(default=8, ge=1)
    steps: int = Field(ge=1)
    prompts: int = Field(default=32, ge=1)
    group: int = Field(default=8, ge=2)
    draws: int = Field(default=1, ge=1)
    inner: int = Field(default=1, ge=1)
    tau: float = Field(default=0.9, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    stop_temperature: float = Field(default=1.0, gt=0)
    policy: float = Field(default=1.0, ge=0)
    clip_ratio: float = Field(default=0.2, gt=0)
    kl: float = Field(default=0.05, ge=0)
    anchor: float = Field(default=1.0, ge=0)
    anchor_problems: str | None = None
    anchor_lengths: tuple[int, int] | None = None
    anchor_batch: int = Field(default=16, ge=1)
    target_noise: float = Field(default=0.15, ge=0)
    lr: float = Field(default=1e-4, gt=0)
    warmup: int = Field(default=10, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    validate_every: int = Field(default=50, ge=1)
    validate_problems: int = Field(default=64, ge=1)
    validate_samples: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    save_minutes: float = Field(default=3.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> GRPOConfig:
        for low, high in (self.lengths, self.anchor_lengths or self.lengths):
            if not 1 <= low <= high <= MAX_STEPS:
                raise ValueError(f"lengths {low}, {high}: a pipeline has 1 to {MAX_STEPS} steps")
        low, high = self.lengths
        if not self.policy and not self.anchor:
            raise ValueError("policy 0 and anchor 0: nothing is left to train on")
        if self.anchor_problems is not None and self.anchor_lengths is not None:
            raise ValueError("anchor_problems and anchor_lengths are both given; give one of them")
        if self.curriculum and not low <= self.first_longest <= high:
            raise ValueError(f"first_longest {self.first_longest} is not within lengths")
        if self.steps % self.inner:
            raise ValueError(f"steps {self.steps} is not a multiple of inner {self.inner}")
        return self

    @property
    def stage(self) -> StageConfig:
        """The same as the optimisation loop of every stage reads it. No weight decay: an update
        without a reward difference and without anchor must change nothing."""
        return StageConfig(
            steps=self.steps,
            batch=self.prompts,
            lr=self.lr,
            warmup=self.warmup,
            weight_decay=0.0,
            clip=self.grad_clip,
            target_noise=self.target_noise,
            validate_every=self.validate_every,
        )

    def longest(self, step: int) -> int:
        """How long may world problems be at this step?"""
        top = self.lengths[1]
        if step >= self.curriculum:
            return top
        return self.first_longest + (top - self.first_longest) * step // self.curriculum


def load_grpo_config(preset: str | None, path: Path | None, **overrides: Any) -> GRPOConfig:
    """The training of a preset (`demo`, `tiny`) or YAML file; overrides that are not None on top.

    `problems` overrides `data.problems`. Raises UserError naming the file and the field.
    """
    problems = overrides.pop("problems", None)
    overrides["data"] = {"problems": problems and str(problems)}
    preset = preset or (None if path else "demo")
    config = load_settings(GRPOConfig, PRESETS, preset, path, overrides)
    if config.start == "demo" and config.reasoner == "text" and not overrides.get("start"):
        return config.model_copy(update={"start": "demo-text"})
    return config
