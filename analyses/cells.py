"""Which trajectories are compared with which? Cells of task x length, and what to do when small.

A cell is used only where enough clean trajectories are in it. Otherwise its trajectories are
compared with the next coarser one: task x length bucket, then task, then all. The buckets of K are
fixed in advance, so that no choice depends on the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALL", "HIERARCHY", "assign_cells", "cell_levels", "large_cells"]

ALL = "all"
HIERARCHY = ("task x length bucket", "task", "all")
_STARTS = np.array([0, 1, 2, 4, 6, 9, 17, 33, 65, 129, 257, 513])


def cell_levels(tasks: NDArray[np.object_], K: NDArray[np.int64]) -> list[NDArray[np.object_]]:
    """Which cell of each level is a trajectory in? Three arrays [n] of names, finest first."""
    at = np.searchsorted(_STARTS, K, side="right") - 1
    ends = [*(_STARTS[1:] - 1), ""]
    spans = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(_STARTS, ends, strict=True)]
    fine = [f"task {task}, K {spans[i]}" for task, i in zip(tasks, at, strict=True)]
    coarse = [f"task {task}" for task in tasks]
    return [np.array(names, dtype=object) for names in (fine, coarse, [ALL] * len(fine))]


def large_cells(levels: list[NDArray[np.object_]], minimum: int) -> list[str]:
    """Which cells hold at least `minimum` of these trajectories? `all` always counts."""
    found = [name for names in levels[:-1] for name, n in Counter(names).items() if n >= minimum]
    return [*sorted(found), ALL]


def assign_cells(levels: list[NDArray[np.object_]], usable: Iterable[str]) -> NDArray[np.object_]:
    """The finest usable cell of each trajectory, [n]."""
    allowed = set(usable)
    chosen = levels[-1].copy()
    for names in reversed(levels[:-1]):
        fits = np.array([name in allowed for name in names], dtype=bool)
        chosen[fits] = names[fits]
    return chosen
