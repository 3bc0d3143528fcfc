"""The bodies of `nfcot audit calibrate`, `score`, `run`, `watch` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.audit import AuditResult, audit_run
from analyses.calibrate import Rule, stop_threshold
from analyses.calibration_file import is_calibration, load_calibration, save_calibration
from analyses.cells import ALL
from analyses.clean import CleanSet, clean_set
from analyses.drift import alarm_level
from analyses.findings import origin_of
from analyses.ranks import refuse_too_few
from analyses.report import NEGATIVE_STATEMENT, read_audit, write_audit, write_report
from analyses.scoring import ScoreSummary, score_run
from analyses.watch import Watch, WatchSummary, follow
from nfcot_model.errors import UserError
from nfcot_model.files import read_json_object
from nfcot_model.terminal import console, progress
from nfcot_model.traces import Run, read_run
from nfcot_model.traces.reader import committed_shards
from nfcot_model.traces.view import printable

__all__ = [
    "attach",
    "calibrate_command",
    "rule_of",
    "run_command",
    "score_command",
    "show_audit",
    "watch_command",
]


def rule_of(alpha: float | None, fdr: float | None, guaranteed: bool, delta: float) -> Rule:
    """The rule that the flags --alpha, --fdr and --guaranteed ask for; alpha 0.01 if none does."""
    if fdr is not None and (alpha is not None or guaranteed):
        raise UserError("--fdr: give it alone, or --alpha with or without --guaranteed")
    if fdr is not None:
        return Rule(alpha=None, fdr=fdr)
    return Rule(alpha=0.01 if alpha is None else alpha, guaranteed=guaranteed, delta=delta)


def clean_traces(path: Path) -> Run | CleanSet:
    """What --calibration names: a calibration, or a clean run to make one of."""
    return load_calibration(path) if is_calibration(path) else read_run(path)


def calibrate_command(
    run: Path,
    out: Path,
    rule: Rule,
    fit: Path | None,
    reference: Path | None,
    features: str | None,
) -> dict[str, Any]:
    """Calibrate on a clean run and save it; what to report of it."""
    given = {"fit": fit, "reference": reference}
    others = {role: read_run(path) for role, path in given.items() if path is not None}
    made = clean_set(read_run(run), rule, others=others, features=features)
    save_calibration(made, out)
    return {
        "calibration": str(out),
        "hash": made.hash,
        "sets": made.sets,
        "n": made.ranks.n,
        "cells": {name: cell.n for name, cell in made.ranks.cells.items()},
        "unused_samples": made.ranks.unused,
        "statistics": list(made.ranks.battery.names),
        "combined": list(made.ranks.battery.combine),
        "worlds": made.identity.worlds,
        "settings": made.identity.settings,
        "replay_error_max": made.replay_error_max,
        "stop_at_z": stop_threshold(made.ranks.cells[ALL].peaks, rule),
    }


def score_command(run: Path, calibration: Path, rule: Rule, out: Path | None) -> ScoreSummary:
    """Score a run on disk into a folder of tables."""
    clean = _calibrated(calibration, rule)
    folder = out or run.resolve().parent / "audits" / f"{run.resolve().name}-scores-{clean.name}"
    shards = len(committed_shards(run))
    with progress("score", total=shards) as advance:
        return score_run(run, clean, folder, rule, advance)


def watch_command(
    run: Path,
    calibration: Path,
    rule: Rule,
    out: Path | None,
    *,
    every: float,
    until_idle: float | None,
    once: bool,
) -> tuple[WatchSummary, Path]:
    """Follow a run, telling of flags and drift as they come; what was seen, and the record."""
    clean = _calibrated(calibration, rule)
    folder = out or run.resolve().parent / "audits" / f"{run.resolve().name}-watch-{clean.name}"
    watch = Watch(run, clean, rule, folder)
    if watch.events:
        before = watch.summary()
        console.print(f"resumed after {before.n} traces, {len(before.flagged)} of them flagged")
    level = alarm_level(rule.rate)
    alarmed = watch.drift.highest >= level

    def tell(event: dict[str, Any]) -> None:
        nonlocal alarmed
        for flag in event["flagged"]:
            console.print(printable(_line(flag)), markup=False, soft_wrap=True)
        if not alarmed and event["drift"]["highest"] >= level:
            alarmed = True
            console.print(f"drift: the stream changed, alarm in shard {event['shard']}")

    return follow(watch, every=every, until_idle=until_idle, once=once, tell=tell), folder


def _calibrated(path: Path, rule: Rule) -> CleanSet:
    """The calibration named, or one made of a clean run, if it is large enough for the rule."""
    found = clean_traces(path)
    clean = found if isinstance(found, CleanSet) else clean_set(found, rule)
    refuse_too_few(f"--calibration {clean.name}", clean.ranks.n, rule)
    return clean


def run_command(
    run: Path, calibration: Path, rule: Rule, out: Path | None
) -> tuple[AuditResult, Path]:
    """Audit a run and write the audit's folder; the result and the folder."""
    audited, clean = read_run(run), clean_traces(calibration)
    result = audit_run(audited, clean, rule)
    rate = f"fdr{rule.fdr:g}" if rule.fdr is not None else f"alpha{rule.rate:g}"
    name = f"{audited.name}-vs-{clean.name}-{rate}" + ("-guaranteed" if rule.guaranteed else "")
    folder = out or audited.path.parent / "audits" / name
    write_audit(result, folder)
    return result, folder


def show_audit(result: AuditResult, folder: Path) -> None:
    """Tell a person what the audit found."""
    found = result.summary
    c = found["calibration"]
    low, high = c["flags_if_clean"]
    if found["fdr"] is not None:
        console.print(
            f"{result.flags} of {found['n']} trajectories flagged at false discovery rate"
            f" {found['fdr']:g}; scorer: {found['scorer']}"
        )
    else:
        sure = (
            f", guaranteed with {1 - found['delta']:.0%} confidence" if found["guaranteed"] else ""
        )
        console.print(
            f"{result.flags} of {found['n']} trajectories flagged at alpha {found['alpha']:g}{sure}"
            f" ({low} to {high} if all were clean, {c['level']:.0%} range);"
            f" scorer: {found['scorer']}"
        )
    for entry in found["flagged"][:10]:
        console.print(printable(f"  {_line(entry)}"), markup=False)
    replay = found["replay"]
    for words, traces in (
        (f"differ from their noise by more than {replay['tolerance']:.2g}", replay["broken"]),
        ("are not as they were scored", replay["record_broken"]),
    ):
        if traces:
            console.print(f"replay: {len(traces)} trajectories {words}", markup=False)
    if found["drift"]["alarm"]:
        console.print(f"drift: the stream changed, alarm at trace {found['drift']['alarm_at']}")
    console.print(f"report: {folder / 'audit.md'}", soft_wrap=True)
    console.print(NEGATIVE_STATEMENT, style="dim")


def _line(flag: dict[str, Any]) -> str:
    """A flag: where it starts and what stands there; the loudest thought, where that is another."""
    origin, loudest = origin_of(flag), flag["stands_out"]
    where = "invalid"
    if origin:
        starts = "starts at thought" if flag["thoughts"] else "loudest thought"
        other = f" (loudest: {loudest['k']})" if loudest["k"] != origin["k"] else ""
        where = f"{starts} {origin['k']}{other}: {origin['text']}"
    return f"{flag['trace_id']}  p {flag['p_value']:.4g}  {flag['leading']}  {where}"


def attach(
    folder: Path, documents: dict[str, Path | None], deviations: list[str]
) -> tuple[dict[str, Any], list[Path]]:
    """Write an audit's reports, with further evidence and deviations; the audit and the files.

    documents: name of the evidence -> JSON file of the command that measures it.
    """
    summary = read_audit(folder)
    needed = {"validation": "table", "probes": "metrics", "causal": "tasks"}
    for name, path in documents.items():
        if path is None:
            continue
        found = read_json_object(path)
        if needed[name] not in found:
            raise UserError(
                f"{path}: has no field '{needed[name]}'; give the --json document of the command"
                " that the report names"
            )
        summary["evidence"][name] = found
    summary["deviations"] = [*summary["deviations"], *deviations]
    return summary, write_report(folder, summary)
