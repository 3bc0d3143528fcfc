"""Another decoder for the codec of a finished model: lighter, deeper, or used to other noise.

Only how thoughts are read back changes. Latents, thoughts, their densities and answers stay what
they were, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from nfcot_model.errors import UserError
from nfcot_model.files import write_json
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.training.claim import claim
from nfcot_model.training.config import WITH_CODEC, TrainConfig
from nfcot_model.training.data import data_hash
from nfcot_model.training.lengths import survey
from nfcot_model.training.loop import Progress, run_stage
from nfcot_model.training.objectives import decoder_objective
from nfcot_model.training.stages import publish

__all__ = ["train_decoder"]


def train_decoder(
    start: Path | str,
    config: TrainConfig,
    out: Path,
    *,
    layers: int,
    steps: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> dict[str, float]:
    """Train an untrained decoder of `layers` layers for the model `start` into `out`.

    On the reasoning texts of `config.data`, as its stage `codec` says (`steps` of its own if
    given), without that stage's KL: the encoder is frozen. Returns the last validation figures,
    shares of held-out steps read back exactly. Repeating the call resumes a stopped training with
    the same curve; `out/decoder/model` is the checkpoint. Raises UserError, before anything is
    written, when `out` holds another training, the model has no codec, or data do not fit it.
    """
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=config.mixed_precision
    )
    if accelerator.num_processes > 1:
        raise UserError("a decoder trains in one process; start it without torchrun")
    if layers < 1:
        raise UserError(f"--layers {layers}: expected at least 1")
    reasoner = load_reasoner(start, device=str(accelerator.device), kinds=WITH_CODEC)
    assert isinstance(reasoner, NFCoTReasoner)
    survey(reasoner, config).refuse()
    asked = {"kl_weight": 0.0} | ({} if steps is None else {"steps": steps})
    stage = config.codec.model_copy(update=asked)
    if stage.steps < 1:
        raise UserError("--steps 0: expected at least 1 (or codec.steps of the configuration)")
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
    model = reasoner.model
    model.codec.start_decoder_again(layers)
    model.config.codec["decoder_layers"] = layers
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
    publish(reasoner, folder / "model")
    return figures
