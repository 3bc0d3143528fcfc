"""The NF-CoT reasoner: text in, thoughts with exact likelihoods, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nfcot_model import answering, likelihood, sampling
from nfcot_model.chat import template_of
from nfcot_model.errors import UserError
from nfcot_model.layout import IGNORE, Layout, pad_chunks
from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners.prompting import prompt_layout, tokens_of
from nfcot_model.stepping import Stepping
from nfcot_model.thoughts import AnswerLogp, Decoded, Scores, Thoughts
from nfcot_model.tokenizer import texts_of

__all__ = ["NFCoTReasoner"]


class NFCoTReasoner:
    """An `NFCoTModel` with its tokenizer. Thoughts and scores come back on the CPU.

    Unified or Dual-Path (`name` "nfcot" or "dual"). States and densities are those of the path on
    which thoughts are thought, answers follow on the path that reads them.
    `stepping` "static" or "compiled" thinks on a cache of fixed size: faster on a GPU, the same up
    to rounding (docs/performance.md).
    """

    has_likelihood = has_decoder = has_codec = draws = True
    constant_thoughts, least_thoughts = False, 0

    def __init__(
        self, model: NFCoTModel, tokenizer: PreTrainedTokenizerBase, checkpoint_hash: str = ""
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompt_template = template_of(model.config, tokenizer)
        self.checkpoint_hash = checkpoint_hash
        self.name: str = model.config.reasoner
        self.on_edits = _TWO_PATHS if model.two_paths else ""
        self.stepping: Stepping = "growing"
        self.D: int = model.config.D
        slots: int = model.config.codec["slots"]
        self.thoughts_per_step: int | None = slots if model.config.variable_k else None
        self.max_thoughts: int = model.config.max_thoughts
        self.variable_k: bool = model.config.variable_k
        self.config: dict[str, Any] = {
            "D": model.config.D,
            "codec": model.config.codec,
            "flow": model.config.flow,
            "backbone": model.config.backbone.get("model_type"),
            "dtype": str(model.backbone.dtype).removeprefix("torch."),
        }

    def save(self, folder: Path) -> None:
        """Everything in one folder: config, weights (codec and flow inside) and tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def think(
        self,
        prompts: Sequence[str],
        *,
        tau: float,
        noise_seeds: Sequence[int],
        max_thoughts: int | None = None,
        given: Thoughts | None = None,
        noise: Tensor | None = None,
        on_thought: sampling.OnThought | None = None,
        hidden: bool = False,
    ) -> Thoughts:
        """Which thoughts does the model have about each prompt, at temperature `tau`?

        Row i's noise depends on `noise_seeds[i]` only, or is `noise` [B, max_thoughts, D] itself.
        `tau=0` gives the mode. After thoughts that are `given` (edited, donated) it thinks on,
        with the noise that belongs to the places after them. `on_thought` is told of each thought
        as it is drawn and may end a row's thinking (`sampling.think`), with states if `hidden`.
        """
        budget = self.budget(max_thoughts)
        if noise is None:
            noise = sampling.draw_noise(noise_seeds, budget, self.D, tau)
        had = [0] * len(prompts) if given is None else given.K.tolist()
        room = budget - min(had) + 1 + self.model.config.max_answer_tokens
        layout = self.layout(prompts, had, close=False, room=room)
        K = layout.mask.sum(-1)
        u = self._device(noise.new_zeros(len(K), 1, self.D) if given is None else given.u)
        stream = sampling.Stream(self.model, layout, u, stepping=self.stepping, room=room)
        return on_cpu(sampling.think(stream, self._device(noise), u, K, on_thought, hidden))

    def open_prompts(self, prompts: Sequence[str]) -> sampling.Stream:
        """Streams behind `[prompt] <think>`, with room for every thought and an answer."""
        room = self.max_thoughts + 2 + self.model.config.max_answer_tokens
        layout = self.layout(prompts, [0] * len(prompts), close=False, room=room)
        nothing = torch.zeros(len(prompts), 1, self.D, device=self.model.device)
        return sampling.Stream(self.model, layout, nothing)

    def think_on(
        self,
        stream: sampling.Stream,
        noise: Tensor,
        u: Tensor,
        K: Tensor,
        on_thought: sampling.OnThought | None = None,
        hidden: bool = False,
    ) -> Thoughts:
        """What is thought behind a stream that holds K [B] thoughts of `u` [B, ·, D] already?

        `noise`, `on_thought`, `hidden` as in `sampling.think`; those given come back in place.
        """
        noise, u, K = (self._device(tensor) for tensor in (noise, u, K))
        return on_cpu(sampling.think(stream, noise, u, K, on_thought, hidden))

    def noise_of(
        self,
        prompts: Sequence[str],
        noise_seeds: Sequence[int],
        tau: float,
        max_thoughts: int | None = None,
    ) -> Tensor:
        """The noise [B, budget, D] that `think` draws each row's thoughts with."""
        return sampling.draw_noise(noise_seeds, self.budget(max_thoughts), self.D, tau)

    def budget(self, max_thoughts: int | None = None) -> int:
        """How many thoughts can a trace have, when it may have `max_thoughts`? Whole steps only."""
        slots: int = self.model.config.codec["slots"]
        most = min(max_thoughts or self.max_thoughts, self.max_thoughts)
        return slots if not self.variable_k else max(slots, most // slots * slots)

    def answer(
        self,
        prompts: Sequence[str],
        thoughts: Thoughts,
        *,
        temperature: float = 0.0,
        noise_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Which answer follows from each prompt and these thoughts (sampled, edited, given)?"""
        layout = self.layout(prompts, thoughts.K.tolist(), close=True)
        room = self.model.config.max_answer_tokens
        stream = sampling.Stream(
            self.model,
            layout,
            self._device(thoughts.u),
            answering=True,
            stepping=self.stepping,
            room=room,
        )
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
        """`answer` and `score` from one pass over the prompt, and one over thoughts per path."""
        paths = self.model.two_paths
        layout = self.layout(prompts, thoughts.K.tolist(), close=not paths)
        moved = self._moved(thoughts)
        room = self.model.config.max_answer_tokens
        stream = sampling.Stream(
            self.model, layout, moved.u, hidden, stepping=self.stepping, room=room
        )
        scores = likelihood.score(self.model, layout, moved, tau, stream.opening, hidden)
        if paths:
            stream.turn()
            stream.close()
        return self._write(stream, temperature, noise_seeds), on_cpu(scores)

    def score(
        self, prompts: Sequence[str], thoughts: Thoughts, *, tau: float, hidden: bool = False
    ) -> Scores:
        """How likely are these thoughts under this model, prompt and tau? One causal pass."""
        layout = self.layout(prompts, thoughts.K.tolist(), close=True, side="right")
        moved = self._moved(thoughts)
        with torch.no_grad():
            out = self.model.stream(layout, moved.u, hidden=hidden)
        return on_cpu(likelihood.score(self.model, layout, moved, tau, out, hidden))

    @torch.no_grad()
    def answer_logp(
        self, prompts: Sequence[str], thoughts: Thoughts, answers: Sequence[str]
    ) -> AnswerLogp:
        """How likely is each answer after its prompt and these thoughts? One causal pass."""
        layout = self.layout(prompts, thoughts.K.tolist(), side="right", answers=answers)
        states = self.model.answering(layout, self._device(thoughts.u)).last_hidden_state
        said = layout.targets != IGNORE
        counts = said.sum(-1)
        mask = torch.arange(int(counts.max()), device=said.device) < counts[:, None]
        logits = self.model.lm_logits(states[said]).log_softmax(-1)
        distributions = logits.new_zeros(*mask.shape, logits.shape[-1])
        distributions[mask] = logits
        targets = mask.new_zeros(mask.shape, dtype=torch.long)
        targets[mask] = layout.targets[said]
        chosen = distributions.gather(-1, targets[..., None])[..., 0]
        return AnswerLogp((chosen * mask).sum(-1).cpu(), distributions.cpu(), mask.cpu())

    @torch.no_grad()
    def decode(self, thoughts: Thoughts) -> Decoded:
        """What do the thoughts say? `u → e` through the inverse flow, `e → text` by the codec."""
        mask = self._device(thoughts.mask)
        e = self.model.flow.inverse(self._device(thoughts.u), mask)
        _, logdet = self.model.flow(e, mask)
        return Decoded(e.cpu(), logdet.cpu(), self.read(e.cpu(), thoughts.mask))

    @torch.no_grad()
    def read(self, e: Tensor, mask: Tensor) -> list[list[str]]:
        """The codec's text for latents [B, K, D], one string per step (or whole reasoning).

        Raises UserError for thoughts that end within a step (cut by `on_thought`): it has no text.
        """
        slots = self.model.config.codec["slots"]
        K = mask.sum(-1)
        cut = K[K % slots != 0]
        if len(cut):
            raise UserError(f"{int(cut[0])} thoughts are no whole steps of {slots}: no text")
        counts = (K // slots).tolist()
        chunks = e[mask].view(-1, slots, self.D)
        written = self.model.codec.write(self._device(chunks))
        texts = iter(texts_of(self.tokenizer, written))
        flat = [[next(texts) for _ in range(count)] for count in counts]
        return flat if self.variable_k else [t[0].split("\n") for t in flat]

    def tokens(self, texts: Sequence[str], *, opening: bool = False) -> list[list[int]]:
        """Token ids of texts; `opening` adds what the tokenizer puts before a prompt.

        Raises UserError for a text that spells a control token: it would open or close thinking.
        """
        return tokens_of(self.tokenizer, self.model, texts, opening=opening)

    def encodes(self, steps: Sequence[Sequence[str]]) -> bool:
        """Can reasoning of this length be encoded at all, by this codec and budget?"""
        try:
            self.check_steps(steps)
        except UserError:
            return False
        return True

    def check_steps(self, steps: Sequence[Sequence[str]]) -> None:
        """Raises UserError for a text or a number of steps that cannot be encoded."""
        self._chunks(steps)

    def _chunks(self, steps: Sequence[Sequence[str]]) -> dict[str, list[int]]:
        """The texts the codec encodes, each once, with its token ids."""
        limit, slots = (self.model.config.codec[name] for name in ("max_text_tokens", "slots"))
        texts = [s for row in steps for s in (row if self.variable_k else ["\n".join(row)])]
        unique = list(dict.fromkeys(texts))
        ids = self.tokens(unique)
        longest = max(range(len(ids)), key=lambda i: len(ids[i]), default=None)
        if longest is not None and len(ids[longest]) > limit:
            raise UserError(
                f"a reasoning text has {len(ids[longest])} tokens, the codec reads {limit}"
                f" (model.codec.max_text_tokens; text: {unique[longest][:60]!r})"
            )
        most = max((len(row) for row in steps), default=0) * slots if self.variable_k else slots
        if most > self.max_thoughts:
            raise UserError(
                f"a reasoning needs {most} thoughts, the model has {self.max_thoughts}"
                " (model.max_thoughts)"
            )
        return dict(zip(unique, ids, strict=True))

    @torch.no_grad()
    def latents(self, steps: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """The codec's latents `e` [B, K, D] of reasoning texts, and their mask [B, K].

        Raises UserError for a text longer than the codec reads and more steps than the model has
        thoughts.
        """
        chunks = [s for row in steps for s in (row if self.variable_k else ["\n".join(row)])]
        ids = self._chunks(steps)
        place = {chunk: i for i, chunk in enumerate(ids)}
        e = self.model.codec.encode(self._device(pad_chunks(list(ids.values())))).cpu()
        e = e[[place[chunk] for chunk in chunks]]
        counts = [len(r) if self.variable_k else 1 for r in steps]
        K = torch.tensor(counts) * self.model.config.codec["slots"]
        mask = torch.arange(int(K.max())) < K[:, None]
        padded = torch.zeros(*mask.shape, self.D)
        padded[mask] = e.flatten(0, 1)
        return padded, mask

    @torch.no_grad()
    def encode(self, steps: Sequence[Sequence[str]]) -> Thoughts:
        """The thoughts that explicit reasoning stands for: `u = F(e)` of the reference text."""
        return self.from_latents(*self.latents(steps))

    @torch.no_grad()
    def from_latents(self, e: Tensor, mask: Tensor) -> Thoughts:
        """The thoughts `u = F(e)` of codec latents [B, K, D]."""
        u, _ = self.model.flow(self._device(e), self._device(mask))
        return Thoughts.given(u.cpu(), mask)

    def layout(
        self,
        prompts: Sequence[str],
        K: Sequence[int],
        *,
        close: bool = True,
        side: Literal["left", "right"] = "left",
        answers: Sequence[str] | None = None,
        room: int = 0,
    ) -> Layout:
        """Where does everything stand in the streams of these prompts with K thoughts each?

        `close` adds `</think>`, `answers` what follows it; `side` is where the padding goes (left
        when the streams are to be continued, by at most `room` places). Raises UserError for a
        stream longer than the backbone's context.
        """
        return prompt_layout(
            self.model,
            prompts,
            self.tokens(prompts, opening=True),
            K,
            said=self.tokens(answers or ()),
            close=close,
            side=side,
            room=room,
        )

    def _write(
        self, stream: sampling.Stream, temperature: float, seeds: Sequence[int] | None
    ) -> list[str]:
        written = answering.answer(stream, temperature, seeds)
        return texts_of(self.tokenizer, written)

    def _moved(self, thoughts: Thoughts) -> Thoughts:
        return Thoughts(*(self._device(getattr(thoughts, f)) for f in _FIELDS))

    def _device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.model.device)


_TWO_PATHS = "the answer reads e = F⁻¹(u), which an edit of one thought moves in others too"
_FIELDS = tuple(Thoughts.__dataclass_fields__)
Batch = TypeVar("Batch", Thoughts, Scores)


def on_cpu(batch: Batch) -> Batch:
    values = {name: getattr(batch, name) for name in type(batch).__dataclass_fields__}
    return replace(batch, **{n: v.cpu() for n, v in values.items() if v is not None})
