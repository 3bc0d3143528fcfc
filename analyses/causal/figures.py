"""A causal study as figures: what each edit does, when answers are settled, what moves what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from analyses.causal.mediation import PARTS

__all__ = ["causal_figures"]

BLUE, RED, GREY = "#4477AA", "#EE6677", "#888888"
Interval = Mapping[str, float | None]


def causal_figures(task: Mapping[str, Any]) -> dict[str, go.Figure]:
    """The figures of one task of the summary, by name; those without data are left out."""
    drawn = {
        "thoughts": _thoughts(task["thoughts"]),
        "edits": _edits(task["effects"]),
        "early-decision": _early(task["early_decision"]),
        "transplants": _transplants(task["parts"]),
        "counterfactuals": _counterfactuals(task["counterfactuals"]),
        "influence": _influence(task["influence"]),
        "mediation": _mediation(task["mediation"]),
        "states": _states(task["states"]),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _thoughts(thoughts: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    if not thoughts:
        return None
    figure = go.Figure()
    for name, field, colour in (
        ("later thoughts frozen (direct)", "necessity_direct", GREY),
        ("later thoughts thought again (total)", "necessity_total", BLUE),
    ):
        figure.add_trace(
            _dots(name, [t["k"] for t in thoughts], [t[field] for t in thoughts], colour)
        )
    return _laid_out(
        figure,
        "Drop of the pass rate when one thought is replaced",
        "thought, counted from the end (-1 is the last)",
        "drop of pass@1",
    )


def _edits(effects: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    if not effects:
        return None
    figure = go.Figure()
    for mode, colour in (("direct", GREY), ("total", BLUE)):
        rows = [e for e in effects if e["mode"] == mode]
        names = [e["edit"] for e in rows]
        figure.add_trace(_dots(mode, names, [e["flipped"] for e in rows], colour))
        placebo = _dots(
            f"{mode}, placebo of the same norm", names, [e["placebo_flipped"] for e in rows], colour
        )
        figure.add_trace(placebo.update(marker_symbol="circle-open"))
    return _laid_out(figure, "Answers changed by each edit", "edit", "share of answers changed")


def _early(rows: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    figure = go.Figure()
    missing = [r["missing"] for r in rows]
    figure.add_trace(
        _dots("the whole trajectory's answer", missing, [r["same"] for r in rows], BLUE)
    )
    figure.add_trace(_dots("a correct answer", missing, [r["correct"] for r in rows], RED))
    figure.update_xaxes(autorange="reversed")
    return _laid_out(
        figure,
        "Answers after only the first thoughts",
        "thoughts left out at the end",
        "share of traces",
    )


def _transplants(parts: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    rows = [p for p in parts if p["part"] != "all" and p["mode"] == "direct"]
    if not rows:
        return None
    figure = go.Figure()
    for part, symbol in (("prefix", "circle"), ("suffix", "diamond")):
        here = [r for r in rows if r["part"] == part]
        what = "first k" if part == "prefix" else "from k on"
        for who, colour in (("donor", BLUE), ("prompt", RED)):
            dots = _dots(
                f"{what} given: {who}'s",
                [r["k"] for r in here],
                [r[who] for r in here],
                colour,
            )
            figure.add_trace(dots.update(marker_symbol=symbol))
    return _laid_out(
        figure, "Whose answer follows when a part is the donor's", "k", "share of pairs"
    )


def _counterfactuals(rows: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    if not rows:
        return None
    figure = go.Figure()
    k = [r["k"] for r in rows]
    figure.add_trace(_dots("the implied answer", k, [r["implied"] for r in rows], BLUE))
    figure.add_trace(_dots("still the old answer", k, [r["own"] for r in rows], RED))
    return _laid_out(
        figure,
        "A step told differently, later thoughts thought again",
        "step, counted from the end",
        "share of cases",
    )


def _influence(rows: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    if not rows:
        return None
    size = 1 + max(r["j"] for r in rows)
    moved: list[list[float | None]] = [[None] * size for _ in range(size)]
    for row in rows:
        moved[row["k"]][row["j"]] = row["moved"]["value"]
    figure = go.Figure(
        go.Heatmap(
            z=moved[: size - 1],
            colorscale="Viridis",
            colorbar_title="sigmas",
            hovertemplate="thought %{y} swapped moves mu of %{x} by %{z:.2f} sigma<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", dtick=1)
    figure.update_xaxes(dtick=1)
    return _laid_out(
        figure,
        "What a swapped thought does to the means after it",
        "thought read",
        "thought swapped",
    )


def _mediation(rows: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    if not rows:
        return None
    ordered = sorted(rows, key=lambda r: PARTS.index(r["part"]))
    named = {
        "all": "whole swap",
        "probe": "probe's directions",
        "rest": "all but the probe's",
        "random": "random directions",
        "variance": "most varying directions",
    }
    figure = go.Figure(
        _dots("", [named[r["part"]] for r in ordered], [r["flipped"] for r in ordered], BLUE)
    )
    return _laid_out(
        figure, "Answers changed by a swap restricted to a subspace", "", "share of answers changed"
    )


def _states(rows: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    chosen = [r for r in rows if r["edit"] == "swap_different_value"]
    if not chosen:
        return None
    figure = go.Figure()
    for mode, colour in (("direct", GREY), ("total", BLUE)):
        here = [r for r in chosen if r["mode"] == mode]
        sites = [r["site"] for r in here]
        figure.add_trace(_dots(mode, sites, [r["flipped"] for r in here], colour))
        placebo = _dots(f"{mode}, placebo", sites, [r["placebo_flipped"] for r in here], colour)
        figure.add_trace(placebo.update(marker_symbol="circle-open"))
    return _laid_out(
        figure, "Answers changed by swapping one state", "site", "share of answers changed"
    )


def _dots(name: str, x: Sequence[Any], estimates: Sequence[Interval], colour: str) -> go.Scatter:
    """Values with their 95 % intervals."""
    known = [(a, e) for a, e in zip(x, estimates, strict=True) if e["value"] is not None]
    values = [float(e["value"] or 0) for _, e in known]
    above = [float(e["high"] or 0) - v for (_, e), v in zip(known, values, strict=True)]
    below = [v - float(e["low"] or 0) for (_, e), v in zip(known, values, strict=True)]
    return go.Scatter(
        x=[a for a, _ in known],
        y=values,
        error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below},
        mode="markers",
        marker={"color": colour, "size": 9},
        name=name,
        offsetgroup=name,
        showlegend=bool(name),
    )


def _laid_out(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    if y.startswith(("share", "drop")):
        figure.update_yaxes(range=[-0.05, 1.05])
    return figure.update_layout(
        template="plotly_white",
        scattermode="group",
        scattergap=0.4,
        title={"text": title, "x": 0.02, "y": 0.96},
        width=760,
        height=460,
        margin={"l": 60, "r": 20, "t": 110, "b": 60},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        xaxis_title=x,
        yaxis_title=y,
    )
