"""`nfcot audit`: calibrated flags on a run of thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.plants.cli import validate

app = typer.Typer(
    help="Flag trajectories with calibrated p-values.", no_args_is_help=True, add_completion=False
)


@app.callback()
def audit() -> None:
    """Which trajectories stand out, at a stated rate of false alarms?"""


app.command()(validate)


@app.command()
def run(
    run: Annotated[Path, typer.Argument(help="The run to audit, from nfcot trace.")],
    calibration: Annotated[
        Path, typer.Option(help="A clean run: same model and settings, other problems.")
    ],
    alpha: Annotated[
        float, typer.Option(help="Share of clean trajectories that may be flagged.")
    ] = 0.01,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the report; beside the run, audits/NAME, if not given."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    fail_on_flag: Annotated[
        bool, typer.Option("--fail-on-flag", help="Exit with 1 when anything is flagged.")
    ] = False,
) -> None:
    """Which trajectories have unusual noise energy? Writes audit.json and audit.md.

    Example: nfcot audit run runs/test --calibration runs/clean --alpha 0.01
    """
    from analyses.audit import audit_run
    from analyses.calibrate import check_alpha
    from analyses.report import NEGATIVE_STATEMENT, write_audit
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import printable

    check_alpha(alpha)
    audited, clean = read_run(run), read_run(calibration)
    result = audit_run(audited, clean, alpha)
    default = f"{audited.name}-vs-{clean.name}-alpha{alpha:g}"
    folder = out or audited.path.parent / "audits" / default
    write_audit(result, folder)
    if json:
        emit_json(result.to_dict() | {"artifact": str(folder)})
    else:
        found = result.summary["calibration"]
        low, high = found["flags_if_clean"]
        console.print(
            f"{result.flags} of {result.summary['n']} trajectories flagged at alpha {alpha:g}"
            f" ({low} to {high} if all were clean, {found['level']:.0%} range);"
            f" scorer: {result.summary['scorer']}"
        )
        for entry in result.summary["flagged"][:10]:
            top = entry["stands_out"]
            where = f"thought {top['k']}, z {top['z']:+.1f}: {top['text']}" if top else "invalid"
            line = f"  {entry['trace_id']}  p {entry['p_value']:.4g}  {where}"
            console.print(printable(line), markup=False)
        replay = result.summary["replay"]
        for words, traces in (
            (f"differ from their noise by more than {replay['tolerance']:.2g}", replay["broken"]),
            ("are not as they were scored", replay["record_broken"]),
        ):
            if traces:
                console.print(f"replay: {len(traces)} trajectories {words}", markup=False)
        console.print(f"report: {folder / 'audit.md'}", soft_wrap=True)
        console.print(NEGATIVE_STATEMENT, style="dim")
    if fail_on_flag and result.flags:
        raise typer.Exit(1)
