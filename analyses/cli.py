"""`nfcot audit`: calibrated flags on a run of thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.plants.cli import validate
from analyses.scoring_cli import add_commands

app = typer.Typer(
    help="Flag trajectories with calibrated p-values.", no_args_is_help=True, add_completion=False
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Alpha = Annotated[
    float | None,
    typer.Option(help="Share of clean trajectories that may be flagged; 0.01 if not given."),
]
Guaranteed = Annotated[
    bool,
    typer.Option("--guaranteed", help="Keep --alpha with confidence 1 - delta, not on average."),
]
Delta = Annotated[float, typer.Option(help="Risk that --guaranteed does not hold.")]
Against = Annotated[
    Path,
    typer.Option(
        "--calibration",
        help="A calibration, or a clean run: same model and settings, other problems.",
    ),
]


@app.callback()
def audit() -> None:
    """Which trajectories stand out, at a stated rate of false alarms?"""


app.command()(validate)


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="A clean run, from nfcot trace.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the calibration.")],
    fit: Annotated[
        Path | None, typer.Option(help="Another clean run, for subspaces and hidden states.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Another clean run, for usual values and quantiles.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Hidden states to score too: h, or a captured hook.")
    ] = None,
    alpha: Alpha = None,
    guaranteed: Guaranteed = False,
    delta: Delta = 0.05,
    json: Json = False,
) -> None:
    """What do clean trajectories score? Writes a calibration that audits rank against.

    Without --fit and --reference the run's problem groups are split in three. --alpha only checks
    that there are enough.

    Example: nfcot audit calibrate runs/clean -o runs/calibrations/clean
    """
    from analyses.audit_cli import calibrate_command, rule_of
    from nfcot_model.terminal import console, emit_json

    rule = rule_of(alpha, None, guaranteed, delta)
    made = calibrate_command(run, out, rule, fit, reference, features)
    if json:
        emit_json(made)
    else:
        console.print(f"{made['n']} trajectories to rank among, of {', '.join(made['worlds'])}")
        console.print(f"calibration: {out}", soft_wrap=True)


@app.command()
def run(
    run: Annotated[Path, typer.Argument(help="The run to audit, from nfcot trace.")],
    calibration: Against,
    alpha: Alpha = None,
    fdr: Annotated[
        float | None,
        typer.Option(help="Instead of --alpha: share of false alarms among the flagged."),
    ] = None,
    guaranteed: Guaranteed = False,
    delta: Delta = 0.05,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Folder for the report; beside the run, audits/NAME, if not given."
        ),
    ] = None,
    json: Json = False,
    fail_on_flag: Annotated[
        bool, typer.Option("--fail-on-flag", help="Exit with 1 when anything is flagged.")
    ] = False,
) -> None:
    """Which trajectories have unusual noise? Writes audit.json and audit.md.

    Example: nfcot audit run runs/test --calibration runs/clean --alpha 0.01
    """
    from analyses.audit_cli import rule_of, run_command, show_audit
    from nfcot_model.terminal import emit_json

    result, folder = run_command(run, calibration, rule_of(alpha, fdr, guaranteed, delta), out)
    if json:
        emit_json(result.to_dict() | {"artifact": str(folder)})
    else:
        show_audit(result, folder)
    if fail_on_flag and result.flags:
        raise typer.Exit(1)


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="The run to score, of any size.")],
    calibration: Against,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the tables; beside the run if not given."),
    ] = None,
    alpha: Alpha = None,
    json: Json = False,
) -> None:
    """Write every statistic of every trace and thought as tables. Repeat it to resume.

    Example: nfcot audit score runs/test --calibration runs/calibrations/clean
    """
    from analyses.audit_cli import rule_of, score_command
    from nfcot_model.terminal import console, emit_json

    done = score_command(run, calibration, rule_of(alpha, None, False, 0.05), out)
    if json:
        emit_json(done)
    else:
        console.print(
            f"{done.trajectories} trajectories, {done.thoughts} thoughts, {done.invalid} invalid;"
            f" {done.thoughts_per_second:.0f} thoughts/s"
        )
        console.print(f"scores: {done.out}", soft_wrap=True)


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="A run that nfcot trace is writing.")],
    calibration: Against,
    alpha: Alpha = None,
    guaranteed: Guaranteed = False,
    delta: Delta = 0.05,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the record; beside the run if not given."),
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
    until_idle: Annotated[
        float | None, typer.Option(help="Stop when nothing has come for so many seconds.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Take what is there and stop.")] = False,
    json: Json = False,
    fail_on_flag: Annotated[
        bool, typer.Option("--fail-on-flag", help="Exit with 1 when anything is flagged.")
    ] = False,
) -> None:
    """Follow a run while it grows: flags and drift as they come. Repeat it to resume.

    Example: nfcot audit watch runs/live --calibration runs/calibrations/clean
    """
    from analyses.audit_cli import rule_of, watch_command
    from analyses.report import NEGATIVE_STATEMENT
    from nfcot_model.terminal import console, emit_json

    rule = rule_of(alpha, None, guaranteed, delta)
    seen, folder = watch_command(
        run, calibration, rule, out, every=every, until_idle=until_idle, once=once
    )
    if json:
        emit_json(seen.__dict__ | {"record": folder})
    else:
        rest = "" if seen.complete else f", {seen.missing} have not come"
        console.print(f"{len(seen.flagged)} of {seen.n} trajectories flagged{rest}")
        console.print(f"record: {folder}", soft_wrap=True)
        console.print(NEGATIVE_STATEMENT, style="dim")
    if fail_on_flag and seen.flagged:
        raise typer.Exit(1)


@app.command()
def report(
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="Folder of nfcot audit run.")],
    validation: Annotated[
        Path | None, typer.Option(help="JSON of nfcot audit validate: what the battery finds.")
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="JSON of nfcot probe fit.")] = None,
    causal: Annotated[Path | None, typer.Option(help="JSON of nfcot causal.")] = None,
    deviation: Annotated[
        list[str] | None, typer.Option(help="A deviation from the plan; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Write an audit as one HTML page that needs no network, as Markdown and as JSON lines.

    Example: nfcot audit report runs/audits/test-vs-clean-alpha0.01 --causal causal.json
    """
    from analyses.audit_cli import attach
    from nfcot_model.terminal import console, emit_json

    documents = {"validation": validation, "probes": probe, "causal": causal}
    summary, written = attach(audit, documents, deviation or [])
    if json:
        given = sorted(name for name, found in summary["evidence"].items() if found)
        emit_json({"audit": audit, "files": [path.name for path in written], "evidence": given})
    else:
        for path in written:
            console.print(str(path), soft_wrap=True, markup=False)


add_commands(app)
