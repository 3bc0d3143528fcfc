"""What defines an NF-CoT model: backbone, codec, flow and head, in one config.json."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

__all__ = ["FORMAT_VERSION", "CodecConfig", "FlowConfig", "NFCoTConfig"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class CodecConfig:
    """The codec between reasoning text and `e`.

    `alignment="step"`: `slots` latents for each reasoning step, K varies with the problem.
    `alignment="global"`: `slots` latents for the whole reasoning, K is fixed (the paper's form).
    `layers` are the encoder's, and the decoder's where `decoder_layers` does not say otherwise.
    """

    alignment: Literal["step", "global"] = "step"
    slots: int = 1
    d_model: int = 128
    layers: int = 2
    heads: int = 4
    max_text_tokens: int = 16
    noise: float = 0.3
    decoder_layers: int | None = None

    def __post_init__(self) -> None:
        _check_sizes(self, "slots", "d_model", "layers", "heads", "max_text_tokens")
        if self.decoder_layers is not None:
            _check_sizes(self, "decoder_layers")
        _check_heads(self.d_model, self.heads)
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise {self.noise} is not a number of at least 0")


@dataclass(frozen=True)
class FlowConfig:
    """The shallow flow `u = F(e)`: blocks of causal affine transformers.

    `order="alternating"`: identity / flip, the paper's; `order="causal"`: left to right only, so
    that a thought can be decoded the moment it is sampled. Not `learned`, it stays the identity it
    starts as, so that `u = e`: an ablation.
    """

    order: Literal["alternating", "causal"] = "causal"
    learned: bool = True
    blocks: int = 2
    layers: int = 1
    d_model: int = 64
    heads: int = 2
    max_log_scale: float = 2.0

    def __post_init__(self) -> None:
        _check_sizes(self, "blocks", "layers", "d_model", "heads")
        _check_heads(self.d_model, self.heads)
        if not 0 < self.max_log_scale < math.inf:
            raise ValueError(f"max_log_scale {self.max_log_scale} is not a positive number")


def _check_sizes(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} {getattr(config, name)} is not at least 1")


def _check_heads(d_model: int, heads: int) -> None:
    if d_model % heads:
        raise ValueError(f"d_model {d_model} is not a multiple of heads {heads}")


class NFCoTConfig(PretrainedConfig):
    """Configuration of `NFCoTModel`.

    `backbone` is the config of any Hugging Face causal LM, as a dict with its `model_type`.
    `D` is the width of a thought, `max_thoughts` the budget at which thinking is cut,
    `log_sigma_bound` the bound of the head's log-scale. `reasoner` is "nfcot" (Unified),
    "dual" (Dual-Path: the answer reads `e` on a path of its own), or "regressed" for the control
    whose head was trained on the squared error of its mean. With `chat`, prompts are put into the
    tokenizer's chat template, after the message of a `system` where there is one.
    """

    model_type = "nfcot"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        D: int = 16,
        codec: dict[str, Any] | None = None,
        flow: dict[str, Any] | None = None,
        max_thoughts: int = 16,
        max_answer_tokens: int = 40,
        log_sigma_bound: float = 4.0,
        token_ids: dict[str, int] | None = None,
        reasoner: str = "nfcot",
        chat: bool = False,
        system: str | None = None,
        format_version: int = FORMAT_VERSION,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone or {}
        self.D = D
        # What is as in older models and runs is left out, as they do.
        self.codec = {**asdict(CodecConfig()), **(codec or {})}
        if self.codec["decoder_layers"] is None:
            del self.codec["decoder_layers"]
        self.flow = {**asdict(FlowConfig()), **(flow or {})}
        if self.flow["learned"]:
            del self.flow["learned"]
        self.max_thoughts = max_thoughts
        self.max_answer_tokens = max_answer_tokens
        self.log_sigma_bound = log_sigma_bound
        self.token_ids = token_ids or {}
        self.reasoner = reasoner
        self.chat = chat
        self.system = system
        self.format_version = format_version
        kwargs.setdefault("tie_word_embeddings", bool(self.backbone.get("tie_word_embeddings")))
        super().__init__(**kwargs)

    @property
    def codec_config(self) -> CodecConfig:
        return CodecConfig(**self.codec)

    @property
    def flow_config(self) -> FlowConfig:
        return FlowConfig(**self.flow)

    @property
    def variable_k(self) -> bool:
        """Does the model decide itself when to stop thinking?"""
        return self.codec["alignment"] == "step"
