"""Is a thought still there, in affine form, in the states of a layer? `h → e → text`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nfcot_model.errors import UserError

__all__ = ["LEAST_GROUPS", "cross_fitted", "shuffled_within"]

LEAST_GROUPS = 8
ALPHAS = tuple(10.0**power for power in range(-2, 5))

Floats = NDArray[np.float64]


def cross_fitted(h: Floats, e: Floats, groups: NDArray[np.object_], seed: int) -> Floats:
    """Which latents [n, D] does an affine map of the states [n, d_model] predict, unseen groups?

    Two ridge maps, each fitted on one half of the groups (strength by leave-one-out) and applied to
    the other. Raises UserError below `LEAST_GROUPS` groups.
    """
    names = np.unique(groups.astype(str))
    if names.size < LEAST_GROUPS:
        raise UserError(
            f"--lens affine: is fitted on one half of the problem groups and read on the other,"
            f" these traces have {names.size}; give at least {LEAST_GROUPS}"
        )
    half = np.random.default_rng(seed).permutation(names)[: names.size // 2]
    first = np.isin(groups.astype(str), half)
    told = np.empty_like(e)
    for fitted in (first, ~first):
        ridge = make_pipeline(StandardScaler(), RidgeCV(ALPHAS))
        told[~fitted] = ridge.fit(h[fitted], e[fitted]).predict(h[~fitted])
    return told


def shuffled_within(e: Floats, k: NDArray[np.int64], seed: int) -> Floats:
    """The latents exchanged among thoughts of the same index: a map to these knows k at most."""
    rng = np.random.default_rng(seed)
    mixed = e.copy()
    for index in np.unique(k):
        rows = np.flatnonzero(k == index)
        mixed[rows] = e[rng.permutation(rows)]
    return mixed
