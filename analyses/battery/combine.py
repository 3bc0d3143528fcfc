"""One score from several statistics: the largest quantile on a reference set.

p-values of statistics that share a reference set depend on each other, so they are not combined;
the largest quantile is, and is then calibrated once, on other traces. Quantiles saturate at the
reference maximum, so a small multiple of how far a statistic lies beyond its 99 % quantile breaks
ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.cells import assign_cells, cell_levels, large_cells

__all__ = ["MIN_IN_CELL", "QuantileReference", "fit_quantiles"]

Floats = NDArray[np.float64]

MIN_IN_CELL = 200
TIE_BREAK = 1e-3


@dataclass(frozen=True, eq=False)
class QuantileReference:
    """Sorted clean values of every statistic in every usable cell: cell -> statistic -> [n]."""

    values: dict[str, dict[str, Floats]]

    def neutral(self, name: str) -> float:
        """What stands for an undefined statistic: the clean median, 0 without one."""
        clean = self.values["all"].get(name, np.empty(0))
        return float(np.median(clean)) if clean.size else 0.0

    def combined(
        self,
        statistics: dict[str, Floats],
        combine: tuple[str, ...],
        tasks: NDArray[np.object_],
        K: NDArray[np.int64],
    ) -> tuple[Floats, NDArray[np.object_]]:
        """The max-quantile score [n], and which of `combine` it came from [n].

        statistics: [n] each, NaN where undefined, which then cannot be the largest.
        """
        n = K.size
        cells = assign_cells(cell_levels(tasks, K), self.values)
        quantile, beyond = np.zeros((2, n, len(combine)))
        for cell in np.unique(cells):
            mine = cells == cell
            for i, name in enumerate(combine):
                clean = self.values[cell].get(name, np.empty(0))
                if clean.size:
                    found = statistics[name][mine]
                    quantile[mine, i] = np.searchsorted(clean, found, side="left") / clean.size
                    middle, high = np.quantile(clean, [0.5, 0.99])
                    beyond[mine, i] = (found - middle) / max(high - middle, 1e-12)
                undefined = np.isnan(statistics[name][mine])
                quantile[np.flatnonzero(mine)[undefined], i] = 0.0
        beyond = np.nan_to_num(beyond, nan=0.0)
        score = quantile.max(axis=1) + TIE_BREAK * beyond.max(axis=1)
        leading = (quantile + TIE_BREAK * beyond).argmax(axis=1)
        return score, np.array(combine, dtype=object)[leading]


def fit_quantiles(
    statistics: dict[str, Floats], tasks: NDArray[np.object_], K: NDArray[np.int64]
) -> QuantileReference:
    """Which values are usual? statistics: [n] each, NaN where undefined.

    A cell of task x length, or of a task, is used when at least 200 trajectories are in it.
    """
    levels = cell_levels(tasks, K)
    usable = large_cells(levels, MIN_IN_CELL)
    values: dict[str, dict[str, Floats]] = {}
    for cell in usable:
        mine = np.any([names == cell for names in levels], axis=0)
        values[cell] = {
            name: np.sort(column[mine & np.isfinite(column)]) for name, column in statistics.items()
        }
    return QuantileReference(values)
