"""Which energies are usual at each position? Quantile bands, for profiles and pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analyses.battery.moments import MIN_AT_POSITION

__all__ = ["energy_quantiles"]


def energy_quantiles(
    energy: NDArray[np.float64],
    k: NDArray[np.int64],
    levels: tuple[float, ...] = (0.05, 0.5, 0.95, 0.99),
) -> list[dict[str, float | int]]:
    """Which band of energies is usual at each position? One row per k with enough thoughts."""
    rows: list[dict[str, float | int]] = []
    for position in np.unique(k):
        at = energy[k == position]
        if at.size >= MIN_AT_POSITION:
            row: dict[str, float | int] = {"k": int(position), "n": int(at.size)}
            values = np.quantile(at, levels)
            row |= {f"q{round(q * 100):02d}": float(v) for q, v in zip(levels, values, strict=True)}
            rows.append(row)
    return rows
