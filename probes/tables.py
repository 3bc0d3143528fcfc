"""What does the user's own file say of traces or thoughts?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from nfcot_model.errors import UserError
from nfcot_model.traces import Run

__all__ = ["LabelTable", "read_label_table"]

# Cells that say nothing, however a program spelled that.
NOTHING = ("", "nan", "na", "n/a", "null")
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Values by trace, or by trace and thought (`by_thought`), each cell as it was written.

    `names`: the columns with values. An empty cell is no value, nor is NaN, NA, N/A or null.
    """

    path: Path
    names: list[str]
    by_thought: bool
    frame: pd.DataFrame = field(repr=False)

    def column(self, name: str, run: Run) -> pd.Series:
        """The values at each trace, or each thought, of the run; missing where there is none.

        Numbers when every cell is one, booleans when every cell is true or false, else texts.
        """
        keys = ["trace_id", "k"] if self.by_thought else ["trace_id"]
        own = run.thoughts[keys] if self.by_thought else run.traces[keys]
        values = _typed(self.frame[name])
        mine = pd.concat([self.frame[keys], values.rename("value")], axis=1)
        return own.merge(mine, how="left", on=keys)["value"]

    def refuse_no_number(self, name: str) -> None:
        """Raise UserError naming the first cell of a column that is no finite number."""
        filled = _filled(self.frame[name])
        numbers = pd.to_numeric(filled, errors="coerce").astype(float)
        bad = np.flatnonzero(filled.notna() & ~np.isfinite(numbers))
        if bad.size:
            row, cell = self.frame.index[bad[0]], filled.iloc[bad[0]]
            raise UserError(
                f"{self.path}, row {row}, column '{name}': '{cell}' is no"
                f" finite number ({bad.size} such cells); mend it, or leave the cell empty for no"
                " value"
            )


def _filled(cells: pd.Series) -> pd.Series:
    stripped = cells.str.strip()
    return stripped.where(~stripped.str.lower().isin(NOTHING))


def _typed(cells: pd.Series) -> pd.Series:
    filled = _filled(cells)
    present = filled.dropna()
    words = present.str.strip().str.lower()
    if words.isin(["true", "false"]).all():
        return filled.str.strip().str.lower().map({"true": True, "false": False})
    numbers = pd.to_numeric(present, errors="coerce")
    return pd.to_numeric(filled) if numbers.notna().all() else filled


def read_label_table(path: Path, runs: Sequence[Run]) -> LabelTable:
    """Which labels does a CSV hold? Columns trace_id, optionally k, then one or more of values.

    Every trace_id must be in one of the runs, and be there once (with k: once for each thought).
    Rows are counted from 1 after the header. Raises UserError naming file, row and column.
    """
    frame = _cells(path)
    names = [name for name in frame.columns if name not in ("trace_id", "k")]
    if "trace_id" not in frame.columns:
        raise UserError(
            f"{path}: no column trace_id; it has {', '.join(frame.columns)}; name the column of"
            " trace ids trace_id"
        )
    if not names:
        raise UserError(f"{path}: no column of values beside trace_id; add one per label")
    known = dict.fromkeys(t for run in runs for t in run.traces["trace_id"])
    strangers = np.flatnonzero(~frame["trace_id"].isin(known))
    if strangers.size:
        stranger = frame["trace_id"].iloc[strangers[0]]
        raise UserError(
            f"{path}, row {frame.index[strangers[0]]}, column 'trace_id': no trace '{stranger}' in"
            f" {', '.join(run.name for run in runs)} ({strangers.size} such rows); remove them"
        )
    by_thought = "k" in frame.columns
    keys = ["trace_id", "k"] if by_thought else ["trace_id"]
    if by_thought:
        frame["k"] = _thought_indices(path, frame, runs)
    doubled = np.flatnonzero(frame.duplicated(keys))
    if doubled.size:
        row = frame.iloc[doubled[0]]
        what = " and ".join(f"{key} {row[key]}" for key in keys)
        raise UserError(
            f"{path}, row {frame.index[doubled[0]]}, column '{keys[-1]}': {what} stands in an"
            f" earlier row too ({doubled.size} such rows); keep one"
        )
    return LabelTable(path, names, by_thought, frame)


def _cells(path: Path) -> pd.DataFrame:
    """Every cell as text, empty where a row ends early; a row that is too long is refused."""
    try:
        cells = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be read as CSV in UTF-8 ({reason})") from None
    header = [str(name).strip() for name in cells.iloc[0]]
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    if twice:
        raise UserError(f"{path}: two columns are named '{twice[0]}'; rename one")
    frame = cells.iloc[1:].fillna("")  # numbered from 1, blank lines counted and left out
    frame.columns = pd.Index(header)
    return frame[(frame != "").any(axis=1)]


def _thought_indices(path: Path, frame: pd.DataFrame, runs: Sequence[Run]) -> pd.Series:
    K = {t: k for run in runs for t, k in zip(run.traces["trace_id"], run.traces["K"], strict=True)}
    for row, trace, text in zip(frame.index, frame["trace_id"], frame["k"], strict=True):
        if not _WHOLE.fullmatch(text.strip()) or not 0 <= int(text) < K[trace]:
            raise UserError(
                f"{path}, row {row}, column 'k': '{text}' is no thought of trace {trace}, which has"
                f" {K[trace]}; k counts them from 0"
            )
    return frame["k"].astype(int)
