"""Which spans does somebody ask about? A way of cutting prompts, or a file of texts and places."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from analyses.context.spans import KINDS, Span, apart, cut, without
from nfcot_model.errors import UserError
from nfcot_model.faults import first_fault

__all__ = ["AskedSpan", "read_spans", "spans_of"]


class AskedSpan(BaseModel):
    """One line of a file of spans: a text, or character ranges, and whose prompt it is in.

    Without `trace_id` or `problem_id` (in full) it is looked for in every prompt. A text is taken
    wherever it stands in the prompt, all of its places together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = Field(default=None, min_length=1)
    ranges: list[tuple[int, int]] | None = Field(default=None, min_length=1)
    name: str | None = None
    step: int | None = Field(default=None, ge=0)
    trace_id: str | None = None
    problem_id: str | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> AskedSpan:
        if (self.text is None) == (self.ranges is None):
            raise ValueError("give either 'text' or 'ranges' ([[start, end], …], characters)")
        if self.ranges is not None and (self.trace_id or self.problem_id) is None:
            raise ValueError("'ranges' need a 'trace_id' or 'problem_id': prompts differ")
        return self

    def within(self, prompt: str) -> Span | None:
        """Where is it in this prompt? None where it is not, or runs past an end or itself."""
        if self.text is not None:
            places, start = [], prompt.find(self.text)
            while start >= 0:
                places.append((start, start + len(self.text)))
                start = prompt.find(self.text, places[-1][1])
        else:
            places = sorted((a, b) for a, b in self.ranges or [])
            if any(not 0 <= a < b <= len(prompt) for a, b in places):
                return None
            if any(not apart((x,), (y,)) for x, y in pairwise(places)):
                return None
        if not places:
            return None
        said = " … ".join(prompt[a:b] for a, b in places)
        return Span(tuple(places), self.name or self.text or said, self.step)


def read_spans(path: Path) -> list[AskedSpan]:
    """The spans in a JSONL file; raises UserError that names line and field."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--spans {path}: is neither {', '.join(KINDS)} nor a file that can be read ({error})"
        ) from None
    asked = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            asked.append(AskedSpan.model_validate(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: {_fault(error)}") from None
    if not asked:
        raise UserError(f"--spans {path}: holds no span; write one JSON object a line")
    return asked


def _fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return 'expected one JSON object, such as {"text": "the hint"}'
    place, words = first_fault(error, AskedSpan)
    return f"field '{'.'.join(map(str, place))}': {words}" if place else words


def spans_of(
    traces: pd.DataFrame, asked: str | Sequence[AskedSpan]
) -> tuple[list[list[Span]], int]:
    """The spans of each trace's prompt, one list per row of `traces`; and how many were left out.

    `asked` is one of `KINDS`, or spans. Left out are words, clauses or sentences that are the whole
    of their prompt. Raises UserError for a span that is in no prompt it was asked of, for the trace
    or problem of a span that is not among these, for one of the user's whose removal leaves
    nothing, and where no prompt has any span at all.
    """
    prompts = traces["prompt"].tolist()
    if isinstance(asked, str):
        found = [cut(prompt, asked) for prompt in prompts]
        kept = [
            [span for span in spans if without(prompt, span.ranges).strip()]
            for prompt, spans in zip(prompts, found, strict=True)
        ]
        if not any(kept):
            raise UserError(
                f"--spans {asked}: no prompt has {asked} without which something is left; cut"
                " another way, or give a file of spans"
            )
        return kept, sum(map(len, found)) - sum(map(len, kept))
    result: list[list[Span]] = [[] for _ in prompts]
    for number, one in enumerate(asked, start=1):
        _place(one, number, traces, result)
    return result, 0


def _place(one: AskedSpan, number: int, traces: pd.DataFrame, result: list[list[Span]]) -> None:
    """Put a span into every trace it was asked of."""
    mine = np.ones(len(traces), dtype=bool)
    for field in ("trace_id", "problem_id"):
        wanted = getattr(one, field)
        if wanted is not None:
            mine &= (traces[field] == wanted).to_numpy()
            if not mine.any():
                raise UserError(f"--spans, span {number}: no trace has {field} '{wanted}'")
    hits = 0
    for row in np.flatnonzero(mine).tolist():
        prompt = traces["prompt"].iat[row]
        span = one.within(prompt)
        if span is None:
            continue
        if not without(prompt, span.ranges).strip():
            raise UserError(
                f"--spans, span {number}: is the whole prompt of trace"
                f" {traces['trace_id'].iat[row]}; without it nothing is left to think about"
            )
        result[row].append(span)
        hits += 1
    if not hits:
        what = repr(one.text) if one.text is not None else f"characters {one.ranges}"
        raise UserError(f"--spans, span {number}: {what} is in no prompt that it was asked of")
