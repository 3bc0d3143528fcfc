"""Do stored thoughts give back the noise they were drawn with? Recomputed from the files alone.

What this sees is a record that disagrees with itself: `u` that was changed while `eps`, `mu` and
`log_sigma` stayed, or scores that are not those of the tensors. Who changes all of them alike
stays unseen; only scoring the thoughts with the model again shows that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.traces.schema import RETROFIT_SCORER

__all__ = ["REPLAY_TENSORS", "SLACK", "Replay", "disagree", "replay", "replay_of"]

Floats = NDArray[np.float64]

REPLAY_TENSORS = ("u", "eps", "mu", "log_sigma")
SLACK = 1e-3


@dataclass(frozen=True)
class Replay:
    """What follows from the tensors? `error` [traces], `energy` [rows], both float64.

    error: largest |eps recomputed from u - eps as drawn| of a trace, 0 without thoughts, infinite
    where that is not a number. energy: ½‖eps / tau‖² of the recomputed eps.
    """

    error: Floats
    energy: Floats


def replay(tensors: Mapping[str, NDArray[np.float32]], K: NDArray[np.int64], tau: float) -> Replay:
    """Which noise do the stored thoughts give back, and how far is it from the drawn one?

    `tensors`: u, eps, mu, log_sigma, each [rows, D]; K [traces]. At tau = 0 the scale is 1.
    """
    u, drawn, mu, log_sigma = (tensors[name].astype(np.float64) for name in REPLAY_TENSORS)
    with np.errstate(over="ignore", invalid="ignore"):
        eps = (u - mu) * np.exp(-log_sigma)
        away = np.abs(eps - drawn).max(axis=1, initial=0.0)
        energy = 0.5 * np.square(eps / (tau or 1.0)).sum(axis=1)
    error = np.zeros(len(K))
    np.maximum.at(error, np.repeat(np.arange(len(K)), K), np.where(np.isnan(away), np.inf, away))
    return Replay(error, energy)


def replay_of(
    scorer: str, tensor: Callable[[str], NDArray[np.float32]], K: NDArray[np.int64], tau: float
) -> Replay:
    """What follows from the tensors of a run with this scorer? `tensor` reads one by name.

    A retrofit flow's eps were never drawn: there is nothing to replay, errors are 0.
    """
    if scorer != RETROFIT_SCORER:
        return replay({name: tensor(name) for name in REPLAY_TENSORS}, K, tau)
    with np.errstate(over="ignore", invalid="ignore"):
        energy = 0.5 * np.square(tensor("eps").astype(np.float64)).sum(axis=1)
    return Replay(np.zeros(len(K)), energy)


def disagree(stored: Floats, recomputed: Floats) -> NDArray[np.bool_]:
    """Where is a stored value not the recomputed one, beyond what float32 rounding explains?

    A value that is not a finite number agrees with nothing.
    """
    with np.errstate(invalid="ignore"):
        near = np.abs(stored - recomputed) <= SLACK * (1 + np.abs(recomputed))
    return ~(near & np.isfinite(stored))
