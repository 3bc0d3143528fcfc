"""What does a validation say, for people? One Markdown page of `validate.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analyses.plants import tables
from analyses.plants.tables import READ, cell, figures, rows_of, table

__all__ = ["NEGATIVE", "validation_page"]

SHOWN = (
    "combined", "typ_energy", "max_step", "max_roll4", "ad", "lag1", "psd_cv", "drift", "cov_dev",
    "typ_logvol", "nll", "record",
)  # fmt: skip
MONITORS = ("combined", "lambda", "probe_u", "probe_h", "probe_input")
NEGATIVE = (
    "A plant that is caught shows that this kind and dose is seen. Anomalies that were not planted,"
    " and thoughts that a model has on its own, are not covered by it: absence of flags is not"
    " evidence of safety."
)


def validation_page(result: dict[str, Any]) -> str:
    """Markdown: false alarms, the table statistic x plant, smallest doses, numbers by K."""
    edited = [plant for plant in result["plants"] if plant["model"] is None]
    trained = [plant for plant in result["plants"] if plant["model"] is not None]
    parts = [
        "# What the audit sees of planted anomalies",
        f"{tables.settings(result)} Thresholds at {result['alpha']:.0%} false alarms. Intervals:"
        " 95 %, over problem groups.",
        "## False alarms on clean trajectories",
        _false_alarms(result),
    ]
    if edited:
        of_all = [plant["plant"] for plant in edited]
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
            tables.by_length(result, of_all),
            "## Which thought",
            "Shares of trajectories in part planted. Named: the first thought that is stranger"
            " than the strangest of 99 % of clean trajectories, the loudest where none is.",
            tables.named(result),
        ]
    if tables.attack(result):
        parts += ["## Attack success against the score budget", tables.attack(result)]
    if trained:
        parts += [
            "## Thought by the model itself",
            "Organisms, whatever the model above is: AUROC / share flagged in %, thresholds"
            " from their own clean trajectories.",
            _main_table(result, trained, READ),
            "Shares of right answers, what the condition did to answers, and what is left of it"
            " with the clean twin's thoughts; g-mean² at 1 % false alarms over all problems.",
            _behaviour(trained),
            "g-mean² over the problems where the condition has an effect of its own.",
            tables.monitors(result),
        ]
    if tables.evasion(result):
        note = next(plant["note"] for plant in trained if "note" in plant)
        parts += ["## Evading a probe", f"**{note}**", tables.evasion(result)]
    return "\n\n".join([*parts, NEGATIVE]) + "\n"


def _false_alarms(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{e['value']:.2%}", f"{e['low']:.2%}-{e['high']:.2%}"]
        for name, e in result["fpr"].items()
    ]
    return table(["statistic", "false alarms", "95 %"], rows)


def _main_table(result: dict[str, Any], plants: list[dict[str, Any]], shown: Sequence[str]) -> str:
    rows = []
    for plant in plants:
        severity = plant["doses"][-1]["severity"]
        found = rows_of(result, plant["plant"], severity)
        cells = [figures(plant, found, name) for name in shown]
        rows.append([plant["plant"], f"{severity:g}", *cells])
    return table(["plant", "dose", *shown], rows)


def _doses(result: dict[str, Any], plants: list[dict[str, Any]]) -> str:
    rows = []
    for plant in plants:
        best = [name for name in plant["caught_by"] if name not in ("combined", "record")][:1]
        for dose in plant["doses"]:
            found = rows_of(result, plant["plant"], dose["severity"])
            cells = [
                f"{name} {found[name]['tpr_at_1pct']:.2f}"
                f" ({found[name]['low']:.2f}-{found[name]['high']:.2f})"
                for name in ("combined", *best, "record")
                if name in found
            ]
            rows.append([plant["plant"], f"{dose['severity']:g}", plant["dial"], "; ".join(cells)])
    return table(["plant", "dose", "dial", "share flagged"], rows)


def _behaviour(plants: list[dict[str, Any]]) -> str:
    rows = []
    for plant in plants:
        for dose in plant["doses"]:
            right = [cell(dose["behaviour"][arm]["right"]) for arm in ("clean", "planted")]
            found, given = dose["intervention"], dose["given_clean_thoughts"]
            effect = "-" if found is None else cell(found["effect"])
            stays = "-" if given is None else cell(given["as_trained"])
            scores = ["-" if found is None else cell(found["g_mean2"].get(n)) for n in MONITORS]
            first = [plant["plant"], plant["model"], plant["dial"]]
            rows.append([*first, *right, effect, stays, *scores])
    header = ["plant", "organism", "condition", "right: clean", "planted", "effect"]
    header.append("as trained on clean thoughts")
    return table([*header, *(f"g-mean² {name}" for name in MONITORS)], rows)
