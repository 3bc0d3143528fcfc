"""Runs on disk: record them, read them, check them.

The names below are importable from here; they load on first use, so that commands start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfcot_model.traces.collecting import CollectSummary, collect
    from nfcot_model.traces.fsck import Health, check_run
    from nfcot_model.traces.reader import Run, list_runs, read_run

__all__ = ["CollectSummary", "Health", "Run", "check_run", "collect", "list_runs", "read_run"]

_HOMES = {
    "CollectSummary": "collecting",
    "Health": "fsck",
    "Run": "reader",
    "check_run": "fsck",
    "collect": "collecting",
    "list_runs": "reader",
    "read_run": "reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
