"""Another decoder for the codec of a finished model, lighter or deeper.

Only how thoughts are read back changes. Latents, thoughts, their densities and answers stay what
they were, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from nfcot_model.checkpoints import SHIPPED
from nfcot_model.errors import UserError
from nfcot_model.files import write_json
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.training.claim import claim
from nfcot_model.training.config import WITH_CODEC, StageConfig, TrainConfig
from nfcot_model.training.data import data_hash, held_out, training_batch
from nfcot_model.training.lengths import survey
from nfcot_model.training.loop import Progress, run_stage
from nfcot_model.training.objectives import decoder_objective
from nfcot_model.training.room import memory_advice
from nfcot_model.training.stages import publish

__all__ = ["train_decoder"]


def train_decoder(
    start: Path | str,
    config: TrainConfig,
    out: Path,
    *,
    layers: int | None = None,
    steps: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> dict[str, float]:
    """Train another decoder of `layers` layers for the model `start` into `out`.

    On the reasoning texts of `config.data`, as its stage `codec` says (`steps` of its own if
    given), without that stage's KL: the encoder is frozen. `layers` are those of the configuration
    (`model.codec.decoder_layers`) or 1. Returns the last validation figures, shares of held-out
    steps read back exactly. Repeating the call resumes a stopped training with the same curve;
    `out/decoder/model` is the checkpoint, whose card has the start's below it. Raises UserError,
    before anything is written, when `out` holds another training, the model has no codec, or data
    do not fit it.
    """
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=config.mixed_precision
    )
    if accelerator.num_processes > 1:
        raise UserError("a decoder trains in one process; start it without torchrun")
    layers = layers if layers is not None else config.model.codec.decoder_layers or 1
    if layers < 1:
        raise UserError(f"--layers {layers}: expected at least 1")
    asked = {"kl_weight": 0.0} | ({} if steps is None else {"steps": steps})
    stage = config.codec.model_copy(update=asked)
    if stage.steps < 1:
        raise UserError(f"{stage.steps} steps: expected at least 1 (--steps, or codec.steps)")
    reasoner = load_reasoner(start, device=str(accelerator.device), kinds=WITH_CODEC)
    assert isinstance(reasoner, NFCoTReasoner)
    _check_data(reasoner, config, stage)
    record = {
        "data": config.data.model_dump(mode="json"),
        "stage": stage.model_dump(mode="json"),
        "target_noise": config.joint.target_noise,
        "mixed_precision": config.mixed_precision,
        "seed": config.seed,
        "layers": layers,
        "start_hash": reasoner.checkpoint_hash,
        "data_hash": data_hash(config.data),
    }
    claim(out, "decoder", record)
    folder = out / "decoder"
    if (folder / "model").exists():
        done: dict[str, float] = json.loads((folder / "figures.json").read_text())
        return done
    torch.manual_seed(config.seed)
    reasoner.model.exchange_decoder(layers)
    with memory_advice("codec", config):
        aim = decoder_objective(config, stage, reasoner, accelerator)
        figures = run_stage(
            "decoder",
            aim.module,
            aim.loss_of,
            stage,
            folder,
            accelerator,
            seed=config.seed,
            save_minutes=config.save_minutes,
            validate=aim.validate,
            report=report,
        )
    write_json(folder / "figures.json", figures)
    publish(reasoner, folder / "model", _card(start, record, figures))
    return figures


def _check_data(reasoner: NFCoTReasoner, config: TrainConfig, stage: StageConfig) -> None:
    """Raises UserError for texts that do not fit, and where none is left to train or validate on.

    Both are asked for here because later something would have been written.
    """
    survey(reasoner, config).refuse()
    training_batch(config.data, stage, config.seed, "decoder", 0)
    held_out(config.data, config.seed)


def _card(start: Path | str, record: dict[str, Any], figures: dict[str, float]) -> str:
    """Markdown: whose decoder was exchanged, for what; then all that the start's card says."""
    said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    path = SHIPPED.get(str(start), Path(start)) / "README.md"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before.startswith("---\n"):
        before = before.split("\n---\n", 1)[-1]
    return f"""---
license: apache-2.0
library_name: transformers
tags: [nfcot, latent-reasoning]
---

# Another decoder

The model `{start}` (checkpoint hash {record["start_hash"]}) with another decoder of its codec
(layers: {record["layers"]}; steps: {record["stage"]["steps"]}; seed: {record["seed"]}).
Last validation, on texts not trained on: {said}.
Its thoughts, their likelihoods and its answers are those of that model, whose card follows.
{before}"""
