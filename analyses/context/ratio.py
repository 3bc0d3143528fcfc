"""How much likelier are thoughts with a part of their prompt than without it? Λ, in batches.

    Λ_k(s) = log p(u_k | u_<k, prompt) - log p(u_k | u_<k, prompt without s)

The flow does not read the prompt, so its determinant cancels: Λ of `u` is Λ of `e` too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.scored import finite_rows, refuse_without_likelihood
from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner
from nfcot_model.thoughts import Thoughts

__all__ = ["LogRatios", "log_ratios"]

BATCH = 64


@dataclass(frozen=True)
class LogRatios:
    """Λ of each removal, in nats; row i of everything belongs to removal i.

    `thoughts` [N, K] per thought, 0 where `mask` [N, K] is False; `stop` [N, K] the same of the
    decision taken after each thought (another one, or `</think>`; 0 where there is none). `valid`
    [N]: both scores are numbers at every thought; elsewhere values may be NaN or infinite. Not
    causal proof: without a span a prompt is shorter, its words stand elsewhere, and what the
    model would then have thought is not asked.
    """

    thoughts: Tensor
    stop: Tensor
    mask: Tensor
    valid: Tensor


def log_ratios(
    reasoner: Reasoner,
    prompts: Sequence[str],
    thoughts: Thoughts,
    removals: Sequence[tuple[int, str]],
    *,
    tau: float,
    batch: int = BATCH,
    progress: Callable[[int], object] | None = None,
) -> LogRatios:
    """Λ of every removal (row of `prompts` and `thoughts`, what is left of that prompt).

    One causal pass over each prompt and one over each remainder, in batches of like length; the
    densities are the model's own, so `tau` changes nothing. `progress` hears of finished passes.
    Raises UserError for a reasoner without likelihood and a remainder that is empty.
    """
    refuse_without_likelihood(reasoner, "Λ")
    for row, left in removals:
        if not left.strip():
            raise UserError(f"prompt {prompts[row][:40]!r}…: nothing is left of it to think about")
    rows = sorted({row for row, _ in removals})
    place = {row: i for i, row in enumerate(rows)}
    whole = [(row, prompts[row]) for row in rows]
    logp, stop = _scores(reasoner, thoughts, [*whole, *removals], tau, batch, progress)
    base = torch.tensor([place[row] for row, _ in removals], dtype=torch.long)
    mask = thoughts.mask[[row for row, _ in removals]]
    own = logp[base], stop[base]
    without = logp[len(rows) :], stop[len(rows) :]
    valid = finite_rows(own[0], mask) & finite_rows(without[0], mask)
    valid &= finite_rows(own[1], mask) & finite_rows(without[1], mask)
    return LogRatios(own[0] - without[0], own[1] - without[1], mask, valid)


def _scores(
    reasoner: Reasoner,
    thoughts: Thoughts,
    asked: Sequence[tuple[int, str]],
    tau: float,
    batch: int,
    progress: Callable[[int], object] | None,
) -> tuple[Tensor, Tensor]:
    """`logp` and `stop_logp` [N, K] of thoughts under other prompts than their own, too."""
    logp = torch.zeros(len(asked), thoughts.mask.shape[1])
    stop = torch.zeros_like(logp)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][1]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        some = thoughts.rows(torch.tensor([asked[i][0] for i in chosen]))
        scores = reasoner.score([asked[i][1] for i in chosen], some, tau=tau)
        width = scores.logp.shape[1]
        logp[chosen, :width] = scores.logp
        stop[chosen, :width] = scores.stop_logp
        if progress is not None:
            progress(len(chosen))
    return logp, stop
