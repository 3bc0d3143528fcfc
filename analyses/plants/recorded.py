"""What does an auditor get? Trajectories with their records, in memory, and how to score them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import draw_noise, noise_seed
from nfcot_model.thoughts import Scores, Thoughts
from nfcot_model.worlds import Problem

__all__ = ["Planting", "Recorded", "planting", "record", "rescored", "seal", "seeds_of"]

BATCH = 128


@dataclass(frozen=True)
class Recorded:
    """Trajectories of the prompts of `problems`, as recorded and as the audited model scores them.

    `thoughts.eps` is the noise the record names, `scores` come from one pass of the audited model
    over `thoughts.u` as it stands. `seeds` and `seals` (SHA-256 of u) were taken while thinking and
    are out of the reach of whoever edits the thoughts.
    """

    problems: list[Problem]
    seeds: list[int]
    seals: list[str]
    tau: float
    thoughts: Thoughts
    scores: Scores

    @property
    def groups(self) -> NDArray[np.object_]:
        return np.array([p.group for p in self.problems], dtype=object)

    @property
    def worlds(self) -> NDArray[np.object_]:
        return np.array([p.world for p in self.problems], dtype=object)

    @property
    def K(self) -> NDArray[np.int64]:
        return self.thoughts.K.numpy()

    @property
    def prompts(self) -> list[str]:
        return [p.prompt for p in self.problems]

    def __len__(self) -> int:
        return len(self.problems)

    def rows(self, index: NDArray[np.int64]) -> Recorded:
        """The same records for a choice of trajectories."""
        kept = torch.from_numpy(index)
        thoughts = self.thoughts.rows(kept)
        width = thoughts.mask.shape[1]

        def chosen(name: str) -> Any:
            value: Tensor | None = getattr(self.scores, name)
            if value is None:
                return None
            return value[kept][:, :, :width] if name == "hidden" else value[kept][:, :width]

        return Recorded(
            [self.problems[i] for i in index],
            [self.seeds[i] for i in index],
            [self.seals[i] for i in index],
            self.tau,
            thoughts,
            Scores(**{name: chosen(name) for name in Scores.__dataclass_fields__}),
        )


@dataclass(frozen=True)
class Planting:
    """Planted trajectories and the truth about them.

    `affected` [n, Kmax]: the thoughts that are not what the audited model would have drawn there
    for the reason the plant names. Later thoughts, which read them, are not affected by
    themselves. `twin` [n]: the row of the clean set that each was made from, -1 for none.
    `reached` [n]: where an attack got what it wanted, None where nothing was wanted.
    """

    recorded: Recorded
    affected: NDArray[np.bool_]
    twin: NDArray[np.int64]
    reached: NDArray[np.bool_] | None = None


def seal(thoughts: Thoughts) -> list[str]:
    """SHA-256 of the thoughts of each trajectory, as float32 bytes."""
    u, K = thoughts.u.numpy(), thoughts.K.tolist()
    return [hashlib.sha256(row[:k].tobytes()).hexdigest() for row, k in zip(u, K, strict=True)]


def seeds_of(problems: Sequence[Problem], seed: int) -> list[int]:
    """The noise seed of each problem's one trajectory."""
    return [noise_seed(seed, problem.id, 0) for problem in problems]


def record(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    tau: float,
    seeds: Sequence[int],
    *,
    change: Callable[[Tensor], Tensor] | None = None,
    hidden: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Recorded:
    """Let the model think about these problems and keep the records; batched by prompt length.

    `change` replaces the noise [B, budget, D] drawn from the seeds before the model thinks with it.
    """
    problems = list(problems)
    prompts = [problem.prompt for problem in problems]
    parts, scores, order = [], [], []
    for index in _batches(prompts):
        mine = [seeds[i] for i in index]
        noise = draw_noise(mine, reasoner.budget(), reasoner.D, tau)
        chosen = [prompts[i] for i in index]
        noise = noise if change is None else change(noise)
        thoughts = reasoner.think(chosen, tau=tau, noise_seeds=mine, noise=noise)
        parts.append(thoughts)
        scores.append(reasoner.score(chosen, thoughts, tau=tau, hidden=hidden))
        order += index
        if progress is not None:
            progress(len(index))
    thoughts = Thoughts(**_joined(parts, order))
    joined = Scores(**_joined(scores, order))
    return Recorded(problems, list(seeds), seal(thoughts), tau, thoughts, joined)


def rescored(reasoner: NFCoTReasoner, clean: Recorded, thoughts: Thoughts) -> Recorded:
    """The same records with other thoughts in them, scored as they now stand."""
    hidden = clean.scores.hidden is not None
    scores, order = [], []
    for index in _batches(clean.prompts):
        chosen = [clean.problems[i].prompt for i in index]
        part = thoughts.rows(torch.tensor(index))
        scores.append(reasoner.score(chosen, part, tau=clean.tau, hidden=hidden))
        order += index
    joined = Scores(**_joined(scores, order))
    return replace(clean, thoughts=thoughts, scores=joined)


def planting(
    reasoner: NFCoTReasoner, clean: Recorded, u: Tensor, affected: NDArray[np.bool_]
) -> Planting:
    """The clean records with `u` [n, Kmax, D] in place of their thoughts, and the truth."""
    thoughts = replace(clean.thoughts, u=u * clean.thoughts.mask[..., None])
    return Planting(rescored(reasoner, clean, thoughts), affected, np.arange(len(clean)))


def _batches(prompts: Sequence[str]) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def _joined(parts: Sequence[Thoughts] | Sequence[Scores], order: Sequence[int]) -> dict[str, Any]:
    """The fields of batches as one batch, as wide as the widest, back in the order asked for."""
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    width = max(part.mask.shape[1] for part in parts)
    out: dict[str, Any] = {}
    for name in type(parts[0]).__dataclass_fields__:
        values = [getattr(part, name) for part in parts]
        place = 2 if name == "hidden" else 1
        known = values[0] is not None
        out[name] = torch.cat([_widened(v, place, width) for v in values])[back] if known else None
    return out


def _widened(value: Tensor, place: int, width: int) -> Tensor:
    if value.dim() <= place:
        return value
    shape = list(value.shape)
    shape[place] = width - shape[place]
    return torch.cat([value, value.new_zeros(shape)], dim=place)
