"""NF-CoT: a causal LM whose thoughts are modelled by a normalizing flow inside the backbone.

Latent Reasoning with Normalizing Flows (arXiv 2606.06447), equations 3.1-3.3. The official code was
never released; `docs/decisions.md` names what is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import ModelOutput

from nfcot_model.backbone import BackboneModel, at, prepare_backbone
from nfcot_model.codec import ThoughtCodec
from nfcot_model.config import NFCoTConfig
from nfcot_model.flow import ShallowFlow
from nfcot_model.head import NFHead, gaussian_logp
from nfcot_model.layout import Layout

__all__ = ["NFCoTModel", "NFCoTOutput", "at", "model_over"]


@dataclass
class NFCoTOutput(ModelOutput):
    """The training losses; all means, in nats.

    `nll` is `-log p(e|q) / (K·D)` per dimension with the 2π constant (equation 3.2), `answer`
    the cross-entropy per answer token, `stop` that of another-thought against `</think>`,
    `squared` the mean squared error per dimension ("regressed" only, in place of `nll`).
    """

    loss: Tensor | None = None
    nll: Tensor | None = None
    answer: Tensor | None = None
    stop: Tensor | None = None
    squared: Tensor | None = None


class NFCoTModel(BackboneModel):
    """Backbone, codec, shallow flow, projection and NF head in one Hugging Face folder.

    Unified ("nfcot"): the answer stands behind the thoughts `u`. Dual-Path ("dual"): thoughts are
    thought as `u` on one path through the backbone, and the answer reads them as `e = F⁻¹(u)`, by a
    projection of its own, on another; the paths share the prompt, and neither sees the other.

    Only the backbone follows `dtype`; the flow, its read-outs and the codec stay in fp32,
    because a likelihood in half precision is not a likelihood.
    """

    config_class = NFCoTConfig
    base_model_prefix = "nfcot"
    _keep_in_fp32_modules_strict = {  # noqa: RUF012
        "codec",
        "flow",
        "nf_head",
        "projection",
        "answer_projection",
    }

    def __init__(self, config: NFCoTConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone)
        vocab_size = self.backbone.config.get_text_config().vocab_size
        self.codec = ThoughtCodec(config.D, config.codec_config, vocab_size, self.ids.eos)
        self.flow = ShallowFlow(config.D, config.flow_config, config.max_thoughts)
        self.projection = self._new_projection()
        self.nf_head = NFHead(self.d_model, config.D, config.log_sigma_bound)
        self.two_paths = config.reasoner == "dual"
        if self.two_paths:
            self.answer_projection = self._new_projection()
        self.post_init()

    def _new_projection(self) -> nn.Linear:
        """Thoughts enter at the scale of this backbone's token embeddings."""
        projection = nn.Linear(self.config.D, self.d_model)
        embeddings = next(self.backbone.get_input_embeddings().parameters()).detach()
        scale = 0.02 if embeddings.is_meta else float(embeddings.float().std())
        nn.init.normal_(projection.weight, std=scale / math.sqrt(self.config.D))
        nn.init.zeros_(projection.bias)
        return projection

    def exchange_decoder(self, layers: int) -> None:
        """Give the codec an untrained decoder of so many layers; thoughts stay what they are."""
        self.codec.exchange_decoder(layers)
        self.config.codec = {**self.config.codec, "decoder_layers": layers}

    def project(self, u: Tensor) -> Tensor:
        """Thoughts [..., D] as the backbone reads them [..., d_model]."""
        return self.projection(u.to(self.projection.weight.dtype))

    def reread(self, u: Tensor, mask: Tensor) -> Tensor:
        """Thoughts [B, K, D] as the answer reads them [B, K, d_model]; with two paths, as `e`."""
        if not self.two_paths:
            return self.project(u)
        return self.answer_projection(self.flow.inverse(u, mask))

    def answering(
        self,
        layout: Layout,
        u: Tensor,
        hidden: bool = False,
        cache: bool = False,
        past: Any = None,
    ) -> Any:
        """The pass that the answer is read from; with one path, `stream` itself."""
        width = layout.mask.shape[1]
        embedded = self.place(layout, self.reread(u[:, :width], layout.mask))
        return self.run(layout, embedded, hidden, cache, past)

    def stop_logp(self, h: Tensor) -> Tensor:
        """Log-probabilities [..., 2] of (another thought, `</think>`) after states `h`."""
        ids = self.ids
        return self.lm_logits(h)[..., [ids.thought, ids.end_think]].log_softmax(-1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        thought_at: Tensor,
        mask: Tensor,
        targets: Tensor,
        e: Tensor,
        target_noise: float = 0.0,
        rows: Tensor | None = None,
        nll_beta: float = 0.0,
    ) -> NFCoTOutput:
        """The joint loss of one batch (equation 3.3, both weights 1, plus the stop decision).

        `e` [B, K, D] are the codec's latents of the reference reasoning. `target_noise` is the
        standard deviation of the Gaussian noise that keeps the density from degenerating. For
        "regressed", whose flow stays the identity, the squared error of the mean stands in the
        place of the likelihood. "dual" makes two passes: the answer's loss reaches neither flow,
        projection nor head, the likelihood's not what the answer reads `e` by. `rows`: see
        `Layout`. `nll_beta` weights what each number of a thought adds to `nll` in `loss` by its
        `_spread` to the power of `2 · nll_beta`, a constant to the gradient; `nll` itself stays the
        likelihood.
        """
        layout = Layout(input_ids, attention_mask, position_ids, thought_at, mask, targets, rows)
        noisy = e + target_noise * torch.randn_like(e)
        u, terms = self.flow.by_number(noisy, mask)
        if self.two_paths:
            states = self.stream(_before_answer(layout), u).last_hidden_state
            read = self.run(layout, self.place(layout, self.answer_projection(noisy)))
            answer = self.token_loss(read.last_hidden_state, targets)
        else:
            states = self.stream(layout, u).last_hidden_state
            answer = self.token_loss(states, targets)
        mu, log_sigma = self.nf_head(at(states, thought_at - 1, rows))
        stop = self._stop_loss(states, thought_at, mask, rows)
        if self.config.reasoner == "regressed":
            squared = ((u - mu).square() * mask[..., None]).sum() / (mask.sum() * self.config.D)
            return NFCoTOutput(
                loss=squared + answer + stop, squared=squared, answer=answer, stop=stop
            )
        eps = (u - mu) * torch.exp(-log_sigma)
        logp = gaussian_logp(eps, log_sigma) * mask
        count = mask.sum() * self.config.D
        loss = nll = -(logp.sum() + self.flow.logdet(terms.sum((-2, -1))).sum()) / count
        if nll_beta > 0:
            each = Normal(0.0, 1.0, validate_args=False).log_prob(eps) - log_sigma + terms
            weight = _spread(log_sigma, terms) ** (2 * nll_beta)
            loss = -(weight * each * mask[..., None]).sum() / count
        return NFCoTOutput(loss=loss + answer + stop, nll=nll, answer=answer, stop=stop)

    def _stop_loss(
        self, states: Tensor, thought_at: Tensor, mask: Tensor, rows: Tensor | None
    ) -> Tensor:
        if not self.config.variable_k:
            return states.new_zeros(())
        decides = self.decides(mask)
        last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(-1, keepdim=True) - 1
        logp = self.stop_logp(at(states, thought_at, rows)[decides])
        return functional.nll_loss(logp, last[decides].long())

    def decides(self, mask: Tensor) -> Tensor:
        """At which thoughts [B, K] is there a stop decision? At the last slot of each step."""
        slots = self.config.codec["slots"]
        ends = (torch.arange(mask.shape[1], device=mask.device) + 1) % slots == 0
        return mask & ends if self.config.variable_k else torch.zeros_like(mask)


@torch.no_grad()
def _spread(log_sigma: Tensor, terms: Tensor) -> Tensor:
    """The standard deviation of each number of `e_k` [B, K, D], given prompt and thoughts before.

    It is sigma, carried from `u` to `e` by what the flow adds for this number to the
    log-determinant. Of a causal flow it knows nothing of `e_k` itself.
    """
    return torch.exp(log_sigma - terms)


def _before_answer(layout: Layout) -> Layout:
    """The streams of a layout up to the last thought of the longest; padded on the right."""
    width = int(layout.thought_at.max()) + 1
    columns = ("input_ids", "attention_mask", "position_ids", "targets")
    return replace(layout, **{name: getattr(layout, name)[:, :width] for name in columns})


def model_over(
    backbone: PreTrainedModel | dict[str, Any] | Path,
    tokenizer: PreTrainedTokenizerBase,
    **config: Any,
) -> NFCoTModel:
    """A fresh NF-CoT model over any Hugging Face causal LM.

    `backbone` and `tokenizer` as for `prepare_backbone`.
    """
    model, fields = prepare_backbone(backbone, tokenizer)
    return NFCoTModel(NFCoTConfig(**fields, **config), model)


AutoConfig.register("nfcot", NFCoTConfig)
AutoModel.register(NFCoTConfig, NFCoTModel)
AutoModelForCausalLM.register(NFCoTConfig, NFCoTModel)
