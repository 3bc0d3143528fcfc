"""Another checkpoint of the same codec thinks, the audited one is said to have (P13).

Thoughts go over through the codec's latents: `e = F_other^-1(u)`, `u = F_audited(e)`. Where both
have the same flow that changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from analyses.organisms.continued import continued
from analyses.plants.recorded import Planting, Recorded, record, rescored
from analyses.reference import refuse_other_codec
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.training.config import StageConfig
from nfcot_model.worlds import make_world

__all__ = ["drifted", "thought_by"]

DRIFT = StageConfig(steps=0, batch=32, lr=5e-4, warmup=1, target_noise=0.15)
DRIFT_PROBLEMS = 2000


def thought_by(other: NFCoTReasoner, reasoner: NFCoTReasoner, clean: Recorded) -> Planting:
    """P13: `other` thought about the prompts, from the same seeds; `reasoner` is said to have.

    Raises UserError where they have not the same codec.
    """
    refuse_other_codec(reasoner, other)
    again = record(other, clean.problems, clean.tau, clean.seeds)
    u = again.thoughts.u
    if not _same_flow(other, reasoner):
        e = other.decode(again.thoughts).e
        u = reasoner.from_latents(e, again.thoughts.mask).u
    scored = rescored(reasoner, again, replace(again.thoughts, u=u))
    foreign = not torch.equal(u, clean.thoughts.u)
    affected = again.thoughts.mask.numpy() & foreign
    return Planting(scored, affected, np.arange(len(clean)))


def _same_flow(a: NFCoTReasoner, b: NFCoTReasoner) -> bool:
    one, two = a.model.flow.state_dict(), b.model.flow.state_dict()
    return all(torch.equal(value, two[name]) for name, value in one.items())


def drifted(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P13: the audited checkpoint, trained on for `severity` steps, thought about the prompts.

    On problems of the clean set's first world alone. Codec and flow stay as they are.
    """
    world = sorted(set(clean.worlds))[0]
    problems = make_world(world, "train", seed, DRIFT_PROBLEMS)
    stage = DRIFT.model_copy(update={"steps": int(severity)})
    return thought_by(continued(reasoner, problems, stage, seed), reasoner, clean)
