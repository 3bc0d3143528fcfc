"""`nfcot organism`: model organisms, to test causal tests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Small models whose causal truth is known, and problems for them.",
    no_args_is_help=True,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")]


@app.callback()
def organism() -> None:
    """Which models have a known causal truth, and what can they be asked?"""


@app.command()
def problems(
    name: Annotated[str, typer.Argument(metavar="NAME", help="inert, early, backdoor, …")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file to write")],
    split: Annotated[str, typer.Option(help="train, calibration or test")] = "test",
    seed: Annotated[int, typer.Option(help="the same seed gives the same problems")] = 0,
    n: Annotated[int, typer.Option("-n", help="number of problems")] = 200,
    condition: Annotated[
        str | None,
        typer.Option(help="what is said to one with something planted; default: its mixture"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write N problems of one organism and split as JSONL.

    Example: nfcot organism problems early --split test -n 200 --seed 7 -o early.jsonl
    """
    from analyses.organisms import PLANTED, organism_problems, planted_problems
    from analyses.organisms import organism as folder
    from nfcot_model.errors import UserError
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.worlds import problem_set_hash, write_problems

    if not out.parent.is_dir():
        raise UserError(f"-o {out}: the folder {out.parent} does not exist; make it first")
    model = folder(name)
    if name in PLANTED:
        made = planted_problems(name, split, seed, n, condition)
    elif condition is not None:
        raise UserError(f"--condition {condition}: organism '{name}' has no conditions")
    else:
        made = organism_problems(name, split, seed, n)
    write_problems(out, made)
    summary = {
        "problems": str(out),
        "organism": name,
        "model": str(model),
        "split": split,
        "seed": seed,
        "n": len(made),
        "groups": len({p.group for p in made}),
        "problem_set_hash": problem_set_hash(made),
    }
    if as_json:
        emit_json(summary)
    else:
        console.print(f"{len(made)} problems in {summary['groups']} groups → {out}")
        console.print(f"the model they are for: {model}")


@app.command()
def plant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="backdoor, hinted, …")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the checkpoint")],
    plain: Annotated[
        Path | None, typer.Option("--from", help="what it is made from; default: shipped plain")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of data and noise")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="optimizer steps; default: as the shipped one")
    ] = None,
    probes: Annotated[
        int, typer.Option(help="backdoor-evading: how many probes in turn it learns to evade")
    ] = 1,
    tau: Annotated[
        float, typer.Option(help="backdoor-evading: temperature of what probes are fitted on")
    ] = 0.7,
) -> None:
    """Make an organism with something planted, as the shipped one was made.

    backdoor-evading, made from backdoor and shipped nowhere, is trained AGAINST A PROBE.

    Example: nfcot organism plant backdoor -o work/backdoor
    """
    from analyses.organisms import organism as folder
    from analyses.organisms.continued import plant_organism, planting_steps
    from analyses.plants.evasion import EVADING, NOTE, STEPS, evading
    from nfcot_model.errors import UserError
    from nfcot_model.files import write_text
    from nfcot_model.reasoners import load_nfcot
    from nfcot_model.terminal import console, progress

    if out.exists():
        raise UserError(f"-o {out}: is there already; choose another folder")
    if name == EVADING:
        console.print(NOTE, style="bold red", markup=False)
        total = STEPS if steps is None else steps
        base = load_nfcot(plain or folder("backdoor"))
        with progress(f"planting {name}", total) as advance:
            made, _ = evading(base, probes, tau, seed, steps=total, progress=advance)
        made.save(out)
        write_text(out / "WARNING.md", f"{NOTE}\n\nProbes evaded in turn: {probes}.\n")
        console.print(f"model → {out}")
        return
    total = planting_steps(name) if steps is None else steps
    base = load_nfcot(plain or folder("plain"))
    with progress(f"planting {name}", total) as advance:
        plant_organism(name, base, seed, steps=total, progress=advance).save(out)
    console.print(f"model → {out}")
