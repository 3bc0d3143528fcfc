"""What is true at a thought, of a step, or of a whole trace?

`NAME` is read at the site's thought (labels of steps, columns of thoughts) or trace (labels of the
problem, columns of traces, a CSV by trace). `NAME@J` is read at step J of the trace, negative from
the end, whatever the site; `NAME@next` and `NAME@previous` at the step beside the thought's own.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from nfcot_model.traces.schema import THOUGHTS_SCHEMA, TRACES_SCHEMA
from probes.sites import Site, SiteRows, step_rows
from probes.tables import LabelTable

__all__ = ["KINDS", "Labels", "available_labels", "class_key", "has_label", "read_labels"]

KINDS = ("auto", "binary", "multiclass", "number")
MAX_WHOLE = 20
MOST = sys.float_info.max
_BOOKKEEPING = {"trace_id", "labels", "steps", "shard", "row", "u_sha256"}
TRACE_COLUMNS = [name for name in TRACES_SCHEMA.names if name not in _BOOKKEEPING]
THOUGHT_COLUMNS = [name for name in THOUGHTS_SCHEMA.names if name not in _BOOKKEEPING]
_FORM = re.compile(
    r"(?:(step|problem|trace|thought|csv):)?(.+?)(?:@(-?[0-9]{1,9}|next|previous))?",
    re.ASCII | re.DOTALL,
)


@dataclass(frozen=True)
class Labels:
    """The label at each site row: `values` [n] (object), `known` [n] False where there is none.

    `level`: `step`, `problem`, `trace`, `thought` or `csv`, where the label stands. `kind`:
    `binary`, `multiclass` or `number`. `classes`: those of the known rows, in the order of class
    indices; None for a number. With a `positive` value the classes are `not VALUE` and VALUE.
    """

    values: NDArray[np.object_]
    known: NDArray[np.bool_]
    level: str
    kind: str
    classes: list[Any] | None


@dataclass(frozen=True)
class _Column:
    """One label in the whole run: row -> `codes` -> `distinct`; None where there is no value."""

    codes: NDArray[np.int64]
    distinct: list[Any]

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """The values at these rows, None for row -1."""
        table = np.empty(len(self.distinct) + 1, dtype=object)
        table[:-1] = self.distinct
        codes = np.append(self.codes, -1)
        return table[codes[rows]]


@dataclass(frozen=True)
class _Found:
    """Where does a label stand, and at which step is it read (None: at the site's own)?"""

    level: str
    name: str
    step: str | None


def _names(run: Run, table: LabelTable | None) -> dict[str, list[str]]:
    """Which labels are there, by where they stand?"""
    return {
        "step": _json_names(run.thoughts["labels"]),
        "problem": _json_names(run.traces["labels"]),
        "trace": TRACE_COLUMNS,
        "thought": THOUGHT_COLUMNS,
        "csv": table.names if table is not None else [],
    }


def _json_names(texts: pd.Series) -> list[str]:
    return list(dict.fromkeys(name for text in pd.unique(texts) for name in json.loads(text)))


def available_labels(run: Run, table: LabelTable | None = None) -> str:
    """Which labels does this run have? One line for messages."""
    parts = [f"{level}: {', '.join(names)}" for level, names in _names(run, table).items() if names]
    return "; ".join(parts)


def has_label(run: Run, label: str, *, table: LabelTable | None = None) -> bool:
    """Can the label be asked for? Raises UserError when its name stands in several places."""
    return _find(run, label, table) is not None


def _find(run: Run, label: str, table: LabelTable | None) -> _Found | None:
    names = _names(run, table)
    match = _FORM.fullmatch(label)
    if match is None:
        return None
    level, name, step = match.groups()
    whole = f"{name}@{step}" if step else name
    # a name that itself holds a colon or an @ is taken as it stands
    for wanted, asked, at in ((None, label, None), (level, whole, None), (level, name, step)):
        levels = [x for x, found in names.items() if asked in found and wanted in (None, x)]
        if "step" in levels and "problem" in levels:
            levels.remove("problem")
        if len(levels) > 1:
            choices = " or ".join(f"{x}:{asked}" + (f"@{at}" if at else "") for x in levels)
            raise UserError(
                f"--label '{label}': '{asked}' stands in several places; write {choices}"
            )
        if levels:
            return _Found(levels[0], asked, at)
    return None


def read_labels(
    run: Run,
    label: str,
    site: Site,
    rows: SiteRows,
    *,
    table: LabelTable | None = None,
    kind: str = "auto",
    positive: object = None,
) -> Labels:
    """Which value has the label at each site row, and is it a class or a number?

    kind: `auto` makes classes of texts, booleans, and numbers that are whole and of at most 20
    values; other numbers stay numbers. All values of the run decide, so that the kind is the same
    at every site. positive: this value against the rest; a text is read as JSON where the label has
    such a value. Raises UserError, listing the labels there are, when the run has none of that
    name, when a place that pools thoughts leaves open which one is meant, when the values are not
    of the kind, and for numbers with a `positive` one.
    """
    if kind not in KINDS:
        raise UserError(f"--kind '{kind}': expected one of {', '.join(KINDS)}")
    if positive is not None and kind == "number":
        raise UserError(
            "--kind 'number': with --positive a label has two classes; leave one of them out"
        )
    found = _find(run, label, table)
    if found is None:
        raise UserError(
            f"--label '{label}': not in {run.name}; existing labels: {available_labels(run, table)}"
        )
    column = _column(run, label, found, table)
    values = column.at(_rows(run, label, site, rows, found, table))
    known = np.array([v is not None for v in values], dtype=bool)
    present = [v for v in column.distinct if v is not None]
    if positive is not None:
        values, classes = _against_rest(values, known, present, positive)
        return Labels(values, known, found.level, "binary", classes)
    if kind == "number" or (kind == "auto" and _is_number(present)):
        _refuse_no_numbers(run, label, found, present, table)
        return Labels(values, known, found.level, "number", None)
    classes = _classes(values[known])
    if kind == "binary" and len(classes) > 2:
        raise UserError(
            f"--label '{label}': has {len(classes)} classes at --site {site}; give --positive VALUE"
            f" (one of {_listed(classes)}) for that one against the rest"
        )
    if kind == "auto":
        kind = "binary" if len(set(map(class_key, present))) <= 2 else "multiclass"
    return Labels(values, known, found.level, kind, classes)


def _rows(
    run: Run,
    label: str,
    site: Site,
    rows: SiteRows,
    found: _Found,
    table: LabelTable | None,
) -> NDArray[np.int64]:
    """In which row of its column is the label of each site row? -1 for none."""
    by_thought = found.level in ("step", "thought") or (
        found.level == "csv" and table is not None and table.by_thought
    )
    if not by_thought:
        if found.step is not None:
            raise UserError(
                f"--label '{label}': '{found.name}' has one value per trace, none per step; write"
                f" {found.level}:{found.name}"
            )
        return rows.trace
    if found.step is None or found.step in ("next", "previous"):
        if not site.place.single:
            raise UserError(
                f"--label '{label}': has a value at each thought, and --site {site} reads several;"
                f" name the step, for example {found.name}@-1 for the last"
            )
        if found.step is None:
            return rows.last
        wanted = np.full(len(run.traces), -1, dtype=np.int64)
        own = run.thoughts["step"].to_numpy(dtype=np.int64)[rows.last]
        wanted[rows.trace] = own + (1 if found.step == "next" else -1)
        return step_rows(run, wanted)[rows.trace]
    return step_rows(run, int(found.step))[rows.trace]


def _column(run: Run, label: str, found: _Found, table: LabelTable | None) -> _Column:
    if found.level in ("step", "problem"):
        frame = run.thoughts if found.level == "step" else run.traces
        codes, texts = pd.factorize(frame["labels"])
        distinct = [json.loads(text).get(found.name) for text in texts]
        if any(isinstance(value, list | dict) for value in distinct):
            raise UserError(
                f"--label '{label}': holds lists or objects; a class is one text or number"
            )
    else:
        if found.level == "csv" and table is not None:
            series = table.column(found.name, run)
        else:
            series = (run.traces if found.level == "trace" else run.thoughts)[found.name]
        codes, distinct = pd.factorize(series)
    return _Column(np.asarray(codes, dtype=np.int64), [_plain(value) for value in distinct])


def _plain(value: Any) -> Any:
    """One spelling per class: 3.0 (a column with gaps) and 3 are the same label; NaN is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and np.isnan(value):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def class_key(value: Any) -> tuple[type, Any]:
    """Are two values one class? True and 1 are not, though Python calls them equal."""
    return type(value), value


def _classes(values: NDArray[np.object_]) -> list[Any]:
    distinct = {class_key(value): value for value in values}.values()
    # booleans, then numbers, then texts
    return sorted(distinct, key=lambda v: (isinstance(v, str), not isinstance(v, bool), v))


def _is_number(present: Sequence[Any]) -> bool:
    numbers = [v for v in present if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(present) or not numbers:
        return False
    return any(isinstance(v, float) for v in numbers) or len(set(numbers)) > MAX_WHOLE


def _refuse_no_numbers(
    run: Run, label: str, found: _Found, present: Sequence[Any], table: LabelTable | None
) -> None:
    bad = [v for v in present if not (isinstance(v, int | float) and abs(v) <= MOST)]
    if not bad:
        return
    if found.level == "csv" and table is not None:
        table.refuse_no_number(found.name)
    raise UserError(
        f"--label '{label}': {run.name} holds {bad[0]!r} there, which is no finite number; read it"
        " as classes (--kind binary or multiclass) or choose another label"
    )


def _against_rest(
    values: NDArray[np.object_],
    known: NDArray[np.bool_],
    present: Sequence[Any],
    positive: object,
) -> tuple[NDArray[np.object_], list[Any]]:
    chosen = _positive(positive, present)
    classes = [f"not {chosen}", chosen]
    result = np.full(len(values), None, dtype=object)
    for i in np.flatnonzero(known):
        result[i] = classes[class_key(values[i]) == class_key(chosen)]
    return result, classes


def _positive(positive: object, present: Sequence[Any]) -> Any:
    """The value that is meant: 3 where the label holds numbers, "3" where it holds texts."""
    if not isinstance(positive, str) or class_key(positive) in map(class_key, present):
        return _plain(positive)
    try:
        parsed = _plain(json.loads(positive))
    except ValueError:
        return positive
    return parsed if isinstance(parsed, str | int | float) else positive


def _listed(classes: Sequence[Any]) -> str:
    shown = ", ".join(map(json.dumps, classes[:10]))
    return shown + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")
