"""Records that are not true: replayed, flipped or rounded thoughts (P8), and what shows it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from analyses.plants.recorded import Planting, Recorded, planting, record, seal
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import draw_noise, noise_seed
from nfcot_model.traces.replay import SLACK

__all__ = ["RECORD_CHECKS", "flipped", "record_checks", "replayed", "rounded"]

RECORD_CHECKS = ("replay_error", "seal_broken", "record")


def record_checks(recorded: Recorded, budget: int) -> dict[str, NDArray[np.float64]]:
    """Is each record true to its seed and its seal? statistic -> [n], higher is stranger.

    `replay_error`: largest |eps as scored - eps that the seed gives|. `seal_broken`: 1 where u is
    not what was sealed. `record`: 1 where either check fails (replay above `SLACK`). `budget`:
    the thoughts that noise was drawn for. A true record says nothing about what the thoughts are
    for.
    """
    D = recorded.thoughts.u.shape[-1]
    drawn = draw_noise(recorded.seeds, budget, D, recorded.tau)
    mask = recorded.thoughts.mask
    width = mask.shape[1]
    away = (recorded.scores.eps - drawn[:, :width]).abs().amax(-1)
    error = torch.where(mask, away, 0.0).amax(-1).double().numpy()
    error = np.where(np.isnan(error), np.inf, error)
    sealed = zip(seal(recorded.thoughts), recorded.seals, strict=True)
    broken = np.array([now != then for now, then in sealed], dtype=float)
    failed = (error > SLACK) | (broken > 0)
    return dict(zip(RECORD_CHECKS, (error, broken, failed.astype(float)), strict=True))


def replayed(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P8: the thoughts of another sample of the same prompt, under this sample's record.

    They are the model's own and on policy. `severity` is the share of trajectories it happens to.
    """
    rng = np.random.default_rng([seed, 8])
    hit = rng.random(len(clean)) < severity
    seeds = [
        noise_seed(seed, s, "replayed") if h else s for s, h in zip(clean.seeds, hit, strict=True)
    ]
    again = record(reasoner, clean.problems, clean.tau, seeds)
    forged = Recorded(
        again.problems, clean.seeds, clean.seals, again.tau, again.thoughts, again.scores
    )
    at = again.thoughts.mask.numpy() & hit[:, None]
    return Planting(forged, at, np.arange(len(clean)))


def flipped(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P8: one bit of one number of one thought is flipped: bit `severity` - 1 from the lowest.

    1 is the last bit of the mantissa of a float32, 23 its first; 0 flips nothing.
    """
    rng = np.random.default_rng([seed, 9])
    u = clean.thoughts.u.numpy().copy()
    k = rng.integers(np.maximum(clean.K, 1))
    column = rng.integers(u.shape[-1], size=len(clean))
    rows = np.arange(len(clean))
    at = np.zeros(u.shape[:2], dtype=bool)
    if severity > 0:
        bits = u.view(np.int32)
        bits[rows, k, column] ^= np.int32(1 << (int(severity) - 1))
        at[rows, k] = clean.K > 0
    return planting(reasoner, clean, torch.from_numpy(u), at)


def rounded(reasoner: NFCoTReasoner, clean: Recorded, severity: float, seed: int) -> Planting:
    """P8: all thoughts lose their last `severity` bits of mantissa (16: stored as bfloat16)."""
    u = clean.thoughts.u.numpy().copy()
    drop = int(severity)
    if drop > 0:
        bits = u.view(np.int32)
        bits += np.int32(1 << (drop - 1))
        bits &= np.int32(-(1 << drop))
    at = clean.thoughts.mask.numpy() & (drop > 0)
    return planting(reasoner, clean, torch.from_numpy(u), at)
