"""Which rows does a benchmark's file hold? JSON lines or one JSON list, plain or gzipped."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from nfcot_model.errors import UserError
from nfcot_model.faults import first_fault

__all__ = ["Row", "field_fault", "is_zipped", "read_rows", "validated"]

_GZIP = b"\x1f\x8b"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
Row = tuple[str, Any]
"""Where a row stands (`file:line`, or `file: entry n` of a list) and its JSON value."""

Model = TypeVar("Model", bound=BaseModel)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows one by one. Raises UserError for what cannot be read, with its line."""
    path = Path(path)
    try:
        with _opened(path) as lines:
            first = lines.readline()
            if first.lstrip().startswith("["):
                entries = _parsed(f"{path}", first + lines.read())
                for number, entry in enumerate(entries, start=1):
                    yield f"{path}: entry {number}", entry
                return
            number, line = 1, first
            while line:
                if line.strip():
                    yield f"{path}:{number}", _parsed(f"{path}:{number}", line)
                number, line = number + 1, lines.readline()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a benchmark's file") from None
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy the file again") from None


def is_zipped(path: Path) -> bool:
    """Does the file say that it is gzipped, whatever its name?"""
    with open(path, "rb") as stream:
        return stream.read(2) == _GZIP


def _opened(path: Path) -> IO[str]:
    opener: Any = gzip.open if is_zipped(path) else open
    stream_of_text: IO[str] = opener(path, "rt", encoding="utf-8", newline="\n")
    return stream_of_text


def _parsed(place: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f" at column {error.colno}"
        raise UserError(f"{place}: malformed JSON ({error.msg}{where})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: JSON that cannot be used ({error})") from None
    if _SURROGATE.search(text) and not _is_utf8(json.dumps(value, ensure_ascii=False)):
        raise UserError(
            f"{place}: has half of a surrogate pair, which UTF-8 does not have; remove it"
        )
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def validated(model: type[Model], row: Row, format: str) -> Model:
    """The row as `model`. Raises UserError naming file, line and field: another version, likely."""
    place, value = row
    try:
        return model.model_validate(value)
    except ValidationError as error:
        field, words = first_fault(error, model)
        name = ".".join(map(str, field[:3]))
        raise field_fault(place, name, words, format) from None


def field_fault(place: str, field: str, words: str, format: str) -> UserError:
    """The one line about a field that is not as in the version of the format that is read here."""
    name = f" field '{field}':" if field else ""
    return UserError(
        f"{place}:{name} {words}; not the version of {format} files that docs/benchmarks_data.md"
        " describes"
    )
