"""NF-CoT: a causal LM whose thoughts are modelled by a normalizing flow inside the backbone.

Latent Reasoning with Normalizing Flows (arXiv 2606.06447), equations 3.1-3.3. The official code was
never released; `docs/decisions.md` names what is ours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import ModelOutput

from nfcot_model.codec import ThoughtCodec
from nfcot_model.config import NFCoTConfig
from nfcot_model.flow import ShallowFlow
from nfcot_model.head import NFHead, gaussian_logp
from nfcot_model.layout import IGNORE, Layout
from nfcot_model.tokenizer import TokenIds, add_special_tokens

__all__ = ["NFCoTModel", "NFCoTOutput", "model_over"]


@dataclass
class NFCoTOutput(ModelOutput):
    """The training losses; all means, in nats.

    `nll` is `-log p(e|q) / (K·D)` per dimension with the 2π constant (equation 3.2), `answer`
    the cross-entropy per answer token, `stop` that of another-thought against `</think>`.
    """

    loss: Tensor | None = None
    nll: Tensor | None = None
    answer: Tensor | None = None
    stop: Tensor | None = None


class NFCoTModel(PreTrainedModel):
    """Backbone, codec, shallow flow, projection and NF head in one Hugging Face folder.

    Only the backbone follows `dtype`; the flow, its read-outs and the codec stay in fp32,
    because a likelihood in half precision is not a likelihood.
    """

    config_class = NFCoTConfig
    base_model_prefix = "nfcot"
    _keep_in_fp32_modules_strict = {"codec", "flow", "nf_head", "projection"}  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: NFCoTConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.backbone))
        self.backbone = backbone
        text = backbone.config.get_text_config()
        self.codec = ThoughtCodec(
            config.D, config.codec_config, text.vocab_size, config.token_ids["eos"]
        )
        self.flow = ShallowFlow(config.D, config.flow_config, config.max_thoughts)
        self.projection = nn.Linear(config.D, text.hidden_size)
        # Thoughts enter at the scale of this backbone's token embeddings.
        embeddings = next(backbone.get_input_embeddings().parameters()).detach()
        scale = 0.02 if embeddings.is_meta else float(embeddings.float().std())
        nn.init.normal_(self.projection.weight, std=scale / math.sqrt(config.D))
        nn.init.zeros_(self.projection.bias)
        self.nf_head = NFHead(text.hidden_size, config.D, config.log_sigma_bound)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every module of ours initialises itself; the backbone initialises its own."""

    @property
    def ids(self) -> TokenIds:
        return TokenIds(**self.config.token_ids)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.backbone.get_output_embeddings()

    def embed(self, layout: Layout, u: Tensor) -> Tensor:
        """Input embeddings [B, T, d_model]: tokens, with projected thoughts in their places."""
        embedded = self.get_input_embeddings()(layout.input_ids)
        rows, ks = layout.mask.nonzero(as_tuple=True)
        thoughts = self.project(u).to(embedded.dtype)[rows, ks]
        return embedded.index_put((rows, layout.thought_at[rows, ks]), thoughts)

    def project(self, u: Tensor) -> Tensor:
        """Thoughts [..., D] as the backbone reads them [..., d_model]."""
        return self.projection(u.to(self.projection.weight.dtype))

    def lm_logits(self, h: Tensor) -> Tensor:
        """Token logits in fp32, as the backbone itself would give them for final states `h`."""
        logits = self.backbone.get_output_embeddings()(h).float()
        cap = getattr(self.backbone.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def stop_logp(self, h: Tensor) -> Tensor:
        """Log-probabilities [..., 2] of (another thought, `</think>`) after states `h`."""
        ids = self.ids
        return self.lm_logits(h)[..., [ids.thought, ids.end_think]].log_softmax(-1)

    def stream(self, layout: Layout, u: Tensor, hidden: bool = False, cache: bool = False) -> Any:
        """One causal pass over whole streams; the backbone's output (last and hidden states).

        Streams padded on the right need no mask: nothing attends to what comes after it.
        """
        padded_left = not bool(layout.attention_mask[:, 0].all())
        return self.backbone.base_model(
            inputs_embeds=self.embed(layout, u),
            attention_mask=layout.attention_mask if padded_left else None,
            position_ids=layout.position_ids,
            output_hidden_states=hidden,
            use_cache=cache,
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        thought_at: Tensor,
        mask: Tensor,
        targets: Tensor,
        e: Tensor | None = None,
        target_noise: float = 0.0,
    ) -> NFCoTOutput:
        """The joint loss of one batch (equation 3.3, both weights 1, plus the stop decision).

        `e` [B, K, D] are the codec's latents of the reference reasoning; None trains on the
        text targets alone (explicit reasoning, or none). `target_noise` is the standard deviation
        of the Gaussian noise that keeps the density from degenerating.
        """
        layout = Layout(input_ids, attention_mask, position_ids, thought_at, mask, targets)
        if e is None:
            states = self.stream(layout, self._no_thoughts(mask)).last_hidden_state
            answer = self._token_loss(states, targets)
            return NFCoTOutput(loss=answer, answer=answer)
        u, logdet = self.flow(e + target_noise * torch.randn_like(e), mask)
        states = self.stream(layout, u).last_hidden_state
        mu, log_sigma = self.nf_head(at(states, thought_at - 1))
        eps = (u - mu) * torch.exp(-log_sigma)
        logp = (gaussian_logp(eps, log_sigma) * mask).sum() + logdet.sum()
        nll = -logp / (mask.sum() * self.config.D)
        answer = self._token_loss(states, targets)
        stop = self._stop_loss(states, thought_at, mask)
        return NFCoTOutput(loss=nll + answer + stop, nll=nll, answer=answer, stop=stop)

    def _no_thoughts(self, mask: Tensor) -> Tensor:
        return self.projection.weight.new_zeros(*mask.shape, self.config.D)

    def _token_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        chosen = targets != IGNORE
        return functional.cross_entropy(self.lm_logits(states[chosen]), targets[chosen])

    def _stop_loss(self, states: Tensor, thought_at: Tensor, mask: Tensor) -> Tensor:
        if not self.config.variable_k:
            return states.new_zeros(())
        decides = self.decides(mask)
        last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(-1, keepdim=True) - 1
        logp = self.stop_logp(at(states, thought_at)[decides])
        return functional.nll_loss(logp, last[decides].long())

    def decides(self, mask: Tensor) -> Tensor:
        """At which thoughts [B, K] is there a stop decision? At the last slot of each step."""
        slots = self.config.codec["slots"]
        ends = (torch.arange(mask.shape[1], device=mask.device) + 1) % slots == 0
        return mask & ends if self.config.variable_k else torch.zeros_like(mask)


def at(states: Tensor, columns: Tensor) -> Tensor:
    """The states [B, K, d] at the given columns [B, K] of states [B, T, d]."""
    return states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))


def model_over(
    backbone: PreTrainedModel | dict[str, Any] | Path,
    tokenizer: PreTrainedTokenizerBase,
    **config: Any,
) -> NFCoTModel:
    """A fresh NF-CoT model over any Hugging Face causal LM.

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
    settings = NFCoTConfig(backbone=model.config.to_dict(), token_ids=ids, **config)
    return NFCoTModel(settings, model)


AutoConfig.register("nfcot", NFCoTConfig)
AutoModel.register(NFCoTConfig, NFCoTModel)
AutoModelForCausalLM.register(NFCoTConfig, NFCoTModel)
