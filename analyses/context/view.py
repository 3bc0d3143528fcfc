"""Λ over a run, or of one trace, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nfcot_model.traces.view import printable

__all__ = ["context_view", "estimate", "nats"]

SHOWN = 20


def context_view(summary: Mapping[str, Any], thoughts: pd.DataFrame) -> RenderableType:
    """A study of Λ: what spans do on average, whether they point right, what stays open."""
    found = summary["population"]
    parts: list[RenderableType] = [
        f"{_safe(summary['run']['name'])}: {found['spans']} spans in {found['traces']} traces of"
        f" {found['groups']} groups; {found['placebos_here']} placebos here,"
        f" {found['placebos_elsewhere']} elsewhere; {found['invalid']} invalid"
    ]
    parts.append(_names(summary) if summary["asked"]["trace_id"] is None else _map(thoughts))
    if summary["localisation"]:
        parts.append(_localisation(summary))
    return Group(*parts, f"[dim]{_safe(summary['not_shown'])}[/]")


def _map(frame: pd.DataFrame) -> Table:
    """Spans by thoughts: Λ, with * where at most 5 % of the placebos here reach it."""
    table = Table(title="Λ in nats (* rank ≤ 0.05 among placebos here)", title_justify="left")
    places = sorted(int(k) for k in frame["k"].unique())
    ends = ("total", "K decision", "p here", "p elsewhere")
    for column in ("span", *(f"k={k}" for k in places), *ends):
        table.add_column(column, overflow="fold")
    for _, mine in frame.groupby("span", sort=True):
        rows = mine.sort_values("k").to_dict("records")
        cells = [f"{row['log_ratio']:.2f}" + ("*" if row["p_same"] <= 0.05 else "") for row in rows]
        first = rows[0]
        totals = (nats(first["total"]), nats(first["stop_total"]))
        ranks = (f"{first[f'p_total_{where}']:.3f}" for where in ("same", "elsewhere"))
        table.add_row(_safe(first["text"]), *cells, *totals, *ranks)
    return table


def _names(summary: Mapping[str, Any]) -> Table:
    table = Table(title="spans by name, mean over traces [95 %]", title_justify="left")
    for column in ("name", "n", "Λ total", "largest", "K decision", "p ≤ .05 here", "elsewhere"):
        table.add_column(column, overflow="fold")
    for entry in summary["by_name"][:SHOWN]:
        table.add_row(
            _safe(entry["name"]),
            str(entry["n"]),
            *(estimate(entry[name]) for name in ("total", "peak", "stop_total")),
            *(estimate(entry[f"total_{where}_below"]) for where in ("same", "elsewhere")),
        )
    more = len(summary["by_name"]) - SHOWN
    if more > 0:
        table.caption = f"{more} more with --json"
    return table


def _localisation(summary: Mapping[str, Any]) -> Table:
    table = Table(title="does Λ peak at the thought of its step?", title_justify="left")
    for column in ("world", "step", "n", "top-1", "placebos", "above", "chance", "step's own span"):
        table.add_column(column, overflow="fold")
    for e in summary["localisation"]:
        table.add_row(
            _safe(e["world"]),
            "all" if e["step"] is None else str(e["step"]),
            str(e["n"]),
            *(estimate(e[name]) for name in ("top1", "placebo_top1", "above", "chance")),
            f"{estimate(e['owner_top1'])} (chance {estimate(e['owner_chance'])})",
        )
    return table


def estimate(value: Mapping[str, Any]) -> str:
    """A value with its interval."""
    if value["value"] is None:
        return "–"
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def nats(value: float | None) -> str:
    """Nats in as few signs as tell them apart at a glance."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}".replace("-0.00", "0.00")


def _safe(text: str) -> str:
    return escape(printable(text))
