"""How does a fitted probe look in the terminal?"""

from __future__ import annotations

from rich.table import Table

from probes.fit import ProbeResult

__all__ = ["fit_table"]


def fit_table(result: ProbeResult) -> Table:
    """The probe beside its controls, one row each, on held-out groups."""
    out = ", ".join(f"{count} with {why}" for why, count in result.out.items() if count)
    table = Table(
        title=f"{result.label} at {result.site} of {result.run}: {len(result.classes)} classes",
        caption=f"{result.n} traces in {result.groups} groups; tested on {result.n_test} in"
        f" {result.groups_test}; 95 % intervals over groups" + (f"; out: {out}" if out else ""),
    )
    table.add_column("")
    for name in result.metrics:
        table.add_column(name, justify="right")
    for name, metrics in [
        (f"probe ({result.estimator})", result.metrics),
        *((c.name, c.metrics) for c in result.controls),
    ]:
        table.add_row(
            name, *(f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in metrics.values())
        )
    return table
