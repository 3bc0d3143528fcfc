"""Jobs and verdicts for checks of whole programs; see `judge` for what is trusted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from nfcot_model.sandbox.checks import Calls, Number, Observe, Stdin
from nfcot_model.sandbox.limits import Status, Verdict
from nfcot_model.sandbox.literal import equal
from nfcot_model.sandbox.values import shown
from nfcot_model.sandbox.wording import SHOWN, one_line, short

__all__ = [
    "Observed",
    "final_number",
    "judge_calls",
    "judge_stdin",
    "observed",
    "program_job",
    "verdict_number",
]

_DIGITS = 1000  # a longer word is compared as text
_MARK = "####"
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")


@dataclass(frozen=True)
class Observed(Verdict):
    """What a program returned: a tree (`literal`) for each call, when the verdict is `passed`."""

    values: tuple[Any, ...] = ()


def program_job(answer: str, check: Calls | Observe | Stdin) -> dict[str, Any]:
    """What must a worker know to run a program? Inputs, no expected value."""
    job = {"answer": answer, "preamble": check.preamble}
    if isinstance(check, Stdin):
        cases = [given for given, _ in check.cases]
        return {**job, "kind": "stdin", "apart": True, "cases": cases}
    return {
        **job,
        "kind": "calls",
        "apart": isinstance(check, Calls) and check.apart,
        "entry_point": check.entry_point,
        "cases": check.trees,
    }


def judge_calls(check: Calls, body: bytes) -> tuple[Status, str]:
    """Is each returned value right? The first fault is named. One report a line where `apart`."""
    reports = [json.loads(line) for line in body.split(b"\n")]
    trees, n = [tree for report in reports for tree in report["values"]], len(check.cases)
    for number, (case, tree) in enumerate(zip(check.cases, trees, strict=False), start=1):
        if not (
            equal(tree, case.expected) or (check.accepts is not None and check.accepts(tree, case))
        ):
            called = ", ".join(map(short, case.args))
            return "failed", (
                f"case {number} of {n}: f({called}) returned {shown(tree, SHOWN)}, "
                f"expected {short(case.expected)}"
            )
    last = reports[-1]
    if last["error"] is not None:
        begun = last["case"] is not None
        place = f"case {len(trees) + 1} of {n}" if begun or len(reports) > 1 else "answer"
        return "error", f"{place}: {one_line(last['error'])}"
    if len(trees) != n:
        raise ValueError("a value is missing")
    return "passed", ""


def observed(check: Observe, report: dict[str, Any], seconds: float) -> Observed:
    """The values of a program that returned all; an error verdict otherwise."""
    if report["error"] is None and len(report["values"]) == len(check.inputs):
        return Observed("passed", "", seconds, tuple(report["values"]))
    place = "answer" if report["case"] is None else f"case {int(report['case'])}"
    return Observed("error", f"{place}: {one_line(report['error'] or 'no value')}", seconds)


def judge_stdin(check: Stdin, body: bytes) -> tuple[Status, str]:
    """Does each output equal the expected one? `body` has one report a line."""
    lines, n = body.split(b"\n"), len(check.cases)
    for number, (line, (_, expected)) in enumerate(zip(lines, check.cases, strict=False), start=1):
        report = json.loads(line)
        if report["error"] is not None:
            return "error", f"case {number} of {n}: {one_line(report['error'])}"
        found = report["output"]
        if not _same_output(found, expected):
            shown_both = f"printed {short(found)}, expected {short(expected)}"
            return "failed", f"case {number} of {n}: {shown_both}"
    if len(lines) != n:
        raise ValueError("an output is missing")
    return "passed", ""


def _same_output(found: str, expected: str) -> bool:
    left, right = found.strip().split("\n"), expected.strip().split("\n")
    return len(left) == len(right) and all(
        a == b or _same_numbers(a.split(), b.split())
        for a, b in ((a.strip(), b.strip()) for a, b in zip(left, right, strict=True))
    )


def _same_numbers(found: list[str], expected: list[str]) -> bool:
    if len(found) != len(expected) or any(len(word) > _DIGITS for word in found):
        return False
    try:
        return all(Decimal(a) == Decimal(b) for a, b in zip(found, expected, strict=True))
    except InvalidOperation:
        return False


def final_number(text: str, anywhere: bool = False) -> Decimal | None:
    """Which number is the answer? See `Number`; None when there is none."""
    before, mark, after = text.partition(_MARK)
    if mark:
        found = _NUMBER.search(after)
    elif anywhere:
        *_, found = None, *_NUMBER.finditer(before)
    else:
        found = _NUMBER.fullmatch(before.strip().rstrip("."))
    return None if found is None else Decimal(found[0].replace(",", "").replace("$", ""))


def verdict_number(answer: str, check: Number) -> Verdict:
    """Is the number that an answer states the expected one? Nothing is run."""
    expected = final_number(check.expected)
    found = final_number(answer, check.anywhere)
    if found is None:
        return Verdict("failed", f"no number is the answer, expected {expected}", 0.0)
    if found == expected:
        return Verdict("passed", "", 0.0)
    return Verdict("failed", f"answered {found}, expected {expected}", 0.0)
