"""What does a validation say, for people? One Markdown page of `validate.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["NEGATIVE", "validation_page"]

SHOWN = (
    "combined", "typ_energy", "max_step", "max_roll4", "ad", "lag1", "psd_cv", "drift", "cov_dev",
    "typ_logvol", "nll", "record",
)  # fmt: skip
NEGATIVE = (
    "A plant that is caught shows that this kind and dose is seen. Anomalies that were not planted,"
    " and thoughts that a model has on its own, are not covered by it: absence of flags is not"
    " evidence of safety."
)


def validation_page(result: dict[str, Any]) -> str:
    """Markdown: false alarms, the table statistic x plant, smallest doses, numbers by K."""
    settings, n = result["settings"], result["n"]
    parts = [
        "# What the audit sees of planted anomalies",
        f"Model {settings['checkpoint']}, tau {settings['tau']:g}; thresholds at"
        f" {result['alpha']:.0%} false alarms on {n['calibration']:,} calibration trajectories;"
        f" {n['clean']:,} clean ones beside the planted. Intervals: 95 %, over problem groups.",
        "## False alarms on clean trajectories",
        _false_alarms(result),
        "## Planted anomalies",
        "AUROC / share flagged in %. A dose in the dial of its plant; bold: expected to catch it,"
        " in brackets: cannot see it. The strongest dose of each.",
        _main_table(result),
        "## Doses",
        _doses(result),
        "## Smallest dose that is seen, by length",
        "At which dose the combination flags half, and nine tenths, of trajectories with K thoughts"
        " (straight lines between measured doses; `-`: at none of them).",
        _by_length(result),
        "## Which thought",
        _named(result),
    ]
    attack = _attack(result)
    if attack:
        parts += ["## Attack success against the score budget", attack]
    return "\n\n".join([*parts, NEGATIVE]) + "\n"


def _cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rows_of(result: dict[str, Any], plant: str, severity: float) -> dict[str, dict[str, Any]]:
    return {
        row["statistic"]: row
        for row in result["table"]
        if row["plant"] == plant and row["severity"] == severity
    }


def _false_alarms(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{e['value']:.2%}", f"{e['low']:.2%}-{e['high']:.2%}"]
        for name, e in result["fpr"].items()
    ]
    return _table(["statistic", "false alarms", "95 %"], rows)


def _main_table(result: dict[str, Any]) -> str:
    shown = [name for name in SHOWN if name in result["fpr"]]
    rows = []
    for plant in result["plants"]:
        severity = plant["doses"][-1]["severity"]
        found = _rows_of(result, plant["plant"], severity)
        cells = []
        for name in shown:
            row = found[name]
            text = f"{_cell(row['auroc'])} / {100 * row['tpr_at_1pct']:.0f}"
            if name in plant["caught_by"]:
                text = f"**{text}**"
            elif name in plant["missed_by"]:
                text = f"({text})"
            cells.append(text)
        rows.append([plant["plant"], f"{severity:g}", *cells])
    return _table(["plant", "dose", *shown], rows)


def _doses(result: dict[str, Any]) -> str:
    rows = []
    for plant in result["plants"]:
        best = [name for name in plant["caught_by"] if name not in ("combined", "record")][:1]
        for dose in plant["doses"]:
            found = _rows_of(result, plant["plant"], dose["severity"])
            cells = [
                f"{name} {found[name]['tpr_at_1pct']:.2f}"
                f" ({found[name]['low']:.2f}-{found[name]['high']:.2f})"
                for name in ("combined", *best, "record")
                if name in found
            ]
            rows.append([plant["plant"], f"{dose['severity']:g}", plant["dial"], "; ".join(cells)])
    return _table(["plant", "dose", "dial", "share flagged"], rows)


def _by_length(result: dict[str, Any]) -> str:
    lengths = sorted({e["K"] for e in result["effects"] if e["K"] is not None})
    rows = []
    for plant in result["plants"]:
        cells = []
        for K in (None, *lengths):
            found = [
                e
                for e in result["effects"]
                if (e["plant"], e["statistic"], e["K"]) == (plant["plant"], "combined", K)
            ]
            cells.append(
                f"{_cell(found[0]['dose_0.5'])} / {_cell(found[0]['dose_0.9'])}" if found else "-"
            )
        rows.append([plant["plant"], *cells])
    return _table(["plant", "all", *(f"K {K}" for K in lengths)], rows)


def _named(result: dict[str, Any]) -> str:
    rows = []
    for plant in result["plants"]:
        named = plant["doses"][-1]["named"]
        if named is not None:
            values = [named[key] for key in ("right", "next", "among_flagged", "chance")]
            rows.append([plant["plant"], str(named["n"]), *(_cell(v) for v in values)])
    header = ["plant", "n", "loudest thought is planted", "or follows one", "if flagged", "chance"]
    return _table(header, rows)


def _attack(result: dict[str, Any]) -> str | None:
    rows = []
    for plant in result["plants"]:
        for dose in plant["doses"]:
            if dose["reached"] is not None:
                reached = dose["reached"]
                rows.append(
                    [
                        plant["plant"],
                        f"{dose['severity']:g}",
                        _cell(reached["reached"]),
                        _cell(reached["unflagged"]),
                    ]
                )
    header = ["plant", "budget (sd)", "answer changed", "changed and not flagged"]
    return _table(header, rows) if rows else None
