"""Figures: pure functions from arrays to Plotly figures that read well on light and dark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

__all__ = ["CATEGORIES", "OTHER", "as_categories", "p_value_histogram", "profile", "thought_map"]

CATEGORIES = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE7733", "#44BB99",
)  # fmt: skip
"""Paul Tol's colour-blind-safe hues; each also has its own marker, so colour is never alone."""
SYMBOLS = (
    "circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "star", "hexagon",
)  # fmt: skip
SEQUENTIAL = ("#3B4994", "#3F6FAE", "#3E93B0", "#5BB3A5", "#9CCB86", "#E0D268")
OTHER = "other"
DIM = "rgba(140,150,165,0.28)"
ACCENT = "#EE6677"
CALM = "#4477AA"
MAX_DISTINCT_NUMBERS = 12


def as_categories(values: pd.Series) -> pd.Series | None:
    """Is this column one of names? Then its values as text, the rarest beyond the palette as other.

    Numbers give None (they are coloured by a scale). Missing values become "unknown".
    """
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return None
    text = values.map({True: "yes", False: "no"}) if values_are_bool(values) else values
    text = text.astype("object").where(text.notna(), "unknown").astype(str)
    counts = text.value_counts()
    if len(counts) > len(CATEGORIES):
        keep = set(counts.index[: len(CATEGORIES) - 1])
        text = text.where(text.isin(keep), OTHER)
    return text


def values_are_bool(values: pd.Series) -> bool:
    """Does the column hold only True, False and nothing?"""
    known = values.dropna()
    return len(known) > 0 and all(isinstance(value, bool | np.bool_) for value in known.unique())


def base_layout(figure: go.Figure, height: int) -> go.Figure:
    """Room, transparent ground and quiet lines: what all figures share."""
    return figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "title": None},
    )


def thought_map(
    points: pd.DataFrame,
    colour: str,
    active: np.ndarray,
    path: pd.DataFrame | None = None,
    axes: tuple[str, str] = ("PC 1", "PC 2"),
    dark: bool = False,
) -> go.Figure:
    """Where do the thoughts lie, coloured by one column, with one trace drawn as a path?

    points: columns x, y, value, k, text, row; `active` [n] bool, the others are dimmed and stay.
    path: the chosen trace's thoughts in order of k (same columns), or None. With a path the whole
    cloud recedes. Every point carries its row number as customdata.
    """
    figure = go.Figure()
    focus = path is not None and len(path) > 0
    opacity = 0.25 if focus else 0.8
    size = 5 if len(points) > 4000 else 7
    rest = points[~active]
    if len(rest):
        figure.add_trace(
            cloud(rest, name="outside the filter", marker={"color": DIM, "size": size - 1})
        )
    shown = points[active]
    categories = as_categories(shown["value"])
    if categories is None:
        figure.add_trace(
            cloud(
                shown,
                name=colour,
                showlegend=False,
                marker={
                    "color": pd.to_numeric(shown["value"]).to_numpy(dtype=float, na_value=np.nan),
                    "colorscale": list(SEQUENTIAL),
                    "colorbar": colour_bar(shown["value"], colour),
                    "size": size,
                    "opacity": opacity,
                },
            )
        )
    else:
        for i, name in enumerate(ordered(categories)):
            figure.add_trace(
                cloud(
                    shown[(categories == name).to_numpy()],
                    name=name,
                    marker={
                        "color": CATEGORIES[i],
                        "symbol": SYMBOLS[i],
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
    return base_layout(figure, 600)


def ordered(categories: pd.Series) -> list[str]:
    """Category names in reading order: names sorted, "other" and "unknown" last."""
    last = {OTHER: 1, "unknown": 2}
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


def colour_bar(values: pd.Series, title: str) -> dict[str, object]:
    """A thin colour bar; few whole numbers get one tick each."""
    bar: dict[str, object] = {
        "title": {"text": title, "side": "right"},
        "thickness": 10,
        "outlinewidth": 0,
        "len": 0.9,
    }
    known = pd.to_numeric(values).dropna()
    distinct = np.unique(known)
    if len(distinct) <= MAX_DISTINCT_NUMBERS and np.all(distinct == np.round(distinct)):
        bar |= {"tickvals": distinct.tolist(), "ticktext": [f"{value:.0f}" for value in distinct]}
    return bar


def add_path(figure: go.Figure, path: pd.DataFrame, dark: bool) -> None:
    """The chosen trace: a line through its thoughts in order, every thought numbered by k."""
    ink, paper = ("#F3F6FA", "#11161D") if dark else ("#1D2733", "#FFFFFF")
    figure.add_trace(
        go.Scatter(
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


def profile(
    values: pd.DataFrame,
    band: pd.DataFrame,
    measure: str,
    title: str,
    band_name: str,
    marked: Sequence[int] = (),
    height: int = 330,
) -> go.Figure:
    """How does one trace run against the values usual at each position?

    values: columns k, text and the measure. band: from `reference_band`. `marked`: positions that
    an audit named; they get a ring. Positions without a reference have no band below them.
    """
    figure = go.Figure()
    k = band.index.to_numpy()
    if len(k):
        figure.add_traces(
            [
                go.Scatter(
                    x=k, y=band["q95"], mode="lines", line={"width": 0}, showlegend=False,
                    hoverinfo="skip",
                ),
                go.Scatter(
                    x=k, y=band["q05"], mode="lines", line={"width": 0}, fill="tonexty",
                    fillcolor="rgba(68,119,170,0.22)", name=f"5–95 % {band_name}",
                    hoverinfo="skip",
                ),
                go.Scatter(
                    x=k, y=band["q50"], mode="lines", name="median",
                    line={"color": CALM, "width": 1.5, "dash": "dot"},
                    customdata=band[["n"]].to_numpy(),
                    hovertemplate="median %{y:.2f} of n = %{customdata[0]}<extra></extra>",
                ),
                go.Scatter(
                    x=k, y=band["q99"], mode="lines", name="99 %",
                    line={"color": CALM, "width": 1, "dash": "dash"},
                    hovertemplate="99 %: %{y:.2f}<extra></extra>",
                ),
            ]
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=values["k"],
            y=values[measure],
            mode="lines+markers",
            name="this trace",
            line={"color": "#CC6633", "width": 2.2},
            marker={"size": 8},
            text=values["text"],
            hovertemplate="k = %{x}: %{y:.2f}<br>%{text}<extra></extra>",
        )
    )
    rings = values[values["k"].isin(list(marked))]
    if len(rings):
        figure.add_trace(
            go.Scatter(
                x=rings["k"],
                y=rings[measure],
                mode="markers",
                name="stands out",
                hoverinfo="skip",
                marker={
                    "size": 18,
                    "symbol": "circle-open",
                    "color": ACCENT,
                    "line": {"width": 2.5},
                },
            )
        )
    figure.update_xaxes(title="thought position k", dtick=1 if len(values) <= 24 else None)
    if is_far_out(values[measure], band):
        figure.update_yaxes(type="log", title=f"{title}, log scale", dtick=1)
    else:
        figure.update_yaxes(title=title, zeroline=False)
    return base_layout(figure, height)


def is_far_out(values: pd.Series, band: pd.DataFrame, factor: float = 5.0) -> bool:
    """Would a linear axis flatten the band? Positive values of which one towers over the 99 %."""
    if not len(values) or not len(band):
        return False
    positive = values.min() > 0 and band["q05"].min() > 0
    return bool(positive and values.max() > factor * band["q99"].max())


def p_value_histogram(
    p_values: Sequence[float] | np.ndarray, alpha: float, bins: int = 20
) -> go.Figure:
    """Are the p-values spread evenly, as they are when nothing is unusual?

    The dashed line is the count per bin that a uniform distribution gives. A pile-up at the left
    is what an anomaly looks like, and also what a calibration set that does not fit looks like.
    """
    edges = np.linspace(0, 1, bins + 1)
    known = np.asarray([p for p in p_values if np.isfinite(p)], dtype=float)
    counts, _ = np.histogram(known, bins=edges)
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=1 / bins * 0.92,
            marker={"color": CALM},
            customdata=np.stack([edges[:-1], edges[1:]], axis=1),
            hovertemplate="p in %{customdata[0]:.2f}–%{customdata[1]:.2f}: %{y}<extra></extra>",
            name="trajectories",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[0, 1],
            y=[len(known) / bins] * 2,
            mode="lines",
            line={"dash": "dash", "width": 1.5, "color": "#CC6633"},
            name="uniform",
            hovertemplate="uniform: %{y:.1f} per bin<extra></extra>",
        )
    )
    top = max(counts.max(initial=0), len(known) / bins, 1) * 1.05
    figure.add_trace(
        go.Scatter(
            x=[alpha, alpha],
            y=[0, top],
            mode="lines",
            line={"width": 2, "color": ACCENT},
            name=f"alpha = {alpha:g}",
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title="conformal p-value of a trajectory", range=[0, 1])
    figure.update_yaxes(title="trajectories per bin", zeroline=False)
    return base_layout(figure, 300)
