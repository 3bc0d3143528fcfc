"""Where do the thoughts lie in two dimensions, and which of them are drawn?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["CAP", "Projection", "project", "stratified_sample"]

CAP = 50_000
"""Points drawn at most: beyond it a browser with software rendering stops being interactive."""


@dataclass(frozen=True)
class Projection:
    """The two leading principal components of a cloud of thoughts.

    A view only: distances in it are not distances in the D-dimensional space, and nothing may be
    flagged from it.
    """

    xy: np.ndarray  # [n, 2]
    explained: tuple[float, float]  # shares of the total variance


def project(space: np.ndarray) -> Projection:
    """Which plane keeps most of the variance of `space` [n, D]? All thoughts, all k, pooled.

    Deterministic. Fewer than two thoughts or a single dimension leave the missing axes at 0.
    Rows that are not finite are placed at NaN and do not take part in the fit.
    """
    from sklearn.decomposition import PCA

    n, D = space.shape
    finite = np.isfinite(space).all(axis=1)
    xy = np.zeros((n, 2))
    xy[~finite] = np.nan
    components = min(2, D)
    if finite.sum() < 2 or components == 0:
        return Projection(xy, (0.0, 0.0))
    rows = space[finite].astype(np.float64)
    if not rows.std(axis=0).any():
        return Projection(xy, (0.0, 0.0))
    pca = PCA(n_components=components, svd_solver="covariance_eigh").fit(rows)
    xy[finite, :components] = pca.transform(rows)
    shares = [*pca.explained_variance_ratio_, 0.0]
    return Projection(xy, (float(shares[0]), float(shares[1])))


def stratified_sample(strata: pd.Series, cap: int = CAP, seed: int = 0) -> np.ndarray:
    """Which rows stand for all of them? Sorted row numbers, at most `cap`.

    Every stratum keeps its share, rounded by largest remainders, and no stratum disappears as
    long as there are at most `cap` of them. The same input and seed give the same rows.
    """
    n = len(strata)
    if n <= cap:
        return np.arange(n)
    codes, _ = pd.factorize(strata, use_na_sentinel=False)
    sizes = np.bincount(codes)
    ideal = sizes * (cap / n)
    quota = np.floor(ideal).astype(int)
    if len(sizes) <= cap:
        quota = np.maximum(quota, 1)
    spare = cap - quota.sum()
    if spare > 0:
        quota[np.argsort(quota - ideal, kind="stable")[:spare]] += 1
    for _ in range(-spare):
        quota[np.argmax(quota)] -= 1
    generator = np.random.default_rng(seed)
    chosen = [
        generator.choice(np.flatnonzero(codes == code), size=take, replace=False)
        for code, take in enumerate(quota)
    ]
    return np.sort(np.concatenate(chosen))
