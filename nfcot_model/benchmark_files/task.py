"""What is one task of a published benchmark, whatever file it came from?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nfcot_model.sandbox import Limits, Sandbox
from nfcot_model.sandbox.checks import AnyCheck

__all__ = ["Benchmark", "Checks", "Task", "UnjudgedError"]

Checks = Callable[[Sandbox], dict[str, AnyCheck]]


class UnjudgedError(Exception):
    """A task whose answers cannot be judged here, in one line: its reference does not run."""


@dataclass(frozen=True)
class Task:
    """What is asked, what is made of an answer, and how is that judged?

    `solution` turns the text of an answer into what is judged (a whole program; of GSM8K the text
    itself). `checks` gives named checks, all of which must pass; it may run the reference in the
    sandbox for the expected values, and raises `UnjudgedError` when that fails. `reference` is a
    solution that its authors hold to be right. `labels` are named parts to report apart.
    """

    id: str
    prompt: str
    solution: Callable[[str], str]
    checks: Checks
    reference: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """The tasks of one file, and what a solution may use while it is judged."""

    format: str
    path: Path
    file_hash: str
    tasks: list[Task]
    limits: Limits
