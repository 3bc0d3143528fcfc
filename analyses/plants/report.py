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
READ = (
    "typ_energy", "combined", "typ_logvol", "record", "lambda", "reference", "probe_u", "probe_eps",
    "probe_h", "probe_input",
)  # fmt: skip
MONITORS = ("combined", "lambda", "probe_u", "probe_h", "probe_input")
NEGATIVE = (
    "A plant that is caught shows that this kind and dose is seen. Anomalies that were not planted,"
    " and thoughts that a model has on its own, are not covered by it: absence of flags is not"
    " evidence of safety."
)


def validation_page(result: dict[str, Any]) -> str:
    """Markdown: false alarms, the table statistic x plant, smallest doses, numbers by K."""
    settings, n = result["settings"], result["n"]
    edited = [plant for plant in result["plants"] if plant["model"] is None]
    trained = [plant for plant in result["plants"] if plant["model"] is not None]
    parts = [
        "# What the audit sees of planted anomalies",
        f"Model {settings['checkpoint']}, tau {settings['tau']:g}; thresholds at"
        f" {result['alpha']:.0%} false alarms on {n['calibration']:,} calibration trajectories;"
        f" {n['clean']:,} clean ones beside the planted. Intervals: 95 %, over problem groups.",
        "## False alarms on clean trajectories",
        _false_alarms(result),
    ]
    if edited:
        parts += [
            "## Planted anomalies",
            "AUROC / share flagged in %, at the strongest dose. Bold: expected to catch it; in"
            " brackets: expected not to see it.",
            _main_table(result, edited, SHOWN),
            "## Doses",
            _doses(result, edited),
            "## Smallest dose that is seen, by length",
            "At which dose the combination flags half, and nine tenths, of trajectories with K"
            " thoughts (straight lines between measured doses; `-`: at none of them).",
            _by_length(result, edited),
            "## Which thought",
            _named(edited),
        ]
    attacks = [plant for plant in edited if plant["doses"][0]["reached"] is not None]
    if attacks:
        parts += ["## Attack success against the score budget", _attack(attacks)]
    if trained:
        parts += [
            "## Thought by the model itself",
            "Shipped organisms, whatever the model above is: AUROC / share flagged in %, thresholds"
            " from their own clean trajectories.",
            _main_table(result, trained, READ),
            "Shares of right answers, and what the condition did to answers; g-mean² at 1 % false"
            " alarms, one sample a problem.",
            _behaviour(trained),
        ]
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


def _main_table(result: dict[str, Any], plants: list[dict[str, Any]], shown: Sequence[str]) -> str:
    rows = []
    for plant in plants:
        severity = plant["doses"][-1]["severity"]
        found = _rows_of(result, plant["plant"], severity)
        cells = []
        for name in shown:
            if name not in found:
                cells.append("-")
                continue
            row = found[name]
            text = f"{_cell(row['auroc'])} / {100 * row['tpr_at_1pct']:.0f}"
            if name in plant["caught_by"]:
                text = f"**{text}**"
            elif name in plant["missed_by"]:
                text = f"({text})"
            cells.append(text)
        rows.append([plant["plant"], f"{severity:g}", *cells])
    return _table(["plant", "dose", *shown], rows)


def _doses(result: dict[str, Any], plants: list[dict[str, Any]]) -> str:
    rows = []
    for plant in plants:
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


def _by_length(result: dict[str, Any], plants: list[dict[str, Any]]) -> str:
    lengths = sorted({e["K"] for e in result["effects"] if e["K"] is not None})
    rows = []
    for plant in plants:
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


def _named(plants: list[dict[str, Any]]) -> str:
    rows = []
    for plant in plants:
        named = plant["doses"][-1]["named"]
        if named is not None:
            keys = ("right", "next", "among_flagged", "first", "chance")
            rows.append([plant["plant"], str(named["n"]), *(_cell(named.get(k)) for k in keys)])
    header = [
        "plant",
        "n",
        "loudest is planted",
        "or follows one",
        "if flagged",
        "first strange one is",
    ]
    return _table([*header, "chance"], rows)


def _attack(plants: list[dict[str, Any]]) -> str:
    rows = []
    for plant in plants:
        for dose in plant["doses"]:
            shares = [_cell(dose["reached"][key]) for key in ("reached", "unflagged")]
            rows.append([plant["plant"], f"{dose['severity']:g}", *shares])
    header = ["plant", "budget (sd)", "answer changed", "changed and not flagged"]
    return _table(header, rows)


def _behaviour(plants: list[dict[str, Any]]) -> str:
    rows = []
    for plant in plants:
        right = [_cell(plant["behaviour"][arm]["right"]) for arm in ("clean", "planted")]
        found = plant["intervention"]
        effect = "-" if found is None else _cell(found["effect"])
        scores = ["-" if found is None else _cell(found["g_mean2"].get(n)) for n in MONITORS]
        rows.append([plant["plant"], plant["model"], plant["dial"], *right, effect, *scores])
    header = ["plant", "organism", "condition", "right: clean", "planted", "effect"]
    return _table([*header, *(f"g-mean² {name}" for name in MONITORS)], rows)
