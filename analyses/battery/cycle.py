"""Do thoughts survive being decoded to text and encoded again? The codec's cycle error.

A thought is decoded, its text is encoded, and the distance of the two latents is taken, in units of
standardised latents. Large where a thought says nothing that the codec can write: between two
steps, off the latents of texts, or worded as no training text is. It needs the model, so it is not
part of the default battery: give it as `extra` (`with_cycle_error`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from analyses.battery.noise import Noise, joined
from analyses.battery.source import positive_tau, shard_noise
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run

__all__ = ["cycle_error", "with_cycle_error"]

BATCH = 64


def with_cycle_error(run: Run, reasoner: NFCoTReasoner) -> Noise:
    """The run's noise with the statistic `cycle_err`: the largest cycle error of each trajectory.

    Fit and score with it as with any noise: it then has its clean quantiles, and may be named in
    `combine`. Raises UserError for another checkpoint than the run's.
    """
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(
            f"{run.name}: checkpoint_hash is {run.manifest['checkpoint_hash']}, the model's is"
            f" {reasoner.checkpoint_hash}; give the model that made the run"
        )
    tau = positive_tau(run.manifest, run.name)
    shards = list(dict.fromkeys(run.traces["shard"]))
    parts = []
    for shard in shards:
        noise = shard_noise(run.path, str(shard), tau)
        error = cycle_error(run.shard_tensor("u", str(shard)), noise.K, reasoner)
        largest = np.full(noise.n, np.nan)
        for i in np.flatnonzero(noise.K):
            own = error[noise.first[i] : noise.first[i] + noise.K[i]]
            largest[i] = np.nan if np.isnan(own).all() else np.nanmax(own)
        parts.append(replace(noise, extra={"cycle_err": largest}))
    return joined(parts)


def cycle_error(
    u: NDArray[np.float32], K: NDArray[np.int64], reasoner: NFCoTReasoner
) -> NDArray[np.float64]:
    """How far is each thought from the encoding of its own text? u [rows, D], K [n] -> [rows].

    Root mean square over D. NaN where the text cannot be encoded (longer than the codec reads).
    """
    found = [np.empty(0)]
    first = np.cumsum(K) - K
    for start in range(0, len(K), BATCH):
        own, at = K[start : start + BATCH], first[start : start + BATCH]
        if own.max(initial=0):
            found += _batch(u[at[0] : at[-1] + own[-1]], own, reasoner)
    return np.concatenate(found)


def _batch(
    u: NDArray[np.float32], K: NDArray[np.int64], reasoner: NFCoTReasoner
) -> Iterator[NDArray[np.float64]]:
    mask = torch.arange(int(K.max())) < torch.from_numpy(K)[:, None]
    padded = torch.zeros(*mask.shape, u.shape[1])
    padded[mask] = torch.from_numpy(u)
    decoded = reasoner.decode(Thoughts.given(padded, mask))
    for i, count in enumerate(K):
        if not count:
            continue
        e = decoded.e[i, :count].numpy().astype(np.float64)
        if not reasoner.encodes([decoded.texts[i]]):
            yield np.full(count, np.nan)
            continue
        again, there = reasoner.latents([decoded.texts[i]])
        back = again[0][there[0]].numpy().astype(np.float64)[:count]
        yield np.sqrt(np.square(e[: len(back)] - back).mean(axis=1))
