"""What do the lenses read in a run, how often is it true, and how often would it be by chance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.lens.measures import measured
from analyses.lens.plan import Plan
from analyses.lens.readings import Progress, read
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = ["NOT_SHOWN", "LensResult", "Plan", "asked", "read_run_through", "read_trace_through"]

NOT_SHOWN = (
    "Readable is not used: a text or token that a lens finds at a thought shows that the state"
    " there carries it, not that the answer depends on it; only interventions show that. Thoughts"
    " encode the prompt, so what is read may stand in the prompt already. A lens at its floor shows"
    " that this lens finds nothing, not that nothing is there."
)


@dataclass(frozen=True)
class LensResult:
    """What was read. `summary` as in the JSON; `rows`: one row per lens, layer and thought.

    Columns of rows: `trace_id`, `group`, `world`, `k`, `back`, `lens`, `layer` (null where a lens
    has none), the true texts `step`, `last_step`, `answer`, `said` (the text, or the top tokens),
    `probability` (of those tokens) and every measure of that lens, NaN where it does not apply.
    """

    summary: dict[str, Any]
    rows: pd.DataFrame


def read_run_through(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: Plan = Plan(),  # noqa: B008
    progress: Progress | None = None,
) -> LensResult:
    """What can be read at the thoughts of a run, beside what would be read by chance?

    `plan.n` traces, drawn with its seed; 95 % cluster-bootstrap intervals over problem groups.
    `progress` is called with numbers of traces, each trace counting once per pass over them
    (`passes`). Raises UserError for another checkpoint than the run's, a run without thoughts, and
    a lens or layer that the model does not have.
    """
    order = np.random.default_rng(plan.seed).permutation(len(run.traces))
    readings = read(run, reasoner, plan, np.sort(order[: plan.n]), progress)
    summary = readings.identity | {
        "asked": asked(run, plan),
        "population": _population(readings.thoughts, reasoner.variable_k)
        | {
            "traces_without_thoughts": min(plan.n, len(order))
            - readings.thoughts["trace"].nunique()
        },
        "measures": measured(readings.thoughts, readings.values, plan.seed),
        "notes": readings.notes + _missing_truth(readings.thoughts, reasoner.variable_k),
        "not_shown": NOT_SHOWN,
    }
    return LensResult(summary, readings.rows())


def read_trace_through(
    run: Run,
    reasoner: NFCoTReasoner,
    trace_id: str,
    plan: Plan = Plan(),  # noqa: B008
) -> LensResult:
    """What can be read at the thoughts of one trace? No shares: one trace has none.

    `trace_id` in full (`nfcot_model.traces.view.find_trace`). The summary has `trace` and
    `thoughts`: per thought `k`, the true `step` and what each lens says. Raises as
    `read_run_through` does.
    """
    chosen = np.flatnonzero((run.traces["trace_id"] == trace_id).to_numpy())
    if not chosen.size:
        raise UserError(f"{run.path}: holds no trace '{trace_id}'")
    if "affine" in (plan.lenses or ()):
        raise UserError("--lens affine: its maps are fitted on many traces; leave out --trace")
    readings = read(run, reasoner, plan, chosen, None)
    names = ("trace_id", "problem_id", "world", "prompt", "answer", "correct")
    summary = readings.identity | {
        "asked": asked(run, plan, trace_id),
        "trace": {name: run.traces[name].iat[chosen[0]] for name in names},
        "thoughts": readings.by_thought(),
        "notes": readings.notes,
        "not_shown": NOT_SHOWN,
    }
    return LensResult(summary, readings.rows())


def asked(run: Run, plan: Plan, trace_id: str | None = None) -> dict[str, Any]:
    """What makes two readings the same? Run, trace and plan; known before anything is read."""
    return {"run_hash": run.hash, "trace_id": trace_id, **vars(plan)}


def _population(thoughts: pd.DataFrame, by_step: bool) -> dict[str, int]:
    """Who was looked at, and who has no measure?"""
    chosen = thoughts.drop_duplicates("trace")
    reached = thoughts.groupby("trace", sort=False)["step_index"].max().to_numpy() + 1
    unthought = (chosen["steps"].to_numpy() - reached).clip(min=0).sum() if by_step else 0
    beyond = (thoughts["steps"] > 0) & thoughts["step"].isna() if by_step else np.zeros(1)
    return {
        "traces": len(chosen),
        "groups": int(chosen["group"].nunique()),
        "thoughts": len(thoughts),
        "traces_without_steps": int((chosen["steps"] == 0).sum()),
        "thoughts_beyond_the_steps": int(beyond.sum()),
        "steps_never_thought": int(unthought),
        "traces_without_floor": int(chosen["foreign_answer"].isna().sum()),
    }


def _missing_truth(thoughts: pd.DataFrame, by_step: bool) -> list[str]:
    notes = []
    chosen = thoughts.drop_duplicates("trace")
    without = chosen["steps"] == 0
    if without.all():
        notes.append("no trace has reference steps: whether a lens says the true step is unknown")
    elif without.any():
        notes.append(f"{int(without.sum())} traces have no reference steps and no step measures")
    alone = chosen["foreign_answer"].isna()
    if alone.any():
        notes.append(
            f"{int(alone.sum())} traces have no floor: their world has no other problem group"
        )
    return notes
