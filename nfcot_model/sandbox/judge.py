"""From a check to the job of a worker, and from its reply to a verdict.

Expected values stay in this process: what a worker or an answer never sees, neither can fake. What
comes back may be forged: it is compared, never built up, and shown in part.
"""

from __future__ import annotations

import json
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.sandbox.limits import Limits, Status, Verdict
from nfcot_model.sandbox.values import DEPTH, encode, same, shown
from nfcot_model.sandbox.wire import REPORT, TIMEOUT, Reply
from nfcot_model.worlds.problem import Case, Check

__all__ = ["job_of", "verdict_exact", "verdict_of"]

_SHOWN = 80
_LINE = 1000


def job_of(answer: str, check: Check) -> dict[str, Any]:
    """What must a worker know to run `answer`? The arguments or the test, no expected value.

    Raises UserError for a case whose arguments or expected value are not plain data, or nested too
    deeply.
    """
    if check.kind == "script":
        return {"kind": "script", "answer": answer, "source": check.source}
    for case in check.cases:
        encode(case.expected, _refuse)
    return {
        "kind": "function",
        "answer": answer,
        "cases": [encode(case.args, _refuse) for case in check.cases],
    }


def _refuse(value: Any) -> Any:
    if type(value) in (list, tuple, dict):
        raise UserError(f"check.cases: a value is nested more than {DEPTH} deep; flatten it")
    raise UserError(
        f"check.cases: a value of type {type(value).__name__} is not plain data; use None, bool, "
        "int, float, str, list, tuple and dict"
    )


def verdict_exact(answer: str, check: Check) -> Verdict:
    """Is the answer the expected text, white space around either left aside? Nothing is run."""
    answered, expected = answer.strip(), check.expected.strip()
    if answered == expected:
        return Verdict("passed", "", 0.0)
    detail = f"answered {_show(answered)}, expected {_show(expected)}"
    return Verdict("failed", detail, 0.0)


def verdict_of(check: Check, reply: Reply, limits: Limits) -> Verdict:
    """Which verdict follows from a worker's reply?

    A `function` whose values are all returned passes when each equals its expected value (see
    `values.same`); the first case that differs is named. A `script` passes when answer and test
    ran to their end.
    """
    kind, seconds, body = reply
    if kind != REPORT:
        text = body.decode(errors="replace")
        return Verdict("timeout" if kind == TIMEOUT else "error", text, seconds)
    try:
        report = json.loads(body)
        if check.kind == "script":
            status, detail = _judge_script(report)
        else:
            status, detail = _judge_function(check.cases, report)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        status, detail = "error", "the answer returned data that cannot be read"
    if detail.endswith("MemoryError"):
        detail += f": over the memory limit of {limits.memory_mib} MiB"
    return Verdict(status, detail, seconds)


def _judge_script(report: dict[str, Any]) -> tuple[Status, str]:
    if report["stage"] == "done":
        return "passed", ""
    status: Status = "failed" if report["wrong"] is True else "error"
    return status, f"{_line(report['stage'])}: {_line(report['error'])}"


def _judge_function(cases: list[Case], report: dict[str, Any]) -> tuple[Status, str]:
    trees = report["values"]
    for number, (case, tree) in enumerate(zip(cases, trees, strict=False), start=1):
        if not same(tree, case.expected):
            called = ", ".join(map(_show, case.args))
            return "failed", (
                f"case {number} of {len(cases)}: f({called}) returned {shown(tree, _SHOWN)}, "
                f"expected {_show(case.expected)}"
            )
    if report["error"] is not None:
        number = report["case"]
        place = "answer" if number is None else f"case {int(number)} of {len(cases)}"
        return "error", f"{place}: {_line(report['error'])}"
    if len(trees) != len(cases):
        raise ValueError("a value is missing")
    return "passed", ""


def _line(text: str) -> str:
    """What the answer's process says of itself, as one short line that any file can hold."""
    line = " ".join(text[:_LINE].split())
    return line.encode(errors="backslashreplace").decode()


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        text = f"a {type(value).__name__} too long to print"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
