"""How are values and errors shown in a verdict? Short, in one line that any file can hold."""

from __future__ import annotations

from typing import Any

__all__ = ["SHOWN", "one_line", "short"]

SHOWN = 80
_LINE = 1000


def one_line(text: str) -> str:
    """What the answer's process says of itself, as one short line."""
    line = " ".join(text[:_LINE].split())
    return line.encode(errors="backslashreplace").decode()


def short(value: Any) -> str:
    """A value of our own, by its `repr`, cut."""
    try:
        text = repr(value)
    except ValueError:
        text = f"a {type(value).__name__} too long to print"
    text = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    return text.encode(errors="backslashreplace").decode()
