"""Model organisms: small shipped models whose causal truth is known, to test the tests with."""

from __future__ import annotations

from pathlib import Path

from analyses.organisms.planted import PLANTED, RESEEDED, Planted, planted_problems
from analyses.organisms.problems import ORGANISMS, SPLITS, Organism, organism_problems
from nfcot_model.errors import UserError

__all__ = [
    "ORGANISMS",
    "PLANTED",
    "RESEEDED",
    "SPLITS",
    "Organism",
    "Planted",
    "organism",
    "organism_problems",
    "planted_problems",
]


def organism(name: str) -> Path:
    """Where is the trained checkpoint of this organism (`inert`, `backdoor`, …)?

    Raises UserError for an unknown one.
    """
    known = (*ORGANISMS, *PLANTED, RESEEDED)
    if name not in known:
        raise UserError(f"organism '{name}' does not exist; choose one of {', '.join(known)}")
    return Path(__file__).parent / "checkpoints" / name
