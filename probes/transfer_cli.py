"""`nfcot probe transfer` and `nfcot probe report`: probes of several runs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probes.options import (
    Draws,
    Folds,
    Json,
    Kind,
    Label,
    Labels,
    Positive,
    Seed,
    Site,
    status,
    table_of,
)

__all__ = ["report", "transfer"]


def transfer(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Two runs or more; one with --leave-out.")
    ],
    label: Label,
    site: Site,
    leave_out: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Leave each family of one run out, such as world."),
    ] = None,
    estimator: Annotated[str | None, typer.Option(help="As in nfcot probe fit.")] = None,
    labels: Labels = None,
    kind: Kind = "auto",
    positive: Positive = None,
    seed: Seed = 0,
    folds: Folds = 5,
    draws: Draws = 1000,
    across_settings: Annotated[
        bool,
        typer.Option("--across-settings", help="Also runs of other checkpoints, tau or template."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A JSON file for the matrix.")
    ] = None,
    json: Json = False,
) -> None:
    """Does a probe read other runs, or families of problems, than it was trained on?

    Example: nfcot probe transfer runs/a runs/b --label offset --site u@3
    """
    from nfcot_model.errors import UserError
    from nfcot_model.files import write_json
    from nfcot_model.terminal import console, emit_json, jsonable
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import printable
    from probes.families import families
    from probes.fit import Options
    from probes.report import DOES_NOT_SHOW, transfer_table
    from probes.transfer import transfer as across

    if leave_out is not None and len(runs) != 1:
        raise UserError(f"--leave-out {leave_out}: leaves families of one run out; give one run")
    if leave_out is None and len(runs) < 2:
        raise UserError("transfer needs two runs or more, or --leave-out COLUMN with one")
    loaded = [read_run(run) for run in runs]
    table = table_of(labels, *loaded)
    options = Options(
        estimator=estimator, kind=kind, positive=positive, seed=seed, folds=folds, draws=draws
    )
    with status() as tell:
        found = (
            families(loaded[0], label, site, leave_out, options, table=table, progress=tell)
            if leave_out is not None
            else across(
                loaded,
                label,
                site,
                options,
                table=table,
                across_settings=across_settings,
                progress=tell,
            )
        )
    if out is not None:
        write_json(out, jsonable(found.to_dict()))
    if json:
        emit_json(found.to_dict())
        return
    console.print(transfer_table(found))
    for line in [found.headline, DOES_NOT_SHOW]:
        console.print(printable(line), markup=False)
    for name, reasons in found.out.items():
        for reason, count in reasons.items():
            if count:
                console.print(printable(f"{name}: {count} traces out, {reason}"), markup=False)


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER…", help="Probes and sweeps, or folders that hold them."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for report.html, report.md and report.json.")
    ],
    json: Json = False,
) -> None:
    """Every fitted probe and sweep in these folders, with all controls, in one page.

    Example: nfcot probe report runs/probes -o reports/probes
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces.view import printable
    from probes.collected import collect, write_report

    found = collect(folders)
    write_report(found, out)
    if json:
        emit_json(found.to_dict() | {"report": str(out)})
        return
    for reason in found.damaged:
        console.print(printable(f"left out: {reason}"), markup=False)
    for probe in found.probes:
        console.print(
            printable(f"{probe['run']} {probe['label']} at {probe['site']}: {probe['headline']}"),
            markup=False,
        )
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, markup=False)
