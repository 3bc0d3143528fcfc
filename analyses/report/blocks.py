"""What is a report made of? Paragraphs, tables and curves, written as Markdown or as HTML later.

Text knows two marks: `code` and **bold**. Whatever comes from runs goes through `code`, which
leaves it no marks and no control characters of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nfcot_model.traces.view import printable

__all__ = ["Block", "Curve", "Profile", "Section", "Table", "Text", "code", "number"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Profile:
    """Energy of each thought of a trajectory over the usual band. `named`: thoughts beyond it."""

    title: str
    energy: Sequence[float | None]
    band: Sequence[dict[str, Any]]
    named: Sequence[int]


@dataclass(frozen=True)
class Curve:
    """A path over a stream, one value every so many items, and a line to stay under."""

    title: str
    values: Sequence[float]
    every: int
    limit: float


Block = Text | Table | Profile | Curve


@dataclass(frozen=True)
class Section:
    """A numbered section."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def code(text: str) -> str:
    """Text of a run, on one line, without markup and control characters of its own."""
    return "`" + printable(" ".join(str(text).split())).replace("`", "'") + "`"


def number(value: float | None, form: str = ".1e") -> str:
    """A number, or the words that it is none."""
    return "not a number" if value is None or value != value else f"{value:{form}}"
