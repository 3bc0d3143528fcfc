"""How unusual is each thought, and what do the thoughts of a trajectory add up to?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.battery.moments import Moments
from analyses.battery.noise import Noise
from analyses.battery.scales import as_single, gamma_z

__all__ = ["QUANTITIES", "Steps", "quantities", "step_scores", "step_statistics", "unusable"]

Floats = NDArray[np.float64]

QUANTITIES = ("energy", "energy_top", "energy_rest", "logvol", "nll")
WINDOW = 4


@dataclass(frozen=True, eq=False)
class Steps:
    """Per-thought values, [rows] each: the quantities, and how far each is from usual (signed)."""

    values: dict[str, Floats]
    z: dict[str, Floats]
    mean: Floats  # [rows, Q]
    variance: Floats  # [rows, Q]


def unusable(noise: Noise) -> NDArray[np.bool_]:
    """Which thoughts hold a value that is not a number? [rows]"""
    bad = ~np.isfinite(noise.x).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        bad |= ~np.isfinite(np.square(noise.x, dtype=np.float64).sum(axis=1))
    for values in (noise.logvol, noise.stored_energy):
        if values is not None:
            bad |= ~np.isfinite(values)
    return bad


def quantities(x: Floats, noise: Noise, axes: Floats) -> Floats:
    """The quantities of every thought, [rows, Q]; x [rows, D] finite, axes [D, r] orthonormal.

    `nll` is -log p(u_k | q, u_<k) at the run's tau, nats. Without log-volumes it is that of the
    noise, and logvol is 0.
    """
    energy = 0.5 * np.einsum("rd,rd->r", x, x)
    top = 0.5 * np.square(x @ axes).sum(axis=1)
    logvol = np.zeros(len(x)) if noise.logvol is None else np.nan_to_num(noise.logvol)
    constant = x.shape[1] * (0.5 * np.log(2 * np.pi) + np.log(noise.tau))
    nll = energy + constant - logvol
    return np.column_stack([energy, top, np.maximum(energy - top, 0.0), logvol, nll])


def step_scores(values: Floats, noise: Noise, moments: Moments) -> Steps:
    """How far is every thought from what is usual at its position? values [rows, Q]."""
    mean, variance = moments.at(noise.tasks[noise.owner], noise.k)
    z = {}
    for i, name in enumerate(QUANTITIES):
        if name.startswith("energy"):
            z[name] = gamma_z(values[:, i], mean[:, i], variance[:, i])
        else:
            z[name] = (values[:, i] - mean[:, i]) / np.sqrt(variance[:, i])
    named = {name: values[:, i] for i, name in enumerate(QUANTITIES)}
    return Steps(named, z, mean, variance)


def step_statistics(steps: Steps, noise: Noise) -> dict[str, Floats]:
    """Per-trajectory statistics from per-thought values, [n] each; NaN where undefined."""
    owner, n = noise.owner, noise.n
    K = np.maximum(noise.K, 1)

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(owner, weights=values, minlength=n), dtype=np.float64)

    def two_sided_total(name: str) -> Floats:
        i = QUANTITIES.index(name)
        mean, variance = total(steps.mean[:, i]), total(steps.variance[:, i])
        thinking = noise.K > 0
        found = gamma_z(
            total(steps.values[name]),
            np.where(thinking, mean, 1.0),
            np.where(thinking, variance, 1.0),
        )
        return np.abs(np.where(thinking, found, np.nan))

    def peak(values: Floats) -> Floats:
        found = np.zeros(n)
        np.maximum.at(found, owner, values)
        return found

    nll = total(steps.z["nll"]) / np.sqrt(K)
    both = np.maximum(np.abs(steps.z["energy_top"]), np.abs(steps.z["energy_rest"]))
    statistics = {
        "typ_energy": two_sided_total("energy"),
        "max_step": as_single(peak(np.abs(steps.z["energy"])), K),
        "max_roll4": _max_rolling(steps, noise),
        "typ_top": two_sided_total("energy_top"),
        "typ_rest": two_sided_total("energy_rest"),
        "max_proj_step": as_single(peak(both), 2 * K),
        "nll": nll,
        "typ_nll": np.abs(nll),
        "typ_logvol": np.abs(total(steps.z["logvol"]) / np.sqrt(K)),
    }
    if noise.logvol is None:
        statistics["typ_logvol"] = np.full(n, np.nan)
    return statistics


def _max_rolling(steps: Steps, noise: Noise) -> Floats:
    """The strangest window of four thoughts, as if there were one window. [n]"""
    last = WINDOW - 1
    found = np.full(noise.n, np.nan)
    if len(noise.x) < WINDOW:
        return found

    def windows(values: Floats) -> Floats:
        return np.sum([values[i : len(values) - last + i] for i in range(WINDOW)], axis=0)

    inside = noise.k[last:] >= last
    z = gamma_z(
        windows(steps.values["energy"])[inside],
        windows(steps.mean[:, 0])[inside],
        windows(steps.variance[:, 0])[inside],
    )
    strongest = np.zeros(noise.n)
    np.maximum.at(strongest, noise.owner[last:][inside], np.abs(z))
    long = noise.K >= WINDOW
    found[long] = as_single(strongest[long], noise.K[long] - last)
    return found
