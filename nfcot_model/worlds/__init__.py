"""Problem sets: two worlds with ground truth at every step, and the format of a user's own."""

from nfcot_model.worlds.generate import SPLITS, WORLDS, make_problem, make_world
from nfcot_model.worlds.problem import (
    Case,
    Check,
    Problem,
    problem_set_hash,
    read_problems,
    write_problems,
)
from nfcot_model.worlds.what_if import what_if

__all__ = [
    "SPLITS",
    "WORLDS",
    "Case",
    "Check",
    "Problem",
    "make_problem",
    "make_world",
    "problem_set_hash",
    "read_problems",
    "what_if",
    "write_problems",
]
