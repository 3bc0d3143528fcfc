"""What an intervention starts from: traces as they were drawn, and the crowd they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = ["Crowd", "Scene"]


@dataclass(frozen=True)
class Crowd:
    """The thoughts of a whole run: where donors and means come from.

    u [N, K, D], mask [N, K]; `problems` are what each trace is about, `solved` says whose own
    answer was right.
    """

    u: Tensor
    mask: Tensor
    problems: Sequence[Problem]
    solved: Sequence[bool]

    @property
    def K(self) -> Tensor:
        return self.mask.sum(-1)

    def mean(self) -> Tensor:
        """The mean thought at each index, [K, D]."""
        count = self.mask.sum(0).clamp(min=1)
        return (self.u * self.mask[..., None]).sum(0) / count[:, None]


@dataclass(frozen=True)
class Scene:
    """A batch of traces about to be interfered with. Row i of everything is one trace.

    `noise` [B, budget, D] is the noise each trace was drawn with, past its K too, so that a
    trace re-sampled without an edit is the trace itself. `own` [B] are the rows in the crowd.
    """

    reasoner: NFCoTReasoner
    problems: Sequence[Problem]
    thoughts: Thoughts
    noise: Tensor
    tau: float
    crowd: Crowd
    own: Tensor

    @property
    def prompts(self) -> list[str]:
        return [problem.prompt for problem in self.problems]

    def __len__(self) -> int:
        return len(self.problems)

    def rows(self, index: Tensor) -> Scene:
        """The same for a choice of rows, repeated or not."""
        return Scene(
            self.reasoner,
            [self.problems[i] for i in index.tolist()],
            self.thoughts.rows(index),
            self.noise[index],
            self.tau,
            self.crowd,
            self.own[index],
        )

    def places(self) -> Tensor:
        """Every (row, k) that is a thought, [P, 2]."""
        return self.thoughts.mask.nonzero()

    def at(self, values: Tensor, k: Tensor) -> Tensor:
        """Row i's value at thought k[i], [B, D] of [B, K, D]."""
        return values[torch.arange(len(self)), k]
