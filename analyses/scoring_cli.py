"""Commands of `nfcot audit` that run a model: lambda, reference, text, live, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from analyses.context.asked import AskedSpan

__all__ = ["add_commands"]

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run, from nfcot trace.")]
Model = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The run's model, if not where it was.")
]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder for tables and summary; repeat to resume."),
]
Seed = Annotated[int, typer.Option(help="Decides traces, placebos and draws.")]
Device = Annotated[str, typer.Option(help="Where the model runs, such as cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Spans = Annotated[
    str,
    typer.Option(
        metavar="words|clauses|sentences|operations|FILE",
        help="Which parts of the prompt; a FILE has one JSON object a line, with a text or ranges.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Put these commands into `nfcot audit`."""
    app.command("lambda")(lambda_)
    for command in (reference, text, live, explain):
        app.command()(command)


def lambda_(
    run: RunFolder,
    spans: Spans = "words",
    trace: Annotated[str | None, typer.Option(help="This trace alone, as a map.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many traces.")] = 50,
    placebos: Annotated[int, typer.Option(help="Placebos per span in its own prompt.")] = 20,
    elsewhere: Annotated[
        int, typer.Option(help="Placebos in other prompts, per length of span.")
    ] = 100,
    seed: Seed = 0,
    model: Model = None,
    device: Device = "cpu",
    out: Out = None,
    json: Json = False,
) -> None:
    """Which text drove which thought? log p(thoughts | prompt) - log p(thoughts | without a span).

    Example: nfcot audit lambda runs/test --spans clauses --trace 3fa9
    """
    from rich.console import Console

    from analyses.blocks import write_result
    from analyses.context.study import Plan, context_study
    from analyses.context.view import context_view
    from nfcot_model.terminal import console, emit_json, progress
    from nfcot_model.traces import read_run
    from nfcot_model.traces.model_of import model_of
    from nfcot_model.traces.view import find_trace

    plan = Plan(_asked_spans(spans), n, placebos, elsewhere, seed)
    found = read_run(run)
    chosen = None if trace is None else find_trace(found, trace)
    reasoner = model_of(found, model, device)
    total = 1 if chosen is not None else min(n, len(found.traces))
    with progress(f"Λ over {found.name}", total) as advance:
        result = context_study(found, reasoner, plan, trace_id=chosen, out=out, progress=advance)
    if out is not None:
        tables = {n: getattr(result, n) for n in ("spans", "thoughts", "placebos")}
        write_result(out, "lambda.json", result.summary, tables)
    if json:
        emit_json(result.summary | ({} if out is None else {"artifact": out}))
        return
    Console(highlight=False).print(context_view(result.summary, result.to_frame()))
    if out is not None:
        console.print(f"tables: {out}", soft_wrap=True, markup=False)


def _asked_spans(text: str) -> str | tuple[AskedSpan, ...]:
    from analyses.context.asked import read_spans
    from analyses.context.spans import KINDS

    return text if text in KINDS else tuple(read_spans(Path(text)))


def reference(
    run: RunFolder,
    reference: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Another checkpoint of the same codec.")
    ],
    model: Model = None,
    device: Device = "cpu",
    out: Out = None,
    json: Json = False,
) -> None:
    """Does another checkpoint of the same codec find these thoughts as likely as their own model?

    Example: nfcot audit reference runs/test --reference work/mine/joint/model
    """
    from rich.console import Console

    from analyses.blocks import write_result
    from analyses.reference import score_under
    from analyses.reference_view import reference_view
    from nfcot_model.reasoners import load_nfcot
    from nfcot_model.terminal import emit_json, progress
    from nfcot_model.traces import read_run
    from nfcot_model.traces.model_of import model_of

    found = read_run(run)
    own = model_of(found, model, device)
    other = load_nfcot(reference, dtype=found.manifest["decode"]["dtype"], device=device)
    with progress(f"scoring {found.name}", len(found.traces)) as advance:
        result = score_under(found, own, other, out=out, progress=advance)
    if out is not None:
        write_result(out, "reference.json", result.summary, {"thoughts": result.thoughts})
    if json:
        emit_json(result.summary | ({} if out is None else {"artifact": out}))
        return
    Console(highlight=False).print(reference_view(result.summary))


def text(
    run: RunFolder,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='One JSON object a line: "steps", and "trace_id" or "problem_id"; default: the'
            " reference steps of the run's problems.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many texts.")] = 50,
    draws: Annotated[int, typer.Option(help="Draws of the model's own, per prompt.")] = 32,
    seed: Seed = 0,
    model: Model = None,
    device: Device = "cpu",
    out: Out = None,
    json: Json = False,
) -> None:
    """Would the model have thought these texts? Explicit reasoning, encoded and scored as thoughts.

    Example: nfcot audit text runs/test --texts tampered.jsonl
    """
    from rich.console import Console

    from analyses.blocks import write_result
    from analyses.encoded import read_texts
    from analyses.encoded_study import TextPlan, encoded_study
    from analyses.reference_view import text_view
    from nfcot_model.terminal import emit_json, progress
    from nfcot_model.traces import read_run
    from nfcot_model.traces.model_of import model_of

    plan = TextPlan(None if texts is None else tuple(read_texts(texts)), n, draws, seed)
    found = read_run(run)
    reasoner = model_of(found, model, device)
    count = len(found.traces) if plan.texts is None else len(plan.texts)
    with progress(f"scoring texts about {found.name}", min(n, count)) as advance:
        result = encoded_study(found, reasoner, plan, out=out, progress=advance)
    if out is not None:
        tables = {"texts": result.texts, "thoughts": result.thoughts}
        write_result(out, "texts.json", result.summary, tables)
    if json:
        emit_json(result.summary | ({} if out is None else {"artifact": out}))
        return
    Console(highlight=False).print(text_view(result))


def live(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint folder.")],
    problems: Annotated[Path, typer.Argument(metavar="PROBLEMS", help="Problems as JSONL.")],
    calibration: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A clean run, for scores and the stop.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Share of clean generations that may be stopped.")
    ] = 0.01,
    stop: Annotated[bool, typer.Option(help="End thinking beyond the threshold.")] = True,
    read: Annotated[bool, typer.Option(help="Decode thoughts to text.")] = True,
    read_every: Annotated[
        int, typer.Option(help="Thoughts decoded together; 1: each at once, which costs more.")
    ] = 8,
    n: Annotated[int | None, typer.Option("-n", help="Only the first n problems.")] = None,
    tau: Annotated[float, typer.Option(help="Sampling temperature of thoughts.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Seed of all noise, as in nfcot trace.")] = 0,
    max_thoughts: Annotated[int | None, typer.Option(help="Cut thinking here.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Problems that think together.")] = 1,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Watch a model think: each thought's scores and text as it comes, stopped where it is strange.

    Example: nfcot audit live demo problems.jsonl --calibration runs/clean
    """
    from analyses.calibration_file import clean_run
    from analyses.live_calibration import calibrate_live
    from analyses.live_run import Watched, watch_problems
    from nfcot_model.reasoners import load_nfcot
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces.settings import Settings
    from nfcot_model.traces.view import printable
    from nfcot_model.worlds import read_problems

    Settings(tau=tau, seed=seed, max_thoughts=max_thoughts)
    asked = read_problems(problems)[:n]
    found = None if calibration is None else calibrate_live(clean_run(calibration), alpha)
    reasoner = load_nfcot(model, device=device)

    def show(line: Watched) -> None:
        if not json:
            console.print(printable(line.words()), markup=False, soft_wrap=True)

    result = watch_problems(
        reasoner,
        asked,
        tau=tau,
        seed=seed,
        max_thoughts=max_thoughts,
        calibration=found,
        stop=stop,
        read=read,
        read_every=read_every,
        batch=batch,
        listen=show,
    )
    if json:
        emit_json(result)
        return
    console.print(
        f"{result['n']} problems, {result['thoughts']} thoughts, {result['stopped']} stopped;"
        f" text comes {result['text_comes']} (flow: {result['flow_order']})"
    )
    console.print(result["not_shown"], style="dim", markup=False)


def explain(
    run: RunFolder,
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="A trace id, or its beginning.")],
    calibration: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A clean run: what is usual.")
    ] = None,
    spans: Spans = "words",
    causal: Annotated[
        Path | None, typer.Option(metavar="REPORT", help="The -o of nfcot causal on this run.")
    ] = None,
    placebos: Annotated[int, typer.Option(help="Placebos per span in its own prompt.")] = 20,
    elsewhere: Annotated[int, typer.Option(help="Placebos in other prompts, per length.")] = 100,
    seed: Seed = 0,
    model: Model = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.html|FILE.md", help="One page.")
    ] = None,
    json: Json = False,
) -> None:
    """All about one trace: profile, thoughts, neighbours, what drove them, and a causal check.

    Example: nfcot audit explain runs/test 3fa9 --calibration runs/clean -o 3fa9.html
    """
    from rich.console import Console

    from analyses.calibration_file import clean_run
    from analyses.context.study import Plan
    from analyses.explain.explanation import explain_trace
    from analyses.explain.page import check_page, explanation_view, write_explanation
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.model_of import model_of
    from nfcot_model.traces.view import find_trace

    plan = Plan(_asked_spans(spans), 1, placebos, elsewhere, seed)
    if out is not None:
        check_page(out)
    found = read_run(run)
    chosen = find_trace(found, trace)
    clean = None if calibration is None else clean_run(calibration)
    reasoner = model_of(found, model, device)
    result = explain_trace(found, reasoner, chosen, plan, clean=clean, causal=causal)
    if out is not None:
        write_explanation(result.summary, out)
    if json:
        emit_json(result.summary | ({} if out is None else {"artifact": out}))
        return
    Console(highlight=False).print(explanation_view(result.summary))
    if out is not None:
        console.print(f"page: {out}", soft_wrap=True, markup=False)
