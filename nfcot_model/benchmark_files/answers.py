"""Which program is in an answer? Stop rules, applied to the text once it is written.

They are the same for every model. Where generation could have stopped earlier, time is lost; the
program is not changed by that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["CONTINUATION_STOPS", "PROGRAM_STOPS", "continuation", "fenced", "program"]

_FENCE = "```"
_DEFINITION = re.compile(r"^(?:def|class|async def) ", re.M)
CONTINUATION_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", f"\n{_FENCE}")
"""Ends of a function body that goes on from a prompt (arXiv 2107.03374)."""

PROGRAM_STOPS = ("\nif __name__", "\nprint(", "\nassert ", "\n[DONE]", f"\n{_FENCE}")
"""Ends of a whole program that defines a function: what follows would only try it out."""


def fenced(text: str) -> str | None:
    """The last whole block between lines of ``` in a text; one that is not closed runs to the end.

    None when there is no such line.
    """
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if line.lstrip().startswith(_FENCE)]
    if not fences:
        return None
    whole = len(fences) // 2 * 2
    start, end = fences[whole - 2 : whole] if whole else (fences[0], len(lines))
    return "\n".join(lines[start + 1 : end])


def program(text: str, stops: Sequence[str] = PROGRAM_STOPS) -> str:
    """A whole program: the fenced block or else the text, up to the first stop.

    Stops count from the first definition on: before it they may be words of a docstring.
    """
    block = fenced(text)
    return _cut_program(text if block is None else block, stops)


def continuation(prompt: str, entry_point: str, text: str) -> str:
    """The prompt and its continuation as one program.

    A text that defines the function itself is a whole program, put behind the prompt: imports and
    further functions that the prompt brings stay available.
    """
    block = fenced(text)
    body = text if block is None else block
    if re.search(rf"^(async )?def {re.escape(entry_point)}\b", body, re.M):
        return f"{prompt}\n{_cut_program(body, PROGRAM_STOPS)}"
    return prompt + _cut(body, CONTINUATION_STOPS)


def _cut_program(text: str, stops: Sequence[str]) -> str:
    defined = _DEFINITION.search(text)
    start = defined.start() if defined else 0
    return text[:start] + _cut(text[start:], stops)


def _cut(text: str, stops: Sequence[str]) -> str:
    places = [text.find(stop) for stop in stops]
    return text[: min((place for place in places if place >= 0), default=len(text))]
