"""`nfcot lens`: what can be read at each thought, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["lens"]


def lens(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, from nfcot trace.")],
    trace: Annotated[
        str | None, typer.Option(help="Look at this trace alone: its id, or the first digits.")
    ] = None,
    lenses: Annotated[
        str | None,
        typer.Option(
            "--lens",
            metavar="logit,codec,mean,affine",
            help="Which lenses; default: all but affine, which fits a map of each layer.",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="0,2,-1", help="Layers to look at, 0 the embeddings; default: all."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many tokens the logit lens says.")] = 5,
    n: Annotated[
        int | None, typer.Option("-n", help="How many traces to measure on; default: 200.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides traces, floors and resamples.")] = 0,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The run's model, if it is not where it was."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for lens.json and rows.parquet."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """What can be read at each thought? Logit lens, the codec's text, and what was about to come.

    Over a run: how often each lens says the true step, beside the same measure against another
    problem's step. With --trace: what each lens says at every thought of one trace.

    Example: nfcot lens runs/first --trace 3fa9 --layers 0,-1
    """
    from rich.console import Console

    from analyses.lens.plan import Plan, passes
    from analyses.lens.store import refuse_other, write_lenses
    from analyses.lens.study import asked, read_run_through, read_trace_through
    from analyses.lens.view import run_tables, trace_tables
    from nfcot_model.errors import UserError
    from nfcot_model.terminal import console, emit_json, progress
    from nfcot_model.traces import read_run
    from nfcot_model.traces.model_of import model_of
    from nfcot_model.traces.view import find_trace

    if trace is not None and n is not None:
        raise UserError("-n: one trace is looked at with --trace; give one of the two")
    plan = Plan(
        lenses=None
        if lenses is None
        else tuple(part.strip() for part in lenses.split(",") if part.strip()),
        layers=None if layers is None else _whole_numbers(layers),
        top=top,
        n=200 if n is None else n,
        seed=seed,
    )
    loaded = read_run(run)
    chosen = None if trace is None else find_trace(loaded, trace)
    if out is not None:
        refuse_other(out, asked(loaded, plan, chosen))
    reasoner = model_of(loaded, model)
    if chosen is not None:
        result = read_trace_through(loaded, reasoner, chosen, plan)
    else:
        total = min(plan.n, len(loaded.traces)) * passes(plan.lenses)
        with progress(f"reading {loaded.name}", total) as advance:
            result = read_run_through(loaded, reasoner, plan, advance)
    if out is not None:
        write_lenses(result, out)
    if json:
        emit_json(result.summary | ({} if out is None else {"artifact": out}))
        return
    tables = run_tables if chosen is None else trace_tables
    Console(highlight=False).print(tables(result.summary))
    if out is not None:
        console.print(f"rows and figures: {out}", soft_wrap=True, markup=False)


def _whole_numbers(text: str) -> tuple[int, ...]:
    from nfcot_model.errors import UserError

    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(
            f"--layers '{text}': expected whole numbers separated by commas, such as 0,2,-1"
        ) from None
