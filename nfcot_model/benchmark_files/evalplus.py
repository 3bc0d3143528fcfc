"""HumanEval+ and MBPP+ as EvalPlus gives them out (`HumanEvalPlus*.jsonl.gz`, `MbppPlus*.jsonl.gz`;
arXiv 2305.01210)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel, Field, field_validator

from nfcot_model.benchmark_files.answers import continuation, program
from nfcot_model.benchmark_files.evalplus_inputs import restored
from nfcot_model.benchmark_files.oracles import NOT_NONE, accepts_for
from nfcot_model.benchmark_files.rows import Row, field_fault, validated
from nfcot_model.benchmark_files.task import Task, UnjudgedError
from nfcot_model.sandbox import Limits, Sandbox
from nfcot_model.sandbox.checks import AnyCheck, Call, Calls, Observe
from nfcot_model.sandbox.judge_programs import Observed
from nfcot_model.sandbox.literal import decode

__all__ = ["FIELDS", "LIMITS", "evalplus_task"]

FIELDS = ("task_id", "entry_point", "base_input", "plus_input")
LIMITS = Limits(wall_seconds=10.0, cpu_seconds=10, memory_mib=1024, output_bytes=64 << 20)
"""For all inputs of one kind (base or plus) together."""


class _Row(BaseModel):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    base_input: list[list[Any]]
    plus_input: list[list[Any]]
    atol: float = Field(ge=0, allow_inf_nan=False)

    @field_validator("base_input", "plus_input", mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        return [] if value == {} else value  # some lines have no further inputs, written so


def evalplus_task(row: Row, format: str) -> Task:
    """The task of one line; `format` is "humaneval+" or "mbpp+". Raises UserError for a line of
    another version.

    Expected values are what the reference returns here, in the sandbox; `base` are the inputs of
    the original benchmark, `plus` the further ones.
    """
    found = validated(_Row, row, "EvalPlus")
    if not found.entry_point.isidentifier():
        raise field_fault(row[0], "entry_point", f"{found.entry_point!r} is no name", "EvalPlus")
    if not found.base_input:
        raise field_fault(row[0], "base_input", "holds no input", "EvalPlus")
    mbpp = format == "mbpp+"
    inputs = {"base": found.base_input, "plus": found.plus_input}
    try:
        if mbpp:
            inputs = {n: [restored(found.task_id, a) for a in args] for n, args in inputs.items()}
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        words = f"not of the shape that {found.task_id} has ({error})"
        raise field_fault(row[0], "base_input or plus_input", words, "EvalPlus") from None
    reference = found.prompt + found.canonical_solution
    named = {name: args for name, args in inputs.items() if args}
    return Task(
        found.task_id,
        found.prompt,
        program if mbpp else partial(continuation, found.prompt, found.entry_point),
        partial(_checks, reference, found.entry_point, found.atol, named),
        reference,
    )


def _checks(
    reference: str,
    entry_point: str,
    atol: float,
    inputs: Mapping[str, Sequence[Sequence[Any]]],
    sandbox: Sandbox,
) -> dict[str, AnyCheck]:
    pairs: list[tuple[str, AnyCheck]] = [
        (reference, Observe(entry_point, tuple(args))) for args in inputs.values()
    ]
    checks: dict[str, AnyCheck] = {}
    seen = zip(inputs.items(), sandbox.check_many(pairs), strict=True)
    for (name, args), verdict in seen:
        if not isinstance(verdict, Observed) or verdict.status != "passed":
            raise UnjudgedError(f"the reference does not run here: {verdict.detail}")
        try:
            expected = [_expected(entry_point, tree) for tree in verdict.values]
        except (ValueError, TypeError) as error:
            raise UnjudgedError(
                f"the reference returned what cannot be compared: {error}"
            ) from None
        cases = tuple(Call(a, e) for a, e in zip(args, expected, strict=True))
        checks[name] = Calls(entry_point, cases, accepts_for(entry_point, atol))
    return checks


def _expected(entry_point: str, tree: Any) -> Any:
    if entry_point in NOT_NONE:
        return tree if isinstance(tree, bool) else tree is not None
    return decode(tree)
