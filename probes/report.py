"""How do a probe, a sweep and their controls look in the terminal and in Markdown?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from nfcot_model.traces.view import printable
from probes.headline import HEADLINE_METRIC
from probes.sweep import Sweep
from probes.transfer import Transfer

__all__ = [
    "DOES_NOT_SHOW",
    "collected_markdown",
    "fit_lines",
    "fit_table",
    "probe_markdown",
    "shown",
    "sweep_lines",
    "sweep_markdown",
    "sweep_tables",
    "transfer_table",
]

DOES_NOT_SHOW = (
    "A probe shows that a label can be decoded at a site, not that the model uses it"
    " (`nfcot causal` tests use). It says nothing of other checkpoints, settings or problems."
)
SHORT = ("accuracy", "balanced_accuracy", "auroc", "r2", "mae")


def fit_table(probe: Mapping[str, Any]) -> Table:
    """The probe beside its controls, one row each, on held-out groups.

    Takes `to_dict()` of a fit or of an evaluation, all of whose traces are tested.
    """
    out = ", ".join(f"{count} with {why}" for why, count in probe["out"].items() if count)
    tested = f"; tested on {probe['n_test']} in {probe['groups_test']}" if "n_test" in probe else ""
    caption = (
        f"{probe['n']} traces in {probe['groups']} groups{tested}; 95 % intervals over groups"
        + (f"; out: {out}" if out else "")
    )
    classes = f": {len(probe['classes'])} classes" if probe["classes"] else ""
    table = Table(
        title=escape(printable(f"{probe['label']} at {probe['site']} of {probe['run']}{classes}")),
        caption=escape(printable(caption)),
    )
    names = [name for name in SHORT if name in probe["metrics"]]
    main = HEADLINE_METRIC[probe["kind"]]
    table.add_column("", no_wrap=True)
    for name in [*names, f"probe less this, {main}"]:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(f"probe ({probe['estimator']})", *(shown(probe["metrics"][n]) for n in names), "")
    for control in probe["controls"]:
        if control["reason"] is not None:
            table.add_row(control["name"], *[""] * len(names), "not available", style="dim")
            continue
        less = shown(control["difference"].get(main))
        table.add_row(control["name"], *(shown(control["metrics"].get(n)) for n in names), less)
    return table


def fit_lines(probe: Mapping[str, Any]) -> list[str]:
    """What the table has no room for, and, first, the headline."""
    lines = [probe["headline"]]
    rest = {n: e for n, e in probe["metrics"].items() if n not in SHORT and e["value"] is not None}
    if rest:
        lines.append("; ".join(f"{n.replace('_', ' ')} {shown(e)}" for n, e in rest.items()))
    permutation = probe["permutation"]
    if permutation["p_value"] is None:
        lines.append(f"no p-value: {permutation['reason']}")
    else:
        lines.append(
            f"p {permutation['p_value']:.3g} against {permutation['permutations']} exchanges of"
            f" labels between test groups (best of them {permutation['null_max']:.3f})"
        )
    if probe.get("mdl") is not None:
        mdl = probe["mdl"]
        lines.append(
            f"online code of {mdl['groups']} training groups:"
            f" {shown(mdl['bits_per_label'])} bits per label;"
            f" {shown(mdl['compression'])} times shorter than uniform,"
            f" {shown(mdl['over_shares'])} times shorter than shares of classes"
        )
    if any(e["value"] is not None and e["low"] == e["high"] for e in probe["metrics"].values()):
        lines.append(
            "an interval without width: no resample of groups contained a mistake; that none can"
            " happen it does not say"
        )
    for reason in dict.fromkeys(probe["withheld"].values()):
        names = [n for n, why in probe["withheld"].items() if why == reason]
        lines.append(f"no {', '.join(n.replace('_', ' ') for n in names)}: {reason}")
    for control in probe["controls"]:
        if control["reason"] is not None:
            lines.append(f"no control {control['name']}: {control['reason']}")
    return lines


def sweep_tables(sweep: Sweep) -> list[Table]:
    """One heat-map in numbers per estimator, and one of the controls; the best cell is bold."""
    best = f"{sweep.best.site}", sweep.best.estimator
    tables = []
    for title, values in _grids(sweep):
        marks = {best[0]: "bold"} if title.startswith(f"{best[1]}:") else {}
        tables.append(_grid(title, values, marks))
    return tables


def _grids(sweep: Sweep) -> Iterator[tuple[str, dict[tuple[str, str], float]]]:
    """Each estimator's values by (space, place), then those of the controls."""
    statistic = sweep.statistic.replace("_", " ")
    for name in dict.fromkeys(cell.name for cell in sweep.cells):
        yield f"{name}: {statistic}", _split({c.site: c for c in sweep.cells if c.name == name})
    controls = {}
    for cell in sweep.controls:
        space, _, place = cell.site.rpartition("@")
        controls[f"{cell.name} {space}".strip().replace("_", " "), place] = cell.value
    if controls:
        yield f"controls: {statistic}", controls


def sweep_lines(sweep: Sweep) -> list[str]:
    """The best cell beside the best under exchanged labels, and what was left out and why."""
    best, null = sweep.best, sweep.null_max
    lines = [f"best: {best.site}, {best.estimator}"]
    if null is not None:
        lines[0] += (
            f"; adjusted p {sweep.best_p:.3g}; the best of all sites under {null.permutations}"
            f" exchanges of labels: median {null.median:.3f}, at most {null.max:.3f}"
        )
        if null.fixed:
            lines.append(f"{null.fixed} traces kept their labels: no other group is like theirs")
    if sweep.no_null is not None:
        lines.append(f"no p-values: {sweep.no_null}")
    lines += [f"not read at {place}: {reason}" for place, reason in sweep.refused.items()]
    bare = [cell for cell in sweep.cells if cell.no_interval is not None]
    if bare:
        lines.append(
            f"no intervals of means over classes at {len(bare)} of {len(sweep.cells)} cells, such"
            f" as {bare[0].site}: {bare[0].no_interval}; trace more problems"
        )
    return lines


def sweep_markdown(sweep: Sweep) -> str:
    """A sweep with its best probe as Markdown."""
    lines = [f"# {sweep.label} in {sweep.run}", ""]
    lines += [
        f"{sweep.statistic.replace('_', ' ')} out of fold on the training groups; the best site is"
        " tested once, on groups that chose nothing.",
        "",
        *(f"* {printable(line)}" for line in sweep_lines(sweep)),
    ]
    for title, values in _grids(sweep):
        places = list(dict.fromkeys(place for _, place in values))
        rows = [
            [row, *(_two(values.get((row, place), math.nan)) for place in places)]
            for row in dict.fromkeys(row for row, _ in values)
        ]
        lines += ["", f"## {title}", "", _markdown_table(["", *places], rows)]
    return "\n".join([*lines, "", probe_markdown(sweep.best.to_dict()), DOES_NOT_SHOW, ""])


def _split(cells: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    found = {}
    for site, cell in cells.items():
        space, _, place = site.rpartition("@")
        found[space, place] = cell.value
    return found


def _grid(title: str, values: Mapping[tuple[str, str], float], styles: Mapping[str, str]) -> Table:
    table = Table(title=escape(printable(title.replace("_", " "))))
    places = list(dict.fromkeys(place for _, place in values))
    table.add_column("")
    for place in places:
        table.add_column(place, justify="right")
    for row in dict.fromkeys(row for row, _ in values):
        cells = []
        for place in places:
            value = values.get((row, place), math.nan)
            text = _two(value)
            style = styles.get(f"{row}@{place}")
            cells.append(f"[{style}]{text}[/{style}]" if style else text)
        table.add_row(escape(printable(row)), *cells)
    return table


def _two(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def shown(estimate: Mapping[str, float | None] | None) -> str:
    """A value with its interval, a dash where there is none."""
    if estimate is None or estimate["value"] is None:
        return "–"
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if low is None or high is None:
        return f"{value:.3f}"
    return escape(f"{value:.3f} [{low:.3f}, {high:.3f}]")


def probe_markdown(probe: Mapping[str, Any]) -> str:
    """One probe with its controls as Markdown. Takes `to_dict()`."""
    names = [n for n, estimate in probe["metrics"].items() if estimate["value"] is not None]
    main = HEADLINE_METRIC[probe["kind"]]
    head = ["", *(n.replace("_", " ") for n in names), f"probe less this, {main}"]
    rows = [
        [f"**probe** ({probe['estimator']})", *(_plain(probe["metrics"][n]) for n in names), ""]
    ]
    for control in probe["controls"]:
        less = _plain(control["difference"].get(main))
        figures = [_plain(control["metrics"].get(n)) for n in names]
        rows.append([control["name"], *figures, "not available" if control["reason"] else less])
    lines = [f"## {probe['label']} at {probe['site']} of {probe['run']}", ""]
    lines += [printable(line) + "  " for line in fit_lines(probe)]
    lines += ["", _markdown_table(head, rows), ""]
    if probe["calibration"]:
        bins = [
            [
                f"{b['low']:.1f} – {b['high']:.1f}",
                str(b["n"]),
                str(b["groups"]),
                _plain(b["predicted"]),
                _plain(b["observed"]),
            ]
            for b in probe["calibration"]
        ]
        lines += [
            "Calibration on the test groups:",
            "",
            _markdown_table(
                ["probability", "traces", "groups", "mean predicted", "came true"], bins
            ),
            "",
        ]
    return "\n".join(lines)


def _plain(estimate: Mapping[str, float | None] | None) -> str:
    return shown(estimate).replace("\\[", "[")


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(printable(cell) for cell in line) + " |" for line in lines)


def transfer_table(found: Transfer) -> Table:
    """What was trained on down, what was read across; differences are to the probe from within."""
    main = HEADLINE_METRIC[found.kind]
    shortly = main.replace("_", " ")
    title = f"{found.label} at {found.site}, {found.estimator}: {shortly} by {found.by}"
    table = Table(
        title=escape(printable(title)),
        caption="less: trained here less trained within what is read, paired; 95 % over groups",
    )
    for name in ("trained on", "read on", "traces", shortly, "less"):
        table.add_column(name)
    for cell in found.cells:
        plain = cell.to_dict()
        table.add_row(
            escape(printable(cell.train)),
            escape(printable(cell.test)),
            f"{cell.n} in {cell.groups} groups",
            shown(plain["metrics"].get(main)),
            shown(plain["difference"].get(main)) if cell.difference else "",
        )
    return table


def collected_markdown(
    probes: Sequence[Mapping[str, Any]],
    sweeps: Sequence[Mapping[str, Any]],
    damaged: Sequence[str] = (),
) -> str:
    """Probes and sweeps, as their folders keep them, as one Markdown text."""
    lines = ["# Probes", "", *(f"* left out: {printable(reason)}" for reason in damaged), ""]
    head = ["run", "label", "site", "estimator", "traces", "headline"]
    rows = [
        [p["run"], p["label"], p["site"], p["estimator"], str(p["n"]), p["headline"]]
        for p in probes
    ]
    if rows:
        lines += [_markdown_table(head, rows), ""]
    for sweep in sweeps:
        null, best = sweep["null_max"], sweep["best"]
        p = sweep["adjusted_p"]
        lines += [
            f"## Sweep of {printable(sweep['label'])} in {printable(sweep['run'])}",
            "",
            f"{len(sweep['cells'])} cells by {sweep['statistic'].replace('_', ' ')}; best"
            f" {best['site']} ({best['estimator']})"
            + ("" if p is None else f"; adjusted p {p:.3g}")
            + (f"; best under exchanged labels at most {null['max']:.3f}." if null else "."),
            "",
        ]
    return "\n".join([*lines, *(probe_markdown(p) for p in probes), DOES_NOT_SHOW, ""])
