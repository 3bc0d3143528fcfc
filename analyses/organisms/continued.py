"""Train a model on: how organisms are planted in another, and how checkpoints drift apart."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from analyses.organisms.planted import PLANTED, RESEEDED, planted_problems
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.training.collate import joint_batch
from nfcot_model.training.config import StageConfig
from nfcot_model.training.optim import make_optimizer, set_rate
from nfcot_model.worlds import Problem

__all__ = ["continued", "from_scratch", "plant_organism", "planting_steps"]

Move = Callable[[Sequence[Problem], Tensor], Tensor]

TRAINING_PROBLEMS = 8000
PLANTING = StageConfig(steps=0, batch=36, lr=1.5e-3, warmup=50, target_noise=0.15)
SEEDED = StageConfig(steps=2800, batch=36, lr=3e-3, warmup=100, target_noise=0.15)


def planting_steps(name: str) -> int:
    """How many steps was the shipped organism trained for?

    Raises UserError for an unknown organism, and for `plain`, which `nfcot train` makes.
    """
    known = [other for other in PLANTED if other != "plain"]
    if name not in (*known, RESEEDED):
        raise UserError(
            f"organism '{name}' is not made from plain; choose one of"
            f" {', '.join((*known, RESEEDED))}"
        )
    return SEEDED.steps if name == RESEEDED else PLANTED[name].steps


def plant_organism(
    name: str,
    plain: NFCoTReasoner,
    seed: int = 0,
    *,
    steps: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> NFCoTReasoner:
    """Make an organism as the shipped one was made: `plain`, trained on with its own problems.

    `plain-reseeded` is trained anew over the codec of `plain` instead. `steps`: fewer, to try it.
    Raises UserError like `planting_steps`.
    """
    wanted = planting_steps(name) if steps is None else steps
    if name == RESEEDED:
        problems = planted_problems("plain", "train", seed + 1, TRAINING_PROBLEMS)
        stage = SEEDED.model_copy(update={"steps": wanted})
        return from_scratch(plain, problems, stage, seed + 1, progress)
    problems = planted_problems(name, "train", seed, TRAINING_PROBLEMS)
    stage = PLANTING.model_copy(update={"steps": wanted})
    return continued(plain, problems, stage, seed, progress=progress)


def continued(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    stage: StageConfig,
    seed: int,
    *,
    freeze_flow: bool = True,
    move: Move | None = None,
    progress: Callable[[int], object] | None = None,
) -> NFCoTReasoner:
    """The reasoner after `stage.steps` more joint steps on these problems; the codec is frozen.

    With `freeze_flow` thoughts mean the same to both, so each can score the other's. `move` says
    what to think instead of the thoughts [B, K, D] of a batch of problems. The given reasoner is
    not changed. Batches and target noise are drawn by `seed`.
    """
    model = copy.deepcopy(reasoner.model)
    model.codec.requires_grad_(False)
    model.flow.requires_grad_(model.config.flow_config.learned and not freeze_flow)
    trained = NFCoTReasoner(model, reasoner.tokenizer, f"{reasoner.checkpoint_hash}+{stage.steps}")
    if stage.steps == 0:
        return trained
    rng = random.Random(f"{seed}/continued")
    optimizer = make_optimizer(model, stage)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(stage.steps):
            set_rate(optimizer, stage, step)
            batch = sorted(rng.choices(problems, k=stage.batch), key=lambda p: len(p.prompt))
            layout, e = joint_batch(trained, batch)
            if move is not None:
                e = _moved(trained, batch, e, layout.mask, move)
            tensors = vars(layout.to(model.device))
            out = model(**tensors, e=e.to(model.device), target_noise=stage.target_noise)
            optimizer.zero_grad()
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip)
            optimizer.step()
            if progress is not None:
                progress(1)
    model.eval().requires_grad_(True)
    return trained


@torch.no_grad()
def _moved(
    reasoner: NFCoTReasoner, batch: Sequence[Problem], e: Tensor, mask: Tensor, move: Move
) -> Tensor:
    """The latents of the thoughts that `move` puts in the place of those of `e` [B, K, D]."""
    flow, device = reasoner.model.flow, reasoner.model.device
    mask = mask.to(device)
    u, _ = flow(e.to(device), mask)
    return flow.inverse(move(batch, u), mask)


def from_scratch(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    stage: StageConfig,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> NFCoTReasoner:
    """Another training over the same codec: everything but the codec starts anew from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(reasoner.model)(reasoner.model.config)
    fresh.codec.load_state_dict(reasoner.model.codec.state_dict())
    start = NFCoTReasoner(fresh, reasoner.tokenizer)
    return continued(start, problems, stage, seed, freeze_flow=False, progress=progress)
