"""`nfcot eval`: held-out pass rates, decoding, likelihood and controls of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nfcot_model.evaluation import SWAP_TAU

if TYPE_CHECKING:
    from nfcot_model.evaluation.cells import Cell
    from nfcot_model.evaluation.swaps import SwapFigures


def evaluate(
    model: Annotated[Path, typer.Argument(help="checkpoint folder, or demo")],
    problems: Annotated[
        Path | None,
        typer.Argument(
            help="JSONL problems, a cell per world, or a published benchmark's file; without it"
            " fresh ones of --worlds, --steps …"
        ),
    ] = None,
    worlds: Annotated[
        str | None,
        typer.Option(help="built-in worlds, comma-separated", show_default="digits,shuffle"),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="numbers or ranges of steps", show_default="2,4,6,8,10-12"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="split of the worlds to draw from", show_default="test")
    ] = None,
    tau: Annotated[
        str | None,
        typer.Option(
            help="thought temperatures; one for a benchmark", show_default="0,0.7,0.9,1.0 or 0.7"
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", help="problems per cell", show_default="1000")
    ] = None,
    samples: Annotated[int, typer.Option(help="samples per problem, for pass@k")] = 1,
    seed: Annotated[int, typer.Option(help="seed of problems and thoughts")] = 0,
    control: Annotated[
        list[Path] | None,
        typer.Option(help="a reasoner beside it: a folder of any kind, demo-text, …; repeatable"),
    ] = None,
    swaps: Annotated[
        bool,
        typer.Option(
            help=f"also zero, shuffle and donate thoughts, at tau {SWAP_TAU:g}; built-in worlds:"
            " other problems, of 2 to 6 steps"
        ),
    ] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    markdown: Annotated[
        Path | None, typer.Option(help="also write the tables as Markdown, for a model card")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            help="of the file: auto, problems, humaneval, humaneval+, mbpp, mbpp+, livecodebench"
            " or gsm8k; the options below are for benchmarks"
        ),
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="folder of records; repeat the command to resume"),
    ] = None,
    samples_out: Annotated[
        Path | None, typer.Option(help="also write samples as the official harness reads them")
    ] = None,
    pass_at: Annotated[
        str | None,
        typer.Option(help="the k of pass@k", show_default="1,5,10,100 up to --samples"),
    ] = None,
    temperature: Annotated[float, typer.Option(help="temperature of answer text")] = 0.0,
    max_thoughts: Annotated[int | None, typer.Option(help="cut thinking here")] = None,
    template: Annotated[
        Path | None, typer.Option(help="text file around {prompt}, such as a chat's")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="seconds for a solution", show_default="by benchmark"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="answers drawn at once", show_default="64")
    ] = None,
    max_answer_tokens: Annotated[
        int | None, typer.Option(help="length of an answer", show_default="the model's own")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16, of the backbone", show_default="float32"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Measure a model on held-out problems, with Wilson intervals and controls.

    A file of HumanEval(+), MBPP(+), LiveCodeBench or GSM8K, as published, is recognised by its
    fields: pass@k, records, samples for the official harness; see docs/benchmarks_data.md.

    Example: nfcot eval demo --seed 7 -n 1000 --control demo-text --json
    """
    from rich.table import Table

    from nfcot_model.benchmark_files import detect
    from nfcot_model.errors import UserError
    from nfcot_model.evaluation.benchmark_cli import Asked, evaluate_file
    from nfcot_model.evaluation.suite import SWAP_STEPS, problem_cells
    from nfcot_model.evaluation.suite import evaluate as run
    from nfcot_model.evaluation.swaps import OUTCOMES
    from nfcot_model.evaluation.tables import markdown as tables
    from nfcot_model.files import write_text
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.worlds import make_world, read_problems

    asked = Asked(
        out, samples_out, pass_at, temperature, max_thoughts, template, timeout, batch,
        max_answer_tokens, dtype,
    )  # fmt: skip
    if format == "auto":
        format = "problems" if problems is None else detect(problems)
    try:
        taus = [float(text) for text in (tau or "0,0.7,0.9,1.0").split(",")]
    except ValueError:
        raise UserError(f"--tau {tau}: expected numbers such as 0,0.7,1.0") from None
    if not all(math.isfinite(t) and t >= 0 for t in taus):
        raise UserError(f"--tau {tau}: a temperature is 0 (the mode) or more")
    if markdown is not None and (markdown.is_dir() or not markdown.parent.is_dir()):
        raise UserError(f"--markdown {markdown}: expected a file in a folder that exists")
    if samples < 1:
        raise UserError(f"--samples {samples}: expected at least 1")
    if format != "problems":
        if problems is None:
            raise UserError(f"--format {format}: names the format of a file; give the file too")
        built_in = {
            "--worlds": worlds, "--steps": steps, "--split": split, "-n": n, "--control": control,
            "--markdown": markdown,
        }  # fmt: skip
        if unused := [name for name, value in built_in.items() if value]:
            raise UserError(f"{' and '.join(unused)}: not for a benchmark file; leave it out")
        if tau is not None and len(taus) != 1:
            raise UserError(f"--tau {tau}: give one temperature for a benchmark file")
        evaluate_file(
            model, problems, format, asked, tau=None if tau is None else taus[0],
            samples=samples, seed=seed, device=device, as_json=as_json,
        )  # fmt: skip
        return
    if unused := asked.given():
        read_as = f"; {problems} reads as problems, else name its --format" if problems else ""
        raise UserError(f"{' and '.join(unused)}: only for a benchmark file{read_as}")
    if problems is not None:
        built_in = {"--worlds": worlds, "--steps": steps, "--split": split, "-n": n}
        unused = [name for name, value in built_in.items() if value is not None]
        if unused:
            raise UserError(
                f"{' and '.join(unused)}: chooses built-in problems, but {problems} is given;"
                " leave one of them out"
            )
        given = read_problems(problems)
        by_world = {w: [p for p in given if p.world == w] for w in sorted({p.world for p in given})}
        cells = [("given", members) for members in by_world.values()]
        swapped = list(by_world.values()) if swaps else []
    else:
        names = (worlds or "digits,shuffle").split(",")
        lengths = (steps or "2,4,6,8,10-12").split(",")
        part, count = split or "test", 1000 if n is None else n
        cells = list(problem_cells(names, lengths, part, seed, count))
        swapped = [make_world(w, part, seed + 1, count, SWAP_STEPS) for w in names] if swaps else []

    def show(figures: Cell | SwapFigures) -> None:
        console.print(_line(figures))

    result = run(
        model,
        cells,
        taus=taus,
        samples=samples,
        seed=seed,
        controls=control or [],
        swaps=swapped,
        device=device,
        report=show,
    )
    if as_json:
        emit_json(result.to_dict())
    if markdown is not None:
        write_text(markdown, tables(result))
    if as_json:
        return
    table = Table(box=None, pad_edge=False)
    for heading in (
        "world",
        "steps",
        "who",
        "tau",
        "pass@1",
        "95 %",
        "text",
        "-log p(u|q)",
        "places",
        "n",
    ):
        table.add_column(heading, no_wrap=True)
    for c in result.cells:
        table.add_row(
            c.world, c.steps, c.reasoner.removesuffix(" thoughts"),
            "–" if c.tau is None else f"{c.tau:g}", f"{c.pass_at_1:.3f}",
            f"{c.low:.3f}–{c.high:.3f}", _number(c.decode_exact), _number(c.nll_per_dim),
            f"{c.positions:.1f}", str(c.n),
        )  # fmt: skip
    console.print(table)
    console.print(
        "text: share of steps that decode right; -log p(u|q): nats per dimension;"
        " places: positions before the answer",
        style="dim",
    )
    swapped_table = Table(box=None, pad_edge=False)
    for heading in ("world", "tau", *OUTCOMES):
        swapped_table.add_column(heading)
    for figures in result.controls:
        shares = (_number(share.value) for share in figures.shares.values())
        swapped_table.add_row(figures.world, f"{figures.tau:g}", *shares)
    if result.controls:
        console.print(swapped_table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(figures: Cell | SwapFigures) -> str:
    shown = figures.to_dict().items()
    return "  ".join(
        f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in shown
        if v is not None and not isinstance(v, dict)
    )
