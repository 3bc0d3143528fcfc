"""Published weights, from a local folder, as reasoners of ours: Ouro, Coconut, CODI.

    Ouro      a Hugging Face folder: config.json (model_type "ouro"), *.safetensors, tokenizer
    Coconut   a file `checkpoint_N` of its training script, and the folder of its base model
    CODI      a folder with model.safetensors or pytorch_model.bin, and the folder of its base model

Formats as of github.com/facebookresearch/coconut, github.com/zhenyi4/codi and the Ouro model
pages. Whatever the weights were made on (templates, ends of prompts) is up to the prompts.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from nfcot_model.baseline import BaselineConfig, BaselineModel
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object
from nfcot_model.ouro import OuroConfig, OuroForCausalLM
from nfcot_model.reasoners.latent import LatentReasoner
from nfcot_model.reasoners.looped import LoopedReasoner
from nfcot_model.tokenizer import TokenIds, add_special_tokens

__all__ = ["load_coconut", "load_codi", "load_ouro"]

Weights = dict[str, Tensor]
COCONUT_TOKENS = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")
# What torch.load makes of files that are no state dicts.
_DAMAGED = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError),
    struct.error,
)
CODI_TOKENS = ("[PAD]", "<|bot|>", "<|eot|>")


def load_ouro(folder: Path, *, max_answer_tokens: int = 256) -> LoopedReasoner:
    """A looped reasoner from an Ouro folder; it answers right behind the prompt, without frames.

    `total_ut_steps` and `early_exit_threshold` of its config.json hold. Raises UserError naming
    the folder and the first key or shape that does not fit.
    """
    fields = read_json_object(folder / "config.json")
    if fields.get("model_type") != "ouro":
        raise UserError(f"{folder}: model_type is '{fields.get('model_type')}', expected 'ouro'")
    tokenizer = _tokenizer(folder)
    weights = _shards(folder)
    loops = fields.get("total_ut_steps")
    if not isinstance(loops, int) or loops < 1:
        raise UserError(f"{folder}/config.json: total_ut_steps is {loops!r}, expected 1 or more")
    threshold = fields.get("early_exit_threshold", 1.0)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise UserError(
            f"{folder}/config.json: early_exit_threshold is {threshold!r}, expected 0 to 1"
        )
    try:
        backbone = OuroForCausalLM(OuroConfig(**_plain(fields)))
    except (TypeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}/config.json: no Ouro model ({reason})") from None
    gate = {
        name.removeprefix("model.early_exit_"): weights.pop(name)
        for name in [n for n in weights if n.startswith("model.early_exit_gate.")]
    }
    _fit_backbone(backbone, weights, folder)
    ids = add_special_tokens(tokenizer)
    if len(tokenizer) > backbone.config.vocab_size:
        backbone.resize_token_embeddings(len(tokenizer))
    model = BaselineModel(
        BaselineConfig(
            backbone=backbone.config.to_dict(),
            reasoner="looped",
            loops=loops,
            exit_threshold=threshold,
            framed=False,
            max_answer_tokens=max_answer_tokens,
            token_ids=asdict(ids),
        ),
        backbone,
    )
    _fit(
        model.gate,
        {n.removeprefix("gate."): t for n, t in gate.items()},
        folder,
        "model.early_exit_gate.",
    )
    return LoopedReasoner(model, tokenizer)


def load_coconut(
    checkpoint: Path, base: Path, *, thoughts: int, max_answer_tokens: int = 64
) -> LatentReasoner:
    """A Coconut reasoner from a `checkpoint_N` file and its base model's folder.

    `thoughts` is K (in its configs: `max_latent_stage * c_thought`). Its prompts end in a newline.
    Raises UserError as `load_ouro`.
    """
    tokenizer = _tokenizer(base)
    tokenizer.add_tokens(list(COCONUT_TOKENS))
    start, end, latent = (int(tokenizer.get_vocab()[t]) for t in COCONUT_TOKENS)
    backbone = _empty(base, len(tokenizer))
    weights = {n.removeprefix("module."): t for n, t in _pickled(checkpoint).items()}
    if not any(name.startswith("base_causallm.") for name in weights):
        raise UserError(
            f"{checkpoint}: no Coconut checkpoint (no key starts with 'base_causallm.'); a plain"
            " model can be trained on with `nfcot train … --backbone FOLDER`"
        )
    # `embedding.*` are the base model's own input embeddings under a second name.
    _fit_backbone(backbone, _below(weights, "base_causallm."), checkpoint, "base_causallm.")
    eos = tokenizer.eos_token_id
    ids = TokenIds(pad=eos, eos=eos, think=start, thought=latent, end_think=end)
    return LatentReasoner(_latent(backbone, "coconut", ids, thoughts, max_answer_tokens), tokenizer)


def load_codi(
    folder: Path,
    base: Path,
    *,
    thoughts: int = 6,
    lora_alpha: float = 32.0,
    max_answer_tokens: int = 256,
) -> LatentReasoner:
    """A CODI reasoner from its checkpoint folder and its base model's folder.

    LoRA is merged with `lora_alpha` (the recipe's 32) over the rank of its matrices. The format
    is that of `remove_eos` (no end-of-text token around the thoughts), with a projector. Raises
    UserError as `load_ouro`.
    """
    tokenizer = _tokenizer(base)
    vocabulary = _config_of(base).vocab_size
    tokenizer.add_tokens(list(CODI_TOKENS))
    pad, bot, eot = (int(tokenizer.get_vocab()[t]) for t in CODI_TOKENS)
    if (pad, bot, eot) != (vocabulary, vocabulary + 1, vocabulary + 2):
        raise UserError(
            f"{base}: its tokenizer gives {pad}, {bot}, {eot} to CODI's tokens, the checkpoint has"
            f" them at {vocabulary} to {vocabulary + 2}; give the base model it was made from"
        )
    backbone = _empty(base, vocabulary + 3)
    file = folder / "model.safetensors"
    weights = _safe(file) if file.is_file() else _pickled(folder / "pytorch_model.bin")
    projector = _below(weights, "prj.")
    if not projector:
        raise UserError(f"{folder}: has no projector (no key starts with 'prj.'), CODI's use_prj")
    merged = _merge_lora(backbone, _below(weights, "codi."), lora_alpha, folder)
    _fit_backbone(backbone, merged, folder, "codi.")
    width = len(projector["1.bias"]) if "1.bias" in projector else 1
    ids = TokenIds(pad=pad, eos=tokenizer.eos_token_id, think=bot, thought=pad, end_think=eot)
    model = _latent(backbone, "codi", ids, thoughts, max_answer_tokens, projector=width)
    names = {"1": "0", "3": "2", "ln": "3"}
    renamed = {
        ".".join([names.get(part, part), rest]): tensor
        for name, tensor in projector.items()
        for part, rest in [name.split(".", 1)]
    }
    _fit(model.projector, renamed, folder, "prj.")
    return LatentReasoner(model, tokenizer)


def _latent(
    backbone: Any, kind: str, ids: TokenIds, thoughts: int, answer: int, projector: int = 0
) -> BaselineModel:
    config = BaselineConfig(
        backbone=backbone.config.to_dict(),
        reasoner=kind,
        thoughts=thoughts,
        projector=projector,
        max_answer_tokens=answer,
        token_ids=asdict(ids),
    )
    return BaselineModel(config, backbone)


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An Ouro config without what names its remote code."""
    return {k: v for k, v in fields.items() if k not in ("auto_map", "architectures", "model_type")}


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: its tokenizer cannot be loaded ({reason})") from None
    return tokenizer


def _config_of(folder: Path) -> Any:
    """The config of a language model's folder."""
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: not a causal language model ({reason})") from None
    if "vocab_size" not in config.to_dict():
        raise UserError(
            f"{folder}: {config.model_type} has no vocab_size of its own; expected a plain causal"
            " language model, the base that the checkpoint was made from"
        )
    return config


def _empty(folder: Path, vocabulary: int) -> Any:
    """A model of the folder's architecture with that many tokens, its weights yet to be set."""
    config = _config_of(folder)
    config.vocab_size = vocabulary
    try:
        return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: not a causal language model ({reason})") from None


def _safe(path: Path) -> Weights:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _shards(folder: Path) -> Weights:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no *.safetensors")
    return {name: tensor for file in files for name, tensor in _safe(file).items()}


def _pickled(path: Path) -> Weights:
    """A state dict of torch.save; only tensors are unpickled, never code."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = str(error).splitlines()[0][:80]
        raise UserError(f"{path}: cannot be read as a torch state dict ({reason})") from None
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise UserError(f"{path}: is no torch state dict (name → tensor)")
    return found


def _below(weights: Weights, prefix: str) -> Weights:
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}


def _merge_lora(backbone: Any, weights: Weights, alpha: float, source: Path) -> Weights:
    """Plain weights from peft's: `W + alpha / r · B A`, transposed for GPT-2's Conv1D."""
    plain: Weights = {}
    turned = {name for name, layer in backbone.named_modules() if isinstance(layer, Conv1D)}
    for name, tensor in weights.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        key = name.removeprefix("base_model.model.")
        stem = name.removesuffix(".base_layer.weight")
        a, b = (weights.get(f"{stem}.lora_{x}.default.weight") for x in "AB")
        if stem != name and a is not None and b is not None:
            delta = (b @ a) * (alpha / len(a))
            layer = stem.removeprefix("base_model.model.")
            delta = delta.T if layer in turned else delta
            if delta.shape != tensor.shape:
                raise UserError(
                    f"{source}: codi.{stem}.lora_*: gives {list(delta.shape)},"
                    f" the weight is {list(tensor.shape)}"
                )
            tensor = tensor + delta
        plain[key.replace(".base_layer.", ".")] = tensor
    return plain


def _fit_backbone(backbone: Any, weights: Weights, source: Path, prefix: str = "") -> None:
    """`_fit` a causal LM, whose tied weights and masks may or may not be among the weights."""
    needed = {n: t for n, t in weights.items() if not n.endswith((".attn.bias", ".masked_bias"))}
    _fit(backbone, needed, source, prefix, backbone.all_tied_weights_keys)
    backbone.tie_weights()


def _fit(
    module: torch.nn.Module,
    weights: Weights,
    source: Path,
    prefix: str,
    optional: Collection[str] = (),
) -> None:
    """Put the weights into the module.

    Raises UserError naming the first key that is missing or unknown, or has another shape.
    """
    own = module.state_dict()
    for name in [*own, *weights]:
        if name not in own:
            raise UserError(f"{source}: has a weight '{prefix}{name}' that the model does not know")
        if name not in weights and name not in optional:
            raise UserError(f"{source}: lacks the weight '{prefix}{name}'")
        if name in weights and own[name].shape != weights[name].shape:
            raise UserError(
                f"{source}: weight '{prefix}{name}' is {list(weights[name].shape)},"
                f" expected {list(own[name].shape)}"
            )
    module.load_state_dict(weights, strict=False)
