"""MBPP as google-research gives it out: `mbpp.jsonl`, `sanitized-mbpp.json` (arXiv 2108.07732)."""

from __future__ import annotations

from pydantic import BaseModel, Field

from nfcot_model.benchmark_files.answers import program
from nfcot_model.benchmark_files.rows import Row, field_fault, validated
from nfcot_model.benchmark_files.task import Task
from nfcot_model.sandbox import Limits
from nfcot_model.worlds import Check

__all__ = ["FIELDS", "LIMITS", "mbpp_task"]

FIELDS = ("task_id", "code", "test_list")
LIMITS = Limits(wall_seconds=10.0, cpu_seconds=10, memory_mib=1024)


class _Row(BaseModel):
    task_id: int
    text: str | None = None  # of mbpp.jsonl
    prompt: str | None = None  # of sanitized-mbpp.json
    code: str
    test_list: list[str] = Field(min_length=1)
    test_setup_code: str = ""
    test_imports: list[str] = Field(default_factory=list)


def mbpp_task(row: Row) -> Task:
    """The task of one row. Raises UserError for a row of another version.

    The prompt shows the tests, as in the paper: without them names and types are anybody's guess.
    """
    found = validated(_Row, row, "MBPP")
    asked = found.text or found.prompt
    if not asked:
        raise field_fault(row[0], "text", "is missing, and so is 'prompt'", "MBPP")
    tests = "\n".join(found.test_list)
    source = "\n".join([*found.test_imports, found.test_setup_code, tests])
    check = Check(kind="script", source=source)
    return Task(
        str(found.task_id),
        f"{asked.strip()}\nWrite Python code that passes these tests:\n{tests}\n",
        program,
        lambda sandbox: {"tests": check},
        found.code,
    )
