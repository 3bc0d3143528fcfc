"""What was measured of this very model before? The planted suite's figures that ship with it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

__all__ = ["FOLDER", "known_validation", "shortened"]

FOLDER = "measured"
KEPT = ("settings", "alpha", "n", "fpr", "monitorability")
STATISTICS = (
    "combined",
    "record",
    "typ_energy",
    "nll",
    "typ_logvol",
    "lambda",
    "reference",
    "probe_u",
    "probe_h",
    "probe_input",
)


def known_validation(checkpoint_hash: str, tau: float) -> dict[str, Any] | None:
    """Which planted anomalies does an audit of this checkpoint find? None where nobody measured it.

    What `nfcot audit validate` found of a shipped model, `shortened`. It holds for that checkpoint
    at that tau and for nothing else.
    """
    file = files("analyses") / FOLDER / f"{checkpoint_hash}.json"
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found["settings"]["tau"] == tau else None


def shortened(result: dict[str, Any]) -> dict[str, Any]:
    """A validation without the figures by K: what the combination finds first, then what else does.

    Statistics of the battery besides these are in the whole document.
    """
    table = [row for name in STATISTICS for row in result["table"] if row["statistic"] == name]
    return {name: result[name] for name in KEPT} | {"table": table}
