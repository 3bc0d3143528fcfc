"""What each stage minimises, and what is measured of it on held-out problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from nfcot_model.reasoners import NFCoTReasoner, Reasoner
from nfcot_model.reasoners.baseline import BaselineReasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.training.baselines import baseline_losses, stage_of
from nfcot_model.training.collate import codec_batch, joint_batch
from nfcot_model.training.config import StageConfig, TrainConfig
from nfcot_model.training.data import held_out, training_batch
from nfcot_model.training.loop import Losses
from nfcot_model.training.packing import packed
from nfcot_model.training.sharding import gathered, is_sharded
from nfcot_model.worlds import Problem

__all__ = ["Objective", "decoder_objective", "objective"]


@dataclass(frozen=True)
class Objective:
    """What a stage trains, on which loss, and what is measured of it now and then.

    `part_of_stage` tells, for a step, in which part of the stage it is: where that changes, the
    optimizer starts afresh.
    """

    module: nn.Module
    loss_of: Callable[[nn.Module, int, int], Losses]
    validate: Callable[[], dict[str, float]]
    part_of_stage: Callable[[int], int] = lambda step: 0


def objective(
    config: TrainConfig, name: str, reasoner: Reasoner, accelerator: Accelerator
) -> Objective:
    """The objective of the stage `name`; parameters that it does not train are frozen."""
    if isinstance(reasoner, BaselineReasoner):
        return _baseline_objective(config, name, reasoner, accelerator)
    assert isinstance(reasoner, NFCoTReasoner)
    make = _codec_objective if name == "codec" else _stream_objective
    return make(config, name, reasoner, accelerator)


def _codec_objective(
    config: TrainConfig, name: str, reasoner: NFCoTReasoner, accelerator: Accelerator
) -> Objective:
    stage, codec = config.codec, reasoner.model.codec

    def fit_statistics() -> None:
        problems = [
            p for s in range(8) for p in training_batch(config.data, stage, config.seed, "fit", s)
        ]
        codec.fit_statistics(codec_batch(reasoner, problems).to(accelerator.device))

    def validate() -> dict[str, float]:
        with gathered(codec):
            fit_statistics()
            return _read_back(config, reasoner)

    loss_of = _codec_losses(config, stage, name, reasoner, accelerator)
    return Objective(codec, loss_of, validate)


def decoder_objective(
    config: TrainConfig, stage: StageConfig, reasoner: NFCoTReasoner, accelerator: Accelerator
) -> Objective:
    """Texts written back from the latents of a codec whose encoder does not learn."""
    loss_of = _codec_losses(config, stage, "decoder", reasoner, accelerator)
    return Objective(reasoner.model.codec, loss_of, lambda: _read_back(config, reasoner))


def _codec_losses(
    config: TrainConfig,
    stage: StageConfig,
    name: str,
    reasoner: NFCoTReasoner,
    accelerator: Accelerator,
) -> Callable[[nn.Module, int, int], Losses]:
    noise = reasoner.model.codec.config.noise

    def loss_of(module: nn.Module, step: int, part: int) -> Losses:
        problems = _share(config, stage, name, step, part, accelerator)
        ids = codec_batch(reasoner, problems).to(accelerator.device)
        total, reconstruction, kl = module(ids, stage.kl_weight, noise)
        return {"loss": total, "reconstruction": reconstruction, "kl": kl}

    return loss_of


def _read_back(config: TrainConfig, reasoner: NFCoTReasoner) -> dict[str, float]:
    """Share of held-out steps read back exactly, from their latents and from noisy ones."""
    steps = [p.steps for p in held_out(config.data, config.seed)]
    e, mask = reasoner.latents(steps)
    exact = _agreement(reasoner.read(e, mask), steps)
    noisy = e + config.joint.target_noise * torch.randn_like(e)
    return {"exact": exact, "exact_noisy": _agreement(reasoner.read(noisy, mask), steps)}


def _stream_objective(
    config: TrainConfig, name: str, reasoner: NFCoTReasoner, accelerator: Accelerator
) -> Objective:
    stage: StageConfig = getattr(config, name)
    model = reasoner.model
    frozen = [model.codec]
    if name == "warmup":
        frozen.append(model.backbone)
    if config.reasoner == "regressed" or not model.config.flow_config.learned:
        frozen.append(model.flow)
    for part_of in frozen:
        part_of.requires_grad_(False)

    def losses(module: nn.Module, problems: list[Problem]) -> Losses:
        layout, e = joint_batch(reasoner, problems)
        if config.data.packing is not None:
            layout = packed(layout, config.data.packing)
        tensors = vars(layout.to(accelerator.device))
        out = module(
            **tensors,
            e=e.to(accelerator.device),
            target_noise=stage.target_noise,
            nll_beta=stage.nll_beta,
        )
        return dict(out.items())

    def loss_of(module: nn.Module, step: int, part: int) -> Losses:
        problems = _share(config, stage, name, step, part, accelerator)
        return losses(module, problems)

    def validate() -> dict[str, float]:
        return _validated(config, accelerator, reasoner, lambda problems: losses(model, problems))

    return Objective(model, loss_of, validate)


def _baseline_objective(
    config: TrainConfig, name: str, reasoner: BaselineReasoner, accelerator: Accelerator
) -> Objective:
    stage: StageConfig = getattr(config, name)
    settings = config.model.baseline
    gate = name == "gate"
    if gate:
        reasoner.model.backbone.requires_grad_(False)

    def part_of_stage(step: int) -> int:
        return stage_of(config.reasoner, settings, step, stage.steps)

    def loss_of(module: nn.Module, step: int, part: int) -> Losses:
        problems = _share(config, stage, name, step, part, accelerator)
        return baseline_losses(
            module, reasoner, problems, settings, part_of_stage(step), gate, config.data.packing
        )

    def validate() -> dict[str, float]:
        last = part_of_stage(stage.steps - 1)
        return _validated(
            config,
            accelerator,
            reasoner,
            lambda problems: baseline_losses(
                reasoner.model, reasoner, problems, settings, last, gate, config.data.packing
            ),
        )

    return Objective(reasoner.model, loss_of, validate, part_of_stage)


def _validated(
    config: TrainConfig,
    accelerator: Accelerator,
    reasoner: Reasoner,
    losses: Callable[[list[Problem]], Losses],
) -> dict[str, float]:
    """Mean losses of the held-out problems, and how many are answered rightly.

    With sharded weights nothing is sampled: every token would gather the whole model.
    """
    problems = held_out(config.data, config.seed)
    size = config.data.validate_batch
    total: dict[str, float] = {}
    for start in range(0, len(problems), size):
        part = problems[start : start + size]
        for key, value in losses(part).items():
            total[key] = total.get(key, 0.0) + float(value) * len(part) / len(problems)
    if is_sharded(accelerator):
        return total
    return total | _pass_rates(reasoner, problems, size)


def _pass_rates(reasoner: Reasoner, problems: list[Problem], size: int) -> dict[str, float]:
    """Share of answers equal to the reference, per world, at tau = 0.7 (0 in text); decoded steps.

    `decoded` is left out where thoughts are not read as whole steps.
    """
    tau = 0.7 if reasoner.has_likelihood else 0.0
    answers: list[str] = []
    texts: list[list[str]] = []
    readout = None
    for start in range(0, len(problems), size):
        part = problems[start : start + size]
        prompts = [p.prompt for p in part]
        seeds = [noise_seed("validation", p.id) for p in part]
        thoughts = reasoner.think(prompts, tau=tau, noise_seeds=seeds)
        answers += reasoner.answer(prompts, thoughts)
        decoded = reasoner.decode(thoughts)
        texts, readout = texts + decoded.texts, decoded.readout
    figures = {}
    for world in sorted({p.world for p in problems}):
        right = [a == p.answer for a, p in zip(answers, problems, strict=True) if p.world == world]
        figures[f"pass_{world}"] = sum(right) / len(right)
    if readout:
        return figures
    return {**figures, "decoded": _agreement(texts, [p.steps for p in problems])}


def _agreement(texts: list[list[str]], truth: list[list[str]]) -> float:
    """Share of reference steps that the decoded text at the same place repeats exactly."""
    same = sum(
        k < len(said) and said[k] == step
        for said, steps in zip(texts, truth, strict=True)
        for k, step in enumerate(steps)
    )
    return same / sum(map(len, truth))


def _share(
    config: TrainConfig,
    stage: StageConfig,
    name: str,
    step: int,
    part: int,
    accelerator: Accelerator,
) -> list[Problem]:
    problems = training_batch(config.data, stage, config.seed, name, step)
    # Neighbours in length share a micro-batch, so that little is computed on padding.
    count = len(problems)
    micro = problems[part * count // stage.accumulate : (part + 1) * count // stage.accumulate]
    return micro[accelerator.process_index :: accelerator.num_processes]
