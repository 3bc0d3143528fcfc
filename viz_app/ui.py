"""Pieces that several pages share: choosing a run and a trace, and saying what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from nfcot_model.errors import UserError
from nfcot_model.traces import Run, list_runs
from viz_app.address import asked_for, choose, from_elsewhere, kept_menu, remember
from viz_app.data import load_run, runs_dir
from viz_app.selection import nearby

__all__ = [
    "MENU_LIMIT",
    "forget_trace",
    "how_to_make_a_run",
    "is_dark",
    "pick_run",
    "pick_trace",
    "trouble",
    "verdict_badge",
]

MENU_LIMIT = 1000
VERDICTS: dict[str, Any] = {
    "passed": ("green", ":material/check:"),
    "failed": ("red", ":material/close:"),
    "error": ("orange", ":material/error:"),
    "timeout": ("orange", ":material/timer_off:"),
}


def is_dark() -> bool:
    """Does the reader see the dark theme?"""
    return st.context.theme.type == "dark"


def trouble(error: UserError, folder: Path | None = None) -> None:
    """Show what the reader can mend, with the command that finds damage."""
    st.error(str(error), icon=":material/report:")
    if folder is not None and (folder / "run.json").exists():
        st.caption("Find out which files are damaged, and drop what cannot be used:")
        st.code(f"nfcot run fsck {folder}\nnfcot run fsck {folder} --repair", language="bash")


def how_to_make_a_run(folder: Path) -> None:
    """Show the shortest way from an empty folder to something to look at."""
    st.info(f"No runs in `{folder}` yet.", icon=":material/folder_open:")
    st.write("Record a run from the shipped model, or do the whole tour at once:")
    st.code(
        "nfcot world make digits --split test --seed 7 -n 500 -o problems.jsonl\n"
        f"nfcot trace demo problems.jsonl -o {folder}/my-run --tau 0.7\n"
        "\n"
        f"nfcot demo --runs-dir {folder}",
        language="bash",
    )


def pick_run(where: st.delta_generator.DeltaGenerator | None = None) -> Run | None:
    """Which run is open? A menu bound to `?run=`; None (and a message) when there is none.

    Changing the run forgets the chosen trace. A damaged run shows the reader's message.
    """
    folder = runs_dir()
    names = [path.name for path in list_runs(folder)]
    if not names:
        how_to_make_a_run(folder)
        return None
    name = kept_menu("Run", names, "run", where or st.container(), on_change=forget_trace)
    path = folder / name
    try:
        return load_run(path)
    except UserError as error:
        trouble(error, path)
        return None


def forget_trace() -> None:
    """A trace belongs to its run, and so does its band: choosing another run drops both."""
    choose("trace", None)
    st.session_state["reference"] = None


def pick_trace(
    run: Run,
    ids: list[str],
    where: st.delta_generator.DeltaGenerator | None = None,
    first: bool = False,
) -> str | None:
    """Which trace is open? A menu bound to `?trace=`, None while nothing is chosen.

    The menu offers up to `MENU_LIMIT` ids around the current one; any other id of the run can be
    typed or linked. An id that the run does not hold gives a warning and None. A page opened
    without a run in its address keeps the last trace of the run; with `first`, the first of `ids`
    is chosen and written to the address when there is none.
    """
    known = set(run.traces["trace_id"])
    current = asked_for("trace")
    if current is None and from_elsewhere("trace") in known:
        current = from_elsewhere("trace")
    if current is None and first and ids:
        current = ids[0]
    choose("trace", current)
    offered = nearby(ids, current, MENU_LIMIT)
    if current in known and current not in offered:
        offered = [current, *offered]
    chosen = (where or st).selectbox(
        "Trace",
        offered,
        index=None,
        key="trace",
        bind="query-params",
        accept_new_options=True,
        placeholder="Choose or paste an id",
    )
    if chosen is None and first and ids:
        st.rerun()
    remember("trace", chosen)
    if chosen is not None and chosen not in known:
        st.warning(f"This run holds no trace {chosen!r}.", icon=":material/link_off:")
        return None
    return chosen


def verdict_badge(trace: pd.Series) -> None:
    """What became of the answer when it was executed?"""
    colour, icon = VERDICTS.get(str(trace["verdict"]), ("gray", ":material/help:"))
    st.badge(f"answer {trace['verdict']}", icon=icon, color=colour)
