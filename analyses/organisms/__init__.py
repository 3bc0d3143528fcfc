"""Model organisms: small shipped models whose causal truth is known, to test the tests with."""

from __future__ import annotations

from pathlib import Path

from analyses.organisms.problems import ORGANISMS, SPLITS, Organism, organism_problems
from nfcot_model.errors import UserError

__all__ = ["ORGANISMS", "SPLITS", "Organism", "organism", "organism_problems"]


def organism(name: str) -> Path:
    """Where is the trained checkpoint of this organism (`inert`, `early`, `late`)?

    Raises UserError for an unknown one.
    """
    if name not in ORGANISMS:
        raise UserError(f"organism '{name}' does not exist; choose one of {', '.join(ORGANISMS)}")
    return Path(__file__).parent / "checkpoints" / name
