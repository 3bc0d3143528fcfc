"""What all reasoners without a density share: prompts in, answers out, states on the way.

Their thoughts are input vectors of the backbone (`u`), so they can be given, edited and donated;
nothing is known of how likely a vector is. Scores are NaN where they would need a density.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nfcot_model import answering, sampling
from nfcot_model.baseline import BaselineModel
from nfcot_model.chat import template_of
from nfcot_model.errors import UserError
from nfcot_model.layout import Layout
from nfcot_model.likelihood import hidden_at
from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners.prompting import prompt_layout, tokens_of
from nfcot_model.reasoners.protocol import Reasoner
from nfcot_model.thoughts import Scores, Thoughts
from nfcot_model.tokenizer import texts_of

__all__ = ["BaselineReasoner", "no_density", "open_stream"]


class BaselineReasoner(Reasoner):
    """A `BaselineModel` with its tokenizer. Thoughts come back on the CPU; subclasses think."""

    has_likelihood = False
    has_decoder = True
    has_codec = False
    draws = False
    variable_k = False
    constant_thoughts = False
    least_thoughts = 0
    on_edits = ""

    def __init__(
        self, model: BaselineModel, tokenizer: PreTrainedTokenizerBase, checkpoint_hash: str = ""
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompt_template = template_of(model.config, tokenizer)
        self.checkpoint_hash = checkpoint_hash
        self.name: str = model.config.reasoner
        self.D: int = model.d_model
        self.max_thoughts: int = model.config.thoughts
        self.thoughts_per_step: int | None = model.config.per_step
        self.config: dict[str, Any] = {
            "D": self.D,
            "thoughts": model.config.thoughts,
            "per_step": model.config.per_step,
            "projector": model.config.projector,
            "backbone": model.config.backbone.get("model_type"),
            "dtype": str(model.backbone.dtype).removeprefix("torch."),
        }

    def save(self, folder: Path) -> None:
        """Everything in one folder: config, weights and tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def answer(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        *,
        temperature: float = 0.0,
        noise_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Which answer follows from each prompt and these thoughts (had, edited, given)?"""
        layout = self.layout(prompts, thoughts.K.tolist())
        stream = open_stream(self.model, layout, self._device(thoughts.u))
        return self._write(stream, temperature, noise_seeds)

    def answer_scored(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        *,
        tau: float,
        temperature: float = 0.0,
        noise_seeds: Sequence[int] | None = None,
        hidden: bool = False,
    ) -> tuple[list[str], Scores]:
        """`answer` and `score` from one pass over prompt and thoughts."""
        layout = self.layout(prompts, thoughts.K.tolist())
        stream = open_stream(self.model, layout, self._device(thoughts.u), hidden)
        states = self._hidden(stream.opening.hidden_states, layout) if hidden else None
        scores = no_density(thoughts.mask, self.D, states)
        return self._write(stream, temperature, noise_seeds), scores

    def open_prompts(self, prompts: Sequence[str], max_thoughts: int | None = None) -> Any:
        """Streams behind `[prompt] <think>`, with room for every thought and an answer."""
        room = self.budget(prompts, max_thoughts) + 1 + self.model.config.max_answer_tokens
        layout = self.layout(prompts, [0] * len(prompts), close=False, room=room)
        nothing = torch.zeros(len(prompts), 0, self.D, device=self.model.device)
        return open_stream(self.model, layout, nothing)

    def noise_of(
        self,
        prompts: Sequence[str],
        noise_seeds: Sequence[int],
        tau: float,
        max_thoughts: int | None = None,
    ) -> Tensor:
        """Nothing is drawn: [B, budget, 0]."""
        return torch.zeros(len(prompts), self.budget(prompts, max_thoughts), 0)

    def budget(self, prompts: Sequence[str], max_thoughts: int | None = None) -> int:
        """How many thoughts can these prompts have, when they may have `max_thoughts`?"""
        return min(self.max_thoughts, max_thoughts or self.max_thoughts)

    @torch.no_grad()
    def score(
        self, prompts: Sequence[str], thoughts: Thoughts, *, tau: float, hidden: bool = False
    ) -> Scores:
        """The states at these thoughts, when `hidden`; no likelihood (NaN), there is no density."""
        if not hidden:
            return no_density(thoughts.mask, self.D, None)
        layout = self.layout(prompts, thoughts.K.tolist(), side="right")
        out = self.model.stream(layout, self._device(thoughts.u), hidden=True)
        return no_density(thoughts.mask, self.D, self._hidden(out.hidden_states, layout))

    def encode(self, steps: Sequence[Sequence[str]]) -> Thoughts:
        """Raises UserError: without a codec, text stands for no thoughts."""
        raise UserError(f"reasoner '{self.name}' has no codec: text cannot be made its thoughts")

    def tokens(self, texts: Sequence[str], *, opening: bool = False) -> list[list[int]]:
        """Token ids of texts, as `tokens_of`."""
        return tokens_of(self.tokenizer, self.model, texts, opening=opening)

    def layout(
        self,
        prompts: Sequence[str],
        K: Sequence[int],
        *,
        close: bool = True,
        side: Literal["left", "right"] = "left",
        room: int | None = None,
    ) -> Layout:
        """Where does everything stand in these streams? As `prompt_layout`, room for an answer."""
        return prompt_layout(
            self.model,
            prompts,
            self.tokens(prompts, opening=True),
            K,
            close=close,
            side=side,
            room=self.model.config.max_answer_tokens if room is None else room,
            framed=self.model.config.framed,
        )

    def nearest_tokens(self, u: Tensor) -> Tensor:
        """Ids [N] of the tokens whose input embeddings are nearest to vectors u [N, d_model]."""
        table = next(self.model.get_input_embeddings().parameters()).detach().float()
        lengths = table.square().sum(-1)
        return torch.cat(
            [(2 * part @ table.T - lengths).argmax(-1) for part in self._device(u).split(1024)]
        ).cpu()

    def answer_tokens(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        temperature: float,
        noise_seeds: Sequence[int],
    ) -> list[list[int]]:
        """`answer` as token ids, without the end of the text."""
        layout = self.layout(prompts, thoughts.K.tolist())
        stream = open_stream(self.model, layout, self._device(thoughts.u))
        return answering.answer(stream, temperature, noise_seeds)

    def _write(
        self, stream: sampling.Stream, temperature: float, seeds: Sequence[int] | None
    ) -> list[str]:
        written = answering.answer(stream, temperature, seeds)
        return texts_of(self.tokenizer, written)

    def _hidden(self, states: tuple[Tensor, ...], layout: Layout) -> Tensor:
        found = hidden_at(states, layout, layout.mask[..., None]).cpu()
        return found if bool(layout.mask.any()) else found[:, :, :0]

    def _device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.model.device)


def open_stream(
    model: BaselineModel, layout: Layout, u: Tensor, hidden: bool = False
) -> sampling.Stream:
    """A batch of streams on one KV cache; `Stream` asks a model for what every backbone has."""
    return sampling.Stream(cast(NFCoTModel, model), layout, u, hidden)


def no_density(mask: Tensor, D: int, hidden: Tensor | None) -> Scores:
    """The scores of a reasoner without a density: NaN everywhere, states where captured."""
    unknown = torch.full((*mask.shape, D), torch.nan)
    return Scores(
        mu=unknown,
        log_sigma=unknown,
        eps=unknown,
        mask=mask,
        logp=unknown[..., 0],
        energy=unknown[..., 0],
        logvol=unknown[..., 0],
        stop_logp=unknown[..., 0],
        hidden=hidden,
    )
