"""Looped thinking: the whole stack applied again and again to its own normed output (Ouro).

arXiv 2510.25741, section 3: the state after the final norm is the next loop's input, without
re-injection; each loop has keys and values of its own. Any backbone can be looped: what its
`base_model` does to input embeddings is one loop.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nfcot_model.baseline import BaselineModel
from nfcot_model.layout import Layout

__all__ = [
    "LoopStream",
    "OpenedLoops",
    "exit_distribution",
    "gate_loss",
    "loop_loss",
    "loop_states",
]

GATE_SHARPNESS, GATE_THRESHOLD = 50.0, 0.005


def loop_states(model: BaselineModel, layout: Layout) -> list[Tensor]:
    """The states [B, T, d_model] after each loop, over streams padded on the right."""
    x = model.get_input_embeddings()(layout.input_ids)
    states: list[Tensor] = []
    for _ in range(model.config.loops):
        out = model.backbone.base_model(
            inputs_embeds=x, position_ids=layout.position_ids, use_cache=False
        )
        x = out.last_hidden_state
        states.append(x)
    return states


def exit_distribution(gates: Tensor) -> Tensor:
    """`log p_t` [T, ...]: the probability of leaving after loop t, from gate logits [T, ...].

    `p_t = λ_t Π_{j<t} (1 - λ_j)` with `λ = sigmoid(gate)`; what is left goes to the last loop.
    """
    stay = functional.logsigmoid(-gates).cumsum(0)
    before = torch.cat([torch.zeros_like(stay[:1]), stay[:-1]])
    leave = functional.logsigmoid(gates) + before
    return torch.cat([leave[:-1], before[-1:]])


def loop_loss(
    model: BaselineModel, states: list[Tensor], targets: Tensor, entropy_weight: float
) -> dict[str, Tensor]:
    """Stage I: `Σ_t p_t · CE_t - β H(p)` per target token, and its parts (nats, loops)."""
    losses, gates = _per_loop(model, states, targets)
    log_p = exit_distribution(gates)
    p = log_p.exp()
    expected = (p * losses).sum(0).mean()
    entropy = -(p * log_p).sum(0).mean()
    loops = torch.arange(1, len(states) + 1, device=p.device, dtype=p.dtype)
    return {
        "loss": expected - entropy_weight * entropy,
        "answer": losses[-1].mean(),
        "expected": expected,
        "entropy": entropy,
        "loops": (p * loops[:, None]).sum(0).mean(),
    }


def gate_loss(model: BaselineModel, states: list[Tensor], targets: Tensor) -> dict[str, Tensor]:
    """Stage II: go on where the last loop still made the token likelier; only the gate learns.

    Target for `1 - λ_t`: `sigmoid(50 · (max(0, CE_{t-1} - CE_t) - 0.005))`, without gradient.
    """
    losses, gates = _per_loop(model, [state.detach() for state in states], targets)
    gain = (losses[:-1] - losses[1:]).clamp(min=0).detach()
    go_on = torch.sigmoid(GATE_SHARPNESS * (gain - GATE_THRESHOLD))
    terms = functional.binary_cross_entropy_with_logits(-gates[1:], go_on, reduction="none")
    loops = torch.arange(1, len(states) + 1, device=gates.device, dtype=gates.dtype)
    expected = (exit_distribution(gates).exp() * loops[:, None]).sum(0).mean()
    loss = terms.sum(0).mean() / len(states)
    return {"loss": loss, "answer": losses[-1].mean(), "loops": expected}


def _per_loop(model: BaselineModel, states: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and gate logit [T, n] of each target token after each loop."""
    chosen = targets >= 0
    losses = [
        functional.cross_entropy(model.lm_logits(h[chosen]), targets[chosen], reduction="none")
        for h in states
    ]
    return torch.stack(losses), torch.stack([model.gate_logit(h[chosen]) for h in states])


class LoopStream:
    """Streams on one KV cache per loop; each row stops looping for itself, and costs no more.

    Opens over `layout` (padded on the left, not to be extended by thoughts). At its last place
    the gate decides after each loop: row i leaves after the first loop at which the probability
    of having left reaches `threshold`, after `K[i]` loops where `K` is given, and after `most` in
    any case. All later tokens of the row take as many loops. With `u` [B, ·, d_model] the state
    after loop k at that place is replaced by `u[:, k]`.

    `thoughts` [B, most, d_model] are the states after each loop at that place, `mask` [B, most],
    `left` [B]: the gate, not the budget, ended it. `hidden` [B, layers + 1, most, d_model] when
    asked for. `state` [B, d_model] is each row's last state, from which the next token is read.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: BaselineModel,
        layout: Layout,
        *,
        most: int,
        threshold: float,
        u: Tensor | None = None,
        K: Tensor | None = None,
        hidden: bool = False,
    ) -> None:
        self.model = model
        self.attention = layout.attention_mask
        self.length = layout.attention_mask.sum(-1)
        self.caches: list[Any] = []
        self.members: list[Tensor] = []
        x = model.get_input_embeddings()(layout.input_ids)
        rows = torch.arange(len(x), device=x.device)
        self.state = x[:, -1].clone()
        self.replaced: Tensor | None = None
        self.thoughts = torch.zeros(len(x), most, model.d_model, device=x.device)
        self.mask = torch.zeros(len(x), most, dtype=torch.bool, device=x.device)
        self.left = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.hidden: Tensor | None = None
        stay = torch.zeros(len(x), device=x.device)
        for k in range(most):
            out = self._loop(x, rows, layout.position_ids[rows], None, hidden)
            x = out.last_hidden_state
            if u is not None:
                x[:, -1] = u[rows, k].to(x.dtype)
            self.members.append(rows)
            self.caches.append(out.past_key_values)
            self.thoughts[rows, k] = x[:, -1].float()
            self.mask[rows, k] = True
            if hidden:
                self._keep_hidden(out.hidden_states, rows, k, most)
            stay[rows] += functional.logsigmoid(-model.gate_logit(x[:, -1]))
            if K is not None:
                leaves = K[rows] == k + 1
            else:  # at threshold 1 never, even where a sure gate rounds to 1
                leaves = (1 - stay[rows].exp() >= threshold) & (threshold < 1)
            self.left[rows] = leaves
            self.state[rows] = x[:, -1]
            x, rows = x[~leaves], rows[~leaves]
            if not len(rows):
                break

    def _keep_hidden(self, states: Any, rows: Tensor, k: int, most: int) -> None:
        last = torch.stack([h[:, -1] for h in states], dim=1).float()
        if self.hidden is None:
            self.hidden = last.new_zeros(len(self.state), last.shape[1], most, last.shape[-1])
        self.hidden[rows, :, k] = last

    def _loop(
        self, x: Tensor, rows: Tensor, places: Tensor, cache: Any, hidden: bool = False
    ) -> Any:
        return self.model.backbone.base_model(
            inputs_embeds=x,
            attention_mask=self.attention[rows],
            position_ids=places,
            past_key_values=cache,
            output_hidden_states=hidden,
            use_cache=True,
        )

    @torch.no_grad()
    def extend(self, embedded: Tensor, alive: Tensor) -> Tensor:
        """Feed [B, n, d_model]; what is not alive [B, n] leaves no trace in anybody's attention.

        Returns the states [B, n, d_model] behind what was fed, and keeps each row's last live one.
        """
        self.attention = torch.cat([self.attention, alive.to(self.attention)], dim=1)
        count = alive.to(self.length).cumsum(-1)
        places = (self.length[:, None] + count - 1).clamp(min=0)
        self.length = self.length + count[:, -1]
        x = embedded.clone()
        for k, (rows, cache) in enumerate(zip(self.members, self.caches, strict=True)):
            x[rows] = self._loop(x[rows], rows, places[rows], cache).last_hidden_state
            if self.replaced is not None:
                x[rows, 0] = self.replaced[rows, k].to(x.dtype)
        self.replaced = None
        last = x[torch.arange(len(x), device=x.device), (count == count[:, -1:]).int().argmax(-1)]
        self.state = torch.where(alive.any(-1, keepdim=True), last, self.state)
        return x


class OpenedLoops(LoopStream):
    """Streams read once, loop by loop, up to the place where the thoughts stand.

    `layout` as for `LoopStream`, whose last place is that one: it is held back, `closing` [B] is
    its token. The streams hold K [B] thoughts `u` [B, most, d_model], none at first; the first
    token that is fed stands at their place, and it and all behind it take K loops.
    """

    @torch.no_grad()
    def __init__(self, model: BaselineModel, layout: Layout, most: int) -> None:
        self.model = model
        self.closing = layout.input_ids[:, -1]
        self.attention = layout.attention_mask[:, :-1]
        self.length = self.attention.sum(-1)
        x = model.get_input_embeddings()(layout.input_ids)
        self.state = x[:, -1].clone()
        self.caches = []
        rows = torch.arange(len(x), device=x.device)
        before = x[:, :-1]
        for _ in range(most):
            out = self._loop(before, rows, layout.position_ids[:, :-1], None)
            before = out.last_hidden_state
            self.caches.append(out.past_key_values)
        self.u = torch.zeros(len(x), most, model.d_model, device=x.device)
        self.K = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def rows(self, index: Tensor) -> OpenedLoops:
        """A choice of these streams, repeated or not, on caches of their own."""
        chosen = copy.copy(self)
        chosen.caches = [copy.deepcopy(cache) for cache in self.caches]
        for cache in chosen.caches:
            cache.batch_select_indices(index)
        for name in ("closing", "attention", "length", "state", "u", "K"):
            setattr(chosen, name, getattr(self, name)[index])
        return chosen

    def feed(self, u: Tensor, alive: Tensor) -> None:
        """Have the thoughts u [B, n, D] where `alive` [B, n]: the states after the next loops."""
        at = self.K[:, None] + alive.cumsum(-1) - 1
        rows, columns = alive.nonzero(as_tuple=True)
        self.u = self.u.index_put((rows, at[rows, columns]), u[rows, columns].to(self.u))
        self.K = self.K + alive.sum(-1)

    @torch.no_grad()
    def think_on(self, budget: int, threshold: float) -> Tensor:
        """Loop on from the thoughts held, at most `budget` in all; which rows the gate released.

        The gate decides as for `LoopStream`, but not before the thoughts held are over.
        """
        everybody = torch.arange(len(self.K), device=self.K.device)
        probe = self.rows(everybody)
        x = self.model.get_input_embeddings()(self.closing[:, None])
        probe.attention = functional.pad(self.attention, (0, 1), value=1)
        u, held, left = self.u.clone(), self.K, torch.zeros_like(self.K, dtype=torch.bool)
        stay = torch.zeros(len(held), device=x.device)
        for k in range(budget):
            out = probe._loop(x, everybody, self.length[:, None], probe.caches[k])
            given = (k < held)[:, None, None]
            x = torch.where(given, u[:, k : k + 1].to(x.dtype), out.last_hidden_state)
            new = ~left & (k >= held)
            u[:, k] = torch.where(new[:, None], x[:, 0].to(u), u[:, k])
            self.K = torch.where(new, k + 1, self.K)
            stay = stay + functional.logsigmoid(-self.model.gate_logit(x[:, 0]))
            released = (1 - stay.exp() >= threshold) & (threshold < 1) & (k + 1 >= held)
            left = left | released
        self.u = u
        return left

    def turn(self) -> None:
        """Thinking is over: rows that take fewer loops leave the caches of the later ones."""
        self.replaced = self.u
        self.members = [(k < self.K).nonzero()[:, 0] for k in range(int(self.K.max()))]
        self.caches = self.caches[: len(self.members)]
        for rows, cache in zip(self.members, self.caches, strict=True):
            if len(rows) < len(self.K):
                cache.batch_select_indices(rows)
