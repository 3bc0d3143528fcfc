"""The stages of a training: codec, warmup (backbone frozen), joint, gate; which ones a kind has.

Stages as in the paper (arXiv 2606.06447, section 3; details secondary): the codec is trained first
and frozen, then flow, projection and head, then everything but the codec.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from nfcot_model.errors import UserError
from nfcot_model.files import write_json
from nfcot_model.reasoners import Reasoner, load_reasoner
from nfcot_model.training.claim import goes_on
from nfcot_model.training.config import STAGES, StageConfig, TrainConfig, stages_of
from nfcot_model.training.data import data_hash
from nfcot_model.training.fresh import fresh_reasoner, model_of
from nfcot_model.training.loop import Progress, run_stage
from nfcot_model.training.lora import Adapters, adapt
from nfcot_model.training.objectives import objective
from nfcot_model.training.plan import Plan, plan_of
from nfcot_model.training.room import checkpointed, memory_advice
from nfcot_model.training.sharding import is_sharded, sharded_accelerator
from nfcot_model.training.state import load_weights

__all__ = ["make_accelerator", "publish", "train"]

Report = Callable[[Progress], None]


def train(
    config: TrainConfig,
    stages: list[str],
    out: Path,
    *,
    report: Report | None = None,
    accelerator: Accelerator | None = None,
    announce: Callable[[Plan], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Train the named stages into `out`; returns each stage's last validation figures.

    A stage starts from the stage before it (`out/<stage>/model`), continues its own saved state,
    and only tells its figures when finished; one of no steps is left out. The last finished
    stage's model is a checkpoint folder like any other. `announce` is told, before a new training
    starts, of its sequences and of the memory it needs. Raises UserError when `out` holds another
    training, the stage before is missing, a batch is too small for the processes, data do not fit,
    memory runs out or the loss diverges.
    """
    accelerator = accelerator or make_accelerator(config)
    _check_order(config, stages, out)
    _check_shares(config, stages, accelerator.num_processes)
    with accelerator.main_process_first():
        _claim(out, config, accelerator.num_processes, announce)
    figures: dict[str, dict[str, float]] = {}
    for name in stages:
        stage: StageConfig = getattr(config, name)
        finished = out / name / "model"
        if name not in stages_of(config):
            continue
        if finished.exists():
            figures[name] = json.loads((out / name / "figures.json").read_text())
            continue
        with memory_advice(name, config):
            with accelerator.main_process_first():
                reasoner = _before(config, name, out, _placed(accelerator, name), _dtype(config))
            adapters = _enlarged(config, name, reasoner)
            aim = objective(config, name, reasoner, accelerator)
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
                part_of_stage=aim.part_of_stage,
            )
        if accelerator.is_main_process:
            write_json(out / name / "figures.json", figures[name])
            if adapters is not None or is_sharded(accelerator):
                reasoner = _put_together(config, name, out)
            publish(reasoner, finished)
        accelerator.wait_for_everyone()
    return figures


def _placed(accelerator: Accelerator, name: str) -> str:
    """Where is a model loaded? What is going to be sharded starts in the host's memory."""
    shards = is_sharded(accelerator) and name != "codec"
    return "cpu" if shards else str(accelerator.device)


def _dtype(config: TrainConfig) -> str:
    """Weights that are trained are held in fp32; those under adapters in what computes."""
    return "bfloat16" if config.lora and config.mixed_precision == "bf16" else "float32"


def _enlarged(config: TrainConfig, name: str, reasoner: Reasoner) -> Adapters | None:
    if config.gradient_checkpointing and name in ("warmup", "joint"):
        checkpointed(model_of(reasoner).backbone)
    if config.lora is None or name != "joint":
        return None
    return adapt(model_of(reasoner), config.lora)


def _put_together(config: TrainConfig, name: str, out: Path) -> Reasoner:
    """The finished model in one piece: the stage before, and what this one saved of itself."""
    reasoner = _before(config, name, out, "cpu")
    adapters = _enlarged(config, name, reasoner)
    model = model_of(reasoner)
    load_weights(out / name, model.get_submodule("codec" if name == "codec" else ""))
    if adapters is not None:
        adapters.merge()
    return reasoner


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Where is trained? On the GPUs there are, else on the CPU, in as many processes as started."""
    if config.fsdp:
        return sharded_accelerator(config.mixed_precision)
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=config.mixed_precision)


def _check_order(config: TrainConfig, stages: list[str], out: Path) -> None:
    """Is what the first stage starts from there? Asked before anything is written."""
    earlier = _earlier(config, stages[0])
    if earlier and not (out / earlier[-1] / "model").exists():
        raise UserError(
            f"stage '{stages[0]}' starts from '{earlier[-1]}', which {out} does not hold; run"
            f" `nfcot train {earlier[-1]}` with the same options first, or `nfcot train all`"
        )


def _check_shares(config: TrainConfig, stages: list[str], processes: int) -> None:
    """Has every process a problem in every micro-batch? Asked before anything is written."""
    for name in stages:
        stage: StageConfig = getattr(config, name)
        smallest = stage.batch // stage.accumulate
        if name in stages_of(config) and smallest < processes:
            raise UserError(
                f"{name}.batch {stage.batch} in {stage.accumulate} micro-batches leaves some of"
                f" {processes} processes without a problem; set batch to"
                f" {processes * stage.accumulate} or more, or start fewer processes"
            )


def _earlier(config: TrainConfig, name: str) -> list[str]:
    """The stages before this one that train something."""
    return [s for s in STAGES[: STAGES.index(name)] if s in stages_of(config)]


def _claim(
    out: Path, config: TrainConfig, processes: int, announce: Callable[[Plan], None] | None
) -> None:
    hashed = data_hash(config.data)

    def same(found: dict[str, Any]) -> bool:
        return found.pop("data_hash") == hashed and TrainConfig.model_validate(found) == config

    if goes_on(out, "train", same):
        return
    fresh = fresh_reasoner(config)
    plan = plan_of(fresh, config, processes)
    if announce is not None:
        announce(plan)
    plan.refuse(config)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "plan.json", plan.to_dict())
    write_json(out / "train.json", config.model_dump(mode="json") | {"data_hash": hashed})


def _initial(config: TrainConfig, folder: Path, device: str, dtype: str) -> Reasoner:
    """The untrained reasoner, kept on disk: a resumed run must start from the same tokenizer."""
    if not folder.exists():
        publish(fresh_reasoner(config), folder)
    return load_reasoner(folder, dtype, device, kinds=(config.reasoner,))


def publish(reasoner: Reasoner, folder: Path, card: str | None = None) -> None:
    """Save a model folder, with its card, so that it appears whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    reasoner.save(unfinished)
    if card is not None:
        (unfinished / "README.md").write_text(card)
    unfinished.rename(folder)


def _before(
    config: TrainConfig, name: str, out: Path, device: str, dtype: str = "float32"
) -> Reasoner:
    earlier = _earlier(config, name)
    if not earlier:
        return _initial(config, out / "initial", device, dtype)
    return load_reasoner(out / earlier[-1] / "model", dtype, device, kinds=(config.reasoner,))
