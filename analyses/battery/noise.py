"""What noise do thoughts stand for? The arrays that every statistic of the battery starts from.

`x = eps / tau` with `eps = (u - mu) / sigma`, recomputed from the stored thoughts under the scorer
whose `mu, sigma` are on record. Under the scorer itself `x ~ N(0, I_D)`. Trajectories differ in K:
thoughts are rows, one after another, and `K` says whose they are. There is no padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_VALUES", "Noise", "joined"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_VALUES = 2**19


@dataclass(frozen=True, eq=False)
class Noise:
    """Noise of n trajectories, rows = K.sum() thoughts, trajectory after trajectory.

    `x` [rows, D]: eps / tau under the scorer. `K` [n]. `ids`, `groups`, `tasks` [n]: a name, the
    problem group (samples of one problem share it) and the task (world) of each trajectory.
    `logvol` [rows]: -sum log sigma, None where it is not known. `replay_error` [n]: the largest
    |eps recomputed - eps as drawn| of a trajectory, None where there is no record. `stored_energy`
    [rows]: what the run's table says. `features` [rows, F]: any vector per thought. `extra`:
    further per-trajectory statistics [n], higher = stranger, by name. `tau`: what eps was
    divided by. A value that is not a number makes its trajectory invalid; it is never dropped.
    """

    x: NDArray[np.floating]
    K: Ints
    ids: NDArray[np.object_]
    groups: NDArray[np.object_]
    tasks: NDArray[np.object_]
    logvol: Floats | None = None
    replay_error: Floats | None = None
    stored_energy: Floats | None = None
    features: NDArray[np.floating] | None = None
    extra: dict[str, Floats] = field(default_factory=dict)
    tau: float = 1.0

    @classmethod
    def of(
        cls,
        eps: NDArray[np.floating],
        K: NDArray[np.integer] | int,
        *,
        tau: float = 1.0,
        logvol: NDArray[np.floating] | None = None,
        tasks: NDArray[np.object_] | None = None,
        features: NDArray[np.floating] | None = None,
        name: str = "",
    ) -> Noise:
        """From plain arrays. eps: [rows, D] with K [n], or [n, K, D] with all K alike.

        Raises ValueError when the rows are not those of K.
        """
        values = np.asarray(eps)
        if values.ndim == 3:
            counts = np.full(values.shape[0], values.shape[1], dtype=np.int64)
            values = values.reshape(-1, values.shape[-1])
            flat = [None if a is None else np.asarray(a) for a in (logvol, features)]
            logvol = None if flat[0] is None else flat[0].reshape(-1)
            features = None if flat[1] is None else flat[1].reshape(values.shape[0], -1)
        else:
            counts = np.asarray(K, dtype=np.int64)
        if counts.sum() != len(values):
            raise ValueError(f"{len(values)} rows of eps for {counts.sum()} thoughts")
        n = counts.size
        ids = np.array([f"{name}{i}" for i in range(n)], dtype=object)
        return cls(
            x=values / tau,
            K=counts,
            ids=ids,
            groups=ids,
            tasks=np.full(n, "all", dtype=object) if tasks is None else np.asarray(tasks, object),
            logvol=None if logvol is None else np.asarray(logvol, dtype=np.float64),
            features=features,
            tau=tau,
        )

    @property
    def n(self) -> int:
        return int(self.K.size)

    @property
    def D(self) -> int:
        return int(self.x.shape[1])

    @cached_property
    def first(self) -> Ints:
        """The row of each trajectory's first thought, [n]."""
        return np.cumsum(self.K) - self.K

    @cached_property
    def owner(self) -> Ints:
        """Whose thought is each row? [rows]"""
        return np.repeat(np.arange(self.n), self.K)

    @cached_property
    def k(self) -> Ints:
        """Position of each row in its trajectory, [rows]."""
        return np.arange(len(self.x)) - self.first[self.owner]

    def take(self, keep: NDArray[np.bool_]) -> Noise:
        """These trajectories only, `keep` [n] bool."""
        rows = keep[self.owner]

        def some(values: NDArray | None) -> NDArray | None:
            return None if values is None else values[rows]

        return Noise(
            self.x[rows],
            self.K[keep],
            self.ids[keep],
            self.groups[keep],
            self.tasks[keep],
            some(self.logvol),
            None if self.replay_error is None else self.replay_error[keep],
            some(self.stored_energy),
            some(self.features),
            {name: values[keep] for name, values in self.extra.items()},
            self.tau,
        )

    def blocks(self) -> Iterator[Noise]:
        """The same trajectories in blocks of bounded size, whole trajectories each."""
        ends = np.cumsum(self.K) * self.D // BLOCK_VALUES
        for block in np.unique(ends):
            yield self.take(ends == block)


def joined(parts: list[Noise]) -> Noise:
    """All trajectories of these, in order. The parts must have the same fields."""
    if len(parts) == 1:
        return parts[0]

    def all_of(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    names = (
        "x", "K", "ids", "groups", "tasks", "logvol", "replay_error", "stored_energy", "features",
    )  # fmt: skip
    extra = {k: np.concatenate([part.extra[k] for part in parts]) for k in parts[0].extra}
    values: dict[str, Any] = {name: all_of(name) for name in names}
    return replace(parts[0], **values, extra=extra)
