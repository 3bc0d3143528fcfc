"""A causal study in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from analyses.causal.report import interval, scope_lines

__all__ = ["causal_view"]


def causal_view(summary: Mapping[str, Any]) -> RenderableType:
    """Each task's verdict with the measures behind it, its thoughts, and its edits."""
    parts: list[RenderableType] = []
    for task in summary["tasks"]:
        parts += [_verdict(task, summary["thresholds"]), _thoughts(task), _edits(task)]
        parts += [f"[dim]{escape(note)}[/]" for note in task["notes"]]
    parts += [f"[dim]{escape(line)}[/]" for line in scope_lines(summary)]
    parts += [f"[dim]no trace of {escape(w)} was sampled[/]" for w in summary["not_sampled"]]
    return Group(*parts)


def _verdict(task: Mapping[str, Any], thresholds: Mapping[str, float]) -> Table:
    title = f"[bold]{escape(task['task'])}: {task['verdict']}[/] ({task['meaning']})"
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    s = task["sufficiency"]
    for name, value, wanted in (
        ("donor's answer follows", s["donor"], f"sufficient ≥ {thresholds['sufficiency']:g}"),
        ("own prompt's answer stays", s["prompt"], f"selective ≤ {thresholds['selectivity']:g}"),
        ("largest drop of pass@1", task["necessity"], f"necessary ≥ {thresholds['necessity']:g}"),
        ("on-manifold edits change", task["effect"], f"inert: high ≤ {thresholds['inert']:g}"),
        ("told otherwise: implied answer", task["counterfactual_following"], ""),
        ("  not at the last step", task["counterfactual_middle"], ""),
        ("settled only by the last thought", task["commitment"]["at_last_thought"], ""),
        ("settled before any thought", task["commitment"]["before_any_thought"], ""),
    ):
        table.add_row(name, interval(value), f"[dim]{wanted}[/]")
    if task["read_from"] is not None:
        table.add_row("the answer is read from thought", str(task["read_from"]), "")
    return table


def _thoughts(task: Mapping[str, Any]) -> Table:
    table = Table(title="each thought: drop of pass@1 (95 % interval)", title_justify="left")
    for column in ("k from the end", "traces", "direct", "total", "resampled flips"):
        table.add_column(column)
    for t in task["thoughts"]:
        table.add_row(
            str(t["k"]),
            str(t["n"]),
            interval(t["necessity_direct"]),
            interval(t["necessity_total"]),
            interval(t["resampling_importance"]),
        )
    return table


def _edits(task: Mapping[str, Any]) -> Table:
    table = Table(title="each edit: share of answers changed", title_justify="left")
    for column in ("edit", "mode", "n", "changed", "placebo of the same norm"):
        table.add_column(column)
    for e in [*task["effects"], *task["states"]]:
        name = f"{e['edit']} @ {e['site']}" if "site" in e else e["edit"]
        flipped, placebo = interval(e["flipped"]), interval(e["placebo_flipped"])
        table.add_row(name, e["mode"], str(e["n"]), flipped, placebo)
    return table
