"""The digits world: a pipeline on one digit, compiled to one closed form `(a*x+b) % 10`."""

from __future__ import annotations

import random
from dataclasses import dataclass

from nfcot_model.worlds.problem import Case, Check, Label

__all__ = ["ANSWER_OPENING", "CLOSINGS", "OPENINGS", "Operation", "compile_pipeline", "draw"]

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
    operations: list[Operation],
) -> tuple[list[str], list[dict[str, Label]], str, Check]:
    """What is the closed form after each operation, and how is the last one checked?

    Returns the reasoning text per step (`4x+7`), the labels per step, the reference answer and
    the check (the function on the ten digits, on a larger and on a negative number).
    """
    a, b = 1, 0
    texts: list[str] = []
    labels: list[dict[str, Label]] = []
    for operation in operations:
        if operation.kind == "multiply":
            a, b = a * operation.n % 10, b * operation.n % 10
        else:
            sign = 1 if operation.kind == "add" else -1
            b = (b + sign * operation.n) % 10
        texts.append(f"{a}x+{b}")
        labels.append({"coefficient": a, "offset": b, "operation": operation.kind})
    answer = f"{ANSWER_OPENING}({a}*x+{b})%10"
    cases = [Case(args=[x], expected=(a * x + b) % 10) for x in (*range(10), 137, -3)]
    return texts, labels, answer, Check(kind="function", cases=cases)


def word(operation: Operation, rng: random.Random, unseen: bool) -> str:
    """One wording of an operation; `unseen` draws from the wordings that training never shows."""
    wordings = (UNSEEN_WORDINGS if unseen else WORDINGS)[operation.kind]
    return rng.choice(wordings).format(n=operation.n)
