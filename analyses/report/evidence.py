"""What else is known of detector, probes, monitorability, causes? Shown, or named as missing."""

from __future__ import annotations

from typing import Any

from analyses.report.blocks import Block, Section, Table, Text, code, number

__all__ = ["evidence_sections", "known_plants"]

SHOWN = 200
SCOPES = ("combined", "typ_logvol", "lambda", "probe_u", "probe_h", "probe_input")


def evidence_sections(evidence: dict[str, Any]) -> list[Section]:
    """Detector, probe, monitorability and causal evidence, in this order."""
    return [
        Section("Detector evidence", _validation(evidence.get("validation"))),
        Section("Probe evidence", _probes(evidence.get("probes"))),
        Section("Monitorability", _monitorability(evidence)),
        Section("Causal summary", _causal(evidence.get("causal"))),
    ]


def _missing(what: str, command: str, flag: str) -> list[Block]:
    return [
        Text(
            f"No data: {what}. Supply it with `{command} > FILE`, then `nfcot audit report AUDIT"
            f" {flag} FILE`."
        )
    ]


def _validation(found: dict[str, Any] | None) -> list[Block]:
    if not found:
        return _missing(
            "which planted anomalies this battery finds, at which strength, is not measured for"
            " this model here, so the absence of flags bounds nothing",
            "nfcot audit validate … --json",
            "--validation",
        )
    rows = [
        [
            code(str(row["statistic"])),
            code(str(row["plant"])),
            str(row.get("severity", "")),
            number(row.get("auroc"), ".3f"),
            number(row.get("tpr_at_1pct"), ".3f"),
            f"{number(row.get('low'), '.3f')} to {number(row.get('high'), '.3f')}",
        ]
        for row in found["table"]
    ]
    head = ["statistic", "plant", "severity", "AUROC", "TPR at 1 % FPR", "interval"]
    of = found.get("settings", {})
    return [
        Text(
            f"Measured on checkpoint {code(str(of.get('checkpoint', 'not said')))} at tau"
            f" {of.get('tau', 'not said')}, seed {of.get('seed', 'not said')}, by"
            " `nfcot audit validate`. Realised false-positive rate on clean traces:"
            f" {code(str(found.get('fpr')))}."
        ),
        Table(head, rows[:SHOWN]),
        *([Text(f"{len(rows) - SHOWN} more rows are in audit.json.")] if len(rows) > SHOWN else []),
    ]


def _probes(found: dict[str, Any] | None) -> list[Block]:
    if not found:
        return _missing(
            "no probe was attached", "nfcot probe fit RUN --label … --site … --json", "--probe"
        )

    def figures(metrics: dict[str, Any]) -> str:
        return ", ".join(
            f"{name} {number(m.get('value'), '.3f')}"
            f" ({number(m.get('low'), '.3f')} to {number(m.get('high'), '.3f')})"
            for name, m in metrics.items()
        )

    rows = [[code(f"{found['label']} at {found['site']}"), figures(found["metrics"])]]
    rows += [[code(str(c["name"])), figures(c["metrics"])] for c in found.get("controls", [])]
    return [
        Table(["probe, then its controls", "held-out figures with intervals"], rows),
        Text("A probe that reads a property shows that it is present, not that the model uses it."),
    ]


def _monitorability(evidence: dict[str, Any]) -> list[Block]:
    found = evidence.get("monitorability")
    if found:
        rows = [[code(str(name)), code(str(value))] for name, value in found.items()]
        return [Table(["measure", "value"], rows)]
    plants = (evidence.get("validation") or {}).get("monitorability")
    if not plants:
        return _missing(
            "g-mean² by scope, eligibility and total effects are not measured",
            "nfcot audit validate … --json",
            "--validation",
        )
    rows = []
    for plant in plants:
        scores = plant["g_mean2"] or {}
        told = [
            f"{name} {number(scores[name]['value'], '.2f')}" for name in SCOPES if name in scores
        ]
        rows.append(
            [
                code(str(plant["plant"])),
                number(plant["solved_without"], ".2f"),
                f"{number(plant['without'], '.2f')} to {number(plant['with'], '.2f')}",
                f"{number(plant['eligible'], '.2f')} of {plant['problems']}",
                ", ".join(told) or "not reportable: too few eligible problems",
            ]
        )
    head = ["condition", "solved without it", "its answer, without and with", "eligible", "g-mean²"]
    return [
        Text(
            "Of shipped organisms, whatever model was audited; chosen and measured on different"
            " samples of each problem."
        ),
        Table(head, rows),
    ]


def _causal(found: dict[str, Any] | None) -> list[Block]:
    if not found:
        return _missing(
            "whether answers use the thoughts is not tested; if they do not, no claim about"
            " thoughts says anything about behaviour",
            "nfcot causal RUN --json",
            "--causal",
        )
    rows = []
    for task in found["tasks"]:
        sufficiency = task.get("sufficiency") or {}
        rows.append(
            [
                code(str(task["task"])),
                code(str(task["verdict"])),
                *(_share(sufficiency.get(name)) for name in ("donor", "prompt", "neither")),
            ]
        )
    return [Table(["task", "verdict", "follows donor", "own prompt", "neither"], rows)]


def _share(value: Any) -> str:
    found = value.get("value") if isinstance(value, dict) else value
    return number(found, ".2f") if isinstance(found, int | float) else "–"


def known_plants(planted: list[dict[str, Any]]) -> list[Block]:
    """Where the audited run itself says what was planted in it; nothing where it says nothing."""
    if not planted:
        return []
    rows = [
        [
            code(entry["kind"]),
            str(entry["n"]),
            str(entry["flagged"]),
            "–" if entry["located"] is None else str(entry["located"]),
            str(entry["replay_broken"]),
        ]
        for entry in planted
    ]
    head = ["plant", "trajectories", "flagged", "thought named", "replay broken"]
    return [Text("Known plants in this run:"), Table(head, rows)]
