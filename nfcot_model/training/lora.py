"""Low-rank adapters on the backbone (arXiv 2106.09685), by peft; merged into every checkpoint.

A checkpoint is therefore an ordinary model, whatever way it was trained: it loads, thinks and
traces without peft. While a stage is trained, its saved state holds the adapters alone.
"""

from __future__ import annotations

from typing import Any

import torch

from nfcot_model.backbone import BackboneModel
from nfcot_model.errors import UserError
from nfcot_model.training.config import LoraSettings

__all__ = ["Adapters", "adapt"]


class Adapters:
    """The adapters in a model's backbone, and the way to merge them into its weights."""

    def __init__(self, model: BackboneModel, wrapped: Any) -> None:
        self._model, self._wrapped = model, wrapped

    def merge(self) -> None:
        """Add the adapters to the weights, in fp32, and take them out."""
        self._wrapped.float()
        self._model.backbone = self._wrapped.merge_and_unload()


def adapt(model: BackboneModel, settings: LoraSettings) -> Adapters:
    """Freeze the backbone and give it adapters, which start as nothing; weights keep their dtype.

    Raises UserError when peft is missing or a target layer is not there.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError:
        raise UserError(
            "lora: peft is not installed; run pip install 'nfcot-scope[train]', or leave lora out"
        ) from None
    ids = model.ids
    framing = sorted({ids.think, ids.thought, ids.end_think})
    targets = settings.targets
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        trainable_token_indices=framing if settings.tokens else None,
        task_type="CAUSAL_LM",
    )
    try:
        wrapped = get_peft_model(model.backbone, config)
    except ValueError as error:
        raise UserError(f"lora.targets: {str(error).splitlines()[0]}") from None
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return Adapters(model, wrapped)
