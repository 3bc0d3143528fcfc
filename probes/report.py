"""How does a fitted or applied probe look in the terminal?"""

from __future__ import annotations

import math

from rich.markup import escape
from rich.table import Table

from nfcot_model.traces.view import printable
from probes.apply import ProbeScores
from probes.fit import ProbeResult
from probes.intervals import Estimate

__all__ = ["accuracy_line", "fit_table"]


def fit_table(result: ProbeResult) -> Table:
    """The probe beside its controls, one row each, on held-out groups."""
    out = ", ".join(f"{count} with {why}" for why, count in result.out.items() if count)
    caption = (
        f"{result.n} traces in {result.groups} groups; tested on {result.n_test} in"
        f" {result.groups_test}; 95 % intervals over groups" + (f"; out: {out}" if out else "")
    )
    for reason in sorted(set(result.withheld.values())):
        caption += f"; no {' and '.join(result.withheld)}: {reason}"
    table = Table(
        title=escape(printable(f"{result.label} at {result.site} of {result.run}"))
        + f": {len(result.classes)} classes",
        caption=escape(printable(caption)),
    )
    table.add_column("")
    for name in result.metrics:
        table.add_column(name, justify="right")
    for name, metrics in [
        (f"probe ({result.estimator})", result.metrics),
        *((c.name, c.metrics) for c in result.controls),
    ]:
        table.add_row(name, *(_shown(e) for e in metrics.values()))
    return table


def accuracy_line(scores: ProbeScores) -> str:
    """How often is an applied probe right, with what interval, on which traces?"""
    interval = ""
    if not math.isnan(scores.accuracy_low):
        interval = f" [{scores.accuracy_low:.3f}, {scores.accuracy_high:.3f}] (95 % over groups)"
    return (
        f"accuracy {scores.accuracy:.3f}{interval} on {scores.n_scored} labelled traces of"
        f" {scores.groups_scored} groups that the probe was not trained on"
    )


def _shown(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    return escape(f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]")
