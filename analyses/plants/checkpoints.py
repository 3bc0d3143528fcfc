"""Another checkpoint of the same codec thinks, the audited one is said to have (P13).

Thoughts go over through the codec's latents: `e = F_other^-1(u)`, `u = F_audited(e)`. Where both
have the same flow that changes nothing.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from analyses.plants.recorded import Planting, Recorded, record, rescored
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.training.collate import joint_batch
from nfcot_model.training.config import StageConfig
from nfcot_model.training.optim import make_optimizer, set_rate
from nfcot_model.worlds import Problem, make_world

__all__ = ["continued", "drifted", "from_scratch", "thought_by"]

DRIFT = StageConfig(steps=0, batch=32, lr=5e-4, warmup=1, target_noise=0.15)
DRIFT_PROBLEMS = 2000


def drifted(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P13: the audited checkpoint after `severity` more steps, on problems of the first world
    of the clean set alone, thought about all of them. Codec and flow stay.
    """
    world = sorted(set(clean.worlds))[0]
    problems = make_world(world, "train", seed, DRIFT_PROBLEMS)
    stage = DRIFT.model_copy(update={"steps": int(severity)})
    return thought_by(continued(reasoner, problems, stage, seed), reasoner, clean)


def thought_by(other: NFCoTReasoner, reasoner: NFCoTReasoner, clean: Recorded) -> Planting:
    """P13: `other` thought about the prompts, from the same seeds; `reasoner` is said to have.

    Raises nothing where the codecs differ, but then the figures mean nothing.
    """
    again = record(other, clean.problems, clean.tau, clean.seeds)
    mask = again.thoughts.mask
    carried = reasoner.from_latents(other.decode(again.thoughts).e, mask).u
    if _same_flow(other, reasoner):
        carried = again.thoughts.u
    scored = rescored(reasoner, again, replace(again.thoughts, u=carried))
    foreign = not torch.equal(carried, clean.thoughts.u)
    return Planting(scored, mask.numpy() & foreign, torch.arange(len(clean)).numpy())


def _same_flow(a: NFCoTReasoner, b: NFCoTReasoner) -> bool:
    one, two = a.model.flow.state_dict(), b.model.flow.state_dict()
    return all(torch.equal(value, two[name]) for name, value in one.items())


def continued(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    stage: StageConfig,
    seed: int,
    *,
    freeze_flow: bool = True,
    progress: Callable[[int], object] | None = None,
) -> NFCoTReasoner:
    """The reasoner after `stage.steps` more joint steps on these problems; the codec is frozen.

    The given reasoner is not changed. Batches are drawn by `seed`.
    """
    model = copy.deepcopy(reasoner.model)
    model.codec.requires_grad_(False)
    model.flow.requires_grad_(not freeze_flow)
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
            layout, e = joint_batch(trained, rng.choices(problems, k=stage.batch), "nfcot")
            out = model(**vars(layout), e=e, target_noise=stage.target_noise)
            optimizer.zero_grad()
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip)
            optimizer.step()
            if progress is not None:
                progress(1)
    model.eval().requires_grad_(True)
    return trained


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
