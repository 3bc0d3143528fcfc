"""Which thought, trace or row did the reader point at?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["clamp_range", "clicked_row", "first_of", "nearby", "neighbour", "selected_rows"]


def clicked_row(event: Mapping[str, Any] | None) -> int | None:
    """Which thought was clicked in the map? The row number that the point carries, or None.

    The row number is the first value of the point's customdata, which arrives as a mapping. An
    empty selection (Plotly clears its own whenever the figure changes) gives None.
    """
    points = ((event or {}).get("selection") or {}).get("points") or []
    for point in points:
        data = point.get("customdata")
        if isinstance(data, Mapping):
            data = list(data.values())
        first = data[0] if isinstance(data, list | tuple) and data else data
        if isinstance(first, int | float) and not isinstance(first, bool):
            return int(first)
    return None


def selected_rows(event: Mapping[str, Any] | None) -> list[int]:
    """Which rows of a table are selected?"""
    return list(((event or {}).get("selection") or {}).get("rows") or [])


def first_of(names: Sequence[str], *wanted: Any) -> str:
    """Which of the wanted names exists? The first that does; the first of all when none does."""
    return next((name for name in wanted if name in names), names[0])


def neighbour(ids: Sequence[str], current: str | None, step: int) -> str | None:
    """Which id stands `step` places after `current`? Stops at both ends; unknown: the first."""
    if not ids:
        return None
    if current not in ids:
        return ids[0]
    return ids[min(max(ids.index(current) + step, 0), len(ids) - 1)]


def nearby(ids: Sequence[str], current: str | None, limit: int) -> list[str]:
    """At most `limit` ids around `current`, in order: what a menu can offer at once."""
    if len(ids) <= limit:
        return list(ids)
    at = ids.index(current) if current in ids else 0
    start = min(max(at - limit // 2, 0), len(ids) - limit)
    return list(ids[start : start + limit])


def clamp_range(value: Any, high: int) -> tuple[int, int]:
    """A range of positions inside 0..high, whatever was asked for; the whole when unusable."""
    try:
        low, top = sorted(int(end) for end in value)
    except (TypeError, ValueError):
        return 0, high
    return (low, min(top, high)) if 0 <= low <= high else (0, high)
