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
            help="JSONL problems, a cell per world; without it fresh ones of --worlds, --steps …"
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
    tau: Annotated[str, typer.Option(help="thought temperatures")] = "0,0.7,0.9,1.0",
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
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Measure a model on held-out problems, with Wilson intervals and controls.

    Example: nfcot eval demo --seed 7 -n 1000 --control demo-text --json
    """
    from rich.table import Table

    from nfcot_model.errors import UserError
    from nfcot_model.evaluation.suite import SWAP_STEPS, problem_cells
    from nfcot_model.evaluation.suite import evaluate as run
    from nfcot_model.evaluation.swaps import OUTCOMES
    from nfcot_model.evaluation.tables import markdown as tables
    from nfcot_model.files import write_text
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.worlds import make_world, read_problems

    try:
        taus = [float(text) for text in tau.split(",")]
    except ValueError:
        raise UserError(f"--tau {tau}: expected numbers such as 0,0.7,1.0") from None
    if not all(math.isfinite(t) and t >= 0 for t in taus):
        raise UserError(f"--tau {tau}: a temperature is 0 (the mode) or more")
    if markdown is not None and (markdown.is_dir() or not markdown.parent.is_dir()):
        raise UserError(f"--markdown {markdown}: expected a file in a folder that exists")
    if samples < 1:
        raise UserError(f"--samples {samples}: expected at least 1")
    if problems is not None:
        asked = {"--worlds": worlds, "--steps": steps, "--split": split, "-n": n}
        unused = [name for name, value in asked.items() if value is not None]
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
