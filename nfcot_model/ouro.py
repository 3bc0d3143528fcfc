"""The stack that Ouro loops (arXiv 2510.25741): Llama's layers between two norms each.

One call of `OuroModel` is one loop; `nfcot_model.looping` loops it. Names of weights are those of
the published folders, whose exit gate (`model.early_exit_gate`) is our model's `gate`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

__all__ = ["OuroConfig", "OuroForCausalLM", "OuroModel"]


class OuroConfig(LlamaConfig):
    """Llama's fields; what an Ouro config.json says beyond them is kept as it is."""

    model_type = "ouro"


class OuroLayer(LlamaDecoderLayer):
    """Attention and MLP, each with a norm before and after it."""

    def __init__(self, config: OuroConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.input_layernorm_2 = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm_2 = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        mixed, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.input_layernorm_2(mixed)
        changed = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + self.post_attention_layernorm_2(changed)


class OuroModel(LlamaModel):
    config_class = OuroConfig

    def __init__(self, config: OuroConfig) -> None:
        super().__init__(config)
        layers = (OuroLayer(config, i) for i in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.post_init()


class OuroForCausalLM(LlamaForCausalLM):
    config_class = OuroConfig

    def __init__(self, config: OuroConfig) -> None:
        super().__init__(config)
        self.model = OuroModel(config)
        self.post_init()


AutoConfig.register("ouro", OuroConfig)
AutoModelForCausalLM.register(OuroConfig, OuroForCausalLM)
