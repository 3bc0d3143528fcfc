"""The map: a cloud of thoughts coloured by one column, with one trace drawn through it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from viz_app.charts import base_layout

__all__ = ["CATEGORIES", "OTHER", "as_categories", "thought_map"]

CATEGORIES = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE7733", "#44BB99",
)  # fmt: skip
"""Paul Tol's colour-blind-safe hues; each also has its own marker, so colour is never alone."""
SYMBOLS = (
    "circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "star", "hexagon",
)  # fmt: skip
SEQUENTIAL = ("#3B4994", "#3F6FAE", "#3E93B0", "#5BB3A5", "#9CCB86", "#E0D268")
OTHER = "other"
UNKNOWN = "unknown"
DIM = "rgba(140,150,165,0.28)"
MAX_DISTINCT_NUMBERS = 12


def as_categories(values: pd.Series) -> pd.Series | None:
    """Is this column one of names? Then its values as text, the rarest beyond the palette as other.

    Numbers give None (they are coloured by a scale). Missing values become "unknown".
    """
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return None
    text = values.map({True: "yes", False: "no"}) if values_are_bool(values) else values
    text = text.astype("object").where(text.notna(), UNKNOWN).astype(str)
    counts = text.value_counts()
    if len(counts) > len(CATEGORIES):
        keep = set(counts.index[: len(CATEGORIES) - 1])
        text = text.where(text.isin(keep), OTHER)
    return text


def values_are_bool(values: pd.Series) -> bool:
    """Does the column hold only True, False and nothing?"""
    known = values.dropna()
    return len(known) > 0 and all(isinstance(value, bool | np.bool_) for value in known.unique())


def thought_map(
    points: pd.DataFrame,
    colour: str,
    active: np.ndarray,
    path: pd.DataFrame | None = None,
    axes: tuple[str, str] = ("PC 1", "PC 2"),
    dark: bool = False,
    title: str | None = None,
) -> go.Figure:
    """Where do the thoughts lie, coloured by one column, with one trace drawn as a path?

    points: columns x, y, value, k, text, row; `active` [n] bool, the others are dimmed and stay.
    path: the chosen trace's thoughts in order of k (same columns), or None. With a path the whole
    cloud recedes. Every point carries its row number as customdata. `title`: what the colours
    mean, with its unit; the column's name if None.
    """
    figure = go.Figure()
    focus = path is not None and len(path) > 0
    size, opacity = (7, 0.8) if len(points) <= 4000 else (5, 0.75)
    size, opacity = (size, opacity) if len(points) <= 20_000 else (3, 0.6)
    opacity = (0.4 if dark else 0.25) if focus else opacity
    rest = points[~active]
    if len(rest):
        figure.add_trace(
            cloud(rest, name="outside the filter", marker={"color": DIM, "size": size - 1})
        )
    shown = points[active]
    categories = as_categories(shown["value"])
    if categories is None:
        unknown = shown["value"].isna().to_numpy()
        if unknown.any():
            marker = {"color": DIM, "size": size - 1, "opacity": opacity}
            figure.add_trace(cloud(shown[unknown], name=f"no {colour}", marker=marker))
        shown = shown[~unknown]
        values = pd.to_numeric(shown["value"]).to_numpy(dtype=float, na_value=np.nan)
        wide = spans_decades(values)
        figure.add_trace(
            cloud(
                shown,
                name=colour,
                showlegend=False,
                marker={
                    "color": np.log10(values) if wide else values,
                    "colorscale": list(SEQUENTIAL),
                    "colorbar": colour_bar(values, title or colour, wide),
                    "size": size,
                    "opacity": opacity,
                },
            )
        )
    else:
        for i, name in enumerate(ordered(categories)):
            missing = name == UNKNOWN
            figure.add_trace(
                cloud(
                    shown[(categories == name).to_numpy()],
                    name=f"no {colour}" if missing else name,
                    marker={
                        "color": DIM if missing else CATEGORIES[i],
                        "symbol": "circle" if missing else SYMBOLS[i],
                        "size": size,
                        "opacity": opacity,
                    },
                )
            )
    if path is not None and focus:
        add_path(figure, path, dark)
    figure.update_xaxes(title=axes[0], zeroline=False)
    figure.update_yaxes(title=axes[1], zeroline=False)
    figure.update_layout(dragmode="pan", clickmode="event+select")
    return base_layout(figure, 600, None if categories is None else title or colour)


def ordered(categories: pd.Series) -> list[str]:
    """Category names in reading order: names sorted, "other" and "unknown" last."""
    last = {OTHER: 1, UNKNOWN: 2}
    return sorted(categories.unique(), key=lambda name: (last.get(name, 0), name))


def cloud(points: pd.DataFrame, **options: object) -> go.Scattergl:
    """One group of points with the hover text that all of them share."""
    return go.Scattergl(
        x=points["x"],
        y=points["y"],
        mode="markers",
        customdata=points[["row", "k"]].to_numpy(),
        text=points["text"],
        hovertemplate="k = %{customdata[1]}<br>%{text}<extra></extra>",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 0.25}},
        **options,
    )


def spans_decades(values: np.ndarray, decades: float = 2.0) -> bool:
    """Are the values positive and so far apart that a linear scale shows only the largest?"""
    known = values[np.isfinite(values)]
    return bool(len(known) and known.min() > 0 and known.max() > 10**decades * known.min())


def colour_bar(values: np.ndarray, title: str, wide: bool = False) -> dict[str, object]:
    """A thin colour bar; few whole numbers get one tick each, with `wide` each power of ten."""
    bar: dict[str, object] = {
        "title": {"text": f"{title}, log scale" if wide else title, "side": "right"},
        "thickness": 10,
        "outlinewidth": 0,
        "len": 0.9,
    }
    known = values[np.isfinite(values)]
    distinct = np.unique(known)
    if wide:
        powers = range(int(np.floor(np.log10(known.min()))), int(np.log10(known.max())) + 1)
        bar |= {"tickvals": list(powers), "ticktext": [f"{10.0**power:g}" for power in powers]}
    elif len(distinct) <= MAX_DISTINCT_NUMBERS and np.all(distinct == np.round(distinct)):
        bar |= {"tickvals": distinct.tolist(), "ticktext": [f"{value:.0f}" for value in distinct]}
    return bar


def add_path(figure: go.Figure, path: pd.DataFrame, dark: bool) -> None:
    """The chosen trace: a line through its thoughts in order, every thought numbered by k."""
    ink, paper = ("#F3F6FA", "#11161D") if dark else ("#1D2733", "#FFFFFF")
    figure.add_trace(
        go.Scattergl(
            x=path["x"],
            y=path["y"],
            mode="lines+markers+text",
            name="selected trace",
            line={"color": ink, "width": 2},
            marker={"size": 19, "color": ink, "line": {"color": paper, "width": 1.5}},
            text=[str(k) for k in path["k"]],
            textposition="middle center",
            textfont={"size": 11, "color": paper},
            customdata=path[["row", "k"]].to_numpy(),
            hovertext=path["text"],
            hovertemplate="k = %{customdata[1]}<br>%{hovertext}<extra>selected trace</extra>",
        )
    )
