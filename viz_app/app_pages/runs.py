"""Which runs, audits and probes are here?"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from nfcot_model.errors import UserError
from viz_app.catalog import artifact_row, artifacts
from viz_app.data import document, run_lines, runs_dir
from viz_app.selection import selected_rows
from viz_app.ui import forget_trace, how_to_make_a_run, pick_run

COLUMNS: dict[str, Any] = {
    "run": "Run",
    "reasoner": "Reasoner",
    "worlds": "World",
    "traces": st.column_config.NumberColumn("Traces", format="localized"),
    "thoughts": st.column_config.NumberColumn("Thoughts", format="localized"),
    "pass_rate": st.column_config.NumberColumn(
        "Pass rate", format="percent", help="Share of traces whose answer passed its check."
    ),
    "decode_match": st.column_config.NumberColumn(
        "Decodes to step",
        format="percent",
        help="Share of thoughts whose decoded text equals the reference step.",
    ),
    "tau": st.column_config.NumberColumn("tau", format="%.2f", help="Thought temperature."),
    "logp_per_dim": st.column_config.NumberColumn(
        "log p(u|q) / dim",
        format="%.3f",
        help="log p(u | prompt) in nats, summed over thoughts and divided by K·D; nfcot eval shows "
        "the same with the opposite sign. The model scores its own samples, so this says nothing "
        "about intent.",
    ),
    "checkpoint": "Checkpoint",
    "created": st.column_config.DatetimeColumn("Created (UTC)", format="YYYY-MM-DD HH:mm"),
    "trouble": "Trouble",
}
ARTEFACT_COLUMNS: dict[str, Any] = {
    "name": "Name",
    "run": "Run",
    "n": st.column_config.NumberColumn("n", format="localized"),
    "flagged": st.column_config.NumberColumn("Flagged", format="localized"),
    "alpha": st.column_config.NumberColumn("alpha", format="%g"),
    "accuracy": st.column_config.NumberColumn("Accuracy", format="percent"),
    "interval": st.column_config.TextColumn("95 % interval", help="Clustered over groups."),
    "shuffled": st.column_config.NumberColumn(
        "Shuffled labels", format="percent", help="The same probe fitted on shuffled labels."
    ),
    "site": "Site",
    "label": "Label",
    "scorer": "Scorer",
    "statistic": "Statistic",
    "trouble": "Trouble",
}


def open_row() -> None:
    """A click on a row opens that run."""
    rows = selected_rows(st.session_state["runs_table"])
    if rows:
        st.session_state["run"] = lines["run"].iloc[rows[0]]
        forget_trace()


def artefact_table(kind: str, file: str) -> None:
    """One row per artefact of a kind; damaged ones say so."""
    rows: list[dict[str, Any]] = []
    found = artifacts(folder, kind, file)
    for path in found:
        try:
            rows.append({"name": path.parent.name, **artifact_row(kind, document(path))})
        except UserError as error:
            rows.append({"name": path.parent.name, "trouble": str(error)})
    if not rows:
        st.caption(f"No {kind} yet.")
        return
    event = st.dataframe(
        rows,
        hide_index=True,
        column_order=[column for column in ARTEFACT_COLUMNS if any(column in row for row in rows)],
        column_config=ARTEFACT_COLUMNS,
        key=f"{kind}_table",
        on_select="rerun",
        selection_mode="single-row",
        alt=f"Table of the {kind} in this folder.",
    )
    for row in selected_rows(event):
        if kind == "audits":
            st.switch_page("app_pages/audit.py", query_params={"audit": rows[row]["name"]})
        elif "trouble" not in rows[row]:
            content = document(found[row])
            st.json({name: content[name] for name in content if name != "train_groups"})


folder = runs_dir()
st.title("Runs")
st.caption(f"`{folder}`")
lines = run_lines(folder)
if lines.empty:
    how_to_make_a_run(folder)
    st.stop()

bad = lines["trouble"].notna()
table = lines.assign(
    created=pd.to_datetime(lines["created"], errors="coerce", utc=True),
    trouble=lines["trouble"].fillna(""),
)
order = [name for name in COLUMNS if name != "trouble" or bad.any()]
st.dataframe(
    table,
    hide_index=True,
    column_order=order,
    column_config=COLUMNS,
    key="runs_table",
    on_select=open_row,
    selection_mode="single-row",
    alt="Table of runs: size, pass rate, tau, likelihood per dimension, checkpoint, date.",
)
if bad.any():
    st.warning(
        f"{bad.sum()} of {len(lines)} runs cannot be read; open one below to see why.",
        icon=":material/report:",
    )

with st.container(border=True):
    left, right = st.columns([2, 3], vertical_alignment="bottom", gap="large")
    run = pick_run(left)
    if run is not None:
        with right, st.container(horizontal=True, gap="medium"):
            link = {"run": run.name}
            st.page_link(
                "app_pages/map.py", label="Map of thoughts", icon=":material/scatter_plot:",
                query_params=link,
            )  # fmt: skip
            st.page_link(
                "app_pages/trace.py", label="Traces", icon=":material/timeline:", query_params=link
            )
        decode = run.manifest.get("decode", {})
        facts = {
            "thought width D": run.D,
            "thoughts per trace": f"{run.traces['K'].min()}–{run.traces['K'].max()}"
            if len(run.traces)
            else "–",
            **{name: decode[name] for name in ("samples", "seed", "dtype") if name in decode},
            "problem set": run.manifest.get("problem_set_hash"),
            "run hash": run.hash,
        }
        st.caption(" · ".join(f"{name} **{value}**" for name, value in facts.items()))
        with st.expander("Manifest"):
            st.json(run.manifest)

st.subheader("Audits")
artefact_table("audits", "audit.json")
st.subheader("Probes")
artefact_table("probes", "probe.json")
