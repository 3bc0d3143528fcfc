"""A sweep as one figure: where the label is read, and what the controls read there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
INSIGNIFICANT = 0.05


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
        rows,
        columns,
        subplot_titles=[p.replace("_", " ") for p in panels],
        vertical_spacing=0.24 / rows,
    )
    low = CHANCE.get(sweep.statistic, 0.0)
    marks, tallest = _marks(sweep), 1
    for i, panel in enumerate(panels):
        found: list[tuple[str, str, Cell]] = []
        for cell in once if panel == "not from thoughts" else [*sweep.cells, *beside]:
            space, _, where = cell.site.rpartition("@")
            if panel == "not from thoughts":
                found.append((cell.name.replace("_", " "), where, cell))
            elif cell.name == panel:
                found.append((space, where, cell))
        figure.add_trace(
            _heatmap(found, marks if panel in names else {}),
            row=i // columns + 1,
            col=i % columns + 1,
        )
        tallest = max(tallest, len({space for space, _, _ in found}))
    figure.update_layout(
        title=(
            f"{sweep.label} in {sweep.run}: {sweep.statistic.replace('_', ' ')} out of fold;"
            f" best {sweep.best.site}, {sweep.best.estimator}"
            "<br><sup>★ best cell; × no better than exchanged labels at their best site</sup>"
        ),
        coloraxis={"colorscale": "Viridis", "cmin": low, "cmax": 1.0},
        template="plotly_white",
        width=420 * columns + 80,
        height=(120 + 26 * tallest) * rows + 110,
        showlegend=False,
    )
    figure.update_yaxes(autorange="reversed", type="category", tickmode="linear", dtick=1)
    figure.update_xaxes(type="category", tickmode="linear", dtick=1)
    return figure


def _heatmap(
    found: Sequence[tuple[str, str, Cell]], marks: Mapping[tuple[str, str], str]
) -> go.Heatmap:
    spaces = list(dict.fromkeys(space for space, _, _ in found))
    places = list(dict.fromkeys(place for _, place, _ in found))
    cells = {(space, place): cell for space, place, cell in found}
    values = [[_value(cells.get((s, p))) for p in places] for s in spaces]
    texts = [[_text(cells.get((s, p)), marks) for p in places] for s in spaces]
    return go.Heatmap(
        x=places,
        y=spaces,
        z=values,
        text=texts,
        coloraxis="coloraxis",
        texttemplate="%{text}",
        hovertemplate="%{y} at %{x}: %{z:.3f}<extra></extra>",
    )


def _value(cell: Cell | None) -> float:
    return float("nan") if cell is None else cell.value


def _text(cell: Cell | None, marks: Mapping[tuple[str, str], str]) -> str:
    if cell is None or cell.value != cell.value:
        return ""
    return f"{cell.value:.2f}{marks.get((cell.site, cell.name), '')}"


def _marks(sweep: Sweep) -> dict[tuple[str, str], str]:
    """The star of the best cell, the cross of those that exchanged labels reach too."""
    marks = {
        (cell.site, cell.name): " ×"
        for cell, p in zip(sweep.cells, sweep.adjusted_p, strict=True)
        if p > INSIGNIFICANT
    }
    return marks | {(sweep.best.site, sweep.best.estimator): " ★"}
