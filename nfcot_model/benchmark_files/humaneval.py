"""HumanEval as openai/human-eval gives it out (`HumanEval.jsonl.gz`; arXiv 2107.03374)."""

from __future__ import annotations

import re
from functools import partial

from pydantic import BaseModel

from nfcot_model.benchmark_files.answers import continuation
from nfcot_model.benchmark_files.rows import Row, field_fault, validated
from nfcot_model.benchmark_files.task import Task
from nfcot_model.sandbox import Limits
from nfcot_model.worlds import Check

__all__ = ["FIELDS", "LIMITS", "humaneval_task"]

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
LIMITS = Limits(wall_seconds=3.0, cpu_seconds=3, memory_mib=1024)
_NUMPY = re.compile(r"^\s*(import|from) numpy\b", re.M)


class _Row(BaseModel):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def humaneval_task(row: Row) -> Task:
    """The task of one line. Raises UserError for a line of another version."""
    found = validated(_Row, row, "HumanEval")
    if _NUMPY.search(found.test):
        raise field_fault(
            row[0],
            "test",
            "imports numpy, which the sandbox does not have: a repackaged HumanEval+; give the"
            " HumanEvalPlus.jsonl.gz of EvalPlus's releases",
            "HumanEval",
        )
    check = Check(kind="script", source=f"{found.test}\ncheck({found.entry_point})\n")
    return Task(
        found.task_id,
        found.prompt,
        partial(continuation, found.prompt, found.entry_point),
        lambda sandbox: {"tests": check},
        found.prompt + found.canonical_solution,
    )
