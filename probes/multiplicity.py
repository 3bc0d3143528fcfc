"""How good is the best of many sites when labels say nothing? Westfall and Young's maxT.

Every labelling, the true one and each exchanged one, is scored at every cell; the same exchange is
used everywhere, so that the dependence of cells is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.cells import Cell

__all__ = ["NullMax", "adjusted_p", "best_cell", "null_max"]

SMALLEST_SD = 1e-9


@dataclass(frozen=True)
class NullMax:
    """How well does the best of all cells read exchanged labels?

    Of the raw statistic: cells of few traces, whose statistic varies more, weigh most here.
    `fixed`: traces that kept their own labels, because no other group is like theirs.
    """

    statistic: str
    permutations: int
    median: float
    quantile_95: float
    max: float
    fixed: int


def null_max(cells: Sequence[Cell], statistic: str, fixed: int) -> NullMax | None:
    """The best of all cells in each permutation, summed up; None where nothing was permuted."""
    nulls = [cell.null for cell in cells if cell.null]
    if not nulls:
        return None
    best = np.nanmax(np.array(nulls, dtype=np.float64), axis=0)
    return NullMax(
        statistic,
        len(best),
        float(np.median(best)),
        float(np.quantile(best, 0.95)),
        float(best.max()),
        fixed,
    )


def adjusted_p(cells: Sequence[Cell]) -> list[float]:
    """(1 + exchanged labellings whose best cell stands out as much) / (1 + all of them), per cell.

    How far a cell stands out is counted in its own standard deviations over all labellings, the
    true one among them, so that cells of few traces do not set the mark for all. NaN for cells
    that were not permuted. Valid for the best cell, however many there are, when nothing is read
    anywhere.
    """
    scored = [i for i, cell in enumerate(cells) if cell.null and not np.isnan(cell.value)]
    result = [float("nan")] * len(cells)
    if not scored:
        return result
    values = np.array([[cells[i].value, *cells[i].null] for i in scored], dtype=np.float64)
    spread = np.maximum(np.nanstd(values, axis=1, keepdims=True), SMALLEST_SD)
    out = (values - np.nanmean(values, axis=1, keepdims=True)) / spread
    best: NDArray[np.float64] = np.nanmax(out[:, 1:], axis=0)
    for i, own in zip(scored, out[:, 0], strict=True):
        result[i] = (1 + int((best >= own - 1e-12).sum())) / (1 + len(best))
    return result


def best_cell(cells: Sequence[Cell], adjusted: Sequence[float]) -> int:
    """Which cell is tested: the highest statistic among those of the smallest adjusted p.

    The first of equals. Cells that were not permuted are chosen only where none was.
    """
    p = np.array(adjusted, dtype=np.float64)
    values = np.array([cell.value for cell in cells], dtype=np.float64)
    if not np.isnan(p).all():
        values = np.where(p == np.nanmin(p), values, np.nan)
    return int(np.nanargmax(values))
