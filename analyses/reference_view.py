"""Thoughts under a reference, and encoded texts, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from analyses.context.view import estimate
from analyses.encoded_study import TextResult
from nfcot_model.traces.view import printable

__all__ = ["reference_view", "text_view"]

SHOWN = 10


def reference_view(summary: Mapping[str, Any]) -> RenderableType:
    """How far two models disagree, per trace and per thought."""
    found, per = summary["population"], summary["per_trace"]
    own, other = (scored["checkpoint_hash"] for scored in summary["scored"])
    table = Table(
        title="own minus reference, nats of p(e_k | …), mean [95 %]", title_justify="left"
    )
    for column in ("k", "n", "log-ratio"):
        table.add_column(column)
    for entry in summary["by_k"]:
        table.add_row(str(entry["k"]), str(entry["n"]), estimate(entry["log_ratio"]))
    table.add_row("whole", str(found["traces"]), estimate(per["log_ratio"]))
    table.add_row("K decisions", str(found["traces"]), estimate(per["stop_log_ratio"]))
    furthest = ", ".join(
        f"{e['trace_id'][:8]} ({e['log_ratio']:.3g})" for e in summary["furthest"][:5]
    )
    notes = [
        f"{_safe(summary['run']['name'])}: own {own}, reference {other}"
        f" ({'the same flow' if summary['same_flow'] else 'another flow'}; terms per thought are"
        f" {summary['per_thought_terms']}); {found['invalid']} traces invalid",
        *(["the reference is the run's own checkpoint"] if summary["same_checkpoint"] else []),
    ]
    return Group(*notes, table, f"furthest: {furthest}", f"[dim]{_safe(summary['not_shown'])}[/]")


def text_view(result: TextResult) -> RenderableType:
    """How likely texts are, by name, and the least likely ones."""
    summary = result.summary
    names = Table(title="texts by name, mean [95 %]", title_justify="left")
    for column in ("name", "n", "log p(e_k)", "own, as drawn", "p ≤ .05: mean", "worst thought"):
        names.add_column(column, overflow="fold")
    for e in summary["by_name"]:
        names.add_row(
            _safe(e["name"]),
            f"{e['n']} ({e['invalid']} invalid)" if e["invalid"] else str(e["n"]),
            *(estimate(e[n]) for n in ("per_thought", "own_per_thought")),
            *(estimate(e[f"{n}_below"]) for n in ("p_mean", "p_worst")),
        )
    least = Table(title="least likely", title_justify="left")
    for column in ("trace", "name", "k", "its step", "log p(e_k)", "p", "the model thought"):
        least.add_column(column, overflow="fold")
    known = result.thoughts[~result.thoughts["invalid"]]
    for row in known.nsmallest(SHOWN, "logp_e").to_dict("records"):
        least.add_row(
            _safe(row["trace_id"][:8]),
            _safe(row["name"]),
            str(row["k"]),
            _safe(row["step"]),
            f"{row['logp_e']:.2f}",
            f"{row['p']:.3f}",
            _safe(row["own_text"] or "–"),
        )
    note = f"[dim]{_safe(summary['not_shown'])}[/]"
    return Group(names, least, note)


def _safe(text: str) -> str:
    return escape(printable(text))
