"""`nfcot train plan`, and what is said before a training starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nfcot_model.training.plan import Plan
    from nfcot_model.worlds import Problem

__all__ = ["plan", "show_plan"]


def plan(
    preset: Annotated[str | None, typer.Option(help="a name in configs/, such as tiny")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file; see docs/training.md")] = None,
    reasoner: Annotated[str | None, typer.Option(help="kind of reasoner")] = None,
    backbone: Annotated[Path | None, typer.Option(help="local Hugging Face folder")] = None,
    problems: Annotated[Path | None, typer.Option(help="JSONL problems with steps")] = None,
    examples: Annotated[
        Path | None, typer.Option(help="rows of prompt, reasoning and answer")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="processes to start, one a device")] = 1,
    fitting: Annotated[
        Path | None, typer.Option(help="write the problems that fit into this new file")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Say how long the sequences are and how much memory each stage takes; train nothing.

    Example: nfcot train plan --preset qwen3_8b_code --backbone FOLDER --examples code.jsonl
    """
    from nfcot_model.errors import UserError
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.training.config import load_config
    from nfcot_model.training.plan import plan_without_weights, write_fitting

    if fitting is not None and fitting.exists():
        raise UserError(f"{fitting}: exists already; choose another --fitting")
    settings = load_config(
        preset, config, reasoner=reasoner, backbone=backbone, problems=problems, examples=examples
    )
    if fitting is not None and settings.data.problems is None and settings.data.examples is None:
        raise UserError("--fitting: the data are built-in worlds; give --problems or --examples")
    keep: list[Problem] | None = None if fitting is None else []
    found = plan_without_weights(settings, processes, keep)
    show_plan(found)
    if fitting is not None and keep is not None:
        if not keep:
            raise UserError(
                f"--fitting: none of {found.lengths.n:,} problems fits, nothing to write"
            )
        write_fitting(fitting, keep, settings.data.examples is not None)
        console.print(f"{len(keep):,} of {found.lengths.n:,} problems fit → {fitting}")
    if as_json:
        emit_json(found.to_dict())


def show_plan(found: Plan) -> None:
    """Two tables and the assumptions, on stderr."""
    from dataclasses import asdict

    from rich.table import Table

    from nfcot_model.terminal import console

    lengths = found.lengths
    table = Table("tokens", "mean", "median", "95 %", "99 %", "longest")
    for name in ("prompt", "reasoning", "answer", "thoughts", "positions"):
        spread = getattr(lengths, name)
        rest = (spread.p50, spread.p95, spread.p99, spread.longest)
        table.add_row(name, f"{spread.mean:.1f}", *(f"{value:,}" for value in rest))
    console.print(f"{lengths.n:,} problems, {lengths.too_long:,} too long")
    console.print(table)
    kinds = ("weights", "gradients", "optimizer", "activations", "gathered", "total")
    table = Table("GB on each device", "trained", *kinds)
    for stage in found.memory:
        values = asdict(stage)
        table.add_row(
            stage.stage, f"{stage.trained:,}", *(f"{values[f'{kind}_gb']:.2f}" for kind in kinds)
        )
    console.print(table)
    console.print("An estimate. It assumes: " + "; ".join(found.assumptions) + ".")
