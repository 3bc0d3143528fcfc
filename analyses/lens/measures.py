"""How often does a lens say something true, by thought index, and how often by chance?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.intervals import Estimate, cluster_means

__all__ = ["Place", "estimates", "measured"]

Place = tuple[str, int | None]
"""A lens and its layer (None where a lens has none)."""

SHARES = ("hit", "floor", "trip", "changed", "only")


def measured(
    thoughts: pd.DataFrame, values: Mapping[Place, pd.DataFrame], seed: int
) -> list[dict[str, Any]]:
    """Every measure of every lens and layer: over all thoughts, by index, and from the end.

    `thoughts` has `group`, `k` and `back`; `values` columns in [-1, 1] aligned with it, NaN where a
    measure does not apply. Each entry has `lens`, `layer`, `at` ("all", "k" or "back"), `index`
    (None for all), `n` thoughts there, their `groups`, and `metrics`: name -> value, low, high
    (95 % cluster bootstrap) and `n`, the thoughts that have the measure.
    """
    names = [(place, str(name)) for place, frame in values.items() for name in frame]
    whole = np.concatenate([frame.to_numpy(dtype=float) for frame in values.values()], axis=1)
    entries = []
    for at, index, rows in _cells(thoughts):
        groups = thoughts["group"].to_numpy(dtype=object)[rows]
        part = whole[rows]
        counts = np.isfinite(part).sum(axis=0)
        found = {
            name: estimate.to_dict() | {"n": int(n)}
            for name, estimate, n in zip(
                names, estimates(part, groups, seed, _shares(names)), counts, strict=True
            )
        }
        for place in values:
            metrics = {name: found[own, name] for own, name in names if own == place}
            entries.append(
                {
                    "lens": place[0],
                    "layer": place[1],
                    "at": at,
                    "index": index,
                    "n": len(rows),
                    "groups": len(set(groups)),
                    "metrics": metrics,
                }
            )
    return entries


def _cells(thoughts: pd.DataFrame) -> Iterator[tuple[str, int | None, NDArray[np.int64]]]:
    yield "all", None, np.arange(len(thoughts))
    for at in ("k", "back"):
        for value in sorted(set(thoughts[at])):
            yield at, int(value), np.flatnonzero(thoughts[at] == value)


def _shares(names: Sequence[tuple[Place, str]]) -> NDArray[np.bool_]:
    return np.array([name.rpartition("_")[2] in SHARES for _, name in names])


def estimates(
    values: NDArray[np.float64],
    groups: NDArray[np.object_],
    seed: int,
    shares: NDArray[np.bool_],
) -> list[Estimate]:
    """The mean of each column [n, columns] with its 95 % interval over groups; NaN are left out.

    A share (`shares` [columns]) that is 0 or 1 throughout ends where the exact binomial interval
    over the groups does, instead of having a width of zero.
    """
    found = cluster_means({str(i): column for i, column in enumerate(values.T)}, groups, seed)
    result = list(found.values())
    for i, estimate in enumerate(result):
        if shares[i] and estimate.value in (0.0, 1.0):
            least = 0.025 ** (1 / len(set(groups[np.isfinite(values[:, i])])))
            ends = (least, 1.0) if estimate.value else (0.0, 1.0 - least)
            result[i] = Estimate(estimate.value, *ends)
    return result
