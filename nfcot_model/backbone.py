"""A causal LM as a reasoner uses it: tokens and thoughts in one stream, states out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nfcot_model.layout import IGNORE, Layout
from nfcot_model.tokenizer import TokenIds, add_special_tokens

__all__ = ["BackboneModel", "at", "prepare_backbone"]


class BackboneModel(PreTrainedModel):
    """A Hugging Face causal LM under `backbone`, fed tokens and thoughts, in one folder.

    The config holds the backbone's own config as a dict and the ids of the framing tokens. What a
    kind of reasoner adds (codec, projector, gate) its subclass does.
    """

    _supports_sdpa = True
    _supports_flash_attn = True
    two_paths = False
    """Does the answer read thoughts on a path of its own, not where they were thought?"""

    def __init__(self, config: PreTrainedConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.backbone))
        self.backbone = backbone

    def _init_weights(self, module: nn.Module) -> None:
        """Every module of ours initialises itself; the backbone initialises its own."""

    @property
    def ids(self) -> TokenIds:
        return TokenIds(**self.config.token_ids)

    @property
    def d_model(self) -> int:
        return int(self.backbone.config.get_text_config().hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.backbone.get_output_embeddings()

    def project(self, u: Tensor) -> Tensor:
        """Thoughts [..., D] as the backbone reads them [..., d_model]; here they are that."""
        return u

    def embed(self, layout: Layout, u: Tensor) -> Tensor:
        """Input embeddings [B, T, d_model]: tokens, with projected thoughts in their places."""
        return self.place(layout, self.project(u))

    def place(self, layout: Layout, vectors: Tensor) -> Tensor:
        """Tokens as embeddings [B, T, d_model], with these vectors [B, K, d_model] as thoughts."""
        embedded = self.get_input_embeddings()(layout.input_ids)
        rows, ks = layout.mask.nonzero(as_tuple=True)
        thoughts = vectors.to(embedded.dtype)[rows, ks]
        return embedded.index_put((rows, layout.thought_at[rows, ks]), thoughts)

    def lm_logits(self, h: Tensor) -> Tensor:
        """Token logits in fp32, as the backbone itself would give them for final states `h`."""
        logits = self.backbone.get_output_embeddings()(h).float()
        cap = getattr(self.backbone.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def stream(self, layout: Layout, u: Tensor, hidden: bool = False, cache: bool = False) -> Any:
        """One causal pass over whole streams; the backbone's output (last and hidden states)."""
        return self.run(layout, self.embed(layout, u), hidden, cache)

    def run(
        self, layout: Layout, embedded: Tensor, hidden: bool = False, cache: bool = False
    ) -> Any:
        """The same of input embeddings [B, T, d_model] that stand already.

        Streams padded on the right need no mask: nothing attends to what comes after it.
        """
        padded_left = not bool(layout.attention_mask[:, 0].all())
        return self.backbone.base_model(
            inputs_embeds=embedded,
            attention_mask=layout.attention_mask if padded_left else None,
            position_ids=layout.position_ids,
            output_hidden_states=hidden,
            use_cache=cache,
        )

    def token_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the targets [B, T] that are not IGNORE, in nats per token."""
        chosen = targets != IGNORE
        return functional.cross_entropy(self.lm_logits(states[chosen]), targets[chosen])


def at(states: Tensor, columns: Tensor) -> Tensor:
    """The states [B, K, d] at the given columns [B, K] of states [B, T, d]."""
    return states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))


def prepare_backbone(
    backbone: PreTrainedModel | dict[str, Any] | Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A causal LM that knows the framing tokens, and the config fields that say so.

    `backbone` is a model, the config of one as a dict (random weights), or a local folder. The
    tokenizer is given the special tokens it lacks and the backbone's embeddings are resized.
    """
    model: PreTrainedModel
    if isinstance(backbone, Path):
        backbone = AutoModelForCausalLM.from_pretrained(backbone, local_files_only=True)
    ids = asdict(add_special_tokens(tokenizer))
    if isinstance(backbone, dict):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**{**backbone, "vocab_size": len(tokenizer)})
        )
    else:
        model = backbone
        if len(tokenizer) > model.config.get_text_config().vocab_size:
            model.resize_token_embeddings(len(tokenizer))
    return model, {"backbone": model.config.to_dict(), "token_ids": ids}
