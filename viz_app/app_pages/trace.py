"""What happened in one trace: prompt, thoughts, likelihoods, answer, verdict?"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from analyses.audit import REPLAY_TOLERANCE
from nfcot_model.errors import UserError
from viz_app.address import kept_menu, warn_unknown
from viz_app.audits import replay_trouble
from viz_app.bands import MEASURES
from viz_app.charts import profile
from viz_app.data import audits_of, band, comparable_runs, runs_dir
from viz_app.selection import neighbour
from viz_app.ui import pick_run, pick_trace, trouble, verdict_badge

OWN = "this run"
THOUGHT_COLUMNS: dict[str, Any] = {
    "k": st.column_config.NumberColumn("k", width="small"),
    "text": "Decoded thought",
    "reference": "Reference step",
    "match": st.column_config.CheckboxColumn("Match", width="small"),
    "logp": st.column_config.NumberColumn("log p (nats)", format="%.2f"),
    "energy": st.column_config.NumberColumn("Energy", format="%.2f"),
    "logvol": st.column_config.NumberColumn("Log-volume (nats)", format="%.2f"),
}


def given(value: Any) -> bool:
    """Does the problem say this? Neither missing nor empty."""
    return bool(pd.notna(value) and value)


def nats(value: float) -> str:
    """A log-likelihood in words; a retrofit flow knows only that of u."""
    return "–" if pd.isna(value) else f"{value:.2f} nats"


def step_to(step: int) -> None:
    """Go to the next or previous trace of the chosen subset."""
    st.session_state["trace"] = neighbour(ids, st.session_state.get("trace"), step)


st.title("Trace")
bar = st.columns([2, 2.4, 1.6, 0.9, 0.9], vertical_alignment="bottom")
run = pick_run(bar[0])
if run is None:
    st.stop()
if run.traces.empty:
    st.info("This run holds no traces yet.", icon=":material/hourglass_empty:")
    st.stop()

flags = audits_of(run)
flagged = {flag["trace_id"] for audit in flags for flag in audit.flagged}
subsets = {
    "all": run.traces["trace_id"],
    "wrong": run.traces.loc[~run.traces["correct"].astype(bool), "trace_id"],
    "flagged": run.traces.loc[run.traces["trace_id"].isin(flagged), "trace_id"],
}
warn_unknown("subset", subsets, "all traces are stepped through instead")
subset = bar[2].segmented_control(
    "Step through",
    list(subsets),
    default="all",
    required=True,
    key="subset",
    bind="query-params",
    help=" · ".join(f"{name}: {len(ids):,} traces" for name, ids in subsets.items()),
)
ids = subsets[subset or "all"].tolist()
trace_id = pick_trace(run, ids, bar[1], first=True)
bar[3].button(
    "Previous", shortcut="k", on_click=step_to, args=(-1,), disabled=not ids, width="stretch"
)
bar[4].button("Next", shortcut="j", on_click=step_to, args=(1,), disabled=not ids, width="stretch")
if trace_id is None:
    st.info(
        "Choose a trace above." if ids else f"No trace of this run is {subset}.",
        icon=":material/timeline:",
    )
    st.stop()

trace = run.traces[run.traces["trace_id"] == trace_id].iloc[0]
thoughts = run.thoughts[run.thoughts["trace_id"] == trace_id]
named = sorted({k for audit in flags for k in audit.thoughts_of(trace_id)})
ring = max((audit.ring(trace_id) for audit in flags), default="stands out")

with st.container(horizontal=True, vertical_alignment="center"):
    verdict_badge(trace)
    if not trace["stopped"]:
        st.badge("cut at the thought budget", icon=":material/content_cut:", color="orange")
    for audit in flags:
        for flag in audit.flagged:
            if flag["trace_id"] == trace_id:
                st.badge(
                    f"flagged by {audit.name}, p = {flag['p_value']:.4g}",
                    icon=":material/flag:",
                    color="red",
                )
    where = ids.index(trace_id) + 1 if trace_id in ids else "–"
    origin = " / ".join(str(trace[name]) for name in ("world", "split") if given(trace[name]))
    facts = [f"{where} of {len(ids):,}", origin, f"tau {trace['tau']:g}"]
    st.caption(" · ".join(fact for fact in facts if fact))

left, right = st.columns(2, gap="large")
with left:
    st.markdown("##### Prompt")
    st.code(trace["prompt"], language=None, wrap_lines=True)
with right:
    st.markdown("##### Answer")
    st.code(trace["answer"], language="python", wrap_lines=True)
    if given(trace["verdict_detail"]):
        st.caption(f"{trace['verdict']}: {trace['verdict_detail']}")
    expected = trace["reference_answer"]
    if given(expected) and expected != trace["answer"]:
        st.caption("Reference answer")
        st.code(expected, language="python", wrap_lines=True)

st.markdown("##### Thoughts")
st.dataframe(
    thoughts[list(THOUGHT_COLUMNS)],
    hide_index=True,
    column_config=THOUGHT_COLUMNS,
    alt="Per thought: decoded text, reference step, match, log-likelihood, energy, log-volume.",
)
st.caption(
    "Decoded text is one reading of a thought, not evidence that the model uses it. "
    "Likelihoods are the model's opinion of its own samples: they say nothing about intent."
)

if thoughts.empty:
    st.info("There is no thought here, so nothing to score.", icon=":material/info:")
    st.stop()
if run.scorer == "none":
    st.info(
        f"{run.manifest['reasoner']} thoughts have no density, so there is no likelihood, energy "
        "or replay check to show. A retrofit flow can score them: nfcot run retrofit.",
        icon=":material/info:",
    )
    st.stop()

head, choose_measure, choose_reference = st.columns([2, 1.4, 1.4], vertical_alignment="bottom")
head.markdown("##### Likelihood profile")
warn_unknown("measure", MEASURES, "energy is shown instead")
measure = choose_measure.segmented_control(
    "Measure", list(MEASURES), default="energy", required=True, key="measure", bind="query-params"
)
others = comparable_runs(run)
reference = kept_menu(
    "Band from",
    [OWN, *others],
    "reference",
    choose_reference,
    fallback=next((a.calibration_name for a in flags if a.calibration_name in others), None),
    keep=False,
    help="Quantiles at each position over all traces of a run. Offered are the runs of the same "
    "checkpoint, tau, dtype and template.",
)
measure = measure or "energy"
source = run.path if reference == OWN else runs_dir() / reference
try:
    usual = band(source, measure)
except UserError as error:
    trouble(error, source)
    source = run.path
    usual = band(source, measure)
usual = usual[usual.index <= max(int(thoughts["k"].max()) if len(thoughts) else 0, 1)]
st.plotly_chart(
    profile(thoughts, usual, measure, MEASURES[measure], f"of {source.name}", named, ring),
    key="profile",
    config={"displayModeBar": False},
    alt=f"{measure} of each thought of this trace over the usual quantiles of "
    f"{source.name} at the same position.",
)
if len(usual):
    itself = (
        ", which is this run itself: whatever is unusual in it widens its own band"
        if source == run.path
        else ""
    )
    st.caption(
        f"Band: quantiles at each position over {int(usual['n'].min()):,}–"
        f"{int(usual['n'].max()):,} thoughts of {source.name}{itself}. One trace leaves the "
        "5–95 % band somewhere by chance alone; the audit accounts for that, this picture does not."
    )

totals = st.columns(5)
totals[0].metric("log p(u | prompt)", nats(trace["logp_u"]))
totals[1].metric("with stop decisions", nats(trace["logp_u_K"]), help="log p(u, K | prompt)")
totals[2].metric("log p(e | prompt)", nats(trace["logp_e"]))
totals[3].metric("energy, sum", f"{trace['energy']:.2f}")
totals[4].metric(
    "replay error",
    f"{trace['replay_error']:.1e}",
    help="Largest difference between the noise recomputed from the stored thoughts and the noise "
    "that was drawn, as recorded. In float32 rounding explains up to "
    f"{REPLAY_TOLERANCE:g}; in a coarser dtype more, and an audit takes twice the largest error "
    "of its clean run.",
)
for words in replay_trouble(trace, run.manifest["decode"]["dtype"], flags):
    st.warning(words, icon=":material/report:")
