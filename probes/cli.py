"""`nfcot probe`: fit a probe on a run, apply it to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Fit and apply probes on thoughts.", no_args_is_help=True, add_completion=False
)


@app.command()
def fit(
    run: Annotated[Path, typer.Argument(help="A run folder, from nfcot trace.")],
    label: Annotated[str, typer.Option(help="A step label or a problem label.")],
    site: Annotated[
        str,
        typer.Option(help="Where to read: u@3, eps@0, e@-1, mu@2, h@LAYER@K or a captured hook@K."),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Decides split, folds and resamples.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the probe; beside the run, probes/NAME, if not given."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Can a label be read linearly at one site, on problems the probe has not seen?

    Example: nfcot probe fit runs/test --label offset --site u@3
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from probes.fit import fit_probe, save_probe
    from probes.report import fit_table

    loaded = read_run(run)
    result = fit_probe(loaded, label, site, seed)
    default = f"{loaded.name}-{label}-{result.site}-seed{seed}".replace("/", "_")
    folder = out or loaded.path.parent / "probes" / default
    save_probe(result, folder)
    if json:
        emit_json(result.to_dict() | {"artifact": str(folder)})
        return
    console.print(fit_table(result))
    console.print(f"probe: {folder}", soft_wrap=True)


@app.command()
def apply(
    artifact: Annotated[Path, typer.Argument(help="A probe folder, from nfcot probe fit.")],
    run: Annotated[Path, typer.Argument(help="A run of the same checkpoint.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """What does a fitted probe read in another run? Writes RUN/derived/probe_scores.

    Example: nfcot probe apply runs/probes/test-offset-u@3-seed0 runs/other
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import printable
    from probes.apply import apply_probe, save_scores
    from probes.artifact import read_probe
    from probes.report import accuracy_line

    loaded = read_run(run)
    scores = apply_probe(read_probe(artifact), loaded)
    path = save_scores(scores, loaded)
    if json:
        emit_json(scores.to_dict() | {"scores": str(path)})
        return
    line = (
        f"{scores.label} at {scores.site}: {scores.n} traces read, {scores.out} without that"
        f" thought, {scores.seen} of groups seen in training"
    )
    console.print(printable(line), markup=False)
    if scores.n_scored:
        console.print(accuracy_line(scores), markup=False)
    console.print(f"scores: {path}", soft_wrap=True)
