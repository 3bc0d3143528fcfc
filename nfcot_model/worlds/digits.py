"""The digits world: a pipeline on one digit, compiled to one closed form `(a*x+b) % 10`."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

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

OPENINGS = (
    "Take a digit x:",
    "Given digit x:",
    "Digit x:",
    "Start with x:",
)
CLOSINGS = (
    "As one function?",
    "Give one function.",
    "Compile it.",
)
ANSWER_OPENING = "lambda x: "

WORDINGS = {
    "add": ("add {n}", "plus {n}", "increase by {n}", "count up {n}"),
    "subtract": ("minus {n}", "subtract {n}", "take away {n}", "decrease by {n}"),
    "multiply": ("times {n}", "multiply by {n}", "scale by {n}", "make it {n} fold"),
}
UNSEEN_WORDINGS = {
    "add": ("raise it by {n}", "put {n} more on top"),
    "subtract": ("lower it by {n}", "drop {n} from it"),
    "multiply": ("stretch by a factor {n}", "repeat it {n} times over"),
}
# The closed form 1x+0: nothing has been done yet.
START = (1, 0)
# 5 and 0 are left out: they would make every later coefficient collapse to 0 or 5.
MULTIPLIERS = (2, 3, 4, 6, 7, 8, 9)


@dataclass(frozen=True)
class Operation:
    """One step of the pipeline: `kind` and its operand."""

    kind: str
    n: int

    @property
    def key(self) -> str:
        return f"{self.kind}{self.n}"


def draw(rng: random.Random) -> Operation:
    """One random operation."""
    kind = rng.choice(("add", "subtract", "multiply"))
    n = rng.choice(MULTIPLIERS) if kind == "multiply" else rng.randint(1, 9)
    return Operation(kind, n)


def compile_pipeline(
    operations: list[Operation], state: tuple[int, int] = START
) -> tuple[list[str], list[dict[str, Label]], str, Check]:
    """What is the closed form after each operation, and how is the last one checked?

    `state` is the closed form before the first of them. Returns the reasoning text per step
    (`4x+7`), the labels per step, the reference answer and
    the check (the function on the ten digits, on a larger and on a negative number).
    """
    a, b = state
    texts: list[str] = []
    labels: list[dict[str, Label]] = []
    for operation in operations:
        if operation.kind == "multiply":
            a, b = a * operation.n % 10, b * operation.n % 10
        else:
            sign = 1 if operation.kind == "add" else -1
            b = (b + sign * operation.n) % 10
        texts.append(text_of((a, b)))
        labels.append({**labels_of((a, b)), "operation": operation.kind})
    answer = f"{ANSWER_OPENING}({a}*x+{b})%10"
    cases = [Case(args=[x], expected=(a * x + b) % 10) for x in (*range(10), 137, -3)]
    return texts, labels, answer, Check(kind="function", cases=cases)


def text_of(state: tuple[int, int]) -> str:
    """How is a closed form written in the reasoning?"""
    return f"{state[0]}x+{state[1]}"


def labels_of(state: tuple[int, int]) -> dict[str, Label]:
    """What is true of a closed form?"""
    return {"coefficient": state[0], "offset": state[1]}


def word(operation: Operation, rng: random.Random, unseen: bool) -> str:
    """One wording of an operation; `unseen` draws from the wordings that training never shows."""
    wordings = (UNSEEN_WORDINGS if unseen else WORDINGS)[operation.kind]
    return rng.choice(wordings).format(n=operation.n)


def read_operation(words: str) -> Operation | None:
    """Which operation is worded so? None when no wording fits."""
    for kind, wordings in ((k, (*WORDINGS[k], *UNSEEN_WORDINGS[k])) for k in WORDINGS):
        for wording in wordings:
            before, after = wording.split("{n}")
            operand = words.removeprefix(before).removesuffix(after)
            if operand.isdigit() and wording.format(n=operand) == words:
                return Operation(kind, int(operand))
    return None


def read_state(text: str) -> tuple[int, int] | None:
    """Which closed form is this (`4x+7`)? None when it is none."""
    found = re.fullmatch(r"(\d)x\+(\d)", text)
    return (int(found[1]), int(found[2])) if found else None
