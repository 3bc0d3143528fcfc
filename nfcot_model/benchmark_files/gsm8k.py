"""GSM8K as openai/grade-school-math gives it out (`test.jsonl`; arXiv 2110.14168)."""

from __future__ import annotations

from pydantic import BaseModel

from nfcot_model.benchmark_files.rows import Row, field_fault, validated
from nfcot_model.benchmark_files.task import Task
from nfcot_model.sandbox import Limits
from nfcot_model.sandbox.checks import Number
from nfcot_model.sandbox.judge_programs import final_number

__all__ = ["FIELDS", "LIMITS", "gsm8k_task"]

FIELDS = ("question", "answer")
LIMITS = Limits()


class _Row(BaseModel):
    question: str
    answer: str


def gsm8k_task(row: Row, number: int) -> Task:
    """The task of the row `number` (from 0), which is its id: the files have none.

    An answer passes when it states the number; whether its last number is the right one, which a
    text can be by chance, is judged beside that. Raises UserError for a reference without its last
    line, `#### N`.
    """
    found = validated(_Row, row, "GSM8K")
    _, mark, last = found.answer.rpartition("####")
    if not mark or final_number(last) is None:
        raise field_fault(row[0], "answer", "does not end in a line '#### N'", "GSM8K")
    wanted = f"####{last}"
    return Task(
        str(number),
        f"{found.question}\n",
        str,
        lambda sandbox: {"stated": Number(wanted), "last number": Number(wanted, anywhere=True)},
        found.answer,
    )
