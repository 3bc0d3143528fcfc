"""The model behind every reasoner without a flow: a backbone, and the little that each kind adds.

text, direct, pause   nothing
coconut               nothing: the last state is the next input (arXiv 2412.06769)
codi                  a projector between the last state and the next input (arXiv 2502.21074)
looped                an exit gate on the state after each loop (Ouro, arXiv 2510.25741)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nfcot_model.backbone import BackboneModel, prepare_backbone
from nfcot_model.config import FORMAT_VERSION
from nfcot_model.layout import Layout

__all__ = ["BASELINES", "BaselineConfig", "BaselineModel", "Unrolled", "baseline_over", "unroll"]

BASELINES = ("text", "direct", "pause", "coconut", "codi", "looped")


class BaselineConfig(PreTrainedConfig):
    """Configuration of `BaselineModel`.

    `reasoner` is one of `BASELINES`. `thoughts` is K where it is fixed, `per_step` how many of
    them stand for one step of the reference reasoning (coconut), `projector` the inner width of
    CODI's MLP, `loops` how often a looped stack is applied at most, `exit_threshold` the
    probability of having left at which it stops (1: never early), `framed` whether `<think>` and
    `</think>` stand between prompt and answer (published Ouro models have neither),
    `max_reasoning_tokens` where explicit reasoning is cut. `chat`, `system`: as `NFCoTConfig`.
    """

    model_type = "nfcot-baseline"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        reasoner: str = "direct",
        thoughts: int = 0,
        per_step: int | None = None,
        projector: int = 0,
        loops: int = 0,
        exit_threshold: float = 1.0,
        framed: bool = True,
        max_reasoning_tokens: int = 160,
        max_answer_tokens: int = 40,
        token_ids: dict[str, int] | None = None,
        chat: bool = False,
        system: str | None = None,
        format_version: int = FORMAT_VERSION,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone or {}
        self.reasoner = reasoner
        self.thoughts = thoughts
        self.per_step = per_step
        self.projector = projector
        self.loops = loops
        self.exit_threshold = exit_threshold
        self.framed = framed
        self.max_reasoning_tokens = max_reasoning_tokens
        self.max_answer_tokens = max_answer_tokens
        self.token_ids = token_ids or {}
        self.chat = chat
        self.system = system
        self.format_version = format_version
        kwargs.setdefault("tie_word_embeddings", bool(self.backbone.get("tie_word_embeddings")))
        super().__init__(**kwargs)


class BaselineModel(BackboneModel):
    """A backbone, fed its own states (or tokens) as thoughts; see the module for the kinds."""

    config_class = BaselineConfig
    base_model_prefix = "baseline"
    _keep_in_fp32_modules_strict = {"projector", "gate"}  # noqa: RUF012

    def __init__(self, config: BaselineConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone)
        if config.projector:
            self.projector = nn.Sequential(
                nn.Linear(self.d_model, config.projector),
                nn.GELU(),
                nn.Linear(config.projector, self.d_model),
                nn.LayerNorm(self.d_model),
            )
        if config.loops:
            self.gate = nn.Linear(self.d_model, 1)
        self.post_init()

    def gate_logit(self, state: Tensor) -> Tensor:
        """Should looping end after this state? Logits [...] of states [..., d_model]."""
        return self.gate(state.to(self.gate.weight.dtype))[..., 0].float()

    def project(self, u: Tensor) -> Tensor:
        """Thoughts as the backbone reads them: through CODI's projector, else as they are."""
        if not self.config.projector:
            return u
        weights = next(self.projector.parameters())
        return self.projector(u.to(weights.dtype))

    def next_thought(self, state: Tensor) -> Tensor:
        """The thought [..., d_model] that follows the last state: itself, or a constant (pause)."""
        if self.config.reasoner != "pause":
            return state
        pause = torch.tensor(self.ids.thought, device=state.device)
        return self.get_input_embeddings()(pause).expand_as(state)

    def forward(self, objective: Callable[[BaselineModel], Any]) -> Any:
        """Apply a training objective inside the module, where wrappers for processes expect it."""
        return objective(self)


@dataclass(frozen=True)
class Unrolled:
    """Thoughts that a model had, with gradients, and the states [B, n, d] over what follows them.

    `hidden` are the states of every layer over what follows, when asked for.
    """

    u: Tensor  # [B, K, d_model]
    states: Tensor
    hidden: tuple[Tensor, ...] | None


def unroll(
    model: BaselineModel, head: Layout, K: int, tail: Layout, hidden: bool = False
) -> Unrolled:
    """K thoughts after `head`, one pass each, then `tail` at once; gradients flow through all.

    `head` is padded on the left, `tail` (no thoughts of its own) on the right.
    """
    nothing = head.input_ids.new_zeros(len(head.input_ids), 1, model.d_model, dtype=torch.float32)
    out = model.stream(head, nothing, cache=True)
    attention, length = head.attention_mask, head.attention_mask.sum(-1, keepdim=True)
    thoughts: list[Tensor] = []
    for _ in range(K):
        thoughts.append(model.next_thought(out.last_hidden_state[:, -1:]))
        attention = functional.pad(attention, (0, 1), value=1)
        embedded = model.project(thoughts[-1]).to(out.last_hidden_state.dtype)
        out = _further(model, embedded, attention, length + len(thoughts) - 1, out)
    tail_attention = torch.cat([attention, tail.attention_mask], dim=1)
    places = length + K + tail.position_ids
    embedded = model.get_input_embeddings()(tail.input_ids)
    out = _further(model, embedded, tail_attention, places, out, hidden)
    u = torch.cat(thoughts, dim=1) if thoughts else nothing[:, :0]
    return Unrolled(u, out.last_hidden_state, out.hidden_states if hidden else None)


def _further(
    model: BaselineModel,
    embedded: Tensor,
    attention: Tensor,
    places: Tensor,
    past: Any,
    hidden: bool = False,
) -> Any:
    return model.backbone.base_model(
        inputs_embeds=embedded,
        attention_mask=attention,
        position_ids=places,
        past_key_values=past.past_key_values,
        output_hidden_states=hidden,
        use_cache=True,
    )


def baseline_over(
    backbone: PreTrainedModel | dict[str, Any] | Path,
    tokenizer: PreTrainedTokenizerBase,
    **config: Any,
) -> BaselineModel:
    """A fresh baseline over any Hugging Face causal LM; arguments as for `prepare_backbone`."""
    model, fields = prepare_backbone(backbone, tokenizer)
    return BaselineModel(BaselineConfig(**fields, **config), model)


AutoConfig.register("nfcot-baseline", BaselineConfig)
AutoModel.register(BaselineConfig, BaselineModel)
AutoModelForCausalLM.register(BaselineConfig, BaselineModel)
