"""Which parts of a prompt can be taken away, and what is left without them?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["KINDS", "Span", "apart", "count_words", "cut", "operations", "windows", "without"]

KINDS = ("words", "clauses", "sentences", "operations")
_ENDS = {"clauses": ".;:!?", "sentences": ".!?"}
_EDGES = ".,;:!?()[]{}\"'"
_CLOSING = ".,;:!?)]}"
_NUMBERED = re.compile(r"#\d+ ([^\s;.](?:[^;.]*[^\s;.])?)")

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Span:
    """A part of a prompt: the characters of `ranges` (start, end), in order and apart.

    `name` is what it is reported under; `step` the reasoning step (from 0) that it is said to
    drive, if anybody says so.
    """

    ranges: Ranges
    name: str
    step: int | None = None


def without(prompt: str, ranges: Ranges) -> str:
    """The prompt without these characters.

    White space in front of a removed part goes with it where an end, white space or closing
    punctuation follows, so that nothing is left that a writer would not write.
    """
    for start, end in reversed(ranges):
        before, after = prompt[:start], prompt[end:]
        if not after or after[0].isspace() or after[0] in _CLOSING:
            before = before.rstrip()
        prompt = before + after if before else after.lstrip()
    return prompt


def cut(prompt: str, kind: str) -> list[Span]:
    """Every word, clause, sentence or operation of a prompt, in order.

    A word is what stands between white space, without punctuation at its ends. A sentence ends at
    `.`, `!`, `?` or a line break, a clause at `;` or `:` too, before white space. Operations are
    those of the built-in worlds (`operations`).
    """
    if kind == "operations":
        return operations(prompt)
    if kind == "words":
        places = [_trimmed(found) for found in re.finditer(r"\S+", prompt)]
    else:
        ends = re.escape(_ENDS[kind])
        pattern = rf"\S(?:[^\n]*?(?:[{ends}]+(?=\s|$)|$|(?=\n)))"
        places = [found.span() for found in re.finditer(pattern, prompt)]
    return [Span(((start, end),), prompt[start:end]) for start, end in places]


def _trimmed(found: re.Match[str]) -> tuple[int, int]:
    word = found[0]
    inner = word.strip(_EDGES) or word
    start = found.start() + word.index(inner)
    return start, start + len(inner)


def operations(prompt: str) -> list[Span]:
    """The words of each numbered operation (`#2 times 4;`: `times 4`), said to drive its step.

    Numbers stay, so the steps that are left keep theirs. None in a prompt of another kind.
    """
    return [
        Span((found.span(1),), "operation", step)
        for step, found in enumerate(_NUMBERED.finditer(prompt))
    ]


def windows(prompt: str, words: int) -> list[Span]:
    """Every run of so many words of a prompt: the placebos of a span that has as many."""
    places = [span.ranges[0] for span in cut(prompt, "words")]
    ends = zip(places, places[words - 1 :], strict=False)
    return [Span(((a, b),), prompt[a:b]) for (a, _), (_, b) in ends]


def apart(ranges: Ranges, others: Ranges) -> bool:
    """Do two parts of a prompt share no character?"""
    return all(a >= d or b <= c for a, b in ranges for c, d in others)


def count_words(prompt: str, ranges: Ranges) -> int:
    """How many words does a part touch? At least 1."""
    words: Sequence[Span] = cut(prompt, "words")
    return max(1, sum(not apart(word.ranges, ranges) for word in words))
