"""LiveCodeBench, code generation, as its authors give it out (`test*.jsonl`; arXiv 2403.07974)."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from nfcot_model.benchmark_files.answers import program
from nfcot_model.benchmark_files.pickled import lone_string
from nfcot_model.benchmark_files.rows import Row, field_fault, validated
from nfcot_model.benchmark_files.task import Task
from nfcot_model.sandbox import Limits, Sandbox
from nfcot_model.sandbox.checks import AnyCheck, Call, Calls, Stdin
from nfcot_model.sandbox.literal import equal, items

__all__ = ["FIELDS", "LIMITS", "livecodebench_task"]

FIELDS = ("question_id", "question_content", "public_test_cases")
LIMITS = Limits(wall_seconds=6.0, cpu_seconds=6, memory_mib=1024, output_bytes=64 << 20)
"""Time and memory are for each test case by itself, output for all."""

_NAME = "LiveCodeBench"
_MOST_BYTES = 1 << 30  # of the tests of one problem, unpacked
_WHOLE = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins"),
    "typing",
)
_PREAMBLE = "\n".join(
    [
        *(f"from {module} import *" for module in _WHOLE),
        *(f"import {module}" for module in _WHOLE),
        "sys.setrecursionlimit(50000)",
    ]
)
"""The official harness has these names at hand, so its answers may lack their imports."""


class _Row(BaseModel):
    question_id: str
    question_title: str
    question_content: str
    platform: str
    contest_date: str
    starter_code: str
    difficulty: str
    public_test_cases: str
    private_test_cases: str
    metadata: str


class _Case(BaseModel):
    input: str
    output: str
    testtype: Literal["stdin", "functional"]


class _Metadata(BaseModel):
    func_name: str | None = None


_CASES = TypeAdapter(list[_Case])


def livecodebench_task(row: Row) -> Task:
    """The task of one line. Raises UserError for a line of another version.

    Private tests are a text, plain or (base64, zlib, pickle) packed. The pickle is never loaded:
    its one text is read from its opcodes, and any other content is refused.
    """
    found = validated(_Row, row, _NAME)
    _checks(row[0], found)  # a damaged line is told of before anything runs
    form = (
        f"Use this start:\n```python\n{found.starter_code}\n```\n"
        if found.starter_code.strip()
        else "The program reads standard input and writes standard output.\n"
    )
    return Task(
        found.question_id,
        f"{found.question_content}\n\nAnswer with one Python program between ``` lines.\n{form}",
        partial(program, stops=()),
        partial(_ready, row[0], found),
        labels={
            "difficulty": found.difficulty,
            "platform": found.platform,
            "month": found.contest_date[:7],
        },
    )


def _ready(place: str, row: _Row, sandbox: Sandbox) -> dict[str, AnyCheck]:
    return {"tests": _checks(place, row)}


def _checks(place: str, row: _Row) -> AnyCheck:
    """Unpacked for each use: the tests of a whole file would not fit in memory."""
    try:
        metadata = _Metadata.model_validate_json(row.metadata)
    except ValidationError:
        raise field_fault(place, "metadata", "expected a JSON object as text", _NAME) from None
    public = _cases(place, "public_test_cases", row.public_test_cases)
    private = _cases(place, "private_test_cases", _unpacked(place, row.private_test_cases))
    cases = [*public, *private]
    if not cases:
        raise field_fault(place, "public_test_cases", "there is no test at all", _NAME)
    if metadata.func_name is None:
        pairs = tuple((case.input, case.output) for case in cases)
        return Stdin(pairs, _PREAMBLE)
    name = metadata.func_name
    if not name.isidentifier():
        raise field_fault(place, "metadata.func_name", f"{name!r} is no name", _NAME)
    return Calls(
        f'Solution().{name} if "Solution" in globals() else {name}',
        tuple(_call(place, case) for case in cases),
        accepts=_as_list,
        apart=True,
        preamble=_PREAMBLE,
    )


def _unpacked(place: str, text: str) -> str:
    if text.lstrip().startswith("["):
        return text
    unpack = zlib.decompressobj()
    try:
        packed = base64.b64decode(text, validate=True)
        data = unpack.decompress(packed, _MOST_BYTES)
        if unpack.unconsumed_tail or not unpack.eof:
            raise ValueError("damaged, or more than 1 GiB")
        return lone_string(data)
    except (binascii.Error, zlib.error, ValueError) as error:
        words = f"neither JSON nor base64 of a zlib-packed pickle of one text ({error})"
        raise field_fault(place, "private_test_cases", words, _NAME) from None


def _cases(place: str, field: str, text: str) -> list[_Case]:
    try:
        return _CASES.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        words = f"expected a JSON list of input, output, testtype ({at} {first['msg']})"
        raise field_fault(place, field, words, _NAME) from None


def _call(place: str, case: _Case) -> Call:
    try:
        return Call([json.loads(line) for line in case.input.split("\n")], json.loads(case.output))
    except (ValueError, RecursionError):
        words = f"a functional test is not JSON by line: {case.input[:40]!r}"
        raise field_fault(place, "test_cases", words, _NAME) from None


def _as_list(tree: Any, case: Call) -> bool:
    """A tuple is as good as the list that JSON has for it, at the outside only."""
    return isinstance(case.expected, list) and equal(items(tree), case.expected)
