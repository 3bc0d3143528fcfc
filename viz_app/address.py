"""What does the address ask for, and what stays chosen from page to page?

A menu bound to the address forgets its choice when the next page has a menu of the same key, or
when the browser goes back to an address without it: the last choice is kept apart from the menus.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from viz_app.selection import first_of

__all__ = [
    "arrive",
    "asked_for",
    "choose",
    "from_elsewhere",
    "just_opened",
    "kept",
    "kept_menu",
    "remember",
    "warn_unknown",
]


def arrive(page: str) -> None:
    """Note which page is shown: on a page just opened the address counts, not the menus."""
    arrived = st.session_state.get("page") != page
    st.session_state["arrived"] = arrived
    st.session_state["bare"] = arrived and "run" not in st.query_params
    st.session_state["page"] = page


def just_opened(key: str) -> bool:
    """Has the reader not seen this menu on this page yet?"""
    return bool(st.session_state.get("arrived")) or key not in st.session_state


def asked_for(key: str) -> Any:
    """What does the address of a page just opened say of a bound menu, or else the menu?"""
    return st.query_params.get(key) if just_opened(key) else st.session_state[key]


def kept(key: str) -> Any:
    """What was last chosen under this key, on any page?"""
    return st.session_state.get(f"last {key}")


def remember(key: str, value: Any) -> None:
    """The next page that has this menu opens with `value`, unless its address says otherwise."""
    st.session_state[f"last {key}"] = value


def choose(key: str, value: Any) -> None:
    """Set a bound menu before it is drawn, and have the address say so."""
    if just_opened(key) and value is not None and st.query_params.get(key) != value:
        # Streamlit writes the address itself once the menu has been drawn, and then refuses this.
        with suppress(StreamlitAPIException):
            st.query_params[key] = value
    st.session_state[key] = value
    remember(key, value)


def from_elsewhere(key: str) -> Any:
    """What was last chosen, if the page was just opened with an address that names no run?"""
    return kept(key) if st.session_state.get("bare") else None


def warn_unknown(key: str, options: Collection[Any], instead: str) -> None:
    """Say which names in the address of a page just opened mean nothing here."""
    if not just_opened(key):
        return
    for value in st.query_params.get_all(key):
        if value not in options:
            st.warning(
                f"The address asks for {key} {value!r}, which is not here; {instead}.",
                icon=":material/link_off:",
            )


def kept_menu(
    label: str,
    names: Sequence[str],
    key: str,
    where: st.delta_generator.DeltaGenerator,
    fallback: str | None = None,
    keep: bool = True,
    **options: Any,
) -> str:
    """Which of `names` is open? A menu bound to `?key=` that is never empty.

    In this order: what the address or the menu says, the last choice on any page (with `keep`),
    `fallback`, the first. An unknown name in the address is reported. Without `keep` the address
    names only what the reader chose.
    """
    value = first_of(names, asked_for(key), kept(key) if keep else None, fallback)
    warn_unknown(key, names, f"{value!r} is shown instead")
    if keep:
        choose(key, value)
    else:
        st.session_state[key] = value
    name = where.selectbox(label, names, index=None, key=key, bind="query-params", **options)
    if name is None:
        st.rerun()
    remember(key, name)
    return str(name)
