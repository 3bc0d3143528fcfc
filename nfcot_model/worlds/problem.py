"""The problem format: what any data set, built in or a user's own, looks like on disk."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from nfcot_model.errors import UserError
from nfcot_model.faults import first_fault
from nfcot_model.files import content_hash, write_text

__all__ = ["Case", "Check", "Problem", "problem_set_hash", "read_problems", "write_problems"]

Label = str | int | float | bool
_DEEPEST = 90  # below what the sandbox takes, whose count begins at an argument
_LONGEST = 4300  # digits; Python reads no longer integer from a text
_TOO_LONG = 10**_LONGEST
_HALF = re.compile("[\ud800-\udfff]")
_HALF_REASON = "has half of a surrogate pair, which UTF-8 does not have"
_HASHED = ("prompt", "steps", "answer", "check")
_NAMED = 4  # parts of a place in a message, from the outside


class Case(BaseModel):
    """One hidden test: call the answer with `args`, expect a value equal to `expected`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    args: list[Any]
    expected: Any


class Check(BaseModel):
    """How is an answer checked?

    `function`: the answer is a Python expression for a callable; every case must hold.
    `script`: the answer is Python source; `source` is run after it and must not raise.
    `exact`: the answer equals `expected`, white space at the ends of either left aside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["function", "script", "exact"]
    cases: list[Case] = Field(default_factory=list)
    source: str = ""
    expected: str = ""

    @model_validator(mode="after")
    def _has_its_test(self) -> Check:
        wanted = {"function": "cases", "script": "source", "exact": "expected"}[self.kind]
        if not getattr(self, wanted) or (self.kind == "exact" and not self.expected.strip()):
            raise ValueError(f"a check of kind '{self.kind}' needs a non-empty '{wanted}'")
        return self


class Problem(BaseModel):
    """What is asked, how is the answer checked, and what is true at each step?

    Only `prompt` and `check` are required. `id` is a hash of the content when it is not given;
    `group` names the prompt family (all wordings and samples of one problem), the unit of every
    split and of every clustered interval, and defaults to the id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = ""
    world: str = "user"
    split: str = ""
    group: str = ""
    prompt: str = Field(min_length=1, pattern=r"\S")
    steps: list[str] = Field(default_factory=list)
    answer: str | None = None
    check: Check
    labels: dict[str, Label] = Field(default_factory=dict)
    step_labels: list[dict[str, Label]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _fill_identity(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if (fault := _fault(data)) is not None:
            place, reason = fault
            raise PydanticCustomError("not_json", "{reason}", {"reason": reason, "place": place})
        data = dict(data)
        if not data.get("id"):
            hashed = {k: v for k, v in data.items() if k in _HASHED}
            data["id"] = content_hash(json.loads(json.dumps(hashed, default=_plain)))
        if not data.get("group"):
            data["group"] = data["id"]
        return data

    @model_validator(mode="after")
    def _steps_match_labels(self) -> Problem:
        if self.step_labels and len(self.step_labels) != len(self.steps):
            raise ValueError(
                f"step_labels has {len(self.step_labels)} entries for {len(self.steps)} steps"
            )
        return self


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")


def _fault(value: Any, depth: int = 0) -> tuple[tuple[str, ...], str] | None:
    """Where and why would a value not be the same after it is written as JSON and read back?"""
    entries: Iterable[tuple[Any, Any]]
    if isinstance(value, BaseModel):
        entries = vars(value).items()
    elif isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, (list, tuple)):
        entries = enumerate(value)
    else:
        reason = _scalar_fault(value)
        return None if reason is None else ((), reason)
    if depth >= _DEEPEST:
        return (), f"is nested more than {_DEEPEST} deep; flatten it"
    for key, item in entries:
        if isinstance(value, dict):
            if not isinstance(key, str):
                return (), f"has the key {key!r}; JSON has only text as keys"
            if _HALF.search(key):
                return (key,), _HALF_REASON
        found = _fault(item, depth + 1)
        if found is not None:
            return (str(key), *found[0]), found[1]
    return None


def _scalar_fault(value: Any) -> str | None:
    if isinstance(value, str):
        return _HALF_REASON if _HALF.search(value) else None
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which JSON does not have; use null or a text"
    if isinstance(value, int) and not -_TOO_LONG < value < _TOO_LONG:
        return f"is an integer of more than {_LONGEST} digits; use a text"
    return None


def read_problems(path: Path) -> list[Problem]:
    """Which problems does a JSONL file hold?

    Raises UserError naming file, line and field for anything that is not a problem, for
    duplicate ids and for an empty file; no row is ever skipped.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a JSONL file of problems") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 JSONL ({error})") from None
    problems: list[Problem] = []
    seen: dict[str, tuple[int, Problem]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problem = _parse_line(path, number, line)
        if problem.id in seen:
            raise UserError(f"{path}:{number}: {_twice(problem, *seen[problem.id])}")
        seen[problem.id] = (number, problem)
        problems.append(problem)
    if not problems:
        raise UserError(f"{path}: holds no problems; expected one JSON object a line")
    return problems


def _twice(problem: Problem, line: int, first: Problem) -> str:
    """Why may a problem of the id of an earlier one, on `line`, not be in the file?"""
    if all(getattr(problem, name) == getattr(first, name) for name in _HASHED):
        return (
            f"the problem of line {line} again (id {problem.id!r}: same {', '.join(_HASHED)});"
            " remove one of the two, or give each an 'id' of its own"
        )
    return (
        f"duplicate id {problem.id!r}, the problem on line {line} has it too; ids must be unique,"
        " leave 'id' out to have it computed from the content"
    )


def _parse_line(path: Path, number: int, line: str) -> Problem:
    try:
        data = json.loads(line, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{number}: malformed JSON ({error.msg} at column {error.colno})"
        ) from None
    except RecursionError:
        raise UserError(f"{path}:{number}: JSON nested too deeply to be a problem") from None
    try:
        return Problem.model_validate(data)
    except ValidationError as error:
        place, words = first_fault(error, Problem)
        field = ".".join(map(str, place[:_NAMED]))
        field = field if field.isprintable() else ascii(field)[1:-1]
        where = f" field '{field}':" if field else ""
        raise UserError(f"{path}:{number}:{where} {words}") from None


def _whole(digits: str) -> int:
    return int(digits) if len(digits.lstrip("-")) <= _LONGEST else _TOO_LONG


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write problems as JSONL, atomically."""
    lines = (p.model_dump_json(exclude_defaults=True) + "\n" for p in problems)
    write_text(Path(path), "".join(lines))


def problem_set_hash(problems: Sequence[Problem]) -> str:
    """Do two problem sets hold the same problems in the same order? 16 hex digits."""
    return content_hash([p.model_dump(mode="json") for p in problems])
