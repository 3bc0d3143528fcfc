"""Is something strange in a few dimensions of a wide thought, where the whole energy drowns it?

At width D an anomaly of r dimensions is diluted by sqrt(D / r) in the energy of the thought. So the
noise is also looked at in blocks of 64 dimensions, each against its own clean energies.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from analyses.battery.noise import Noise
from analyses.battery.scales import as_single, gamma_z

__all__ = ["BLOCK", "block_energies", "max_block", "usual_blocks"]

Floats = NDArray[np.float64]

BLOCK = 64


def block_energies(x: NDArray[np.floating]) -> Floats:
    """`½‖x_b‖²` of each block of 64 dimensions, or what is left. [rows, D] -> [rows, B]"""
    starts = np.arange(0, x.shape[1], BLOCK)
    return 0.5 * np.add.reduceat(np.square(x, dtype=np.float64), starts, axis=1)


def usual_blocks(clean: Iterable[NDArray[np.floating]]) -> Floats | None:
    """Mean and variance of each block's energy over clean noise [rows, D] in parts, [B, 2].

    None up to 64 dimensions, where a block is the thought.
    """
    count = 0
    total: Floats | float = 0.0
    squares: Floats | float = 0.0
    for x in clean:
        if x.shape[1] <= BLOCK:
            return None
        energies = block_energies(x)
        count += len(energies)
        total = total + energies.sum(axis=0)
        squares = squares + np.square(energies).sum(axis=0)
    if count < 2:
        return None
    mean, square = np.asarray(total) / count, np.asarray(squares) / count
    return np.column_stack([mean, np.maximum(square - mean**2, 1e-12)])


def max_block(x: Floats, noise: Noise, usual: Floats) -> Floats:
    """The strangest block of any thought, as if there were one; [n], 0 thoughts give NaN.

    x [rows, D] finite; `usual` from `usual_blocks`. Two-sided.
    """
    z = np.abs(gamma_z(block_energies(x), usual[:, 0], usual[:, 1])).max(axis=1)
    peak = np.zeros(noise.n)
    np.maximum.at(peak, noise.owner, z)
    found = as_single(peak, np.maximum(noise.K, 1) * len(usual))
    return np.where(noise.K > 0, found, np.nan)
