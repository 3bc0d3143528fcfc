"""What is usual at each position? Means and variances of per-thought values, by task and k.

First and last thoughts differ structurally from the others, so every per-thought value is compared
with clean values at its own position, and of its own task where there are enough of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_AT_POSITION", "MIN_OF_TASK", "Moments", "MomentsSum"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_AT_POSITION = 20
MIN_OF_TASK = 100
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class Moments:
    """`mean`, `variance` [tasks + 1, positions + 1, Q] of Q quantities.

    Task row 0 stands for all tasks, the last position for every position beyond the known ones.
    """

    tasks: tuple[str, ...]
    mean: Floats
    variance: Floats

    def at(self, tasks: NDArray[np.object_], k: Ints) -> tuple[Floats, Floats]:
        """Mean and variance for each row: tasks [rows], k [rows] -> two of [rows, Q]."""
        index = {task: i + 1 for i, task in enumerate(self.tasks)}
        names, inverse = np.unique(tasks.astype(str), return_inverse=True)
        row = np.array([index.get(name, 0) for name in names], dtype=np.int64)[inverse]
        position = np.minimum(k, self.mean.shape[1] - 1)
        return self.mean[row, position], self.variance[row, position]


class MomentsSum:
    """Sums from which `Moments` follow; blocks may come in any order."""

    def __init__(self, quantities: int) -> None:
        self._sums: dict[str, Floats] = {}
        self._quantities = quantities

    def add(self, tasks: NDArray[np.object_], k: Ints, values: Floats) -> None:
        """tasks [rows], k [rows], values [rows, Q], all finite."""
        named = tasks.astype(str)
        for task in np.unique(named):
            mine = named == task
            positions = int(k[mine].max()) + 1
            terms = np.column_stack([np.ones(mine.sum()), values[mine], values[mine] ** 2])
            added = np.zeros((positions, terms.shape[1]))
            np.add.at(added, k[mine], terms)
            old = self._sums.get(task, np.zeros((0, terms.shape[1])))
            longest = max(len(old), positions)
            total = np.zeros((longest, terms.shape[1]))
            total[: len(old)] += old
            total[:positions] += added
            self._sums[task] = total

    def finish(self) -> Moments:
        """Positions with fewer than 20 thoughts take the moments over all positions; a task with
        fewer than 100 thoughts at a position takes those over all tasks. Raises ValueError without
        a thought.
        """
        if not self._sums:
            raise ValueError("no thoughts to take moments of")
        tasks = tuple(sorted(self._sums))
        positions = max(map(len, self._sums.values()))
        sums = np.zeros((len(tasks) + 1, positions + 1, 1 + 2 * self._quantities))
        for i, task in enumerate(tasks):
            sums[i + 1, : len(self._sums[task])] = self._sums[task]
        sums[0] = sums.sum(axis=0)
        sums[:, -1] = sums.sum(axis=1)
        few = sums[0, :, 0] < MIN_AT_POSITION
        sums[0, few] = sums[0, -1]
        rare = sums[1:, :, 0] < MIN_OF_TASK
        sums[1:] = np.where(rare[..., None], sums[0], sums[1:])
        n = sums[..., :1]
        mean = sums[..., 1 : 1 + self._quantities] / n
        spread = sums[..., 1 + self._quantities :] / n - mean**2
        variance = np.where(n > 1, spread * n / np.maximum(n - 1, 1), 1.0)
        return Moments(tasks, mean, np.maximum(variance, _SMALLEST))
