"""Which rows does a probe see? What stands at a site beside what is true there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.features import Features, gather, read_space
from probes.labels import class_key, read_labels
from probes.sites import Site, real_site, site_rows
from probes.tables import LabelTable

__all__ = ["Population", "population", "refuse_absent_positive"]


@dataclass(frozen=True, eq=False)
class Population:
    """The traces that have the place and the label.

    X: [n, width], a list of [count, width] at `all`, None where no values were asked for. y: [n],
    class indices into `classes` (int64), or numbers (float64; `classes` is None). `kind`: `binary`
    (the positive class is index 1), `multiclass` or `number`. `positive`: the value that stands
    against the rest, if one was asked for, as the run spells it. groups [n]: whose rows must not
    straddle a split. trace, row [n]: positions in run.traces and, of the place's last thought, in
    run.thoughts. `out`: traces that are not in it, by reason; nothing is dropped silently.
    """

    X: Features | None
    y: NDArray[Any]
    kind: str
    classes: list[Any] | None
    positive: object
    groups: NDArray[np.object_]
    trace: NDArray[np.int64]
    row: NDArray[np.int64]
    out: dict[str, int]
    site: Site
    label: str
    label_level: str


def refuse_absent_positive(*found: Population) -> None:
    """Raise UserError when one value was set against the rest, and no trace has it anywhere."""
    if found[0].positive is not None and not any((one.y == 1).any() for one in found):
        raise UserError(
            f"--positive {found[0].positive}: no trace has that value of '{found[0].label}'; give"
            " one that the run has"
        )


def population(
    run: Run,
    site: Site,
    label: str,
    *,
    table: LabelTable | None = None,
    kind: str = "auto",
    positive: object = None,
    values: NDArray[np.float32] | Literal["none"] | None = None,
) -> Population:
    """Which traces have the site and the label, and what do they hold there?

    table, kind, positive: as in `read_labels`. values: what `read_space` gave for the site's space,
    so that several places read it once; "none" for labels alone. Raises UserError for a site or
    label that the run does not have, and when no trace has both.
    """
    site = real_site(run, site)
    rows = site_rows(run, site)
    labels = read_labels(run, label, site, rows, table=table, kind=kind, positive=positive)
    if not labels.known.any():
        raise UserError(f"--label '{label}': no thought at --site {site} of {run.name} has it")
    known = rows.where(labels.known)
    X = None
    if not isinstance(values, str):
        X = gather(read_space(run, site) if values is None else values, site, known)
    return Population(
        X=X,
        y=_y(labels.values[labels.known], labels.classes),
        kind=labels.kind,
        classes=labels.classes,
        positive=None if positive is None or labels.classes is None else labels.classes[1],
        groups=run.traces["group"].to_numpy(dtype=object)[known.trace],
        trace=known.trace,
        row=known.last,
        out={
            site.place.lacking: rows.out,
            f"no label '{label}'": int((~labels.known).sum()),
        },
        site=site,
        label=label,
        label_level=labels.level,
    )


def _y(values: NDArray[np.object_], classes: list[Any] | None) -> NDArray[Any]:
    if classes is None:
        return values.astype(np.float64)
    index = {class_key(value): i for i, value in enumerate(classes)}
    return np.array([index[class_key(value)] for value in values], dtype=np.int64)
