"""`nfcot causal`: are the thoughts of a run used?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["causal"]


def causal(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run, from nfcot trace.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="REPORT", help="Folder for the report.")
    ],
    samples: Annotated[int, typer.Option(help="How many traces to interfere with.")] = 200,
    edits: Annotated[
        str | None, typer.Option(metavar="A,B", help="Edits of thoughts; default: all that apply.")
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Later thoughts frozen (direct) or not (total); default: both."
        ),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Hooks whose states are edited too, such as blocks.1.hook_out."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Step label for steering and mediation; default: each world's first."),
    ] = None,
    problems: Annotated[
        Path | None,
        typer.Option(help="Problems of the run as JSONL; default: those it carries."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Its checkpoint; default: the folder it was traced from.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of traces and of all edits.")] = 0,
    sufficiency: Annotated[
        float, typer.Option(help="Least share of transplants that follow the donor.")
    ] = 0.80,
    selectivity: Annotated[
        float, typer.Option(help="Greatest share of transplants that follow the prompt.")
    ] = 0.25,
    necessity: Annotated[
        float, typer.Option(help="Least drop of the pass rate when a thought is replaced.")
    ] = 0.50,
    inert: Annotated[
        float, typer.Option(help="Greatest share of answers that edits of inert thoughts change.")
    ] = 0.05,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Are the thoughts of this run used? A verdict per task, from edits with placebos.

    For every kind of reasoner that has thoughts; what has no meaning for one is left out, and said.
    Repeat the command to resume after an interruption.

    Example: nfcot causal runs/test --samples 200 -o reports/causal
    """
    from analyses.causal.report import write_report
    from analyses.causal.study import Plan, causal_study
    from analyses.causal.verdict import Thresholds
    from analyses.causal.view import causal_view
    from nfcot_model.terminal import console, emit_json, progress
    from nfcot_model.traces import read_run
    from nfcot_model.traces.model_of import reasoner_of
    from nfcot_model.worlds import read_problems

    plan = Plan(
        samples=samples,
        edits=None if edits is None else _listed(edits),
        modes=None if modes is None else _listed(modes),
        sites=() if sites is None else _listed(sites),
        label=label,
        seed=seed,
    )
    thresholds = Thresholds(sufficiency, selectivity, necessity, inert)
    found = read_run(run)
    asked = found.problems() if problems is None else read_problems(problems)
    reasoner = reasoner_of(found, model, device)
    with progress(f"interfering with {found.name}", min(samples, len(found.traces))) as advance:
        result = causal_study(
            found, asked, reasoner, out, plan, thresholds=thresholds, progress=advance
        )
    notes = write_report(result, out)
    if json:
        emit_json(result.summary | {"report": str(out)})
        return
    console.print(causal_view(result.summary))
    for note in notes:
        console.print(note, markup=False)
    console.print(f"report: {out / 'causal.md'}", soft_wrap=True, markup=False)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
