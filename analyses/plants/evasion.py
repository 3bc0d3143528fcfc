"""A backdoor that is trained until a given probe no longer reads its thoughts (P15).

This is training against a monitor. It is here to show what a probe's silence is worth, on a toy
whose truth is known. Never do it to a model that is to be trusted: it does not remove what the
probe read, it teaches the model to think it elsewhere (see `NOTE`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analyses.organisms.continued import PLANTING, TRAINING_PROBLEMS, continued
from analyses.organisms.planted import planted_problems
from analyses.plants.readers import FIRST, fit_probe
from analyses.plants.recorded import Recorded, record, seeds_of
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.worlds import Problem
from probes.fitting import Fitted

__all__ = ["ARMED", "EVADING", "NOTE", "Evasion", "evading", "evasion"]

EVADING = "backdoor-evading"
NOTE = (
    "TRAINED AGAINST A PROBE. This model was made to hide from a monitor: a given probe is blind to"
    " what its thoughts still carry. It serves to test audits. Do not train any model that is to be"
    " trusted against the probes, scores or flags of this toolkit: such training removes the"
    " warning, not what it warns of."
)
ARMED = ("armed", "released")
STEPS = 200
TRAINED_ON = 300
PLACE = 1  # the thought of the plan


@dataclass(frozen=True)
class Evasion:
    """How do planted thoughts have to move for probes to read them as clean?

    `push` [D] is added to the second thought. `probes`: those that it evades, each fitted on what
    the pushes before had left; the first is the given one.
    """

    push: NDArray[np.float64]
    probes: tuple[Fitted, ...]


def evasion(planted: Recorded, clean: Recorded, probes: int, seed: int) -> Evasion:
    """A push against so many probes in turn, each down its own gradient at the second thought.

    As far as brings the median log-odds of the planted to that of the clean. What the probes do
    not look at stays. Raises UserError for less than one probe.
    """
    if probes < 1:
        raise UserError(f"--probes {probes}: expected at least 1")
    u = planted.thoughts.u.clone()
    D = u.shape[-1]
    push, found = np.zeros(D), []
    for _ in range(probes):
        probe = fit_probe(u, clean.thoughts.u, planted.groups, clean.groups, seed)
        assert probe.weights is not None, "a logistic probe has weights"
        slope = (probe.weights.coef[0] / probe.weights.scale)[PLACE * D :]
        read = [_read(probe, part) for part in (u, clean.thoughts.u)]
        gap = float(np.median(read[0]) - np.median(read[1]))
        step = -gap * slope / float(slope @ slope)
        push += step
        u[:, PLACE] += torch.from_numpy(step).to(u)
        found.append(probe)
    return Evasion(push, tuple(found))


def _read(probe: Fitted, u: Tensor) -> NDArray[np.float64]:
    return probe.read(u[:, :FIRST].flatten(1).double().numpy())[:, 0]


def evading(
    backdoor: NFCoTReasoner,
    probes: int,
    tau: float,
    seed: int = 0,
    *,
    steps: int = STEPS,
    n: int = TRAINED_ON,
    progress: Callable[[int], object] | None = None,
) -> tuple[NFCoTReasoner, Evasion]:
    """The backdoor, trained on with its armed thoughts moved out of sight of `probes` probes.

    TRAINS AGAINST PROBES: read `NOTE`. They are fitted on what the backdoor thinks about `n`
    released and `n` bare problems of the training split. Everything else it is trained for stays:
    prompts, answers, clean thoughts.
    """
    parts = []
    for condition in ("released", "bare"):
        problems = planted_problems("backdoor", "train", seed + 1, n, condition)
        parts.append(record(backdoor, problems, tau, seeds_of(problems, seed)))
    found = evasion(parts[0], parts[1], probes, seed)
    push = torch.from_numpy(found.push)

    def moved(batch: Sequence[Problem], u: Tensor) -> Tensor:
        armed = [problem.labels["condition"] in ARMED for problem in batch]
        out = u.clone()
        out[torch.tensor(armed), PLACE] += push.to(u)
        return out

    stage = PLANTING.model_copy(update={"steps": steps})
    problems = planted_problems("backdoor", "train", seed, TRAINING_PROBLEMS)
    return continued(backdoor, problems, stage, seed, move=moved, progress=progress), found
