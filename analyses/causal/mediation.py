"""Does an edit work through the directions that a probe reads? Swaps restricted to subspaces."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from analyses.causal.edits import donors, edited
from analyses.causal.interventions import BATCH, Base, compare, seeds_of
from analyses.causal.scene import Crowd, Scene
from nfcot_model.sampling import draw_noise, noise_seed

__all__ = ["PARTS", "mediations", "probe_subspace"]

PARTS = ("all", "probe", "rest", "random", "variance")
MIN_GROUPS = 3


def mediations(
    scene: Scene, base: Base, label: str | None, seed: int = 0, mode: str = "total"
) -> pd.DataFrame:
    """How much of a swap's effect goes through what a probe reads?

    Thought k is moved towards that of a donor with another value of `label` (`Crowd.labelled`), by
    the whole difference (`part` = all), or only by its projection on the directions that a logistic
    probe for the label reads (`probe`), on their complement (`rest`), on as many random directions
    (`random`) or on those in which thoughts vary most (`variance`). Rows: trace × thought × part,
    with `dimensions` of the subspace, `share` of the squared distance it keeps, and the measures
    of `compare`. Probes are fitted on traces of groups outside this scene; where their labels
    are too few there is no row. An effect of the probe's part shows that these directions carry it,
    not that the label is what they mean to the model.
    """
    crowd, rng = scene.crowd, seed
    codes = crowd.labelled(label)
    rows, k = scene.places().unbind(-1)
    frames = []
    spaces = _spaces(scene, codes)
    for some in torch.arange(len(rows)).split(BATCH):
        index, at = rows[some], k[some]
        here = scene.rows(index)
        seeds = seeds_of(here, at, "mediation", rng)
        giver = donors(here, at, seeds)
        own, theirs = codes[here.own, at], codes[giver.clamp(min=0), at]
        fits = (giver >= 0).numpy() & (own >= 0) & (theirs >= 0) & (own != theirs)
        fits &= np.array([_key(here, i, int(at[i])) in spaces for i in range(len(here))])
        done = torch.from_numpy(np.flatnonzero(fits))
        if not len(done):
            continue
        here, index, at, giver = here.rows(done), index[done], at[done], giver[done]
        u = here.at(here.thoughts.u, at)
        delta = crowd.u[giver, at] - u
        for part in PARTS:
            kept = torch.zeros_like(delta)
            sizes = []
            for i in range(len(here)):
                space = spaces[_key(here, i, int(at[i]))]
                basis = _basis(part, space, noise_seed(seeds[int(done[i])], part))
                kept[i] = delta[i] if basis is None else delta[i] @ basis @ basis.T
                if part == "rest":
                    kept[i] = delta[i] - kept[i]
                sizes.append(u.shape[-1] if basis is None else basis.shape[1])
            effect = compare(here, base, index, edited(here, at, u + kept, mode))
            frames.append(
                pd.DataFrame(
                    {
                        "row": index.numpy(),
                        "k": at.numpy(),
                        "part": part,
                        "mode": mode,
                        "dimensions": sizes,
                        "share": (kept.square().sum(-1) / delta.square().sum(-1)).numpy(),
                        **effect,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def probe_subspace(X: np.ndarray, y: np.ndarray, dimensions: int | None = None) -> Tensor:
    """An orthonormal basis [D, r] of the directions that a logistic probe for `y` [n] reads in X.

    The weight rows, in the units of X and without their mean (which changes no decision); r is
    their rank, at most `dimensions`.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(X, y)
    weights = probe[-1].coef_ / probe[0].scale_
    centred = weights if len(weights) == 1 else weights - weights.mean(0)
    _, size, directions = np.linalg.svd(centred, full_matrices=False)
    rank = int((size > 1e-6 * size[0]).sum())
    return torch.from_numpy(directions[: min(rank, dimensions or rank)].T.copy()).float()


def _key(scene: Scene, i: int, k: int) -> tuple[int, int]:
    return int(scene.crowd.worlds[int(scene.own[i])]), k


def _spaces(scene: Scene, codes: np.ndarray) -> Mapping[tuple[int, int], tuple[Tensor, Tensor]]:
    """(probe's, most varying) directions by (world, k), from groups that are not in the scene.

    The probe keeps at most half of the dimensions, its strongest: with all of them there would be
    nothing to compare with.
    """
    crowd = scene.crowd
    spaces = {}
    outside = ~np.isin(crowd.groups, crowd.groups[scene.own.numpy()])
    for world in np.unique(crowd.worlds[scene.own.numpy()]):
        for k in range(crowd.mask.shape[1]):
            known = outside & (crowd.worlds == world) & (codes[:, k] >= 0)
            known &= crowd.mask[:, k].numpy()
            rows = _enough(crowd, known, codes[:, k])
            if not len(rows):
                continue
            X = crowd.u[rows, k].numpy().astype(float)
            basis = probe_subspace(X, codes[rows, k], X.shape[1] // 2)
            spread = np.linalg.svd(X - X.mean(0), full_matrices=False)[2]
            most = torch.from_numpy(spread[: basis.shape[1]].T.copy()).float()
            spaces[int(world), k] = (basis, most)
    return spaces


def _enough(crowd: Crowd, known: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The known rows whose label value occurs in at least three groups; none below two values."""
    rows = np.flatnonzero(known)
    groups = {c: len(set(crowd.groups[rows[codes[rows] == c]])) for c in set(codes[rows])}
    usual = [c for c, count in groups.items() if count >= MIN_GROUPS]
    return rows[np.isin(codes[rows], usual)] if len(usual) > 1 else rows[:0]


def _basis(part: str, space: tuple[Tensor, Tensor], seed: int) -> Tensor | None:
    probe, most = space
    if part == "all":
        return None
    if part == "variance":
        return most
    if part == "random":
        drawn = draw_noise([seed], probe.shape[1], probe.shape[0], 1.0)[0]
        return torch.linalg.qr(drawn.T)[0]
    return probe
