"""Entry point of the dashboard: `nfcot app RUNS_DIR` serves this script."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from nfcot_model.errors import UserError
from viz_app.address import arrive
from viz_app.ui import trouble

PAGES = Path(__file__).parent / "app_pages"

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<path d="M6 24 L13 10 L20 20 L26 7" fill="none" stroke="#4C7FD0" stroke-width="3"/>'
    '<g fill="#EE6677"><circle cx="6" cy="24" r="4"/><circle cx="13" cy="10" r="4"/>'
    '<circle cx="20" cy="20" r="4"/><circle cx="26" cy="7" r="4"/></g></svg>'
)

st.set_page_config(page_title="nfcot", page_icon=ICON, layout="wide")
runs = st.Page(
    PAGES / "runs.py",
    title="Runs",
    icon=":material/folder_open:",
    url_path="runs",
    help="Every run in the folder, with its audits and probes.",
)


def home() -> None:
    """The bare address opens the list of runs."""
    st.switch_page(runs, query_params=st.query_params.to_dict())


page = st.navigation(
    [
        st.Page(home, default=True, visibility="hidden"),
        runs,
        st.Page(
            PAGES / "map.py",
            title="Map",
            icon=":material/scatter_plot:",
            url_path="map",
            help="All thoughts of a run in two dimensions; click one to see its trace.",
        ),
        st.Page(
            PAGES / "trace.py",
            title="Trace",
            icon=":material/timeline:",
            url_path="trace",
            help="One trace: prompt, thoughts, likelihoods, answer, verdict.",
        ),
        st.Page(
            PAGES / "audit.py",
            title="Audit",
            icon=":material/troubleshoot:",
            url_path="audit",
            help="Which trajectories a calibrated audit flagged, and what it cannot see.",
        ),
    ],
    position="top",
)
arrive(page.url_path)
try:
    page.run()
except UserError as error:
    trouble(error)
