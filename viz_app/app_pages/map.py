"""Where do the thoughts of a run lie, and what is the trace behind a point?"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from nfcot_model.traces import Run
from viz_app.address import warn_unknown
from viz_app.bands import MEASURES as TITLES
from viz_app.cloud import thought_map
from viz_app.data import column, label_names, projection, sample
from viz_app.selection import clamp_range, clicked_row
from viz_app.ui import is_dark, pick_run, pick_trace, verdict_badge

SPACES = {
    "u": "thoughts u",
    "e": "codec latents e",
    "eps": "noise eps",
    "mu": "predicted means mu",
}
SPACES_HELP = "Which vector of a thought is drawn: " + ", ".join(SPACES.values()) + "."
DENSITY_MEASURES = ("logp", "energy", "logvol")
MEASURES = ["k", *DENSITY_MEASURES, "match", "correct", "verdict", "K"]


def open_point(run: Run) -> None:
    """A click on a point opens its trace."""
    row = clicked_row(st.session_state["thought_map"])
    if row is not None and row < len(run.thoughts):
        st.session_state["trace"] = run.thoughts["trace_id"].iloc[row]


st.title("Map of thoughts")
bar = st.columns([2.2, 1.6, 1.6, 1.6, 2.2], vertical_alignment="bottom")
run = pick_run(bar[0])
if run is None:
    st.stop()
if run.thoughts.empty:
    st.info("This run holds no thoughts yet.", icon=":material/hourglass_empty:")
    st.stop()

spaces = [name for name in SPACES if name in run.tensor_names]
if st.session_state.get("space", "u") not in spaces:
    st.session_state["space"] = "u"
warn_unknown("space", spaces, "u is shown instead")
space = bar[1].selectbox("Space", spaces, key="space", bind="query-params", help=SPACES_HELP)
measures = [name for name in MEASURES if run.scorer != "none" or name not in DENSITY_MEASURES]
labels = [name for name in label_names(run.path) if name not in MEASURES]
if st.session_state.get("colour", "k") not in [*measures, *labels]:
    st.session_state["colour"] = "k"
warn_unknown("colour", [*measures, *labels], "k is shown instead")
colour = bar[2].selectbox(
    "Colour by",
    [*measures, *labels],
    key="colour",
    bind="query-params",
    help="A measure of the thought, the verdict of its trace, or a ground-truth label.",
)
last = int(run.thoughts["k"].max())
low, high = 0, last
warn_unknown("at", [str(k) for k in range(last + 1)], "positions are cut to this run's")
if last > 0:
    if st.session_state.get("at_run", run.hash) != run.hash:
        st.session_state["at"] = (0, last)
    elif "at" in st.session_state:
        st.session_state["at"] = clamp_range(st.session_state["at"], last)
    st.session_state["at_run"] = run.hash
    low, high = bar[3].slider(
        "Positions k", 0, last, (0, last), key="at", bind="query-params",
        help="Thoughts at other positions are dimmed, not removed.",
    )  # fmt: skip
trace_id = pick_trace(run, list(run.traces["trace_id"]), bar[4])

view = projection(run.path, space)
rows = sample(run.path)
everything = pd.DataFrame(
    {
        "x": view.xy[:, 0],
        "y": view.xy[:, 1],
        "value": column(run.path, colour),
        "k": run.thoughts["k"].to_numpy(),
        "text": run.thoughts["text"].fillna("(not decoded)").to_numpy(),
        "row": np.arange(len(run.thoughts)),
    }
)
points = everything.iloc[rows]
active = points["k"].between(low, high).to_numpy()
path = None
if trace_id is not None:
    path = everything[(run.thoughts["trace_id"] == trace_id).to_numpy()]

left, right = st.columns([2.6, 1], gap="medium")
with left:
    share = [f"{100 * part:.0f} % of variance" for part in view.explained]
    figure = thought_map(
        points,
        colour,
        active,
        path,
        axes=(f"PC 1 of {space} ({share[0]})", f"PC 2 of {space} ({share[1]})"),
        dark=is_dark(),
        title=TITLES.get(colour, colour),
    )
    figure.update_layout(uirevision=f"{run.hash}/{space}")
    st.plotly_chart(
        figure,
        key="thought_map",
        on_select=partial(open_point, run),
        selection_mode="points",
        config={"displaylogo": False, "scrollZoom": True},
        alt=f"Scatter of {len(points)} thoughts in the principal plane of {SPACES[space]}, "
        f"coloured by {colour}.",
    )
    sampled = (
        ", a sample stratified by position and verdict (seed 0)"
        if len(points) < len(everything)
        else ""
    )
    st.caption(
        f"{len(points):,} of {len(everything):,} thoughts of {len(run.traces):,} traces shown"
        f"{sampled}; {active.sum():,} inside the filter. PCA fitted on all thoughts of all "
        f"positions; the plane keeps {100 * sum(view.explained):.0f} % of the variance of {space}. "
        "A projection is only a view: points that look close may be far apart in the other "
        "dimensions."
    )
with right:
    if trace_id is None or path is None:
        st.markdown("##### No trace selected")
        st.write("Click a point to see the trace it belongs to, or choose one above.")
        st.stop()
    trace = run.traces[run.traces["trace_id"] == trace_id].iloc[0]
    with st.container(border=True):
        st.markdown("##### Selected trace")
        with st.container(horizontal=True):
            verdict_badge(trace)
            st.badge(f"K = {trace['K']}", color="gray")
        st.code(trace["prompt"], language=None, wrap_lines=True)
        st.dataframe(
            run.thoughts.loc[path.index, ["k", "text", "match"]],
            hide_index=True,
            column_config={"text": "Decoded thought", "match": "Matches step"},
            alt="Decoded text of each thought of the selected trace.",
        )
        st.page_link(
            "app_pages/trace.py",
            label="Open the trace",
            icon=":material/arrow_forward:",
            query_params={"run": run.name, "trace": trace_id},
        )
