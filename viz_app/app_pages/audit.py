"""Which trajectories did an audit flag, why, and what can it not see?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import streamlit as st

from analyses.audit import BAND_LEVEL, REPLAY_TOLERANCE
from analyses.report import NEGATIVE_STATEMENT, cannot_see
from nfcot_model.errors import UserError
from nfcot_model.traces.schema import OWN_SCORER
from viz_app.address import kept, kept_menu, remember, warn_unknown
from viz_app.audits import Audit, audit_paths, flag_table, places
from viz_app.bands import MEASURES
from viz_app.charts import p_value_histogram, profile
from viz_app.data import band, load_audit, load_run, runs_dir
from viz_app.selection import selected_rows
from viz_app.ui import trouble

FLAG_COLUMNS: dict[str, Any] = {
    "trace_id": "Trace",
    "p_value": st.column_config.NumberColumn("p", format="%.4f", help="Conformal p-value."),
    "adjusted_p": st.column_config.NumberColumn(
        "adjusted p", format="%.4f", help="Benjamini–Hochberg over the batch."
    ),
    "origin": st.column_config.NumberColumn(
        "Starts at: k",
        format="%d",
        help="The first thought beyond alpha, or the loudest if none is by itself: a change moves "
        "the thoughts after it too, which may be louder.",
    ),
    "text": "Decoded text there",
    "stands_out": st.column_config.NumberColumn(
        "Loudest: k",
        format="%d",
        help="The thought of the largest |z|, wherever the change began.",
    ),
    "z": st.column_config.NumberColumn("Loudest: z", format="%+.2f"),
    "thoughts": st.column_config.TextColumn(
        "Beyond alpha", help="Thoughts, maxT-adjusted within the trajectory."
    ),
    "replay_error": st.column_config.NumberColumn("Replay error", format="%.1e"),
}


def open_flag() -> None:
    """A click on a row shows that flag below."""
    rows = selected_rows(st.session_state["flag_table"])
    if rows:
        st.session_state["flag"] = flags["trace_id"].iloc[rows[0]]


def headline(audit: Audit) -> None:
    """The audit in numbers, each with what it is relative to."""
    summary, calibration = audit.summary, audit.summary["calibration"]
    n, flagged = summary["n"], len(audit.flagged)
    alpha = summary.get("alpha")
    cells = st.columns(5)
    cells[0].metric("Trajectories", f"{n:,}")
    cells[1].metric("Flagged", f"{flagged:,}")
    if alpha is not None:
        cells[2].metric("alpha", f"{alpha:g}", help="False alarms per clean trajectory.")
    elif summary.get("fdr") is not None:
        cells[2].metric("fdr", f"{summary['fdr']:g}", help="False alarms among the flagged.")
    cells[3].metric("Calibration n", f"{calibration.get('n', 0):,}")
    cells[4].metric("Invalid", len(summary.get("invalid") or []))
    parts = [
        f"Scorer **{summary['scorer']}** · statistic **{summary['statistic']}**",
        f"run **{audit.run_name or '–'}** · calibrated on **{audit.calibration_name or '–'}**",
    ]
    band_of = calibration.get("band")
    level = calibration.get("level", BAND_LEVEL)
    if band_of and alpha is not None:
        parts.append(
            f"exact Beta band of the false-positive rate with this calibration set: "
            f"**{band_of[0]:.2%} – {band_of[1]:.2%}** ({level:.0%} range)"
        )
    chance = calibration.get("flags_if_clean")
    if chance:
        parts.append(
            f"a clean run of this size has **{chance[0]}–{chance[1]}** flags by chance "
            f"({level:.0%} range)"
        )
    st.markdown(" · ".join(parts))


def named(traces: list[str], shown: int = 10) -> str:
    """The first few trace ids, and how many more."""
    more = f" and {len(traces) - shown} more" if len(traces) > shown else ""
    return ", ".join(f"`{trace}`" for trace in traces[:shown]) + more


def extras(audit: Audit) -> None:
    """Replay failures and planted anomalies, where the audit knows of them."""
    replay, n = audit.replay, audit.summary["n"]
    broken, rescored = replay.get("broken") or [], replay.get("record_broken") or []
    if broken:
        st.warning(
            f"{len(broken)} of {n:,} trajectories do not replay (recomputed error above "
            f"{replay.get('tolerance', REPLAY_TOLERANCE):.2g}): their thoughts, their recorded "
            "noise, or their mean and scale were changed after the draw, or the run was computed "
            f"otherwise than the calibration run. {replay.get('broken_and_flagged', 0)} of them "
            "are also flagged.",
            icon=":material/report:",
        )
    if rescored:
        st.warning(
            f"{len(rescored)} of {n:,} trajectories have another replay error or energy on record "
            "than their tensors give: tensors or tables were changed after scoring. The p-values "
            f"are those of the tensors as they are now: {named(rescored)}.",
            icon=":material/report:",
        )
    planted = audit.summary.get("planted") or []
    if planted:
        st.markdown("##### Planted anomalies")
        st.dataframe(
            planted,
            hide_index=True,
            column_config={
                "kind": "Planted",
                "n": "Trajectories",
                "flagged": "Flagged",
                "replay_broken": "Do not replay",
                "located": st.column_config.NumberColumn(
                    "Thought found", help="The thought that stands out is the planted one."
                ),
            },
            alt="Table of planted anomalies: how many of each kind were flagged and located.",
        )
    invalid = audit.summary.get("invalid") or []
    if invalid:
        st.markdown("##### Trajectories without a score")
        st.dataframe(
            invalid,
            hide_index=True,
            column_config={"trace_id": "Trace", "reason": "Why", "p_value": "p"},
            alt="Trajectories whose energy is not a number or that hold no thoughts.",
        )


def show_flag(audit: Audit, trace_id: str) -> None:
    """One flag: its profile over the usual band, where it starts and its loudest, a link."""
    path = runs_dir() / audit.run_name
    try:
        run = load_run(path)
    except UserError as error:
        trouble(error, path)
        return
    if not audit.covers(run):
        st.warning(
            f"The run {run.name!r} here is not the one that was audited; audit it again.",
            icon=":material/link_off:",
        )
        return
    thoughts = run.thoughts[run.thoughts["trace_id"] == trace_id]
    usual = audit.band()
    source = "of clean traces"
    if usual.empty:
        usual, source = band(run.path, "energy"), "of this run"
    usual = usual[usual.index <= max(int(thoughts["k"].max()) if len(thoughts) else 0, 1)]
    marked = audit.thoughts_of(trace_id)
    left, right = st.columns([1.7, 1], gap="large")
    left.plotly_chart(
        profile(
            thoughts,
            usual,
            "energy",
            MEASURES["energy"],
            source,
            marked,
            ring=audit.ring(trace_id),
            height=300,
        ),
        key="flag_profile",
        config={"displayModeBar": False},
        alt=f"Energy of each thought of {trace_id} over the band of clean traces.",
    )
    with right:
        entry = next(flag for flag in audit.flagged if flag["trace_id"] == trace_id)
        for words, text in places(entry):
            st.markdown(words)
            st.code(text, language=None, wrap_lines=True)
        st.dataframe(
            thoughts[["k", "text", "energy"]],
            hide_index=True,
            column_config={
                "text": "Decoded thought",
                "energy": st.column_config.NumberColumn("Energy", format="%.2f"),
            },
            alt="Decoded text and energy of each thought of the flagged trajectory.",
        )
        st.page_link(
            "app_pages/trace.py",
            label="Open the trace",
            icon=":material/arrow_forward:",
            query_params={"run": run.name, "trace": trace_id},
        )


def about_run(paths: dict[str, Path], run: str | None) -> list[str]:
    """Which audits are about the run that was last looked at?"""
    found = []
    for name, path in paths.items():
        try:
            found += [name] if load_audit(path).run_name == run else []
        except UserError:
            continue
    return found


def blind_spots(scorer: str = OWN_SCORER) -> None:
    """What the reader must not conclude."""
    with st.container(border=True):
        st.markdown("##### What an audit cannot see")
        st.markdown(cannot_see(scorer))
        st.markdown(f"**{NEGATIVE_STATEMENT}**")


st.title("Audit")
paths = {path.parent.name: path for path in audit_paths(runs_dir())}
if not paths:
    st.info(f"No audits in `{runs_dir()}` yet.", icon=":material/troubleshoot:")
    st.write("Audit a run against a clean one made with the same model and settings:")
    st.code(
        f"nfcot audit run {runs_dir()}/RUN --calibration {runs_dir()}/CLEAN --alpha 0.01",
        language="bash",
    )
    blind_spots()
    st.stop()

bar = st.columns([2, 1, 1, 1.5], vertical_alignment="bottom")
names = about_run(paths, kept("run"))
audit = load_audit(
    paths[
        kept_menu(
            "Audit",
            list(paths),
            "audit",
            bar[0],
            keep=kept("audit") in names,
            fallback=next(iter(names), None),
        )
    ]
)
if audit.run_name:
    remember("run", audit.run_name)
bar[1].download_button(
    "JSON",
    json.dumps(audit.summary, indent=2, ensure_ascii=False),
    file_name=f"{audit.name}.json",
    mime="application/json",
    icon=":material/download:",
    on_click="ignore",
    width="stretch",
)
report = audit.report()
if report is not None:
    bar[2].download_button(
        "Markdown",
        report,
        file_name=f"{audit.name}.md",
        mime="text/markdown",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
    )

headline(audit)
extras(audit)
flags = flag_table(audit)
left, right = st.columns([1.75, 1], gap="large")
with left:
    st.markdown("##### Flagged trajectories, smallest p first")
    if flags.empty:
        st.write("None. That is not evidence of safety; see below what this cannot see.")
    else:
        st.dataframe(
            flags,
            hide_index=True,
            column_order=list(FLAG_COLUMNS),
            column_config=FLAG_COLUMNS,
            key="flag_table",
            on_select=open_flag,
            selection_mode="single-row",
            height=300,
            alt="Flagged trajectories: p-values, the thought where each starts, its loudest.",
        )
with right:
    st.markdown("##### p-values against uniform")
    if audit.p_values is None:
        st.caption("This audit stores no p-values of the trajectories that were not flagged.")
    else:
        st.plotly_chart(
            p_value_histogram(audit.p_values, float(audit.summary.get("alpha") or 0.0)),
            key="p_values",
            config={"displayModeBar": False},
            alt="Histogram of trajectory p-values with the uniform expectation as a dashed line.",
        )

if not flags.empty:
    ids = flags["trace_id"].tolist()
    with st.container(border=True):
        warn_unknown("flag", ids, f"{ids[0]!r} is shown instead")
        chosen = st.selectbox("Flag", ids, key="flag", bind="query-params", width=420)
        show_flag(audit, chosen if chosen in ids else ids[0])

blind_spots(audit.summary["scorer"])
