"""Above which score does a probe raise an alarm, at a stated false-alarm rate?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError

__all__ = ["RATES", "Thresholds", "recall_name", "thresholds"]

RATES = (0.05, 0.01)
ALARMS_EXPECTED = 10


@dataclass(frozen=True)
class Thresholds:
    """The score above which each rate's alarm goes off, by the name of its recall.

    `values`: "recall_at_1pct" -> score; `reasons`: the same names, where there is no threshold and
    why; `negatives`, `groups`: rows of the control set and groups they come from. Rows of one group
    are alike: with few groups the rate elsewhere can differ from the nominal one.
    """

    values: dict[str, float]
    reasons: dict[str, str]
    negatives: int
    groups: int


def recall_name(rate: float) -> str:
    """What is the recall at a false-alarm rate called? 0.01 -> recall_at_1pct."""
    return f"recall_at_{100 * rate:g}pct"


def thresholds(
    control_scores: NDArray[np.float64],
    control_groups: NDArray[np.object_],
    rates: Sequence[float] = RATES,
) -> Thresholds:
    """Above which score does at most `rate` of a separate control set lie?

    control_scores [n]: the probe's scores of rows that must raise no alarm, in no way chosen by the
    test rows. The threshold is the ceil((1 - rate) (n + 1))-th smallest of them: of exchangeable
    new rows at most `rate` lie above it on average (split conformal, Papadopoulos et al. 2002).
    Fewer than 10 / rate rows give no threshold and a reason. Raises UserError for scores that are
    not finite.
    """
    if not np.isfinite(control_scores).all():
        bad = int(np.flatnonzero(~np.isfinite(control_scores))[0])
        raise UserError(
            f"control set: score {bad} is {control_scores[bad]}, expected finite numbers;"
            " leave that row out of the control set or trace it again"
        )
    n = control_scores.size
    values, reasons = {}, {}
    for rate in rates:
        needed = math.ceil(ALARMS_EXPECTED / rate - 1e-9)
        if n < needed:
            reasons[recall_name(rate)] = (
                f"recall at {100 * rate:g} % needs {needed:,} negatives in the control set,"
                f" it has {n:,}"
            )
            continue
        above = max(math.floor(rate * (n + 1) + 1e-9) - 1, 0)
        values[recall_name(rate)] = float(np.sort(control_scores)[n - 1 - above])
    return Thresholds(values, reasons, n, len(set(control_groups)))
