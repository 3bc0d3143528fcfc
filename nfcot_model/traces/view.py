"""A run, or one of its traces, as tables for the terminal.

Prompts, answers and labels come from models and files of others, so their control characters are
replaced: an escape sequence could otherwise rewrite what the reader sees.
"""

from __future__ import annotations

import pandas as pd
from rich.console import Group, RenderableType
from rich.markup import escape as escape_markup
from rich.table import Table

from nfcot_model.errors import UserError
from nfcot_model.traces.reader import Run

__all__ = ["find_trace", "printable", "run_facts", "run_view", "trace_facts", "trace_view"]

LISTED = 20
_HARMLESS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160))}
_HARMLESS |= {ord("\n"): "\n", ord("\t"): "\t"}


def printable(text: str) -> str:
    """The text without terminal control: C0 and C1 but tab and newline are replaced."""
    return text.translate(_HARMLESS)


def find_trace(run: Run, name: str) -> str:
    """Which trace id starts with `name`? Raises UserError for none or several."""
    ids = run.traces["trace_id"]
    found = ids[ids.str.startswith(name)].tolist()
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise UserError(f"{run.path}: holds no trace '{name}'; `nfcot show {run.path}` lists them")
    raise UserError(f"{run.path}: {len(found)} traces start with '{name}'; give more of the id")


def run_facts(run: Run) -> dict[str, object]:
    """What is in a run, in a few numbers? Means are over traces."""
    traces, decode = run.traces, run.manifest["decode"]
    facts: dict[str, object] = {
        "run": run.name,
        "hash": run.hash,
        "reasoner": run.manifest["reasoner"],
        "checkpoint": run.manifest["checkpoint_hash"],
        "tau": decode["tau"],
        "temperature": decode["temperature"],
        "seed": decode["seed"],
        "traces": len(traces),
        "promised": run.manifest["traces"],
        "problems": int(traces["problem_id"].nunique()),
        "thoughts": len(run.thoughts),
        "width": run.D,
        "tensors": run.tensor_names,
        "labels": run.label_columns(),
    }
    if len(traces):
        facts |= {
            "correct": float(traces["correct"].mean()),
            "decode_match": _number(traces["decode_match"].mean()),
            "energy_per_dimension": _number(run.thoughts["energy"].mean() / max(run.D, 1)),
            "logp_u": _number(traces["logp_u"].mean()),
            "stopped": float(traces["stopped"].mean()),
            "replay_error_max": _number(traces["replay_error"].max()),
        }
    return facts


def trace_facts(run: Run, trace_id: str) -> dict[str, object]:
    """One trace's row, with its thoughts' rows under `thoughts`."""
    trace = run.traces[run.traces["trace_id"] == trace_id].iloc[0]
    thoughts = run.thoughts[run.thoughts["trace_id"] == trace_id]
    rows = [{str(k): _plain(v) for k, v in row.items()} for row in thoughts.to_dict("records")]
    return {str(k): _plain(v) for k, v in trace.items()} | {"thoughts": rows}


def run_view(run: Run) -> RenderableType:
    """The run's facts and its first traces."""
    facts = Table(show_header=False, box=None)
    for name, value in run_facts(run).items():
        facts.add_row(f"[dim]{name}[/]", _safe(_shown(value)))
    table = Table(title=f"first {min(LISTED, len(run.traces))} of {len(run.traces)} traces")
    for column in ("trace", "problem", "K", "log p(u)", "energy", "verdict", "answer"):
        table.add_column(column, no_wrap=column in ("trace", "problem"), overflow="fold")
    for row in run.traces.head(LISTED).to_dict("records"):
        table.add_row(
            _safe(row["trace_id"]),
            _safe(row["problem_id"]),
            str(row["K"]),
            _decimal(row["logp_u"]),
            _decimal(row["energy"]),
            _verdict(row["verdict"]),
            _safe(row["answer"]),
        )
    return Group(facts, table)


def trace_view(run: Run, trace_id: str) -> RenderableType:
    """One trace: prompt, each thought's text and likelihood beside the true step, the answer."""
    trace = trace_facts(run, trace_id)
    facts = Table(show_header=False, box=None)
    for name in ("trace_id", "problem_id", "group", "sample", "labels", "prompt"):
        facts.add_row(f"[dim]{name}[/]", _safe(str(trace[name])))
    table = Table()
    for column in ("k", "decoded text", "true step", "log p", "energy", "log volume", "go on?"):
        table.add_column(column, overflow="fold")
    thoughts = run.thoughts[run.thoughts["trace_id"] == trace_id]
    for row in thoughts.to_dict("records"):
        match = _plain(row["match"])
        style = "" if match is None else "green" if match else "red"
        table.add_row(
            str(row["k"]),
            _safe(row["text"]),
            _safe(str(_plain(row["reference"]) or "–")),
            *(_decimal(row[name]) for name in ("logp", "energy", "logvol", "stop_logp")),
            style=style,
        )
    end = Table(show_header=False, box=None)
    end.add_row("[dim]answer[/]", _safe(str(trace["answer"])))
    end.add_row("[dim]reference[/]", _safe(str(trace["reference_answer"] or "–")))
    end.add_row(
        "[dim]verdict[/]", f"{_verdict(trace['verdict'])} {_safe(str(trace['verdict_detail']))}"
    )
    for name in ("stopped", "logp_u", "logp_u_K", "logp_e", "energy", "logvol", "replay_error"):
        end.add_row(f"[dim]{name}[/]", _safe(_shown(trace[name])))
    return Group(facts, table, end)


def _safe(text: str) -> str:
    """The text as it is, for rich: no markup and no terminal control of its own."""
    return escape_markup(printable(text))


def _verdict(status: object) -> str:
    return f"[{'green' if status == 'passed' else 'red'}]{_safe(str(status))}[/]"


def _decimal(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


def _shown(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _plain(value: object) -> object:
    if isinstance(value, list):
        return value
    if pd.isna(value):  # type: ignore[call-overload]
        return None
    return value.item() if hasattr(value, "item") else value
