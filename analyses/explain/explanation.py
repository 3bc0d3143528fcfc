"""One trace: its thoughts against clean ones, the nearest of these, its prompt, its causes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.context.study import ContextResult, Plan, context_study
from analyses.explain.causal import causal_check, find_causal
from analyses.explain.clean import LEVELS, bands, neighbours, refuse_other_settings
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = ["NOT_SHOWN", "Explanation", "explain_trace"]

NOT_SHOWN = (
    "This page collects evidence, it gives no verdict. Scores of a model about its own thoughts say"
    " nothing of their intent; decoded text is the codec's reading; Λ and neighbours are no causal"
    " proof; ranks of single thoughts are not corrected for how many there are. Nothing here being"
    " unusual is not evidence of aligned reasoning."
)
SCORES = ("energy", "logvol", "logp")


@dataclass(frozen=True)
class Explanation:
    """What is known about one trace. `summary` as in the JSON; `context` are its tables of Λ."""

    summary: dict[str, Any]
    context: ContextResult

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot audit explain --json`."""
        return self.summary

    def to_frame(self) -> pd.DataFrame:
        """Λ of every span and thought, as `ContextResult.to_frame`."""
        return self.context.to_frame()


def explain_trace(
    run: Run,
    reasoner: NFCoTReasoner,
    trace_id: str,
    plan: Plan = Plan(),  # noqa: B008
    *,
    clean: Run | None = None,
    causal: Path | None = None,
) -> Explanation:
    """What is known about this trace (id in full), without judging it?

    Scores are those stored in the run. With `clean`: bands and ranks of each thought's scores, and
    the nearest clean thoughts, among other problem groups. Λ of the spans of its prompt, with
    placebos, is computed anew. `causal`: the folder of a study of this run; otherwise one beside it
    is used. Raises UserError for an unknown trace, one without thoughts, other settings, and as
    `context_study` does.
    """
    found = np.flatnonzero((run.traces["trace_id"] == trace_id).to_numpy())
    if not found.size:
        raise UserError(f"{run.path}: holds no trace '{trace_id}'")
    trace = run.traces.iloc[int(found[0])]
    if not trace["K"]:
        raise UserError(f"{run.path}: trace {trace_id} has no thought to explain")
    if clean is not None:
        refuse_other_settings(run, clean)
    folder = find_causal(run, causal)
    context = context_study(run, reasoner, plan, trace_id=trace_id)
    thoughts = run.thoughts[run.thoughts["trace_id"] == trace_id]
    names = ("k", "text", "reference", "match", *SCORES, "stop_logp")
    rows = [{name: _plain(row[name]) for name in names} for row in thoughts.to_dict("records")]
    if clean is not None:
        usual = bands(clean, thoughts[["k", *SCORES]], trace["group"])
        near = neighbours(clean, run.trace_tensor("u", trace_id), trace["group"], seed=plan.seed)
        for row, band, beside in zip(rows, usual, near, strict=True):
            row |= {"clean": band, "neighbours": beside}
    facts = ("trace_id", "problem_id", "group", "world", "prompt", "answer", "reference_answer")
    numbers = ("correct", "stopped", "tau", "logp_u", "logp_e", "replay_error")
    summary = {
        "run": {"name": run.name, "hash": run.hash},
        "trace": {name: _plain(trace[name]) for name in (*facts, *numbers)},
        "scored": {
            "profile": {
                "scorer": "self",
                "checkpoint_hash": run.manifest["checkpoint_hash"],
                "context": "the prompt",
                "tau": float(run.manifest["decode"]["tau"]),
                "tensor": "u as stored",
                "density": "p(u_k | u_<k, prompt), as recorded in the run",
            },
            "lambda": context.summary["scored"],
        },
        "calibration": None if clean is None else {"run": clean.name, "run_hash": clean.hash},
        "levels": list(LEVELS),
        "thoughts": rows,
        "lambda": _lambda(context),
        "causal": None if folder is None else causal_check(folder, trace),
        "invalid": not np.isfinite(thoughts[list(SCORES)].to_numpy(dtype=np.float64)).all(),
        "not_shown": NOT_SHOWN,
    }
    return Explanation(summary, context)


def _lambda(context: ContextResult) -> dict[str, Any]:
    """The map: per span its Λ by thought, with ranks."""
    entries = []
    for span in context.spans.to_dict("records"):
        mine = context.thoughts[context.thoughts["span"] == span["span"]].sort_values("k")
        names = ("text", "ranges", "step", "tokens", "total", "stop_total", "peak_k")
        ranks = [name for name in span if name.startswith("p_")]
        entries.append(
            {name: _plain(span[name]) for name in (*names, *ranks, "invalid")}
            | {
                "by_thought": [_plain(v) for v in mine["log_ratio"]],
                "p_same": [_plain(v) for v in mine["p_same"]],
                "p_elsewhere": [_plain(v) for v in mine["p_elsewhere"]],
            }
        )
    population = context.summary["population"]
    return {"spans": entries, "population": population, "asked": context.summary["asked"]}


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
