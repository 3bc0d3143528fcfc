"""`nfcot compare`: all reasoners side by side, at equal data and cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nfcot_model.comparison.run import Compared


def compare(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of this comparison")],
    preset: Annotated[
        str | None, typer.Option(help="compare, demo or tiny", show_default="compare")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of a training, in place of a preset")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="reasoners, comma-separated", show_default="all")
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: a trained checkpoint, not trained here; repeatable"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="trainings of each reasoner")] = 3,
    budget: Annotated[
        float | None,
        typer.Option(
            help="optimiser tokens (or FLOPs) of each", show_default="what text takes in the preset"
        ),
    ] = None,
    equal: Annotated[str, typer.Option(help="what is equal: tokens or flops")] = "tokens",
    worlds: Annotated[
        str | None, typer.Option(help="worlds asked", show_default="those trained on")
    ] = None,
    steps: Annotated[str, typer.Option(help="numbers or ranges of steps asked")] = "2,3,4",
    n: Annotated[int, typer.Option("-n", min=1, help="problems per world and steps")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="samples per problem, for pass@k")] = 64,
    sampled: Annotated[int, typer.Option(min=1, help="problems that are sampled, of -n")] = 40,
    tau: Annotated[float, typer.Option(help="temperature of these samples")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="rounds of the timing")] = 5,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="seed of problems and samples")
    ] = 0,
    training: Annotated[
        bool, typer.Option("--train/--no-train", help="train what is missing, or report it")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Train or load every reasoner, measure and time them; run it again to go on.

    Example: nfcot compare -o work/compare --only text,nfcot,coconut,codi
    """
    import math
    from dataclasses import replace

    from nfcot_model.comparison.folder import Questions
    from nfcot_model.comparison.measure import Sampling
    from nfcot_model.comparison.results import rows, summary
    from nfcot_model.comparison.run import ORDER
    from nfcot_model.comparison.run import compare as run
    from nfcot_model.comparison.tables import markdown
    from nfcot_model.errors import UserError
    from nfcot_model.files import write_json, write_text
    from nfcot_model.reasoners import KINDS
    from nfcot_model.terminal import console, emit_json, jsonable
    from nfcot_model.training.config import load_config
    from nfcot_model.training.report import progress_report

    known = [*ORDER, *(kind for kind in KINDS if kind not in ORDER)]
    names = known if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known or names.count(name) > 1:
            twice = "named twice" if name in known else "no such reasoner"
            raise UserError(f"--only {only}: '{name}', {twice}; choose from {', '.join(known)}")
    if equal not in ("tokens", "flops"):
        raise UserError(f"--equal {equal}: expected tokens or flops")
    if budget is not None and not 0 < budget < math.inf:
        raise UserError(f"--budget {budget:g}: expected a positive number of {equal}")
    if not 0 < tau < math.inf:
        raise UserError(f"--tau {tau:g}: samples need a positive temperature")
    loaded = {}
    for text in load or []:
        name, found, folder = text.partition("=")
        if not found or not folder or name not in names:
            raise UserError(f"--load {text}: expected NAME=FOLDER, NAME one of {', '.join(names)}")
        loaded[name] = folder
    settings = load_config(None if config else preset or "compare", config)
    asked = Questions(
        worlds=worlds.split(",") if worlds else list(settings.data.worlds),
        steps=steps.split(","),
        n=n,
        sampling=Sampling(samples, min(sampled, n), tau),
        seed=seed,
    )
    with progress_report(console, enabled=True) as report:

        def show(name: str, number: int, progress: Any) -> None:
            if report is not None:
                report(replace(progress, stage=f"{name} {number} {progress.stage}"))

        compared = run(
            settings,
            out,
            asked,
            names=names,
            seeds=seeds,
            loaded=loaded,
            budget=budget,
            equal="flops" if equal == "flops" else "tokens",
            rounds=rounds,
            training=training,
            report=show,
            say=console.print,
        )
    document = {
        "out": str(out),
        "equal": compared.equal,
        "budget": compared.budget,
        "questions": asked.to_dict(),
        "reasoners": summary(compared),
        "rows": rows(compared),
        "missing": [{"reasoner": name, "seed": s} for name, s in compared.missing],
    }
    write_json(out / "table.json", jsonable(document))
    write_text(out / "table.md", markdown(compared))
    if as_json:
        emit_json(document)
    else:
        _print(compared)
    if compared.missing:
        names_missing = ", ".join(f"{name} (seed {s})" for name, s in compared.missing)
        console.print(f"not trained yet: {names_missing}; go on without --no-train")
    console.print(f"tables → {out / 'table.md'}, {out / 'table.json'}")


def _print(compared: Compared) -> None:
    from rich.table import Table

    from nfcot_model.comparison.tables import CELL_HEAD, SUMMARY_HEAD, cell_lines, summary_lines
    from nfcot_model.terminal import console

    for head, body in (
        (SUMMARY_HEAD, summary_lines(compared)),
        (CELL_HEAD, cell_lines(compared)),
    ):
        table = Table(box=None, pad_edge=False)
        for heading in head:
            table.add_column(heading)
        for line in body:
            table.add_row(*line)
        console.print(table)
    console.print(
        "positions: places between <think> and </think>; passes: applications of the stack in a"
        " row, for a whole answer; faster: answers per second against text, in the same rounds;"
        " thoughts: whose answer follows when they are another problem's, or the verdict of a"
        " causal study",
        style="dim",
    )
