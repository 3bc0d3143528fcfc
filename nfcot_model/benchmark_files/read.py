"""Which benchmark is in a file? Told by the fields of its first row, read as that format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nfcot_model.benchmark_files import evalplus, gsm8k, humaneval, livecodebench, mbpp
from nfcot_model.benchmark_files.rows import Row, is_zipped, read_rows
from nfcot_model.benchmark_files.task import Benchmark, Task
from nfcot_model.errors import UserError
from nfcot_model.files import file_hash
from nfcot_model.sandbox import Limits

__all__ = ["FORMATS", "PROBLEMS", "detect", "read_benchmark"]

PROBLEMS = "problems"
_OWN_FIELDS = {"prompt", "check"}

_Reader = tuple[tuple[str, ...], Limits, Callable[[Row, int], Task]]
_READERS: dict[str, _Reader] = {
    "humaneval": (humaneval.FIELDS, humaneval.LIMITS, lambda row, n: humaneval.humaneval_task(row)),
    "humaneval+": (
        evalplus.FIELDS,
        evalplus.LIMITS,
        lambda row, n: evalplus.evalplus_task(row, "humaneval+"),
    ),
    "mbpp": (mbpp.FIELDS, mbpp.LIMITS, lambda row, n: mbpp.mbpp_task(row)),
    "mbpp+": (
        evalplus.FIELDS,
        evalplus.LIMITS,
        lambda row, n: evalplus.evalplus_task(row, "mbpp+"),
    ),
    "livecodebench": (
        livecodebench.FIELDS,
        livecodebench.LIMITS,
        lambda row, n: livecodebench.livecodebench_task(row),
    ),
    "gsm8k": (gsm8k.FIELDS, gsm8k.LIMITS, gsm8k.gsm8k_task),
}
FORMATS = tuple(_READERS)


def detect(path: Path) -> str:
    """Which format has the file: one of `FORMATS`, or "problems" for the format of this package?

    Raises UserError for rows that are none of these, and for gzipped problems. What cannot be read
    at all is left to the reader of problems, which says why.
    """
    # The reader of problems knows no gzip, and would blame something else.
    zipped = path.is_file() and is_zipped(path)
    try:
        first = next(read_rows(path), None)
    except UserError:
        if zipped:
            raise
        return PROBLEMS
    name = PROBLEMS if first is None else _named(*first)
    if zipped and name == PROBLEMS:
        raise UserError(f"{path}: gzipped, but no published benchmark's; unpack it (gunzip)")
    return name


def _named(place: str, row: Any) -> str:
    if not isinstance(row, dict) or "check" in row:
        return PROBLEMS
    for name in ("humaneval+", "humaneval", "mbpp", "livecodebench", "gsm8k"):
        if all(field in row for field in _READERS[name][0]):
            if name == "humaneval+" and str(row["task_id"]).lower().startswith("mbpp"):
                return "mbpp+"
            return name
    if row.keys() & _OWN_FIELDS == {"prompt"} and not row.keys() & _published():
        return PROBLEMS
    fields = ", ".join(map(str, list(row)[:8])) or "no fields"
    formats = "; ".join(f"{name}: {', '.join(needs)}" for name, (needs, _, _) in _READERS.items())
    raise UserError(
        f"{place}: no format that is known has these fields ({fields}); expected problems (prompt,"
        f" check) or a benchmark file of a version with {formats}"
    )


def _published() -> set[str]:
    return {field for fields, _, _ in _READERS.values() for field in fields} - _OWN_FIELDS


def read_benchmark(path: Path, format: str = "auto") -> Benchmark:
    """The tasks of a published benchmark's file.

    Raises UserError for an unknown format, a file of another version, repeated ids and no tasks;
    the message names file, line and field. No row is ever skipped.
    """
    path = Path(path)
    name = detect(path) if format == "auto" else format
    if format == "auto" and name == PROBLEMS:
        raise UserError(f"{path}: is not a file of {', '.join(FORMATS)}; read it as problems")
    if name not in _READERS:
        known = ", ".join(["auto", PROBLEMS, *FORMATS])
        raise UserError(f"--format {name}: expected one of {known}")
    _, limits, task_of = _READERS[name]
    tasks: list[Task] = []
    seen: dict[str, str] = {}
    for place, task in _tasks(path, task_of):
        if task.id in seen:
            raise UserError(f"{place}: task {task.id!r} is at {seen[task.id]} already; remove one")
        seen[task.id] = place
        tasks.append(task)
    if not tasks:
        raise UserError(f"{path}: holds no tasks of {name}")
    return Benchmark(name, path, file_hash(path), tasks, limits)


def _tasks(path: Path, task_of: Callable[[Row, int], Task]) -> Iterator[tuple[str, Task]]:
    for number, row in enumerate(read_rows(path)):
        yield row[0], task_of(row, number)
