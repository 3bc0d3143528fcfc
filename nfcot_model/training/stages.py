"""The stages of NF-CoT training: codec, warmup (backbone frozen), joint.

Stages as in the paper (arXiv 2606.06447, section 3; details secondary): the codec is trained first
and frozen, then flow, projection and head, then everything but the codec.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoTokenizer

from nfcot_model.errors import UserError
from nfcot_model.files import write_json
from nfcot_model.model import model_over
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.tokenizer import train_tokenizer
from nfcot_model.training.collate import codec_batch, joint_batch
from nfcot_model.training.config import STAGES, StageConfig, TrainConfig
from nfcot_model.training.data import (
    data_hash,
    every_problem,
    held_out,
    training_batch,
    vocabulary_texts,
)
from nfcot_model.training.loop import Losses, Progress, run_stage
from nfcot_model.worlds import Problem

__all__ = ["fresh_reasoner", "make_accelerator", "train"]

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Objective:
    """What a stage trains, on which loss, and what is measured of it now and then."""

    module: nn.Module
    loss_of: Callable[[nn.Module, int, int], Losses]
    validate: Callable[[], dict[str, float]]


def fresh_reasoner(config: TrainConfig) -> NFCoTReasoner:
    """An untrained reasoner: backbone, codec, flow and head as the configuration says."""
    torch.manual_seed(config.seed)
    model = config.model
    backbone: dict[str, object] | Path
    if isinstance(model.backbone, str):
        backbone = Path(model.backbone)
        if not (backbone / "config.json").exists():
            raise UserError(
                f"{backbone}: no Hugging Face model folder; expected a config.json in it"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(backbone, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{backbone}: its tokenizer cannot be loaded ({reason})") from None
    else:
        backbone = model.backbone
        tokenizer = train_tokenizer(vocabulary_texts(config.data, config.seed), model.vocab_size)
    try:
        fresh = model_over(
            backbone,
            tokenizer,
            D=model.D,
            codec=asdict(model.codec),
            flow=asdict(model.flow),
            max_thoughts=model.max_thoughts,
            max_answer_tokens=model.max_answer_tokens,
            reasoner=config.reasoner,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.backbone: not a causal language model ({reason})") from None
    return NFCoTReasoner(fresh, tokenizer)


def train(
    config: TrainConfig,
    stages: list[str],
    out: Path,
    *,
    report: Report | None = None,
    accelerator: Accelerator | None = None,
) -> dict[str, dict[str, float]]:
    """Train the named stages into `out`; returns each stage's last validation figures.

    A stage starts from the stage before it (`out/<stage>/model`), continues its own saved state,
    and only tells its figures when finished; one of no steps is left out. The last finished
    stage's model is a checkpoint folder like any other. Raises UserError when `out` holds
    another training, the stage before is missing, or a batch is too small for the processes.
    """
    accelerator = accelerator or make_accelerator(config)
    _check_order(config, stages, out)
    _check_shares(config, stages, accelerator.num_processes)
    with accelerator.main_process_first():
        _claim(out, config)
    figures: dict[str, dict[str, float]] = {}
    for name in stages:
        stage: StageConfig = getattr(config, name)
        finished = out / name / "model"
        if not _trains(config, name):
            continue
        if finished.exists():
            figures[name] = json.loads((out / name / "figures.json").read_text())
            continue
        with accelerator.main_process_first():
            reasoner = _before(config, name, out)
        reasoner.model.to(accelerator.device)
        objective_of = _codec_objective if name == "codec" else _stream_objective
        aim = objective_of(config, name, reasoner, accelerator)
        figures[name] = run_stage(
            name,
            aim.module,
            aim.loss_of,
            stage,
            out / name,
            accelerator,
            seed=config.seed,
            save_minutes=config.save_minutes,
            validate=aim.validate,
            report=report,
        )
        if accelerator.is_main_process:
            write_json(out / name / "figures.json", figures[name])
            _publish(reasoner, finished)
        accelerator.wait_for_everyone()
    return figures


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Where is trained? On the GPUs there are, else on the CPU, in as many processes as started."""
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=config.mixed_precision)


def _check_order(config: TrainConfig, stages: list[str], out: Path) -> None:
    """Is what the first stage starts from there? Asked before anything is written."""
    earlier = _earlier(config, stages[0])
    if earlier and not (out / earlier[-1] / "model").exists():
        raise UserError(
            f"stage '{stages[0]}' starts from '{earlier[-1]}', which {out} does not hold; run"
            f" `nfcot train {earlier[-1]}` with the same options first, or `nfcot train all`"
        )


def _trains(config: TrainConfig, name: str) -> bool:
    """Does this stage do anything? The controls have only `joint`."""
    stage: StageConfig = getattr(config, name)
    return stage.steps > 0 and (config.reasoner == "nfcot" or name == "joint")


def _check_shares(config: TrainConfig, stages: list[str], processes: int) -> None:
    """Has every process a problem in every micro-batch? Asked before anything is written."""
    for name in stages:
        stage: StageConfig = getattr(config, name)
        smallest = stage.batch // stage.accumulate
        if _trains(config, name) and smallest < processes:
            raise UserError(
                f"{name}.batch {stage.batch} in {stage.accumulate} micro-batches leaves some of"
                f" {processes} processes without a problem; set batch to"
                f" {processes * stage.accumulate} or more, or start fewer processes"
            )


def _earlier(config: TrainConfig, name: str) -> list[str]:
    """The stages before this one that train something."""
    if config.reasoner != "nfcot":
        return []
    return [s for s in STAGES[: STAGES.index(name)] if getattr(config, s).steps > 0]


def _claim(out: Path, config: TrainConfig) -> None:
    path = out / "train.json"
    wanted = config.model_dump(mode="json") | {"data_hash": data_hash(config.data)}
    if path.exists():
        try:
            same = json.loads(path.read_text()) == wanted
        except ValueError:
            same = False
        if not same:
            raise UserError(
                f"{out}: holds another training (train.json or the problems differ);"
                " choose another -o"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not empty and not a training folder; choose another -o")
    fresh = fresh_reasoner(config)
    _check_data(fresh, config)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def _check_data(fresh: NFCoTReasoner, config: TrainConfig) -> None:
    """Does every problem fit the model? Asked before anything is written."""
    if config.reasoner == "nfcot":
        fresh.check_steps([p.steps for p in every_problem(config.data, config.seed)])


def _initial(config: TrainConfig, folder: Path) -> NFCoTReasoner:
    """The untrained reasoner, kept on disk: a resumed run must start from the same tokenizer."""
    if not folder.exists():
        _publish(fresh_reasoner(config), folder)
    return load_reasoner(folder, kinds=(config.reasoner,))


def _publish(reasoner: NFCoTReasoner, folder: Path) -> None:
    """Save a model folder so that it appears whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    reasoner.save(unfinished)
    unfinished.rename(folder)


def _before(config: TrainConfig, name: str, out: Path) -> NFCoTReasoner:
    earlier = _earlier(config, name)
    if not earlier:
        return _initial(config, out / "initial")
    return load_reasoner(out / earlier[-1] / "model")


def _codec_objective(
    config: TrainConfig, name: str, reasoner: NFCoTReasoner, accelerator: Accelerator
) -> Objective:
    stage, codec = config.codec, reasoner.model.codec

    def loss_of(module: nn.Module, step: int, part: int) -> Losses:
        problems = _share(config, stage, name, step, part, accelerator)
        ids = codec_batch(reasoner, problems).to(accelerator.device)
        total, reconstruction, kl = module(ids, stage.kl_weight, codec.config.noise)
        return {"loss": total, "reconstruction": reconstruction, "kl": kl}

    def fit_statistics() -> None:
        problems = [
            p for s in range(8) for p in training_batch(config.data, stage, config.seed, "fit", s)
        ]
        codec.fit_statistics(codec_batch(reasoner, problems).to(accelerator.device))

    def validate() -> dict[str, float]:
        fit_statistics()
        steps = [p.steps for p in held_out(config.data, config.seed)]
        e, mask = reasoner.latents(steps)
        exact = _agreement(reasoner.read(e, mask), steps)
        noisy = e + config.joint.target_noise * torch.randn_like(e)
        return {"exact": exact, "exact_noisy": _agreement(reasoner.read(noisy, mask), steps)}

    return Objective(codec, loss_of, validate)


def _stream_objective(
    config: TrainConfig, name: str, reasoner: NFCoTReasoner, accelerator: Accelerator
) -> Objective:
    stage: StageConfig = getattr(config, name)
    model = reasoner.model
    frozen = [model.codec]
    if name == "warmup":
        frozen.append(model.backbone)
    if config.reasoner != "nfcot":
        frozen += [model.flow, model.nf_head, model.projection]
    for part_of in frozen:
        part_of.requires_grad_(False)

    def losses(module: nn.Module, problems: list[Problem], noise: float) -> Losses:
        layout, e = joint_batch(reasoner, problems, config.reasoner)
        tensors = vars(layout.to(accelerator.device))
        out = module(
            **tensors, e=None if e is None else e.to(accelerator.device), target_noise=noise
        )
        return dict(out.items())

    def loss_of(module: nn.Module, step: int, part: int) -> Losses:
        problems = _share(config, stage, name, step, part, accelerator)
        return losses(module, problems, stage.target_noise)

    def validate() -> dict[str, float]:
        problems = held_out(config.data, config.seed)
        figures = {k: float(v) for k, v in losses(model, problems, stage.target_noise).items()}
        if config.reasoner == "nfcot":
            figures |= _pass_rates(reasoner, problems)
        return figures

    return Objective(model, loss_of, validate)


def _pass_rates(reasoner: NFCoTReasoner, problems: list[Problem]) -> dict[str, float]:
    """Share of answers equal to the reference, per world, at tau = 0.7; decoded steps likewise."""
    prompts = [p.prompt for p in problems]
    seeds = [noise_seed("validation", p.id) for p in problems]
    thoughts = reasoner.think(prompts, tau=0.7, noise_seeds=seeds)
    answers = reasoner.answer(prompts, thoughts)
    figures = {}
    for world in sorted({p.world for p in problems}):
        right = [a == p.answer for a, p in zip(answers, problems, strict=True) if p.world == world]
        figures[f"pass_{world}"] = sum(right) / len(right)
    texts = reasoner.decode(thoughts).texts
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
