"""What an intervention starts from: traces as they were drawn, and the crowd they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfcot_model.reasoners import Reasoner
from nfcot_model.reasoners.continuing import Continuation, feed_thoughts
from nfcot_model.thoughts import Thoughts
from nfcot_model.worlds import Problem

__all__ = ["Branch", "Crowd", "Scene", "set_scene", "state_of"]


@dataclass(frozen=True)
class Crowd:
    """The thoughts of a whole run: where donors and means come from.

    u [N, K, D], mask [N, K]; `problems` are what each trace is about, `solved` says whose own
    answer was right. `slots` thoughts stand for one step; None when all of them together stand for
    the whole reasoning, so that no thought has a step of its own.
    """

    u: Tensor
    mask: Tensor
    problems: Sequence[Problem]
    solved: Sequence[bool]
    slots: int | None = 1

    @property
    def K(self) -> Tensor:
        return self.mask.sum(-1)

    @cached_property
    def mean(self) -> Tensor:
        """The mean thought at each index, [K, D]."""
        count = self.mask.sum(0).clamp(min=1)
        return (self.u * self.mask[..., None]).sum(0) / count[:, None]

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """A number per problem group, [N]."""
        return np.unique([p.group for p in self.problems], return_inverse=True)[1]

    @cached_property
    def worlds(self) -> NDArray[np.int64]:
        """A number per world, [N]."""
        return np.unique([p.world for p in self.problems], return_inverse=True)[1]

    @cached_property
    def states(self) -> NDArray[np.int64]:
        """A number per thing that a thought's true step says, [N, K]; -1 where that is not known.

        Nor is it in a trace whose answer is wrong: what it thought need not be the true step.
        """
        return self._numbered([[state_of(s) for s in p.steps] for p in self.problems])

    def labelled(self, label: str | None) -> NDArray[np.int64]:
        """A number per value of a step label, [N, K]; -1 where there is none, as in `states`.

        None takes the first label that each problem's steps have.
        """

        def value(labels: dict[str, Any]) -> str | None:
            name = next(iter(labels), None) if label is None else label
            return None if name not in labels else f"{name}={labels[name]}"

        return self._numbered([[value(labels) for labels in p.step_labels] for p in self.problems])

    def _numbered(self, rows: Sequence[Sequence[str | None]]) -> NDArray[np.int64]:
        numbers: dict[str, int] = {}
        out = np.full(self.mask.shape, -1)
        if self.slots is None:
            return out
        for i in np.flatnonzero(self.solved):
            said = rows[int(i)]
            for k in range(min(int(self.K[i]), self.slots * len(said))):
                value = said[k // self.slots]
                if value is not None:
                    out[i, k] = numbers.setdefault(value, len(numbers))
        return out


@dataclass(frozen=True)
class Branch:
    """What was thought instead, and the stream behind it, from which an answer can follow."""

    thoughts: Thoughts
    stream: Continuation


@dataclass(frozen=True)
class Scene:
    """A batch of traces about to be interfered with (`set_scene`); row i of everything is one.

    `noise` [B, budget, ...] is what each trace was drawn with (`Reasoner.noise_of`), past its K
    too, so that a trace re-sampled without an edit is the trace itself. `thoughts` have `eps`, `mu`
    and `log_sigma` where the reasoner has a density. `own` [B] are the rows in the crowd. `opened`
    are the streams behind the prompts, `place` [B] says which of them is whose.
    """

    reasoner: Reasoner
    problems: Sequence[Problem]
    thoughts: Thoughts
    noise: Tensor
    tau: float
    crowd: Crowd
    own: Tensor
    opened: Continuation
    place: Tensor

    @property
    def prompts(self) -> list[str]:
        return [problem.prompt for problem in self.problems]

    def __len__(self) -> int:
        return len(self.problems)

    def rows(self, index: Tensor) -> Scene:
        """The same for a choice of rows, repeated or not."""
        return replace(
            self,
            problems=[self.problems[i] for i in index.tolist()],
            thoughts=self.thoughts.rows(index),
            noise=self.noise[index],
            own=self.own[index],
            place=self.place[index],
        )

    def places(self) -> Tensor:
        """Every (row, k) that is a thought, [P, 2]."""
        return self.thoughts.mask.nonzero()

    def at(self, values: Tensor, k: Tensor) -> Tensor:
        """Row i's value at thought k[i], [B, D] of [B, K, D]."""
        return values[torch.arange(len(self)), k]

    def given(self, u: Tensor, mask: Tensor) -> Branch:
        """These thoughts [B, K, D] instead, with no thinking after them."""
        stream: Continuation = self.opened.rows(self.place)
        feed_thoughts(self.reasoner, stream, u, mask)
        return Branch(Thoughts.given(u, mask), stream)

    def rethought(self, u: Tensor, kept: Tensor) -> Branch:
        """The first kept[i] thoughts of `u`, and what the model thinks after them.

        With the noise that the trace was drawn with, so whatever differs follows from `u`.
        """
        mask = torch.arange(u.shape[1]) < kept[:, None]
        return self.thought_on(self.given(u, mask).stream, u, kept)

    def thought_on(self, stream: Continuation, u: Tensor, kept: Tensor) -> Branch:
        """What is thought behind a stream that holds kept[i] thoughts of `u` already."""
        return Branch(self.reasoner.think_on(stream, self.noise, u, kept), stream)


def set_scene(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    thoughts: Thoughts,
    noise: Tensor,
    tau: float,
    crowd: Crowd,
    own: Tensor,
) -> Scene:
    """A scene of these traces, their prompts read once for all that is going to happen to them."""
    opened = reasoner.open_prompts([problem.prompt for problem in problems])
    place = torch.arange(len(problems))
    return Scene(reasoner, problems, thoughts, noise, tau, crowd, own, opened, place)


def state_of(step: str) -> str:
    """What a step says, without its number (`#3 4x+7` says `4x+7`)."""
    return step.split(" ", 1)[1] if step.startswith("#") and " " in step else step
