"""Thinking: thoughts are sampled left to right on the ordinary KV cache."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nfcot_model.layout import Layout
from nfcot_model.model import NFCoTModel
from nfcot_model.stepping import Step, Stepping, static_cache, step_of
from nfcot_model.thoughts import NewThoughts, Thoughts

__all__ = ["OnThought", "Stream", "draw_noise", "noise_seed", "think"]

OnThought = Callable[[NewThoughts], Tensor | None]
"""Told of each thought as it is drawn; may return which rows [B] shall think no further."""


def noise_seed(*parts: object) -> int:
    """A 63-bit seed from anything that names a trace (run seed, problem id, sample)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_noise(seeds: Sequence[int], K: int, D: int, tau: float) -> Tensor:
    """`eps ~ N(0, tau²)` [B, K, D]; row i depends on `seeds[i]` only, never on its batch."""
    rows = [np.random.Generator(np.random.Philox(s)).standard_normal((K, D)) for s in seeds]
    return torch.from_numpy(np.stack(rows)).float() * tau


class Stream:
    """A batch of streams on one KV cache, extended by embeddings.

    `opening` is the backbone's output over the layout it starts from, `state` [B, d_model] the
    last state of each row, `layers` what every layer said of what was last fed, where `extend` was
    asked for it. Streams that are to be extended must be padded on the left. With `answering`
    they open on the path that answers are read from, for models that have two.

    With `stepping` other than "growing" the cache has a fixed size, for `room` further positions,
    and single positions are fed by a step that can be compiled (`nfcot_model.stepping`).
    """

    layers: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def __init__(
        self,
        model: NFCoTModel,
        layout: Layout,
        u: Tensor,
        hidden: bool = False,
        answering: bool = False,
        stepping: Stepping = "growing",
        room: int = 0,
    ) -> None:
        self.model = model
        self.attention = layout.attention_mask
        self.length = layout.attention_mask.sum(-1)
        self.thinking: _Thinking | None = None
        if model.two_paths and not answering:
            self.thinking = _Thinking.opened(layout, u)
        self.filled = layout.attention_mask.shape[1]
        self.step: Step | None = None
        past = None
        if stepping != "growing":
            batch = len(layout.input_ids)
            if self.thinking is not None:  # they stand there once more when the answer reads them
                room = 2 * room + layout.mask.shape[1]
            past, size = static_cache(model.backbone, batch, self.filled + room, self)
            self.step = step_of(stepping, batch)
            self.attention = functional.pad(layout.attention_mask, (0, size - self.filled))
        run = model.answering if answering else model.stream
        self.opening = run(layout, u, hidden=hidden, cache=True, past=past)
        self.cache = self.opening.past_key_values
        self.state = self.opening.last_hidden_state[:, -1]

    def rows(self, index: Tensor) -> Stream:
        """A choice of these streams, repeated or not, on a cache of its own."""
        chosen = copy.copy(self)
        chosen.cache = copy.deepcopy(self.cache)
        chosen.cache.batch_select_indices(index)
        if self.thinking is not None:
            chosen.thinking = self.thinking.rows(index)
        chosen.attention, chosen.length, chosen.state = (
            tensor[index] for tensor in (self.attention, self.length, self.state)
        )
        return chosen

    @torch.no_grad()
    def extend(self, embedded: Tensor, alive: Tensor, hidden: bool = False) -> Tensor:
        """Feed [B, n, d_model]; what is not alive [B, n] leaves no trace in anybody's attention.

        Returns the states [B, n, d_model] behind what was fed, and keeps each row's last live one.
        """
        places = alive.cumsum(-1)
        at = (self.length[:, None] + places - 1).clamp(min=0)
        base = self.model.backbone.base_model
        if self.step is not None:
            self.attention[:, self.filled : self.filled + alive.shape[1]] = alive
        else:
            self.attention = torch.cat([self.attention, alive.to(self.attention)], dim=1)
        if self.step is not None and not hidden:
            states = self.step(base, embedded, self.attention, at, self.cache)
            self.layers = ()
        else:
            out = base(
                inputs_embeds=embedded,
                attention_mask=self.attention,
                position_ids=at,
                past_key_values=self.cache,
                output_hidden_states=hidden,
                use_cache=True,
            )
            self.layers = out.hidden_states if hidden else ()
            states = out.last_hidden_state
            self.cache = out.past_key_values
        self.length = self.length + places[:, -1]
        self.filled += alive.shape[1]
        if alive.shape[1] == 1:
            fed = states[:, 0]
        else:
            last = (places == places[:, -1:]).int().argmax(-1)
            fed = states[torch.arange(len(states), device=states.device), last]
        self.state = torch.where(alive.any(-1, keepdim=True), fed, self.state)
        return states

    @torch.no_grad()
    def feed(self, u: Tensor, alive: Tensor, hidden: bool = False) -> Tensor:
        """Have the thoughts u [B, n, D] where `alive` [B, n]; the states behind them."""
        before = self.filled
        states = self.extend(self.model.project(u).to(self.state.dtype), alive, hidden)
        if self.thinking is not None:
            self.thinking = self.thinking.and_then(u, alive, before)
        return states

    @torch.no_grad()
    def turn(self) -> None:
        """Thinking is over, an answer will be written: with two paths, go over to the other one.

        The thoughts leave the sight of all that follows; in their places, behind the same prompt on
        the same cache, stands what the answer reads of them. With one path nothing happens.
        """
        if self.thinking is None:
            return
        u, mask, columns = self.thinking.u, self.thinking.mask, self.thinking.columns
        self.thinking = None
        rows, ks = mask.nonzero(as_tuple=True)
        self.attention = self.attention.index_put(
            (rows, columns[rows, ks]), self.attention.new_zeros(())
        )
        self.length = self.length - mask.sum(-1)
        # Each row's thoughts to the front, as the flow reads them.
        order = (~mask).to(torch.uint8).argsort(dim=-1, stable=True)
        order = order[:, : int(mask.sum(-1).max())]
        if order.shape[1]:
            u, mask = (
                u.gather(1, order[..., None].expand(-1, -1, u.shape[-1])),
                mask.gather(1, order),
            )
            self.extend(self.model.reread(u * mask[..., None], mask).to(self.state.dtype), mask)

    @property
    def closing(self) -> Tensor:
        """The token [B] that ends the thoughts of each row: `</think>`."""
        return self.length.new_full((len(self.length),), self.model.ids.end_think)

    def close(self) -> None:
        """Feed `</think>` to every row."""
        ids = self.closing[:, None]
        self.extend(self.model.get_input_embeddings()(ids), torch.ones_like(ids, dtype=torch.bool))


@dataclass(frozen=True)
class _Thinking:
    """The thoughts that streams hold, and the columns of the cache in which they stand."""

    u: Tensor  # [B, n, D]
    mask: Tensor  # [B, n]
    columns: Tensor  # [B, n]

    @staticmethod
    def opened(layout: Layout, u: Tensor) -> _Thinking:
        return _Thinking(u[:, : layout.mask.shape[1]], layout.mask, layout.thought_at)

    def rows(self, index: Tensor) -> _Thinking:
        return _Thinking(self.u[index], self.mask[index], self.columns[index])

    def and_then(self, u: Tensor, alive: Tensor, first: int) -> _Thinking:
        """The same with thoughts in the columns from `first` on."""
        columns = torch.arange(first, first + u.shape[1], device=u.device).expand(alive.shape)
        return _Thinking(
            torch.cat([self.u, u], dim=1),
            torch.cat([self.mask, alive], dim=1),
            torch.cat([self.columns, columns], dim=1),
        )


@torch.no_grad()
def think(
    stream: Stream,
    noise: Tensor,
    given: Tensor | None = None,
    K: Tensor | None = None,
    on_thought: OnThought | None = None,
    hidden: bool = False,
    margins: Tensor | None = None,
) -> Thoughts:
    """Which thoughts does the model have about these prompts, given this noise?

    `stream` stands behind `[prompt] <think>`; `noise` [B, budget, D] is `eps` itself
    (`draw_noise`), so the same noise gives the same thoughts. A model with variable K stops where
    `</think>` is likelier than another thought, or at the budget. Where the stream holds thoughts
    already, they are `given` [B, ·, D], K [B] of them, and thinking goes on after them (their
    `eps`, `mu` and `log_sigma` come back as 0: nobody drew them here).

    `margins` [B, budget] says by how much `</think>` must be likelier after each thought, in nats;
    logistic noise makes the decision a draw.

    `on_thought` is told of each thought once it stands in the stream, on the stream's device, with
    its states in every layer if `hidden`; rows that it returns have had their last thought (within
    a step too, which then has no text), and come back as not `stopped`. Listening changes nothing.
    """
    model, budget = stream.model, noise.shape[1]
    slots = model.config.codec["slots"]
    rows = torch.arange(len(noise), device=noise.device)
    K = rows.new_zeros(len(noise)) if K is None else K
    drawn = _Drawn(noise, given, K)
    alive = torch.ones(len(noise), dtype=torch.bool, device=noise.device)
    stopped = ~alive if model.config.variable_k else alive.clone()
    # Where nobody can stop early the end is known, and no thought waits for the GPU.
    may_end = model.config.variable_k or on_thought is not None
    most = max(0, budget - int(K.min()))
    for nth in range(most + 1):
        if model.config.variable_k:
            another, end = model.stop_logp(stream.state).unbind(-1)
            decides = (K > 0) & (K % slots == 0)
            least = 0.0 if margins is None else margins[rows, (K - 1).clamp(min=0)]
            stopped = stopped | (alive & decides & (end - another > least))
            alive = alive & ~stopped
        alive = alive & (budget > K)
        if nth == most or (may_end and not bool(alive.any())):
            break
        mu, log_sigma = model.nf_head(stream.state)
        eps = model.nf_head.eps(noise[rows, K.clamp(max=budget - 1)])
        u = mu + torch.exp(log_sigma) * eps
        drawn.put(alive, K, u, eps, mu, log_sigma)
        stream.feed(u[:, None], alive[:, None], hidden)
        if on_thought is None:
            K = K + alive.to(K)
            continue
        layers = [state[:, 0] for state in stream.layers]
        halted = on_thought(NewThoughts.of(alive, K, u, eps, mu, log_sigma, layers))
        K = K + alive.to(K)
        if halted is not None:
            if halted.shape != alive.shape:
                raise ValueError(f"on_thought returned {tuple(halted.shape)}, expected [B]")
            stopped = stopped & ~(alive & halted)
            alive = alive & ~halted
    return drawn.collect(K, stopped)


class _Drawn:
    """Thoughts being drawn, each kept with the rows that had it and its place in them."""

    def __init__(self, noise: Tensor, given: Tensor | None, K: Tensor) -> None:
        self.noise, self.given, self.had = noise, given, K
        self.kept: list[tuple[Tensor, ...]] = []

    def put(self, *kept: Tensor) -> None:
        self.kept.append(kept)

    def collect(self, K: Tensor, stopped: Tensor) -> Thoughts:
        mask = torch.arange(max(1, int(K.max())), device=K.device) < K[:, None]
        parts = [torch.zeros_like(self.noise) for _ in range(4)]
        if self.given is not None:
            had = self.given[:, : self.noise.shape[1]]
            held = torch.arange(had.shape[1], device=K.device) < self.had[:, None]
            parts[0][:, : had.shape[1]] = had * held[..., None]
        if self.kept:
            alive, at, *values = (torch.stack(kept) for kept in zip(*self.kept, strict=True))
            nth, rows = alive.nonzero(as_tuple=True)
            for part, value in zip(parts, values, strict=True):
                part[rows, at[nth, rows]] = value[nth, rows]
        u, eps, mu, log_sigma = (part[:, : mask.shape[1]] for part in parts)
        return Thoughts(u, eps, mu, log_sigma, mask, stopped)
