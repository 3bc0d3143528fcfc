"""`nfcot sites` and `nfcot activations`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nfcot_model.hooks import ActivationSummary, Site
    from nfcot_model.reasoners import NFCoTReasoner
    from nfcot_model.traces.reader import Run

__all__ = ["activations", "check_sites", "record_sites", "sites", "split_sites"]

Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]


def sites(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint folder.")],
    every: Annotated[
        bool, typer.Option("--all", help="List hooks that cannot be read by thought too.")
    ] = False,
    json: Json = False,
) -> None:
    """List where a model can be read at each thought: hook names, axes, meaning.

    N stands for a layer's number.

    Example: nfcot sites demo
    """
    from rich.console import Console

    from nfcot_model.hooks import hooked
    from nfcot_model.hooks import sites as sites_of
    from nfcot_model.reasoners import load_nfcot
    from nfcot_model.terminal import emit_json

    found = sites_of(hooked(load_nfcot(model).model))
    chosen = [site for site in found if every or site.per_thought]
    if json:
        emit_json({"model": str(model), "sites": [_as_json(site) for site in chosen]})
        return
    rows = _grouped(chosen)
    wide = [max(len(row[i]) for row in rows) for i in range(2)]
    out = Console(highlight=False)
    for name, axes, meaning in rows:
        out.print(f"{name:<{wide[0]}}  {axes:<{wide[1]}}  {meaning}", markup=False, soft_wrap=True)


def activations(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    names: Annotated[
        str,
        typer.Option(
            "--sites",
            metavar="SITES",
            help="Hook names, separated by commas; a star stands for one part of a name."
            " Default: the residual stream after every layer.",
        ),
    ] = "blocks.*.hook_out",
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The model, if it is not where it was."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cpu or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Add what stands at hooks at every thought to a run, from its stored thoughts.

    Repeat the command to resume after an interruption; `nfcot sites MODEL` lists the hooks.

    Example: nfcot activations runs/first --sites 'blocks.*.hook_out,ln_final.hook_out'
    """
    import nfcot_model.hooks  # noqa: F401  (says so at once where it is not installed)
    from nfcot_model.terminal import console, emit_json
    from nfcot_model.traces import read_run
    from nfcot_model.traces.model_of import model_of

    asked = split_sites(names)
    found = read_run(run)
    summary = record_sites(found, model_of(found, model, device), asked)
    if json:
        emit_json(summary)
        return
    console.print(
        f"{summary.folder}: {len(summary.sites)} sites at {summary.thoughts} thoughts,"
        f" {summary.captured} of {summary.shards} shards made now;"
        f" {_size(summary.bytes)}, {summary.seconds:.1f} s",
        markup=False,
        soft_wrap=True,
    )


def split_sites(text: str) -> list[str]:
    """Which sites does a comma-separated text name? Raises UserError for none."""
    from nfcot_model.errors import UserError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--sites '{text}': names no hook; `nfcot sites MODEL` lists them")
    return names


def check_sites(reasoner: NFCoTReasoner, names: Sequence[str]) -> None:
    """Raises UserError unless these sites can be captured, before any work is done."""
    from nfcot_model.hooks import choose_sites, hooked

    choose_sites(hooked(reasoner.model), names)


def record_sites(run: Run, reasoner: NFCoTReasoner, names: Sequence[str]) -> ActivationSummary:
    """Capture sites of a run: the size is said first, a bar shows how far it is."""
    from nfcot_model.hooks import plan_activations, record
    from nfcot_model.terminal import console, progress

    plan = plan_activations(run, reasoner, names)
    console.print(
        f"{run.name}: {len(plan.sites)} sites at {len(run.thoughts)} thoughts are"
        f" {_size(plan.bytes)}, {_size(plan.bytes_missing)} of it to be captured",
        markup=False,
        soft_wrap=True,
    )
    with progress(f"capturing {run.name}", len(run.traces)) as advance:
        return record(plan, advance)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _as_json(site: Site) -> dict[str, object]:
    return {**vars(site), "per_thought": site.per_thought, "fires": site.fires}


def _grouped(chosen: Sequence[Site]) -> list[tuple[str, str, str]]:
    """One row for all layers that are alike: name with N, axes, meaning and other names."""
    from nfcot_model.hooks.sites import numberless

    others: dict[str, list[str]] = {}
    for site in chosen:
        if site.same_as:
            names = others.setdefault(numberless(site.same_as), [])
            if numberless(site.name) not in names:
                names.append(numberless(site.name))
    layers: dict[tuple[str, str, str], list[int]] = {}
    for site in chosen:
        name = numberless(site.name)
        number = re.search(r"\b(?:blocks|shallow)\.(\d+)\.", site.name)
        axes = f"[{', '.join(site.axes)}]" if site.fires else "silent"
        also = f" (also {', '.join(others[name])})" if name in others else ""
        if not site.same_as:
            row = layers.setdefault((name, axes, site.meaning + also), [])
            row += [int(number[1])] if number else []
    return [
        (f"{name}  N={_span(found)}" if found else name, axes, meaning)
        for (name, axes, meaning), found in layers.items()
    ]


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}..{max(numbers)}" if len(numbers) > 1 else str(numbers[0])
