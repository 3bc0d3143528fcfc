"""The shuffle world: a pipeline of moves on five items, compiled to one indexing expression."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import combinations

from nfcot_model.worlds.problem import Case, Check, Label

__all__ = [
    "ANSWER_OPENING",
    "CLOSINGS",
    "OPENINGS",
    "START",
    "Operation",
    "compile_pipeline",
    "draw",
    "labels_of",
    "read_operation",
    "read_state",
    "text_of",
    "word",
]

ITEMS = "abcde"
START = (0, 1, 2, 3, 4)
OPENINGS = (
    "Take a row s:",
    "Given row s:",
    "Row s:",
    "Start with s:",
)
CLOSINGS = (
    "As one function?",
    "Give one function.",
    "Compile it.",
)
ANSWER_OPENING = "lambda s: "

WORDINGS = {
    "swap": ("swap {i} and {j}", "exchange {i} with {j}", "switch {i} and {j}"),
    "rotate": ("rotate left {i}", "turn left by {i}", "cycle left {i}"),
    "reverse": ("reverse {i} to {j}", "flip {i} to {j}", "mirror {i} to {j}"),
}
UNSEEN_WORDINGS = {
    "swap": ("trade {i} for {j}", "put {i} where {j} is and back"),
    "rotate": ("shift everything {i} to the left", "move the row left {i}"),
    "reverse": ("turn around {i} to {j}", "read {i} to {j} backwards"),
}


@dataclass(frozen=True)
class Operation:
    """One move: `swap` of places i and j, `rotate` left by i, `reverse` of places i to j."""

    kind: str
    i: int
    j: int = 0

    @property
    def key(self) -> str:
        return f"{self.kind}{self.i}{self.j}"

    def apply(self, row: tuple[int, ...]) -> tuple[int, ...]:
        items = list(row)
        if self.kind == "swap":
            items[self.i - 1], items[self.j - 1] = items[self.j - 1], items[self.i - 1]
        elif self.kind == "rotate":
            items = items[self.i :] + items[: self.i]
        else:
            items[self.i - 1 : self.j] = items[self.i - 1 : self.j][::-1]
        return tuple(items)


PAIRS = tuple(combinations(range(1, 6), 2))
# Reversing two or three neighbours is a swap; only longer stretches are moves of their own.
STRETCHES = ((1, 4), (2, 5), (1, 5))


def draw(rng: random.Random) -> Operation:
    """One random move."""
    kind = rng.choice(("swap", "rotate", "reverse"))
    if kind == "swap":
        return Operation(kind, *rng.choice(PAIRS))
    if kind == "rotate":
        return Operation(kind, rng.randint(1, 4))
    return Operation(kind, *rng.choice(STRETCHES))


def _parity(row: tuple[int, ...]) -> int:
    return sum(a > b for a, b in combinations(row, 2)) % 2


def compile_pipeline(
    operations: list[Operation], state: tuple[int, ...] = START
) -> tuple[list[str], list[dict[str, Label]], str, Check]:
    """Where is each item after each move, and how is the last row checked?

    `state` is the row before the first of them. Returns the reasoning text per step
    (`c a b e d`), the labels per step (the item at each
    place, the parity of the permutation, the move), the reference answer and the check.
    """
    row = state
    texts: list[str] = []
    labels: list[dict[str, Label]] = []
    for operation in operations:
        row = operation.apply(row)
        texts.append(text_of(row))
        labels.append({**labels_of(row), "operation": operation.kind})
    answer = ANSWER_OPENING + "[" + ",".join(f"s[{i}]" for i in row) + "]"
    rows: list[list[int | str]] = [list(ITEMS), [7, 1, 9, 3, 5]]
    cases = [Case(args=[r], expected=[r[i] for i in row]) for r in rows]
    return texts, labels, answer, Check(kind="function", cases=cases)


def text_of(state: tuple[int, ...]) -> str:
    """How is a row written in the reasoning?"""
    return " ".join(ITEMS[i] for i in state)


def labels_of(state: tuple[int, ...]) -> dict[str, Label]:
    """What is true of a row? The item at each place, and the parity of the permutation."""
    places: dict[str, Label] = {f"place_{p}": ITEMS[i] for p, i in enumerate(state, start=1)}
    return {**places, "parity": _parity(state)}


def word(operation: Operation, rng: random.Random, unseen: bool) -> str:
    """One wording of a move; `unseen` draws from the wordings that training never shows."""
    wordings = (UNSEEN_WORDINGS if unseen else WORDINGS)[operation.kind]
    return rng.choice(wordings).format(i=operation.i, j=operation.j)


def read_operation(words: str) -> Operation | None:
    """Which move is worded so? None when no wording fits."""
    for kind, wordings in ((k, (*WORDINGS[k], *UNSEEN_WORDINGS[k])) for k in WORDINGS):
        for wording in wordings:
            pattern = re.escape(wording).replace(r"\{i\}", r"(\d)").replace(r"\{j\}", r"(\d)")
            found = re.fullmatch(pattern, words)
            if found:
                return Operation(kind, *map(int, found.groups()))
    return None


def read_state(text: str) -> tuple[int, ...] | None:
    """Which row is this (`c a b e d`)? None when it is none."""
    items = text.split(" ")
    return tuple(map(ITEMS.index, items)) if sorted(items) == list(ITEMS) else None
