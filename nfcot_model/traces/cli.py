"""`nfcot trace`, `nfcot show` and `nfcot run fsck`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nfcot_model.retrofit.cli import rescore, retrofit

__all__ = ["run_app", "show", "trace"]

run_app = typer.Typer(help="Look after runs on disk.", no_args_is_help=True)
run_app.command()(retrofit)
run_app.command()(rescore)

Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def trace(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint folder.")],
    problems: Annotated[Path, typer.Argument(metavar="PROBLEMS", help="Problems as JSONL.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="The run's folder.")],
    samples: Annotated[int, typer.Option(help="Traces of each problem.")] = 1,
    tau: Annotated[
        float, typer.Option(help="Sampling temperature of thoughts; 0: the mode.")
    ] = 0.7,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of answer text.")] = 0.0,
    activations: Annotated[
        str,
        typer.Option(
            metavar="none|thoughts|all|SITES",
            help="Hidden states to keep at each thought: none, the last layer's, every layer's; or"
            " hook names, as for nfcot activations.",
        ),
    ] = "none",
    seed: Annotated[int, typer.Option(help="Seed of all noise.")] = 0,
    max_thoughts: Annotated[
        int | None, typer.Option(help="Cut thinking here; default: the model's own budget.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="float32|bfloat16", help="Precision of the backbone.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="Where the model runs, such as cpu or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Record a run: thoughts, likelihoods, decoded text, answers and verdicts.

    Repeat the command to resume after an interruption; nothing is lost or doubled.

    Example: nfcot trace MODEL problems.jsonl -o runs/first --samples 4 --tau 0.7
    """
    from nfcot_model.checkpoints import SHIPPED
    from nfcot_model.errors import UserError
    from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
    from nfcot_model.terminal import console, emit_json, progress
    from nfcot_model.traces import collect, read_run
    from nfcot_model.traces.activations_cli import check_sites, record_sites, split_sites
    from nfcot_model.traces.settings import Settings
    from nfcot_model.worlds import read_problems

    sites = split_sites(activations) if "." in activations else []
    activations = "none" if sites else activations
    Settings(tau, temperature, samples, seed, activations, max_thoughts)
    asked = read_problems(problems)
    reasoner = load_reasoner(model, dtype=dtype, device=device)
    captures = reasoner if isinstance(reasoner, NFCoTReasoner) else None
    if sites:
        if captures is None:
            raise UserError(
                f"--activations {sites[0]}: hooks need an nfcot model, {model} is"
                f" '{reasoner.name}'; use --activations all for its layers"
            )
        check_sites(captures, sites)
    same = "; all samples of a problem are the same" if samples > 1 and temperature == 0 else ""
    drawn = "" if reasoner.draws else f"{reasoner.name} draws no thoughts: recorded at tau 0{same}"
    with progress(f"tracing {out.name}", len(asked) * samples) as advance:
        summary = collect(
            reasoner,
            asked,
            out,
            tau=tau,
            temperature=temperature,
            samples=samples,
            seed=seed,
            activations=activations,
            max_thoughts=max_thoughts,
            progress=advance,
            model_path=model if str(model) in SHIPPED else model.resolve(),
        )
    captured = record_sites(read_run(out), captures, sites) if captures and sites else None
    if json:
        emit_json(vars(summary) | ({"activations": captured} if captured else {}))
        return
    error = summary.replay_error_max
    replayed = "no density" if error is None else f"replay error ≤ {error:.1e}"
    console.print(
        f"{summary.run}: {summary.traces} traces ({summary.resumed} already there),"
        f" {summary.thoughts} thoughts, {summary.correct:.1%} correct, {replayed};"
        f" {summary.seconds:.1f} s, {summary.traces_per_second:.0f} traces/s"
    )
    if drawn:
        console.print(drawn)


def show(
    run: RunFolder,
    trace_id: Annotated[
        str | None, typer.Argument(metavar="[TRACE]", help="A trace id, or its first digits.")
    ] = None,
    json: Json = False,
) -> None:
    """Show a run, or one trace's thoughts with decoded text and likelihoods.

    Example: nfcot show runs/first 3fa9
    """
    from rich.console import Console

    from nfcot_model.terminal import emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.view import find_trace, run_facts, run_view, trace_facts, trace_view

    found = read_run(run)
    chosen = None if trace_id is None else find_trace(found, trace_id)
    if json:
        emit_json(run_facts(found) if chosen is None else trace_facts(found, chosen))
    else:
        view = run_view(found) if chosen is None else trace_view(found, chosen)
        Console(highlight=False).print(view)


@run_app.callback()
def _group() -> None:
    """Look after runs on disk."""


@run_app.command()
def fsck(
    run: RunFolder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged or left over.")
    ] = False,
    json: Json = False,
) -> None:
    """Check every file of a run; exit 1 when something is damaged or left over.

    After --repair, repeat the trace command to make the removed traces again.

    Example: nfcot run fsck runs/first --repair
    """
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import check_run

    health = check_run(run, repair)
    if json:
        emit_json(health)
    else:
        for file in health.repaired:
            console.print(f"removed {file}", markup=False)
        for reason in health.damaged.values():
            console.print(f"damaged: {reason}", markup=False)
        for file in health.leftovers:
            console.print(f"left over: {file}", markup=False)
        state = "whole" if health.whole else "not whole"
        console.print(
            f"{health.run}: {state}; {health.traces} traces in {health.shards} shards,"
            f" {health.missing} missing"
            + ("" if health.carries_problems else "; without its problems (trace again to add)"),
            markup=False,
        )
    if not health.whole:
        raise typer.Exit(1)
