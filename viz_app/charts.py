"""Profiles and histograms: pure functions to figures that read well on light and dark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

__all__ = ["base_layout", "p_value_histogram", "profile"]

ACCENT = "#EE6677"
CALM = "#4477AA"
EDGES = {
    "energy": {"q99": "99 %", "q01": "1 %"},
    "logp": {"q01": "1 %"},
    "logvol": {"q99": "99 %", "q01": "1 %"},
}
"""Which outer quantiles are drawn? A low likelihood is unusual, and so is energy on either side."""


def base_layout(figure: go.Figure, height: int, legend: str | None = None) -> go.Figure:
    """Room, transparent ground and quiet lines: what all figures share."""
    return figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "title": legend},
    )


def profile(
    values: pd.DataFrame,
    band: pd.DataFrame,
    measure: str,
    title: str,
    band_name: str,
    marked: Sequence[int] = (),
    ring: str = "stands out",
    height: int = 330,
) -> go.Figure:
    """How does one trace run against the values usual at each position?

    values: columns k, text and the measure. band: from `reference_band`. `marked`: positions that
    an audit named; they get a ring, named `ring` in the legend. Positions without a reference have
    no band below them.
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
                *(
                    go.Scatter(
                        x=k, y=band[edge], mode="lines", name=name,
                        line={"color": CALM, "width": 1, "dash": "dash"},
                        hovertemplate=f"{name}: %{{y:.2f}}<extra></extra>",
                    )
                    for edge, name in EDGES.get(measure, EDGES["energy"]).items()
                    if edge in band
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
                name=ring,
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
