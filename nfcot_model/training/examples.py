"""Rows of prompt, reasoning and answer as problems to train on, from local files.

    {"prompt": "…", "reasoning": "…", "answer": "…"}

`prompt` is a text, or a list of one chat message, the user's; `reasoning` a text, whose lines are
its steps (blank ones left out), or a list of steps. Other fields are not read. A file is JSON
lines, or Parquet. The row's answer is checked by its text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, file_hash
from nfcot_model.worlds import Check, Problem

__all__ = ["Streamed", "example_files", "examples_hash", "read_examples", "streamed"]

HELD_OUT_SHARE = 20


def example_files(path: str) -> list[Path]:
    """The files that `path` names: one, or all *.jsonl and *.parquet of a folder, by name."""
    place = Path(path)
    files = [place]
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix in (".jsonl", ".parquet"))
    if not files or not all(file.is_file() for file in files):
        raise UserError(
            f"{path}: no such file; give a .jsonl or .parquet file, or a folder of them"
        )
    return files


def examples_hash(path: str) -> str:
    """Which rows are these? A hash of the files' bytes, in order."""
    return content_hash([file_hash(file) for file in example_files(path)])


def read_examples(path: str) -> list[Problem]:
    """All rows, in memory. Raises UserError naming file, row and field; no row is left out."""
    return [_problem(*row) for row in _rows(example_files(path))]


def _rows(files: Iterable[Path]) -> Iterator[tuple[Path, int, Any]]:
    for file in files:
        if file.suffix == ".parquet":
            yield from ((file, i, row) for i, row in enumerate(_parquet(file), start=1))
            continue
        number = 0
        try:
            with open(file, encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield file, number, json.loads(line)
        except json.JSONDecodeError as error:
            where = f"{error.msg} at column {error.pos + 1}"
            raise UserError(f"{file}:{number}: malformed JSON ({where})") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: cannot be read as UTF-8 JSON lines ({error})") from None


def _parquet(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(1000):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read as Parquet ({error})") from None


def _problem(file: Path, number: int, row: Any) -> Problem:
    """One row as a problem; its group is its prompt, so that copies are held out together.

    In a shuffled stream rows have no number (0): their content names them.
    """
    if not isinstance(row, dict):
        raise UserError(f"{file}:{number}: expected an object with prompt, reasoning and answer")
    prompt = _prompt(file, number, row.get("prompt"))
    answer = _text(file, number, "answer", row.get("answer"))
    reasoning = row.get("reasoning")
    if isinstance(reasoning, list):
        steps = [_text(file, number, "reasoning", step) for step in reasoning]
    else:
        text = _text(file, number, "reasoning", reasoning)
        steps = [line.rstrip() for line in text.split("\n") if line.strip()]
    if not steps:
        raise UserError(f"{file}:{number}: field 'reasoning': is empty; training needs some")
    return Problem(
        id=f"{file.stem}:{number}" if number else "",
        group=content_hash(prompt),
        prompt=prompt,
        steps=steps,
        answer=answer,
        check=Check(kind="exact", expected=answer),
    )


def _text(file: Path, number: int, field: str, value: Any) -> str:
    if not isinstance(value, str):
        found = "is missing" if value is None else f"is a {type(value).__name__}"
        raise UserError(f"{file}:{number}: field '{field}': {found}; expected text")
    if not value.strip():
        raise UserError(f"{file}:{number}: field '{field}': is empty; training needs some")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{file}:{number}: field '{field}': has half of a surrogate pair, which UTF-8 does not"
            " have"
        ) from None
    return value


def _prompt(file: Path, number: int, value: Any) -> str:
    if not isinstance(value, list):
        return _text(file, number, "prompt", value)
    first = value[0] if len(value) == 1 and isinstance(value[0], dict) else {}
    if first.get("role") != "user":
        raise UserError(
            f"{file}:{number}: field 'prompt': expected one message of a user (a system message"
            " for all goes into model.system); longer chats are not trained on"
        )
    return _text(file, number, "prompt", first.get("content"))


class Streamed:
    """Training rows read in passing by `datasets`, shuffled within a buffer, epoch after epoch.

    `take(start, count)` is a function of its arguments, so that a resumed training sees what it
    would have seen: going on costs nothing, going back reads again from the beginning.
    """

    def __init__(self, path: str, buffer: int, seed: int) -> None:
        try:
            from datasets import load_dataset
        except ModuleNotFoundError:
            raise UserError(
                "data.streaming: datasets is not installed; run pip install 'nfcot-scope[train]',"
                " or set streaming to false"
            ) from None
        files = [str(file) for file in example_files(path)]
        kinds = {Path(file).suffix for file in files}
        if len(kinds) > 1:
            raise UserError(f"{path}: holds .jsonl and .parquet files; stream one kind at a time")
        reader = "parquet" if kinds == {".parquet"} else "json"
        whole = load_dataset(reader, data_files=files, split="train", streaming=True)
        self._file, self._rows = Path(path), whole
        self._shuffled = whole.shuffle(seed=seed, buffer_size=buffer)
        self._at, self._epoch = 0, 0
        self._source: Iterator[Problem] = iter(())
        self._taken: tuple[int, int] | None = None
        self._last: list[Problem] = []

    def every(self) -> Iterator[Problem]:
        """All rows in the order of the files, held-out ones too; each is checked."""
        from datasets.exceptions import DatasetGenerationError

        try:
            for number, row in enumerate(self._rows, start=1):
                yield _problem(self._file, number, row)
        except (DatasetGenerationError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self._file}: cannot be streamed ({reason})") from None

    def held_out(self, most: int) -> list[Problem]:
        """The first rows whose prompt's hash says so: one in twenty."""
        found = list(islice((p for p in self.every() if _is_held_out(p)), most))
        if not found:
            raise UserError(
                f"{self._file}: no row falls to validation (one prompt in {HELD_OUT_SHARE} does);"
                " set streaming to false for so few"
            )
        return found

    def take(self, start: int, count: int) -> list[Problem]:
        """The training rows at `start` to `start + count` of the endless stream."""
        if self._taken == (start, count):
            return self._last
        if start < self._at or self._at == 0:
            self._at, self._epoch, self._source = 0, 0, self._training()
        while self._at < start:
            self._next()
        self._taken, self._last = (start, count), [self._next() for _ in range(count)]
        return self._last

    def _next(self) -> Problem:
        for _ in range(2):
            for problem in self._source:
                self._at += 1
                return problem
            self._epoch += 1
            self._source = self._training()
        raise UserError(f"{self._file}: no rows are left to train on")

    def _training(self) -> Iterator[Problem]:
        self._shuffled.set_epoch(self._epoch)
        for row in self._shuffled:
            problem = _problem(self._file, 0, row)
            if not _is_held_out(problem):
                yield problem


def _is_held_out(problem: Problem) -> bool:
    return int(problem.group, 16) % HELD_OUT_SHARE == 0


@lru_cache(maxsize=8)
def streamed(path: str, buffer: int, seed: int, reader: str) -> Streamed:
    """One stream for each `reader` (a stage), so that stages do not rewind each other's."""
    return Streamed(path, buffer, seed)
