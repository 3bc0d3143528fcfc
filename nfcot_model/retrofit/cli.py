"""`nfcot run retrofit` and `nfcot run rescore`: a density for thoughts that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["rescore", "retrofit"]

Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]


def retrofit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run without a density.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder; beside the run, retrofits/NAME, if not given."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1500,
    noise: Annotated[
        float, typer.Option(min=0, max=10, help="Noise on whitened thoughts while fitting.")
    ] = 0.1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of split, weights and noise.")
    ] = 0,
    json: Json = False,
) -> None:
    """Fit a conditional flow on a run's thoughts; says how well it fits held-out problems.

    Example: nfcot run retrofit runs/coconut -o retrofits/coconut
    """
    from nfcot_model.errors import UserError
    from nfcot_model.retrofit.artifact import save_retrofit
    from nfcot_model.retrofit.fit import FitSettings, fit_retrofit
    from nfcot_model.terminal import console, emit_json, progress
    from nfcot_model.traces import read_run

    source = read_run(run)
    if source.scorer != "none":
        raise UserError(
            f"{source.name}: has a density of its own (scorer {source.scorer}), audit it as it is"
        )
    folder = out or source.path.parent / "retrofits" / source.name
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder}: is a file; give a folder")
    settings = FitSettings(steps=steps, noise=noise, seed=seed)
    with progress(f"fitting {source.name}", steps) as advance:
        fit = fit_retrofit(source, settings, lambda step, loss: advance(1))
    document = save_retrofit(fit, source, folder)
    if json:
        emit_json(document | {"artifact": str(folder)})
        return
    q = fit.quality
    console.print(
        f"held-out NLL {q.nll:.3f} nats per dimension ({q.nll_train:.3f} fitted, one Gaussian"
        f" {q.baseline:.3f}) on {q.thoughts} thoughts of {q.groups} groups"
    )
    console.print(
        f"held-out eps: mean {q.mean:+.3f}, variance {q.variance:.3f}, KS {q.ks:.3f};"
        f" energy KS {q.energy_ks:.3f}"
    )
    for words in q.warnings:
        console.print(f"warning: {words}")
    console.print(f"retrofit: {folder}", soft_wrap=True)


def rescore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run without a density.")],
    flow: Annotated[Path, typer.Option("--flow", help="Folder from nfcot run retrofit.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="The scored run.")],
    json: Json = False,
) -> None:
    """Write a run again, scored by a retrofit flow, for audits; repeat to resume.

    Example: nfcot run rescore runs/test --flow retrofits/coconut -o runs/test-scored
    """
    from nfcot_model.retrofit.artifact import load_retrofit
    from nfcot_model.retrofit.scoring import score_into
    from nfcot_model.terminal import console, emit_json, progress
    from nfcot_model.traces import read_run

    source = read_run(run)
    found = load_retrofit(flow)
    with progress(f"scoring {source.name}", len(source.traces)) as advance:
        scored = score_into(found, source, out, advance)
    if json:
        emit_json(vars(scored) | {"scorer": "retrofit", "retrofit": found.hash})
        return
    seen = f", {scored.seen} of groups it was fitted on" if scored.seen else ""
    nll = "–" if scored.nll_per_dim is None else f"{scored.nll_per_dim:.3f}"
    console.print(
        f"{scored.run}: {scored.traces} traces{seen}; scorer: retrofit;"
        f" NLL {nll} nats per dimension"
    )
    for words in found.document["quality"]["warnings"]:
        console.print(f"warning: {words}")
