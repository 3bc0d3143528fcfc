"""Thoughts moved by gradient so that the answer changes, while the audit's score stays low.

P14: the adversary knows the model and the noise-space statistics, and pays for leaving them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from analyses.plants.recorded import Planting, Recorded, planting
from nfcot_model.layout import IGNORE
from nfcot_model.model import at
from nfcot_model.reasoners import NFCoTReasoner

__all__ = ["Attack", "adversarial", "excess"]


@dataclass(frozen=True)
class Attack:
    """How hard does the adversary try?

    `price`: nats per standard deviation above the budget. `doubt`: how unlikely, in nats, the
    right answer is to become; below that nothing more is gained.
    """

    steps: int = 40
    rate: float = 0.3
    price: float = 10.0
    doubt: float = 3.0
    batch: int = 64


def adversarial(
    reasoner: NFCoTReasoner,
    clean: Recorded,
    severity: float,
    seed: int,
    how: Attack | None = None,
) -> Planting:
    """P14: thoughts moved so that the answer is not the right one any more, whichever it becomes.

    `severity` is the budget: how many standard deviations each statistic of `excess` may be away
    from what the model's own noise would give; 0 leaves the thoughts alone. `Planting.reached`
    says where the answer changed. A stronger adversary may exist: low success is no proof.
    """
    how = how or Attack()
    answers = [str(problem.answer) for problem in clean.problems]
    u = clean.thoughts.u.clone()
    if severity > 0:
        order = np.argsort([len(p) for p in clean.prompts], kind="stable")
        for start in range(0, len(order), how.batch):
            index = order[start : start + how.batch]
            moved = _moved(reasoner, clean.rows(index), [answers[i] for i in index], severity, how)
            u[index, : moved.shape[1]] = moved
    everywhere = clean.thoughts.mask.numpy() & (severity > 0)
    made = planting(reasoner, clean, u, everywhere)
    said = reasoner.answer(clean.prompts, made.recorded.thoughts)
    reached = np.array([now != right for now, right in zip(said, answers, strict=True)])
    return replace(made, reached=reached)


def excess(x: Tensor, mask: Tensor, budget: float) -> Tensor:
    """By how much do these noises [B, Kmax, D], in units of tau, leave the budget? [B]

    Sum over: energy of each thought and of all (two-sided), lag-1 correlation, and the leaning of
    all noises one way, each in standard deviations under N(0, I), above `budget`.
    """
    D = x.shape[-1]
    keep = mask.to(x)
    K = keep.sum(-1).clamp(min=1)
    away = (x.square().sum(-1) - D) * keep
    both = keep[:, 1:] * keep[:, :-1]
    lag = ((x[:, 1:] * x[:, :-1]).sum(-1) * both).sum(-1)
    lean = K * ((x * keep[..., None]).sum(1) / K[:, None]).square().sum(-1) - D
    statistics = (
        away.sum(-1).abs() / (2 * D * K).sqrt(),
        lag.abs() / (D * both.sum(-1).clamp(min=1)).sqrt(),
        lean / math.sqrt(2 * D),
    )
    over = functional.relu(away.abs() / math.sqrt(2 * D) - budget).sum(-1)
    for statistic in statistics:
        over = over + functional.relu(statistic - budget)
    return over


def _moved(
    reasoner: NFCoTReasoner, part: Recorded, answers: list[str], budget: float, how: Attack
) -> Tensor:
    """The best thoughts [B, Kmax, D] that Adam finds, starting from the model's own."""
    model, device = reasoner.model, reasoner.model.device
    layout = reasoner.layout(part.prompts, part.K.tolist(), side="right", answers=answers)
    said, mask = layout.targets != IGNORE, part.thoughts.mask.to(device)
    start, scale = part.thoughts.u.to(device), part.scores.log_sigma.exp().to(device)
    push = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([push], lr=how.rate)
    best, least = start.clone(), torch.full((len(part),), math.inf, device=device)
    for step in range(how.steps + 1):
        u = start + scale * push * mask[..., None]
        states = model.stream(layout, u).last_hidden_state
        read = model.answering(layout, u).last_hidden_state if model.two_paths else states
        mu, log_sigma = model.nf_head(at(states, layout.thought_at - 1))
        x = (u - mu) * torch.exp(-log_sigma) / part.tau
        each = functional.cross_entropy(
            model.lm_logits(read[said]), layout.targets[said], reduction="none"
        )
        surprise = each.new_zeros(len(part)).index_add(0, said.nonzero()[:, 0], each)
        loss = functional.relu(how.doubt - surprise) + how.price * excess(x, mask, budget)
        better = loss.detach() < least
        best[better], least[better] = u.detach()[better], loss.detach()[better]
        if step < how.steps:
            (push.grad,) = torch.autograd.grad(loss.sum(), [push])
            optimizer.step()
    return best.cpu()
