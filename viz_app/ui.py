"""Pieces that several pages share: choosing a run and a trace, and saying what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from nfcot_model.errors import UserError
from nfcot_model.traces import Run, list_runs
from viz_app.data import load_run, runs_dir
from viz_app.selection import nearby

__all__ = [
    "MENU_LIMIT",
    "asked_for",
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
        f"nfcot trace MODEL problems.jsonl -o {folder}/my-run --tau 0.7\n"
        "\n"
        f"nfcot demo --runs-dir {folder}",
        language="bash",
    )


def asked_for(key: str) -> Any:
    """What does the reader want of a bound menu: the last choice, else the address, else None."""
    if key in st.session_state:
        return st.session_state[key]
    return st.query_params.get(key)


def pick_run(where: st.delta_generator.DeltaGenerator | None = None) -> Run | None:
    """Which run is open? A menu bound to `?run=`; None (and a message) when there is none.

    Changing the run forgets the chosen trace. A damaged run shows the reader's message.
    """
    folder = runs_dir()
    names = [path.name for path in list_runs(folder)]
    if not names:
        how_to_make_a_run(folder)
        return None
    asked = asked_for("run")
    if asked not in names:
        if asked:
            st.warning(f"There is no run named {asked!r} here; {names[0]!r} is shown instead.")
        st.session_state["run"] = names[0]
    name = (where or st).selectbox(
        "Run",
        names,
        index=None,
        key="run",
        bind="query-params",
        on_change=forget_trace,
    )
    path = folder / (name or names[0])
    try:
        return load_run(path)
    except UserError as error:
        trouble(error, path)
        return None


def forget_trace() -> None:
    """A trace belongs to its run: choosing another run drops it."""
    st.session_state["trace"] = None


def pick_trace(
    run: Run, ids: list[str], where: st.delta_generator.DeltaGenerator | None = None
) -> str | None:
    """Which trace is open? A menu bound to `?trace=`, None while nothing is chosen.

    The menu offers up to `MENU_LIMIT` ids around the current one; any other id of the run can be
    typed or linked. An id that the run does not hold gives a warning and None.
    """
    current = asked_for("trace")
    known = set(run.traces["trace_id"])
    offered = nearby(ids, current, MENU_LIMIT)
    if isinstance(current, str) and current in known and current not in offered:
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
    if chosen is not None and chosen not in known:
        st.warning(f"This run holds no trace {chosen!r}.", icon=":material/link_off:")
        return None
    return chosen


def verdict_badge(trace: pd.Series) -> None:
    """What became of the answer when it was executed?"""
    colour, icon = VERDICTS.get(str(trace["verdict"]), ("gray", ":material/help:"))
    st.badge(f"answer {trace['verdict']}", icon=icon, color=colour)
