"""`nfcot audit validate`: what does an audit of this model see of planted anomalies?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["validate"]


def validate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint folder, or demo.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the measurements.")
    ],
    tau: Annotated[float, typer.Option(help="Temperature of the thoughts.")] = 0.7,
    calibration: Annotated[
        int, typer.Option(help="Clean trajectories that thresholds come from.")
    ] = 5000,
    reference: Annotated[int, typer.Option(help="Clean trajectories the battery learns.")] = 2000,
    fit: Annotated[int, typer.Option(help="Clean trajectories its subspaces come from.")] = 500,
    n: Annotated[int, typer.Option("-n", help="Clean test trajectories to plant in.")] = 1000,
    organism: Annotated[
        int, typer.Option(help="Trajectories of each condition in organisms.")
    ] = 600,
    worlds: Annotated[
        str | None, typer.Option(metavar="A,B", help="Worlds of the problems; default: all.")
    ] = None,
    plants: Annotated[
        str | None, typer.Option(metavar="A,B", help="Which plants; default: all.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws of the intervals.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of problems, noise and plants.")] = 0,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Plant anomalies in clean trajectories of MODEL; which statistics see them, from which dose?

    Repeat the command to resume after an interruption: finished plants are kept.

    Example: nfcot audit validate demo -o reports/validate
    """
    from analyses.plants.report import validation_page
    from analyses.plants.validate import Validation
    from analyses.plants.validate import validate as measured
    from nfcot_model.files import write_text
    from nfcot_model.reasoners import load_nfcot
    from nfcot_model.terminal import console, emit_json, progress

    chosen = {} if plants is None else {"plants": _listed(plants)}
    chosen |= {} if worlds is None else {"worlds": _listed(worlds)}
    settings = Validation(tau, fit, reference, calibration, n, organism, draws, seed, **chosen)
    reasoner = load_nfcot(model, device=device)
    with progress("plants", len(settings.plants)) as advance:
        result = measured(
            reasoner,
            out,
            settings,
            report=lambda text: console.print(text, style="dim", markup=False),
            progress=advance,
        )
    page = out / "validate.md"
    write_text(page, validation_page(result))
    if json:
        emit_json(result | {"report": str(page)})
    else:
        console.print(f"table: {page}", soft_wrap=True, markup=False)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
