"""Runs on disk: write them (`collect`), read them (`reader`), check them (`fsck`).

`read_run`, `list_runs` and `Run` are importable from here; they load on first use, so that the
command line starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfcot_model.traces.reader import Run, list_runs, read_run

__all__ = ["Run", "list_runs", "read_run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from nfcot_model.traces import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
