"""What is true at a thought, or of a whole problem?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.sites import SiteRows

__all__ = ["Labels", "available_labels", "read_labels"]


@dataclass(frozen=True)
class Labels:
    """The label at each site row: `values` [n] (object), `known` [n] False where there is none.

    `level` is `step` (the label of the step that this thought belongs to) or `problem`.
    """

    values: NDArray[np.object_]
    known: NDArray[np.bool_]
    level: str


def available_labels(run: Run) -> str:
    """Which labels does this run have? One line for messages."""
    parts = [
        f"{level}: {', '.join(map(str, frame.columns))}"
        for level, frame in (("step", run.step_labels()), ("problem", run.problem_labels()))
        if len(frame.columns)
    ]
    return "; ".join(parts) or "none"


def read_labels(run: Run, label: str, rows: SiteRows) -> Labels:
    """Which value has the label at each site row?

    A label that steps carry is read at the thought's step, otherwise it is the problem's.
    Raises UserError, listing the labels there are, when the run has none of that name.
    """
    steps, problems = run.step_labels(), run.problem_labels()
    if label in steps.columns:
        column, level = steps[label].iloc[rows.row], "step"
    elif label in problems.columns:
        column, level = problems[label].iloc[rows.trace], "problem"
    else:
        raise UserError(
            f"--label '{label}': not in {run.name}; existing labels: {available_labels(run)}"
        )
    known = column.notna().to_numpy(dtype=bool)
    if column.map(lambda value: isinstance(value, list | dict)).any():
        raise UserError(f"--label '{label}': holds lists or objects; a class is one text or number")
    return Labels(np.array([_plain(v) for v in column], dtype=object), known, level)


def _plain(value: object) -> object:
    """One spelling per class: 3.0 (a column with gaps) and 3 are the same label."""
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() else value
