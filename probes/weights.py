"""A fitted probe as plain arrays: applying one needs numpy and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.files import content_hash

__all__ = ["Features", "Weights"]

Floats = NDArray[np.floating]
Features = Floats | Sequence[Floats]
"""One vector per trace [n, D], or for attention pooling all its thoughts, n times [K, D]."""


@dataclass(frozen=True)
class Weights:
    """`scores = ((x - mean) / scale) @ coef.T + intercept`, C outputs.

    With a `query`, x is first pooled over the thoughts of a trace, each weighted by the softmax of
    `query . (x - mean) / scale`. Two classes have one output, the log-odds of the second (before
    calibration); more have a logit each; a number is itself.
    """

    mean: NDArray[np.float64]  # [D]
    scale: NDArray[np.float64]  # [D]
    coef: NDArray[np.float64]  # [C, D]
    intercept: NDArray[np.float64]  # [C]
    query: NDArray[np.float64] | None = None  # [D]

    def scores(self, X: Features) -> NDArray[np.float64]:
        """What does the probe say of each trace? [n, C]"""
        if self.query is None:
            x = self._standardised(X)
        else:
            x = np.stack([_pooled(self._standardised(one), self.query) for one in X])
        return np.asarray(x @ self.coef.T + self.intercept)

    def _standardised(self, X: Features) -> NDArray[np.float64]:
        return np.asarray((np.asarray(X, dtype=np.float64) - self.mean) / self.scale)

    @property
    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """The arrays that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def hash(self) -> str:
        """Are two probes the same to the last bit?"""
        return content_hash({name: value.tolist() for name, value in self.arrays.items()})


def _pooled(x: NDArray[np.float64], query: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of thoughts [K, D], weighted by the softmax of what the query finds in each. [D]"""
    found = x @ query
    weight = np.exp(found - found.max())
    return np.asarray(weight @ x / weight.sum())
