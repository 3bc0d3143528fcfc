"""An untrained reasoner, as a configuration says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nfcot_model.baseline import BaselineModel, baseline_over
from nfcot_model.errors import UserError
from nfcot_model.model import NFCoTModel, model_over
from nfcot_model.reasoners import NFCoTReasoner, Reasoner
from nfcot_model.reasoners.baseline import BaselineReasoner
from nfcot_model.reasoners.kinds import reasoner_over
from nfcot_model.tokenizer import add_special_tokens, train_tokenizer
from nfcot_model.training.backbones import check_backbone
from nfcot_model.training.config import WITH_CODEC, TrainConfig
from nfcot_model.training.data import vocabulary_texts

__all__ = ["fresh_reasoner", "model_of", "outline"]

Backbone = dict[str, object] | Path | PreTrainedModel


def fresh_reasoner(config: TrainConfig) -> Reasoner:
    """An untrained reasoner: backbone and what its kind adds, as the configuration says."""
    torch.manual_seed(config.seed)
    model = config.model
    backbone, tokenizer = _source(config)
    make = _with_codec if config.reasoner in WITH_CODEC else _baseline
    try:
        if isinstance(backbone, Path):
            backbone = _loaded(backbone)
            check_backbone(backbone, str(model.backbone))
        fresh = make(config, backbone, tokenizer)
    except SafetensorError as error:
        raise UserError(
            f"{model.backbone}: its weights cannot be read ({error}); copy the folder again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.backbone: not a causal language model ({reason})") from None
    if isinstance(backbone, dict):
        check_backbone(fresh.backbone, "model.backbone")
    return reasoner_over(fresh, tokenizer)


def _loaded(folder: Path) -> PreTrainedModel:
    """The language model in a folder, all of it.

    Raises UserError for a weight that is missing or of another shape: it would be a random one.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    wrong = sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"])
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} weights of a causal {model.config.model_type} are missing or"
            f" of another shape, such as '{wrong[0]}'; give its whole folder"
        )
    return model


def outline(config: TrainConfig) -> Reasoner:
    """The same reasoner without storage: shapes, counts and a tokenizer, no weights."""
    source, tokenizer = _source(config)
    make = _with_codec if config.reasoner in WITH_CODEC else _baseline
    try:
        shape = source
        if isinstance(source, Path):
            shape = AutoConfig.from_pretrained(source, local_files_only=True)
            add_special_tokens(tokenizer)
            text = shape.get_text_config()
            text.vocab_size = max(text.vocab_size, len(tokenizer))
        with torch.device("meta"):
            if not isinstance(shape, dict):
                shape = AutoModelForCausalLM.from_config(shape)
            made = make(config, shape, tokenizer)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.backbone: not a causal language model ({reason})") from None
    check_backbone(made.backbone, "model.backbone")
    return reasoner_over(made, tokenizer)


def model_of(reasoner: Reasoner) -> NFCoTModel | BaselineModel:
    """The model of a reasoner that can be trained."""
    assert isinstance(reasoner, NFCoTReasoner | BaselineReasoner)
    return reasoner.model


def _source(config: TrainConfig) -> tuple[Any, PreTrainedTokenizerBase]:
    """Folder or config of the backbone, and the tokenizer that comes with it or is made."""
    model = config.model
    if not isinstance(model.backbone, str):
        texts = vocabulary_texts(config.data, config.seed)
        return model.backbone, train_tokenizer(texts, model.vocab_size)
    backbone = Path(model.backbone)
    if not (backbone / "config.json").exists():
        raise UserError(f"{backbone}: no Hugging Face model folder; expected a config.json in it")
    try:
        return backbone, AutoTokenizer.from_pretrained(backbone, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{backbone}: its tokenizer cannot be loaded ({reason})") from None


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
