"""Off-policy edits: thoughts that somebody put where the model had drawn others (P1-P4, P6)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analyses.plants.recorded import Planting, Recorded, planting
from nfcot_model.reasoners import NFCoTReasoner

__all__ = [
    "foreign",
    "noise_at_four",
    "noise_at_one",
    "pause",
    "position_mean",
    "stuck",
    "swap",
    "zero",
]

Bools = NDArray[np.bool_]


def _mask(clean: Recorded) -> Bools:
    return clean.thoughts.mask.numpy()


def _one_each(clean: Recorded, rng: np.random.Generator) -> tuple[NDArray[np.int64], Bools]:
    """One thought of each trajectory, by lot, and where it is."""
    k = rng.integers(np.maximum(clean.K, 1))
    return k, (np.arange(clean.thoughts.mask.shape[1]) == k[:, None]) & _mask(clean)


def _donors(
    clean: Recorded, needed: NDArray[np.int64], exact: bool, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A trajectory of the same world and another group for each, with `needed` [n] thoughts.

    `exact`: exactly as many, else at least. -1 where there is none.
    """
    K, groups, worlds = clean.K, clean.groups, clean.worlds
    chosen = np.full(len(clean), -1, dtype=np.int64)
    pools: dict[tuple[str, int], NDArray[np.int64]] = {}
    for i in range(len(clean)):
        key = (str(worlds[i]), int(needed[i]))
        if key not in pools:
            long_enough = needed[i] == K if exact else needed[i] <= K
            pools[key] = np.flatnonzero((worlds == worlds[i]) & long_enough)
        pool = pools[key]
        pool = pool[groups[pool] != groups[i]]
        if pool.size:
            chosen[i] = rng.choice(pool)
    return chosen


def swap(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P1: one thought becomes the thought of another prompt at the same k.

    `severity` in 0..1 is how far it goes from its own place to the donor's, on a straight line.
    """
    rng = np.random.default_rng([seed, 1])
    k, at = _one_each(clean, rng)
    donor = _donors(clean, k + 1, False, rng)
    u = clean.thoughts.u.clone()
    rows = np.flatnonzero((donor >= 0) & (clean.K > 0))
    own = u[rows, k[rows]]
    u[rows, k[rows]] = own + severity * (clean.thoughts.u[donor[rows], k[rows]] - own)
    at[np.setdiff1d(np.arange(len(clean)), rows)] = False
    return planting(reasoner, clean, u, at & (severity > 0))


def foreign(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P2: the trajectory is that of another prompt with as many thoughts.

    `severity` is the share of the thoughts, from the first on, rounded up, that come from it.
    """
    rng = np.random.default_rng([seed, 2])
    donor = _donors(clean, clean.K, True, rng)
    count = np.ceil(severity * clean.K).astype(np.int64) * (donor >= 0)
    at = np.arange(clean.thoughts.mask.shape[1]) < count[:, None]
    u = torch.where(torch.from_numpy(at)[..., None], clean.thoughts.u[donor], clean.thoughts.u)
    return planting(reasoner, clean, u, at)


def _noise(
    reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int, most: int
) -> Planting:
    rng = np.random.default_rng([seed, 3])
    mask = _mask(clean)
    lot = np.where(mask, rng.random(mask.shape), 2.0)
    at = mask & (lot.argsort(axis=1).argsort(axis=1) < most)
    u = clean.thoughts.u
    direction = torch.from_numpy(rng.normal(size=u.shape)).to(u)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    pushed = u + severity * u.norm(dim=-1, keepdim=True) * direction
    u = torch.where(torch.from_numpy(at)[..., None], pushed, u)
    return planting(reasoner, clean, u, at & (severity > 0))


def noise_at_one(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P3: Gaussian noise of `severity` times a thought's own norm is added to one thought."""
    return _noise(reasoner, clean, severity, seed, 1)


def noise_at_four(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P3: the same at four thoughts, or at all where there are fewer."""
    return _noise(reasoner, clean, severity, seed, 4)


def _replaced(
    reasoner: NFCoTReasoner, clean: Recorded, severity: float, values: Tensor
) -> Planting:
    """The last thoughts, a share of `severity` rounded up, replaced by `values` [Kmax, D]."""
    K = clean.K
    first = K - np.ceil(severity * K).astype(np.int64)
    at = (np.arange(clean.thoughts.mask.shape[1]) >= first[:, None]) & _mask(clean)
    u = torch.where(
        torch.from_numpy(at)[..., None], values.expand_as(clean.thoughts.u), clean.thoughts.u
    )
    return planting(reasoner, clean, u, at)


def zero(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P4: a share of `severity` of the thoughts, the last ones, becomes zero."""
    return _replaced(reasoner, clean, severity, torch.zeros_like(clean.thoughts.u[0]))


def position_mean(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P4: the same, with the mean thought of each k over the clean set."""
    mask = clean.thoughts.mask[..., None]
    means = (clean.thoughts.u * mask).sum(0) / mask.sum(0).clamp(min=1)
    return _replaced(reasoner, clean, severity, means)


def pause(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P4: the same, with one thought for all places: what the codec makes of an empty text."""
    return _replaced(reasoner, clean, severity, reasoner.encode([[""]]).u[0])


def stuck(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P6: some thought is repeated in the next `severity` places, or as far as they go."""
    rng = np.random.default_rng([seed, 6])
    repeats = np.minimum(int(severity), clean.K - 1).clip(min=0)
    first = rng.integers(np.maximum(clean.K - repeats, 1))
    places = np.arange(clean.thoughts.mask.shape[1])
    at = (places > first[:, None]) & (places <= (first + repeats)[:, None])
    held = clean.thoughts.u[np.arange(len(clean)), first]
    u = torch.where(torch.from_numpy(at)[..., None], held[:, None], clean.thoughts.u)
    return planting(reasoner, clean, u, at)
