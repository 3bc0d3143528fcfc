"""A sweep as one figure: where the label is read, and what the controls read there."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probes.cells import Cell
from probes.sweep import Sweep

__all__ = ["sweep_figure"]

# Controls that are read once per place, whatever the space.
BY_PLACE = (
    "prompt_words",
    "prompt_state",
    "prompt_embedding",
    "decoded_text",
    "length_position",
)
CHANCE = {"auroc": 0.5, "r2": 0.0}


def sweep_figure(sweep: Sweep) -> go.Figure:
    """One heat-map per estimator and per control of the sites, all on one scale.

    Rows are spaces, columns places; the star marks the best cell, a cross cells whose adjusted
    p-value is above 0.05.
    """
    names = list(dict.fromkeys(cell.name for cell in sweep.cells))
    beside = [c for c in sweep.controls if c.name not in BY_PLACE]
    once = [c for c in sweep.controls if c.name in BY_PLACE]
    others = list(dict.fromkeys(c.name for c in beside))
    panels = [*names, *([] if not once else ["not from thoughts"]), *others]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[p.replace("_", " ") for p in panels], shared_xaxes=False
    )
    low = CHANCE.get(sweep.statistic, 0.0)
    for i, panel in enumerate(panels):
        found: list[tuple[str, str, Cell]] = []
        for cell in once if panel == "not from thoughts" else [*sweep.cells, *beside]:
            space, _, where = cell.site.rpartition("@")
            if panel == "not from thoughts":
                found.append((cell.name.replace("_", " "), where, cell))
            elif cell.name == panel:
                found.append((space, where, cell))
        place = {"row": i // columns + 1, "col": i % columns + 1}
        figure.add_trace(_heatmap(found), **place)
        marks = _marks(sweep, found) if panel in names else None
        if marks is not None:
            figure.add_trace(marks, **place)
    figure.update_layout(
        title=(
            f"{sweep.label} in {sweep.run}: {sweep.statistic.replace('_', ' ')} out of fold;"
            f" best {sweep.best.site}, {sweep.best.estimator}"
        ),
        coloraxis={"colorscale": "Viridis", "cmin": low, "cmax": 1.0},
        template="plotly_white",
        width=420 * columns + 80,
        height=330 * rows + 90,
        showlegend=False,
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    return figure


def _heatmap(found: Sequence[tuple[str, str, Cell]]) -> go.Heatmap:
    spaces = list(dict.fromkeys(space for space, _, _ in found))
    places = list(dict.fromkeys(place for _, place, _ in found))
    value = {(space, place): cell.value for space, place, cell in found}
    table = [[value.get((s, p), float("nan")) for p in places] for s in spaces]
    return go.Heatmap(
        x=places,
        y=spaces,
        z=table,
        coloraxis="coloraxis",
        texttemplate="%{z:.2f}",
        hovertemplate="%{y} at %{x}: %{z:.3f}<extra></extra>",
    )


def _marks(sweep: Sweep, found: Sequence[tuple[str, str, Cell]]) -> go.Scatter | None:
    p = {(c.site, c.name): v for c, v in zip(sweep.cells, sweep.adjusted_p, strict=True)}
    best = (sweep.best.site, sweep.best.estimator)
    marked = [
        (place, space, "★" if (c.site, c.name) == best else "×")
        for space, place, c in found
        if (c.site, c.name) == best or p[c.site, c.name] > 0.05
    ]
    if not marked:
        return None
    x, y, text = zip(*marked, strict=True)
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        mode="text",
        textposition="top right",
        textfont={"color": "white", "size": 15},
        hoverinfo="skip",
    )
