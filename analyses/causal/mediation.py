"""Does an edit work through the directions that a probe reads? Swaps restricted to subspaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from analyses.causal.edits import donors, edited
from analyses.causal.interventions import BATCH, Base, compare, seeds_of
from analyses.causal.scene import Crowd, Scene
from nfcot_model.sampling import draw_noise, noise_seed

__all__ = ["PARTS", "Spaces", "mediations", "probe_spaces", "probe_subspace"]

PARTS = ("all", "probe", "rest", "random", "variance")
MIN_GROUPS = 3


@dataclass(frozen=True)
class Spaces:
    """Which directions does a probe for the label read, and in which do thoughts vary most?

    `bases`: (world, k, half of the groups) -> both, [D, r] each, fitted on the other half, so that
    no trace is judged by a probe that saw its group. `codes` [N, K] are the label's values.
    """

    codes: NDArray[np.int64]
    bases: Mapping[tuple[int, int, int], tuple[Tensor, Tensor]]

    def of(self, crowd: Crowd, i: int, k: int) -> tuple[Tensor, Tensor] | None:
        """Those for thought k of row i of the crowd; None where labels are too few to fit any."""
        return self.bases.get((int(crowd.worlds[i]), k, int(crowd.groups[i]) % 2))


def probe_spaces(crowd: Crowd, label: str | None) -> Spaces:
    """The directions that logistic probes for `label` (`Crowd.labelled`) read, by world and index.

    The probe keeps at most half of the dimensions, its strongest: with all of them there would be
    nothing to compare with. A label value counts when three groups have it.
    """
    codes = crowd.labelled(label)
    bases = {}
    for world in np.unique(crowd.worlds):
        for k in range(crowd.mask.shape[1]):
            for half in (0, 1):
                known = (crowd.worlds == world) & (codes[:, k] >= 0) & (crowd.groups % 2 != half)
                rows = _enough(crowd, known, codes[:, k])
                if not len(rows):
                    continue
                X = crowd.u[rows, k].numpy().astype(float)
                basis = probe_subspace(X, codes[rows, k], X.shape[1] // 2)
                spread = np.linalg.svd(X - X.mean(0), full_matrices=False)[2]
                most = torch.from_numpy(spread[: basis.shape[1]].T.copy()).float()
                bases[int(world), k, half] = (basis, most)
    return Spaces(codes, bases)


def mediations(
    scene: Scene, base: Base, spaces: Spaces, seed: int = 0, mode: str = "total"
) -> pd.DataFrame:
    """How much of a swap's effect goes through what a probe reads?

    Thought k is moved towards that of a donor with another value of the label, by the whole
    difference (`part` = all), or only by its projection on the directions that a logistic probe
    for the label reads (`probe`), on their complement (`rest`), on as many in which thoughts vary
    most (`variance`), or on as many random ones, as far as the probe's part goes (`random`). Rows:
    trace × thought × part, with `dimensions` of the subspace, `share` of the squared distance, and
    the measures of `compare`. An effect of the probe's part shows that
    these directions carry it, not that the label is what they mean to the model.
    """
    rows, k = scene.places().unbind(-1)
    frames = []
    for some in torch.arange(len(rows)).split(BATCH):
        index, at = rows[some], k[some]
        here = scene.rows(index)
        seeds = seeds_of(here, at, "mediation", seed)
        giver = donors(here, at, seeds, same_value=False, values=spaces.codes)
        own = here.own.tolist()
        found = [spaces.of(here.crowd, i, place) for i, place in zip(own, at.tolist(), strict=True)]
        done = torch.tensor(
            [i for i, space in enumerate(found) if space is not None and int(giver[i]) >= 0]
        ).long()
        if not len(done):
            continue
        here, index, at, giver = here.rows(done), index[done], at[done], giver[done]
        bases = [space for i in done.tolist() if (space := found[i]) is not None]
        u = here.at(here.thoughts.u, at)
        delta = here.crowd.u[giver, at] - u
        drawn = [noise_seed(seeds[i], "random") for i in done.tolist()]
        for part in PARTS:
            kept, sizes = _restricted(part, delta, bases, drawn)
            effect = compare(here, base, index, edited(here, at, u + kept, mode))
            columns = {
                "row": index.numpy(),
                "k": at.numpy(),
                "part": part,
                "mode": mode,
                "dimensions": sizes,
                "share": (kept.square().sum(-1) / delta.square().sum(-1)).numpy(),
            }
            frames.append(pd.DataFrame({**columns, **effect}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _restricted(
    part: str, delta: Tensor, bases: Sequence[tuple[Tensor, Tensor]], seeds: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """What of the differences [B, D] stays in a part, and how many dimensions the part has."""
    D = delta.shape[-1]
    if part == "all":
        return delta, [D] * len(delta)
    kept, sizes = torch.zeros_like(delta), []
    for i, (probe, most) in enumerate(bases):
        through = delta[i] @ probe @ probe.T
        r = probe.shape[1]
        if part == "probe":
            kept[i] = through
        elif part == "rest":
            kept[i] = delta[i] - through
            r = D - r
        elif part == "variance":
            kept[i] = delta[i] @ most @ most.T
        else:
            basis = torch.linalg.qr(draw_noise([seeds[i]], r, D, 1.0)[0].T)[0]
            pushed = delta[i] @ basis @ basis.T
            kept[i] = pushed * through.norm() / pushed.norm().clamp(min=1e-9)
        sizes.append(r)
    return kept, sizes


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


def _enough(crowd: Crowd, known: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The known rows whose label value occurs in at least three groups; none below two values."""
    rows = np.flatnonzero(known)
    groups = {c: len(set(crowd.groups[rows[codes[rows] == c]])) for c in set(codes[rows])}
    usual = [c for c, count in groups.items() if count >= MIN_GROUPS]
    return rows[np.isin(codes[rows], usual)] if len(usual) > 1 else rows[:0]
