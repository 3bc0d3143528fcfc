"""Batches of thoughts and what is known about them. Ragged K is a mask, never a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["AnswerLogp", "Decoded", "NewThoughts", "Scores", "Thoughts"]


@dataclass(frozen=True)
class Thoughts:
    """Which thoughts were drawn, from which Gaussian, with which noise?

    `u = mu + exp(log_sigma) * eps` with `eps ~ N(0, tau² I)`. All tensors are 0 where `mask` is
    False; a row's thoughts stand at its first `K` places.
    """

    u: Tensor  # [B, Kmax, D] float32
    eps: Tensor  # [B, Kmax, D] the drawn noise
    mu: Tensor  # [B, Kmax, D]
    log_sigma: Tensor  # [B, Kmax, D]
    mask: Tensor  # [B, Kmax] bool
    stopped: Tensor  # [B] bool; False: cut (budget, `on_thought`) before the model chose to stop

    @property
    def K(self) -> Tensor:
        """How many thoughts has each row? Long tensor [B]."""
        return self.mask.sum(-1)

    def __len__(self) -> int:
        return len(self.u)

    def rows(self, index: Tensor | slice) -> Thoughts:
        """The same thoughts for a choice of rows, trimmed to their longest K."""
        mask = self.mask[index]
        K = max(int(mask.sum(-1).max()), 1) if len(mask) else 1
        return Thoughts(
            self.u[index][:, :K],
            self.eps[index][:, :K],
            self.mu[index][:, :K],
            self.log_sigma[index][:, :K],
            mask[:, :K],
            self.stopped[index],
        )

    @staticmethod
    def joined(parts: Sequence[Thoughts]) -> Thoughts:
        """The rows of several in one, padded to the longest K."""
        names = ("u", "eps", "mu", "log_sigma", "mask")
        padded = {
            name: pad_sequence(
                [row for part in parts for row in getattr(part, name)], batch_first=True
            )
            for name in names
        }
        return Thoughts(**padded, stopped=torch.cat([part.stopped for part in parts]))

    @staticmethod
    def given(u: Tensor, mask: Tensor, stopped: Tensor | None = None) -> Thoughts:
        """Thoughts that nobody sampled (encoded from text, edited, donated): eps is unknown, 0."""
        zero = torch.zeros_like(u)
        stopped = torch.ones(len(u), dtype=torch.bool) if stopped is None else stopped
        return Thoughts(u * mask[..., None], zero, zero, zero, mask, stopped)


@dataclass(frozen=True)
class NewThoughts:
    """Which thought was drawn just now, in each row that is still thinking?

    Everything is 0 in rows that are not `alive`: those had their last thought before.
    """

    alive: Tensor  # [B] bool: the rows that have this thought
    k: Tensor  # [B] its index in the row
    u: Tensor  # [B, D]
    eps: Tensor  # [B, D] the drawn noise
    mu: Tensor  # [B, D]
    log_sigma: Tensor  # [B, D]
    hidden: Tensor | None  # [B, layers + 1, d_model] states at its position, as in `Scores`

    @staticmethod
    def of(
        alive: Tensor,
        k: Tensor,
        u: Tensor,
        eps: Tensor,
        mu: Tensor,
        log_sigma: Tensor,
        layers: Sequence[Tensor],
    ) -> NewThoughts:
        """A copy of one step of sampling, which holds anything in its dead rows."""
        u, eps, mu, log_sigma = torch.stack([u, eps, mu, log_sigma]).where(alive[:, None], 0)
        hidden = None
        if layers:
            hidden = torch.stack(list(layers), dim=1).where(alive[:, None, None], 0).float()
        return NewThoughts(alive.clone(), k.where(alive, 0), u, eps, mu, log_sigma, hidden)


@dataclass(frozen=True)
class Scores:
    """How likely is each thought under this model, prompt and tau?

    `logp` is the density of the model itself (tau = 1) in nats, summed over D; `energy` is
    `½‖eps / tau‖²`. A model's likelihood of its own samples says nothing about their intent.
    NaN for a reasoner without a density; `stop_logp` too, where it takes no such decision.
    """

    mu: Tensor  # [B, Kmax, D]
    log_sigma: Tensor  # [B, Kmax, D]
    eps: Tensor  # [B, Kmax, D] recomputed from u
    mask: Tensor  # [B, Kmax]
    logp: Tensor  # [B, Kmax] log p(u_k | q, u_<k)
    energy: Tensor  # [B, Kmax]
    logvol: Tensor  # [B, Kmax] -Σ log sigma
    stop_logp: Tensor  # [B, Kmax] log-probability of the decision taken after thought k
    hidden: Tensor | None  # [B, layers + 1, Kmax, d_model] states at the thoughts' positions


@dataclass(frozen=True)
class Decoded:
    """What do the thoughts say, in the codec's words or as tokens?

    `texts[i]` holds one string per step of trajectory i (one per thought when a step has one
    slot). `step_of[i]` names the step of each thought where that does not follow from its index.
    With `readout`, texts are single tokens, one per thought, never a whole step. Decoded text is
    a reading of vectors; it is not evidence that the model uses it.
    """

    e: Tensor  # [B, Kmax, D] codec latents, standardised; of width 0 without a codec
    logdet: Tensor  # [B] log|det dF/de|; NaN without a codec
    texts: list[list[str]]
    step_of: list[list[int]] | None = None
    readout: bool = False

    @staticmethod
    def without_codec(
        mask: Tensor,
        texts: list[list[str]],
        step_of: list[list[int]] | None = None,
        readout: bool = False,
    ) -> Decoded:
        """Texts that no codec wrote, of trajectories with this mask [B, Kmax]."""
        nothing = torch.zeros(*mask.shape, 0)
        unknown = torch.full((len(mask),), torch.nan)
        return Decoded(nothing, unknown, texts, step_of, readout)


@dataclass(frozen=True)
class AnswerLogp:
    """How likely are these answers, word for word, after a prompt and thoughts?

    `logp` [B] is the log-probability of each whole answer with its end in nats; `distributions`
    [B, L, V] are the log-probabilities of every token at each place of it, `mask` [B, L].
    """

    logp: Tensor
    distributions: Tensor
    mask: Tensor
