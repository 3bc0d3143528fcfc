"""An untrained reasoner, as a configuration says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nfcot_model.baseline import BaselineModel, baseline_over
from nfcot_model.errors import UserError
from nfcot_model.model import NFCoTModel, model_over
from nfcot_model.reasoners import Reasoner
from nfcot_model.reasoners.kinds import reasoner_over
from nfcot_model.tokenizer import train_tokenizer
from nfcot_model.training.backbones import check_backbone
from nfcot_model.training.config import WITH_CODEC, TrainConfig
from nfcot_model.training.data import vocabulary_texts

__all__ = ["fresh_reasoner"]

Backbone = dict[str, object] | Path | PreTrainedModel


def fresh_reasoner(config: TrainConfig) -> Reasoner:
    """An untrained reasoner: backbone and what its kind adds, as the configuration says."""
    torch.manual_seed(config.seed)
    model = config.model
    backbone: Backbone
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
    make = _with_codec if config.reasoner in WITH_CODEC else _baseline
    try:
        if isinstance(backbone, Path):
            backbone = AutoModelForCausalLM.from_pretrained(backbone, local_files_only=True)
            check_backbone(backbone, str(model.backbone))
        fresh = make(config, backbone, tokenizer)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.backbone: not a causal language model ({reason})") from None
    if isinstance(backbone, dict):
        check_backbone(fresh.backbone, "model.backbone")
    return reasoner_over(fresh, tokenizer)


def _with_codec(
    config: TrainConfig, backbone: Backbone, tokenizer: PreTrainedTokenizerBase
) -> NFCoTModel:
    model = config.model
    return model_over(
        backbone,
        tokenizer,
        D=model.D,
        codec=asdict(model.codec),
        flow=asdict(model.flow),
        max_thoughts=model.max_thoughts,
        max_answer_tokens=model.max_answer_tokens,
        reasoner=config.reasoner,
        chat=model.chat,
        system=model.system,
    )


def _baseline(
    config: TrainConfig, backbone: Backbone, tokenizer: PreTrainedTokenizerBase
) -> BaselineModel:
    settings = config.model.baseline
    coconut = config.reasoner == "coconut"
    thoughts = {
        "pause": settings.thoughts,
        "codi": settings.thoughts,
        "coconut": settings.stages * settings.per_step,
    }
    return baseline_over(
        backbone,
        tokenizer,
        reasoner=config.reasoner,
        thoughts=thoughts.get(config.reasoner, 0),
        per_step=settings.per_step if coconut else None,
        projector=settings.projector if config.reasoner == "codi" else 0,
        loops=settings.loops if config.reasoner == "looped" else 0,
        exit_threshold=settings.exit_threshold,
        max_reasoning_tokens=settings.max_reasoning_tokens,
        max_answer_tokens=config.model.max_answer_tokens,
        chat=config.model.chat,
        system=config.model.system,
    )
