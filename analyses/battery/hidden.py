"""How far are hidden states from clean ones? Distances in the space of any vector per thought.

`maha`: squared Mahalanobis distance of a trajectory's mean state (the covariance is
shrunk where traces are few). `rel_maha`:
mean over thoughts of the distance to the mean state at that position, less the distance to the mean
of all positions (Ren et al. 2021, classes = positions). `knn`: distance of the mean state, scaled
to unit length, to its tenth nearest clean one. These distances do not condition on the prompt, so
another prompt's thoughts look usual to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.neighbors import NearestNeighbors

from analyses.battery.noise import Noise

__all__ = ["HIDDEN_STATISTICS", "HiddenReference", "fit_hidden"]

Floats = NDArray[np.float64]

HIDDEN_STATISTICS = ("maha", "rel_maha", "knn")
NEIGHBOURS = 10
MIN_AT_POSITION = 20
SAMPLES_PER_WIDTH = 10


@dataclass(frozen=True, eq=False)
class HiddenReference:
    """`pooled` [n, F]: clean mean states. `positions` [P + 1, F]: mean per position, last = all.

    `precision`, `within`, `total` [F, F]: of the mean states, of thoughts about their position's
    mean, of all thoughts.
    """

    pooled: Floats
    positions: Floats
    precision: Floats
    within: Floats
    total: Floats

    @cached_property
    def _neighbours(self) -> NearestNeighbors:
        size = min(NEIGHBOURS, len(self.pooled))
        return NearestNeighbors(n_neighbors=size).fit(_unit(self.pooled))

    def score(self, noise: Noise) -> dict[str, Floats]:
        """The three statistics, [n] each; NaN without thoughts. Needs `noise.features`."""
        states = np.nan_to_num(np.asarray(noise.features, dtype=np.float64))
        thinking = noise.K > 0
        pooled = _pooled(noise, states)
        found = {name: np.full(noise.n, np.nan) for name in HIDDEN_STATISTICS}
        if thinking.any():
            away = pooled[thinking] - self.pooled.mean(axis=0)
            found["maha"][thinking] = _square(away, self.precision)
            nearest, _ = self._neighbours.kneighbors(_unit(pooled[thinking]))
            found["knn"][thinking] = nearest[:, -1]
        at = np.minimum(noise.k, len(self.positions) - 1)
        relative = _square(states - self.positions[at], self.within)
        relative -= _square(states - self.positions[-1], self.total)
        mean = np.bincount(noise.owner, weights=relative, minlength=noise.n)
        found["rel_maha"][thinking] = mean[thinking] / noise.K[thinking]
        return found


def fit_hidden(noise: Noise) -> HiddenReference:
    """What do clean hidden states look like? Needs `noise.features`, finite, and two trajectories.

    Raises ValueError otherwise.
    """
    states = np.asarray(noise.features, dtype=np.float64)
    thinking = noise.K > 0
    if not np.isfinite(states).all() or thinking.sum() < 2:
        raise ValueError("hidden states must be finite, of at least two trajectories")
    pooled = _pooled(noise, states)[thinking]
    everywhere = states.mean(axis=0)
    positions = [
        states[noise.k == k].mean(axis=0) if (noise.k == k).sum() >= MIN_AT_POSITION else everywhere
        for k in range(int(noise.k.max()) + 1)
    ]
    means = np.array([*positions, everywhere])
    return HiddenReference(
        pooled=pooled,
        positions=means,
        precision=_precision(pooled),
        within=_precision(states - means[noise.k]),
        total=_precision(states),
    )


def _precision(rows: Floats) -> Floats:
    """Of the covariance; shrunk (Ledoit-Wolf) where there are fewer than ten rows per width.

    Shrinkage is towards a sphere: with many rows it would only blunt the narrow directions.
    """
    few = len(rows) < SAMPLES_PER_WIDTH * rows.shape[1]
    model = LedoitWolf() if few else EmpiricalCovariance()
    return np.asarray(model.fit(rows).precision_, dtype=np.float64)


def _pooled(noise: Noise, states: Floats) -> Floats:
    sums = np.zeros((noise.n, states.shape[1]))
    np.add.at(sums, noise.owner, states)
    return sums / np.maximum(noise.K, 1)[:, None]


def _unit(values: Floats) -> Floats:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _square(away: Floats, precision: Floats) -> Floats:
    return np.einsum("ij,ij->i", away @ precision, away)
