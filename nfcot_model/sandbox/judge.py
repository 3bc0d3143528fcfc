"""From a check to the job of a worker, and from its reply to a verdict.

Expected values stay in this process: what a worker or an answer never sees, neither can fake. What
comes back may be forged: it is compared, never built up, and shown in part.
"""

from __future__ import annotations

import json
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.sandbox.checks import AnyCheck, Calls, Number, Observe, Stdin
from nfcot_model.sandbox.judge_programs import (
    judge_calls,
    judge_stdin,
    observed,
    program_job,
    verdict_number,
)
from nfcot_model.sandbox.limits import Limits, Status, Verdict
from nfcot_model.sandbox.values import DEPTH, encode, same, shown
from nfcot_model.sandbox.wire import REPORT, TIMEOUT, Reply
from nfcot_model.sandbox.wording import SHOWN, one_line, short
from nfcot_model.worlds.problem import Case, Check

__all__ = ["job_of", "verdict_at_once", "verdict_of"]


def job_of(answer: str, check: AnyCheck) -> dict[str, Any]:
    """What must a worker know to run `answer`? The arguments or the test, no expected value.

    Nothing ({}) for a check that runs nothing: `verdict_at_once`.

    Raises UserError for a case whose arguments or expected value are not plain data, or nested too
    deeply.
    """
    if isinstance(check, Calls | Observe | Stdin):
        return program_job(answer, check)
    if isinstance(check, Number) or check.kind == "exact":
        return {}
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


def verdict_at_once(answer: str, check: AnyCheck) -> Verdict:
    """Is the answer the expected number, or the expected text? Nothing is run.

    White space around either text is left aside.
    """
    if isinstance(check, Number):
        return verdict_number(answer, check)
    assert isinstance(check, Check)
    answered, expected = answer.strip(), check.expected.strip()
    if answered == expected:
        return Verdict("passed", "", 0.0)
    detail = f"answered {short(answered)}, expected {short(expected)}"
    return Verdict("failed", detail, 0.0)


def verdict_of(check: AnyCheck, reply: Reply, limits: Limits) -> Verdict:
    """Which verdict follows from a worker's reply?

    A `function` whose values are all returned passes when each equals its expected value (see
    `values.same`); the first case that differs is named. A `script` passes when answer and test
    ran to their end. Whole programs: see `checks`; `Observe` gets an `Observed`.
    """
    kind, seconds, body = reply
    if kind != REPORT:
        text = body.decode(errors="replace")
        return Verdict("timeout" if kind == TIMEOUT else "error", text, seconds)
    try:
        if isinstance(check, Observe):
            return observed(check, json.loads(body), seconds)
        status, detail = _judge(check, body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        status, detail = "error", "the answer returned data that cannot be read"
    if detail.endswith("MemoryError"):
        detail += f": over the memory limit of {limits.memory_mib} MiB"
    return Verdict(status, detail, seconds)


def _judge(check: AnyCheck, body: bytes) -> tuple[Status, str]:
    if isinstance(check, Stdin):
        return judge_stdin(check, body)
    if isinstance(check, Calls):
        return judge_calls(check, body)
    assert isinstance(check, Check)
    report = json.loads(body)
    return _judge_script(report) if check.kind == "script" else _judge_function(check.cases, report)


def _judge_script(report: dict[str, Any]) -> tuple[Status, str]:
    if report["stage"] == "done":
        return "passed", ""
    status: Status = "failed" if report["wrong"] is True else "error"
    return status, f"{one_line(report['stage'])}: {one_line(report['error'])}"


def _judge_function(cases: list[Case], report: dict[str, Any]) -> tuple[Status, str]:
    trees = report["values"]
    for number, (case, tree) in enumerate(zip(cases, trees, strict=False), start=1):
        if not same(tree, case.expected):
            called = ", ".join(map(short, case.args))
            return "failed", (
                f"case {number} of {len(cases)}: f({called}) returned {shown(tree, SHOWN)}, "
                f"expected {short(case.expected)}"
            )
    if report["error"] is not None:
        number = report["case"]
        place = "answer" if number is None else f"case {int(number)} of {len(cases)}"
        return "error", f"{place}: {one_line(report['error'])}"
    if len(trees) != len(cases):
        raise ValueError("a value is missing")
    return "passed", ""
