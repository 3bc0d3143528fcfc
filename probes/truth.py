"""What is true where a fitted probe reads, in the probe's own classes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfcot_model.traces import Run
from probes.artifact import Probe
from probes.labels import class_key, read_labels
from probes.sites import Site, SiteRows
from probes.tables import LabelTable

__all__ = ["Truth", "no_truth", "truth_of"]


@dataclass(frozen=True)
class Truth:
    """The label of each site row as the probe counts it.

    `y` [n]: class indices (-1 where there is none) or numbers (NaN). `known` [n]: is there one?
    `strange` [n]: is there a value that is none of the probe's classes? These are not `known`.
    """

    y: NDArray[Any]
    known: NDArray[np.bool_]
    strange: NDArray[np.bool_]


def truth_of(
    probe: Probe,
    run: Run,
    site: Site,
    rows: SiteRows,
    *,
    label: str | None = None,
    table: LabelTable | None = None,
) -> Truth:
    """Which label has each site row, among those that the probe tells apart?

    `label`: another one than the probe's, with the same classes; `table`: the user's own. Raises
    UserError as `read_labels` does: no such label in the run, no numbers where numbers are read.
    """
    classes = probe.meta["classes"]
    labels = read_labels(
        run,
        label or probe.meta["label"],
        site,
        rows,
        table=table,
        kind="number" if classes is None else "multiclass",
        positive=probe.meta["positive"],
    )
    if classes is None:
        y = np.full(len(labels.values), np.nan)
        y[labels.known] = labels.values[labels.known].astype(np.float64)
        return Truth(y, labels.known, np.zeros(len(y), dtype=bool))
    index = {class_key(value): i for i, value in enumerate(classes)}
    found = np.array([index.get(class_key(value), -1) for value in labels.values], dtype=np.int64)
    known = labels.known & (found >= 0)
    return Truth(np.where(known, found, -1), known, labels.known & (found < 0))


def no_truth(probe: Probe, n: int) -> Truth:
    """Nothing is known of n rows."""
    number = probe.kind == "number"
    y = np.full(n, np.nan) if number else np.full(n, -1, dtype=np.int64)
    return Truth(y, np.zeros(n, dtype=bool), np.zeros(n, dtype=bool))
