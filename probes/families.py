"""Does a probe read a family of problems that it was not trained on?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.fit import Options
from probes.fitting import some
from probes.labels import read_labels
from probes.pooled import Pool
from probes.population import Population
from probes.sites import site_rows
from probes.tables import LabelTable
from probes.transfer import Transfer, judge_of, labelled, spelled

__all__ = ["families"]


def families(
    run: Run,
    label: str,
    site: str,
    column: str,
    options: Options | None = None,
    *,
    table: LabelTable | None = None,
    progress: Callable[[str], object] | None = None,
) -> Transfer:
    """Does a probe read a family of problems that it has not seen? Each family is left out once.

    column: a trace column, problem label or column of the user's table with one value per trace,
    such as `world`. For each value two probes are read on its held-out groups: one trained on its
    own other groups, one on those of all other families; `difference` is the second less the first.
    (The second has more to train on: a difference near zero can be both.) Raises UserError for a
    column with fewer than two values or with a value per thought, and as `fit_probe` does, naming
    the family.
    """
    asked = options or Options()
    found = labelled(run, site, label, asked, table)
    family = _family(run, found, column, table)
    known = np.array([value is not None for value in family], dtype=bool)
    names = sorted({spelled(value) for value in family[known]})
    if len(names) < 2:
        raise UserError(
            f"--leave-out {column}: has {len(names)} value at --site {found.site} of {run.name};"
            " leaving one family out needs two: choose another column"
        )
    place = {name: i for i, name in enumerate(names)}
    pool = Pool(
        names,
        found.kind,
        found.classes,
        some(found.X if found.X is not None else [], known),
        found.y[known],
        found.groups[known],
        np.array([place[spelled(value)] for value in family[known]], dtype=np.int64),
    )
    judge = judge_of(pool, asked, found.site.place.how == "all")
    cells = []
    for i, name in enumerate(names):
        if progress is not None:
            progress(name)
        own = np.arange(len(names)) == i
        within, rest = judge.read(own), judge.read(~own)
        cells.append(judge.cell(name, i, within, None))
        cells.append(judge.cell(f"all but {name}", i, rest, within))
    out = {run.name: found.out | {f"no {column}": int((~known).sum())}}
    return judge.result(column, label, str(found.site), cells, out, {})


def _family(
    run: Run, found: Population, column: str, table: LabelTable | None
) -> NDArray[np.object_]:
    rows = site_rows(run, found.site)
    rows = rows.where(np.isin(rows.trace, found.trace))
    labels = read_labels(run, column, found.site, rows, table=table, kind="multiclass")
    if labels.level in ("step", "thought"):
        raise UserError(
            f"--leave-out {column}: has a value per thought; a family is of whole traces: choose a"
            " column of the traces or a label of the problems"
        )
    return labels.values
