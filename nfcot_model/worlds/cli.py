"""`nfcot world`: make problem sets of the built-in worlds."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make problem sets with ground truth at every step.", no_args_is_help=True)


@app.callback()
def world() -> None:
    """Make problem sets with ground truth at every step."""


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="digits or shuffle")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file to write")],
    split: Annotated[
        str, typer.Option(help="train, calibration, test, long or unseen-words")
    ] = "test",
    seed: Annotated[int, typer.Option(help="the same seed gives the same problems")] = 0,
    n: Annotated[int, typer.Option("-n", help="number of problems")] = 500,
    steps: Annotated[str | None, typer.Option(help="a number, or a range such as 2-6")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a summary as JSON")] = False,
) -> None:
    """Write N problems of one world and split as JSONL.

    Example: nfcot world make digits --split test --seed 7 -n 500 -o problems.jsonl
    """
    from nfcot_model.errors import UserError
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.worlds import make_world, problem_set_hash, write_problems
    from nfcot_model.worlds.generate import read_steps

    if not out.parent.is_dir():
        raise UserError(f"-o {out}: the folder {out.parent} does not exist; make it first")
    wanted = None if steps is None else read_steps(steps)
    problems = make_world(name, split, seed, n, wanted)
    write_problems(out, problems)
    summary = {
        "problems": str(out),
        "world": name,
        "split": split,
        "seed": seed,
        "n": len(problems),
        "groups": len({p.group for p in problems}),
        "problem_set_hash": problem_set_hash(problems),
    }
    if as_json:
        emit_json(summary)
    else:
        console.print(f"{len(problems)} problems in {summary['groups']} groups → {out}")
