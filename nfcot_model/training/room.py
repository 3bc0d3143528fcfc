"""Room for a training: activations recomputed instead of kept, and advice when memory is short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from nfcot_model.errors import UserError
from nfcot_model.training.config import StageConfig, TrainConfig

__all__ = ["checkpointed", "memory_advice"]


def checkpointed(backbone: PreTrainedModel) -> None:
    """Keep one input per layer and compute the rest again in the backward pass."""
    try:
        backbone.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    except ValueError:
        raise UserError(
            f"gradient_checkpointing: {backbone.config.model_type} does not support it; set it to"
            " false"
        ) from None


@contextmanager
def memory_advice(name: str, config: TrainConfig) -> Iterator[None]:
    """Within: running out of memory is one line that says what to change, in the right order."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        stage: StageConfig = getattr(config, name)
        advice = []
        if stage.accumulate < stage.batch:
            more = min(stage.batch, 2 * stage.accumulate)
            advice.append(f"set {name}.accumulate to {more} (smaller parts of the same batch size)")
        if name != "codec" and not config.gradient_checkpointing:
            advice.append("gradient_checkpointing: true")
        if name == "joint" and config.lora is None:
            advice.append("lora: {rank: 16} instead of training every weight")
        if not config.fsdp:
            advice.append("fsdp: true on several GPUs")
        raise UserError(
            f"stage '{name}' ran out of memory ({str(error).splitlines()[0][:80]});"
            f" {', or '.join(advice)}; into a new folder, or a smaller backbone"
        ) from None


def _is_memory(error: BaseException) -> bool:
    # torch reports a failed allocation on the CPU as a RuntimeError with this text.
    return (
        not isinstance(error, RuntimeError)
        or isinstance(error, torch.OutOfMemoryError)
        or ("can't allocate memory" in str(error))
    )
