"""What does one answer do? Runs in the process that is thrown away afterwards.

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import types
from collections.abc import Sequence
from typing import Any, NoReturn

from nfcot_model.sandbox.confine import Confinement
from nfcot_model.sandbox.guard import compile_test
from nfcot_model.sandbox.programs import run_calls, run_stdin
from nfcot_model.sandbox.pure import BUILTINS
from nfcot_model.sandbox.values import DEPTH, decode, encode

__all__ = ["run_child"]

_NAME = "answer"
_TEXT = 300
_NOT_RUN = 70
_SPARE = 1 << 20  # held back, so that a report can be made after a MemoryError


def run_child(
    jobs: Sequence[dict[str, Any]],
    nonce: bytes,
    descriptor: int,
    confine: Confinement,
    known: dict[int, type],
) -> NoReturn:
    """Run `jobs`, write `nonce` and their reports to `descriptor`, end the process.

    One job gets the whole interpreter; several share it, and must then be `pure` functions. A
    report is one line of JSON.

    Everything the report needs is held in local names before the answer runs: the answer can
    rebind what modules and builtins hold, but not the locals of a frame it cannot reach. A report
    without the nonce is not believed, so an answer that ends the process early cannot write one.
    """
    write, leave, dumps = os.write, os._exit, json.dumps
    try:
        confine(descriptor)
        module = types.ModuleType(_NAME)
        sys.modules[_NAME] = sys.modules["__main__"] = module
        if len(jobs) > 1:
            message = nonce + _run_together(jobs)
        else:
            message = nonce + dumps(_run(jobs[0], vars(module), known)).encode()
        while message:
            message = message[write(descriptor, message) :]
        leave(0)
    finally:
        leave(_NOT_RUN)


def _run_together(jobs: Sequence[dict[str, Any]]) -> bytes:
    """The reports, one a line. Raises MemoryError where an answer might lack what another took."""
    reports = [_run_function(job, {"__builtins__": BUILTINS}) for job in jobs]
    if any(report["error"] == MemoryError.__name__ for report in reports):
        raise MemoryError
    return b"\n".join(json.dumps(report).encode() for report in reports)


def _run(job: dict[str, Any], namespace: dict[str, Any], known: dict[int, type]) -> dict[str, Any]:
    if job["kind"] == "script":
        return _run_script(job, namespace, known)
    if job["kind"] == "calls":
        return run_calls(job, namespace, _describe, _opaque)
    if job["kind"] == "stdin":
        return run_stdin(job, namespace, _describe)
    return _run_function(job, namespace)


def _run_function(job: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    spare = bytes(_SPARE)
    values: list[Any] = []
    try:
        call = eval(compile(job["answer"].strip(), "<answer>", "eval"), namespace)
    except BaseException as error:
        del spare
        return {"values": values, "error": _describe(error), "case": None}
    for number, args in enumerate(job["cases"], start=1):
        try:
            values.append(encode(call(*decode(args)), _opaque))
        except BaseException as error:
            del spare
            return {"values": values, "error": _describe(error), "case": number}
    return {"values": values, "error": None, "case": None}


def _run_script(
    job: dict[str, Any], namespace: dict[str, Any], known: dict[int, type]
) -> dict[str, Any]:
    spare = bytes(_SPARE)
    stage, answer, untouched = "test", job["answer"], dict(vars(builtins))
    try:
        test = compile_test(job["source"], known)
        stage = "answer"
        exec(compile(answer, "<answer>", "exec"), namespace)
        vars(builtins).update(untouched)
        stage = "test"
        exec(test, namespace)
    except BaseException as error:
        del spare
        wrong = stage == "test" and type(error) is AssertionError
        return {"stage": stage, "wrong": wrong, "error": _describe(error)}
    return {"stage": "done", "wrong": False, "error": None}


def _opaque(value: Any) -> dict[str, str]:
    if type(value) in (list, tuple, dict):
        raise RecursionError(f"the returned value is nested more than {DEPTH} deep")
    return {"opaque": str(type(value).__name__)[:_TEXT]}


def _describe(error: BaseException) -> str:
    """The exception as one line; its own `__str__` is the answer's code and may fail."""
    line = _line(error)
    error.__traceback__ = None
    name = str(type(error).__name__)[:_TEXT]
    if type(error) is MemoryError:
        return name
    try:
        text = " ".join(str(error).split())[:_TEXT]
    except BaseException:
        text = ""
    return f"{name}: {text}{line}" if text else name + line


def _line(error: BaseException) -> str:
    """The line of the source that was being run, below the frame of this module."""
    trace = error.__traceback__ and error.__traceback__.tb_next
    return f" (line {trace.tb_lineno})" if trace else ""
