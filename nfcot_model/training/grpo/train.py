"""A whole policy-gradient training: start model, loop, checkpoint with a card."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.files import write_json
from nfcot_model.reasoners import NFCoTReasoner, Reasoner, load_reasoner
from nfcot_model.reasoners.explicit import ExplicitReasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.training.baselines import baseline_losses
from nfcot_model.training.claim import claim
from nfcot_model.training.collate import joint_batch
from nfcot_model.training.config import BaselineSettings
from nfcot_model.training.grpo.card import card
from nfcot_model.training.grpo.objective import PolicyGradient, pass_rates, sampled_rewards
from nfcot_model.training.grpo.policies import NFCoTPolicy, Policy
from nfcot_model.training.grpo.problems import (
    anchor_problems,
    check_problems,
    file_hash,
    validation_problems,
)
from nfcot_model.training.grpo.reward import Reward, check_reward, verdict
from nfcot_model.training.grpo.settings import GRPOConfig
from nfcot_model.training.grpo.text_policy import TextPolicy
from nfcot_model.training.loop import Progress, run_stage
from nfcot_model.training.stages import publish
from nfcot_model.worlds import Problem

__all__ = ["train_grpo"]


def train_grpo(
    config: GRPOConfig,
    out: Path,
    *,
    reward: Reward | None = None,
    i_train_against_a_monitor: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> dict[str, float]:
    """Train the start model by policy gradient into `out`; returns the last validation figures.

    Repeating the call resumes a stopped training with the same curve; `out/grpo/model` is the
    checkpoint, whose card and config.json say what it was rewarded for. A `reward` other than the
    verdict is refused without `i_train_against_a_monitor` (`check_reward`). Raises UserError when
    `out` holds another training or the problems or the start model cannot be used, before anything
    is written.
    """
    check_reward(reward, i_train_against_a_monitor)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise UserError("grpo trains in one process; start it without torchrun")
    device = str(accelerator.device)
    reasoner, start = (
        load_reasoner(config.start, device=device, kinds=(config.reasoner,)) for _ in range(2)
    )
    _check_fit(reasoner, check_problems(config))
    record = _claim(out, config, start.checkpoint_hash, i_train_against_a_monitor)
    folder = out / "grpo"
    if (folder / "model").exists():
        done: dict[str, float] = json.loads((folder / "figures.json").read_text())
        return done
    model: Any = reasoner.model  # type: ignore[attr-defined]
    start.model.requires_grad_(False)  # type: ignore[attr-defined]
    policy, anchor = _parts(reasoner, config)
    with Sandbox() as sandbox:
        rewarded = reward or verdict(sandbox)
        gradient = PolicyGradient(
            config,
            policy,
            start.model,  # type: ignore[attr-defined]
            rewarded,
            anchor if config.anchor else None,
        )
        figures = run_stage(
            "grpo",
            model,
            gradient.loss_of,
            config.stage,
            folder,
            accelerator,
            seed=config.seed,
            save_minutes=config.save_minutes,
            validate=lambda: _validated(config, policy, rewarded),
            report=report,
            log_every=1,
            save_every=config.inner,
        )
    write_json(folder / "figures.json", figures)
    model.config.grpo = record
    publish(reasoner, folder / "model", card(config, record, figures))
    return figures


def _parts(reasoner: Reasoner, config: GRPOConfig) -> tuple[Policy, Callable[[int], Tensor]]:
    """The policy and its supervised loss; what must not move is frozen."""
    if isinstance(reasoner, ExplicitReasoner):
        settings = BaselineSettings()

        def text_anchor(step: int) -> Tensor:
            problems = anchor_problems(config, step)
            return baseline_losses(reasoner.model, reasoner, problems, settings, 0)["loss"]

        return TextPolicy(reasoner), text_anchor
    assert isinstance(reasoner, NFCoTReasoner)
    model = reasoner.model
    # With the flow or the codec in motion, `u` would mean something else at every step.
    model.codec.requires_grad_(False)
    model.flow.requires_grad_(False)

    def anchor(step: int) -> Tensor:
        layout, e = joint_batch(reasoner, anchor_problems(config, step))
        tensors = vars(layout.to(model.device))
        loss: Tensor = model(**tensors, e=e.to(model.device), target_noise=config.target_noise).loss
        return loss

    return NFCoTPolicy(reasoner), anchor


def _validated(config: GRPOConfig, policy: Policy, reward: Reward) -> dict[str, float]:
    """Pass rates by world, used as ever: thoughts at tau, greedy stops and answers."""
    figures: dict[str, float] = {}
    problems = validation_problems(config)
    for world in sorted({p.world for p in problems}):
        members = [p for p in problems if p.world == world]
        rewards, thoughts = sampled_rewards(
            policy, reward, members, config.validate_samples, tau=config.tau, seed=config.seed
        )
        rates = {**pass_rates(rewards), "thoughts": thoughts}
        figures |= {f"{name}_{world}": rate for name, rate in rates.items()}
    return figures


def _check_fit(reasoner: Reasoner, problems: Sequence[Problem]) -> None:
    """Does the longest prompt leave room for thoughts and an answer?"""
    if not problems or not isinstance(reasoner, NFCoTReasoner):
        return
    lengths = list(map(len, reasoner.tokens([p.prompt for p in problems], opening=True)))
    reasoner.open_prompts([problems[max(range(len(lengths)), key=lengths.__getitem__)].prompt])


def _claim(out: Path, config: GRPOConfig, start: str, against: bool) -> dict[str, Any]:
    """What this training is, kept in `out/grpo.json`; another one there is refused."""
    record = {
        **config.model_dump(mode="json"),
        "start_hash": start,
        "data_hash": file_hash(config),
        "reward": "verdict of execution" if not against else "a reward of the caller's",
        "trained_against_a_monitor": against,
    }
    claim(out, "grpo", record)
    return record
