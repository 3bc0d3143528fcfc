"""Λ over the prompts of a run: every span, every thought, ranked among placebos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.blocks import claim, keep_block, kept_block
from analyses.context.asked import AskedSpan, spans_of
from analyses.context.placebo import elsewhere, length_of
from analyses.context.rows import TABLES, block_tables
from analyses.context.spans import KINDS, Span
from analyses.context.summary import NOT_SHOWN, by_name, localisation
from analyses.scored import MODEL_DENSITY, Scored
from analyses.stored import refuse_unscored
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = ["ContextResult", "Plan", "context_study"]

BLOCK = 16
FILE = "study.json"


@dataclass(frozen=True)
class Plan:
    """Which spans (one of `KINDS`, or some of the user's), over how many traces, how many placebos?

    `placebos`: at most so many of each span's own prompt; `elsewhere`: so many in other prompts,
    per length of span. `seed` decides traces and placebos.
    """

    spans: str | tuple[AskedSpan, ...] = "words"
    n: int = 50
    placebos: int = 20
    elsewhere: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.spans, str) and self.spans not in KINDS:
            raise UserError(
                f"--spans '{self.spans}': expected one of {', '.join(KINDS)}, or a file"
            )
        for flag, value, least in (
            ("-n", self.n, 1),
            ("--placebos", self.placebos, 0),
            ("--elsewhere", self.elsewhere, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise UserError(f"{flag} {value}: expected at least {least}")

    def to_dict(self) -> dict[str, Any]:
        spans = self.spans
        said = spans if isinstance(spans, str) else [one.model_dump() for one in spans]
        return {**asdict(self), "spans": said}


@dataclass(frozen=True)
class ContextResult:
    """Λ of every span asked about. `summary` as in the JSON; the tables, one row each per

    * `spans`: trace and span: where and what it is, `total`, `stop_total`, `peak` (largest Λ over
      thoughts) at `peak_k`, ranks `p_…` among placebos of the same prompt and elsewhere.
    * `thoughts`: trace, span and thought `k`: `log_ratio`, `stop_log_ratio`, ranks.
    * `placebos`: placebo in the same prompt: `total`, `peak`, `peak_k`.

    A large Λ says that the model's density of this very thought hangs on this text; not that the
    text caused it, and not for what.
    """

    summary: dict[str, Any]
    spans: pd.DataFrame
    thoughts: pd.DataFrame
    placebos: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot audit lambda --json`."""
        return self.summary

    def to_frame(self) -> pd.DataFrame:
        """One row per trace, span and thought, with what is known of the span."""
        known = self.spans.drop(columns=["group", "invalid"])
        return self.thoughts.merge(known, on=["trace_id", "span"], suffixes=("", "_of_span"))


def context_study(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: Plan = Plan(),
    *,
    trace_id: str | None = None,
    out: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> ContextResult:
    """Which text of the prompts drove which thoughts? For `plan.n` traces, or one.

    With `out` finished blocks stay on disk and the study goes on where it was stopped. `progress`
    hears of finished traces. Thoughts are scored again, with their prompt and without each span,
    by `reasoner`, which must be the run's own model. Raises UserError as `spans_of` does, for an
    empty run, one without a density, and for an `out` of something else.
    """
    refuse_unscored(run)
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(f"{run.path}: was traced with another checkpoint; give that one")
    work, counts = _work(run, plan, trace_id)
    asked = {"run": run.hash, "trace_id": trace_id, "plan": plan.to_dict()}
    if out is not None:
        claim(out, FILE, asked, "study of Λ")
    pool = _pool(run, reasoner, plan, work, out)
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for start in range(0, len(work), BLOCK):
        block = work[start : start + BLOCK]
        name = f"{start // BLOCK:05d}"
        done = kept_block(out, name) if out is not None else None
        if done is None:
            done = block_tables(run, reasoner, block, pool, plan.placebos, plan.seed)
            if out is not None:
                keep_block(out, name, done)
        for table in TABLES:
            frames[table].append(done[table])
        if progress is not None:
            progress(len(block))
    tables = {n: pd.concat(parts, ignore_index=True) for n, parts in frames.items()}
    summary = {
        "run": {"name": run.name, "hash": run.hash},
        "scored": _scored(run, reasoner).to_dict(),
        "asked": asked,
        "population": {
            **counts,
            "groups": int(tables["spans"]["group"].nunique()),
            "spans": len(tables["spans"]),
            "spans_without_placebo_here": int((tables["spans"]["n_same"] == 0).sum()),
            "placebos_here": len(tables["placebos"]),
            "placebos_elsewhere": len(pool),
            "invalid": int(tables["spans"]["invalid"].sum()),
        },
        "by_name": by_name(tables["spans"], plan.seed),
        "localisation": localisation(tables, _slots(reasoner), plan.seed),
        "not_shown": NOT_SHOWN,
    }
    return ContextResult(summary, tables["spans"], tables["thoughts"], tables["placebos"])


def _work(
    run: Run, plan: Plan, trace_id: str | None
) -> tuple[list[tuple[int, list[Span]]], dict[str, int]]:
    """The traces to look at (rows) with their spans, and who was left out."""
    if trace_id is None:
        rows = np.random.default_rng(plan.seed).permutation(len(run.traces))
        # Spans of the user's: all traces are searched, for few may hold them.
        rows = np.sort(rows[: plan.n]) if isinstance(plan.spans, str) else rows
    else:
        rows = np.flatnonzero((run.traces["trace_id"] == trace_id).to_numpy())
        if not rows.size:
            raise UserError(f"{run.path}: holds no trace '{trace_id}'")
    found, left_out = spans_of(run.traces.iloc[rows], plan.spans)
    pairs = zip(rows.tolist(), found, strict=True)
    having = [(row, spans) for row, spans in pairs if spans and run.traces["K"].iat[row]]
    if not having:
        raise UserError(f"{run.path}: no trace asked about has both a span and a thought")
    work = sorted(having[: plan.n], key=lambda pair: pair[0])
    return work, {
        "traces": len(work),
        "traces_without_span_or_thought": len(rows) - len(having),
        "traces_beyond_n": len(having) - len(work),
        "spans_that_are_the_prompt": left_out,
    }


def _scored(run: Run, reasoner: NFCoTReasoner) -> Scored:
    return Scored(
        scorer="self, counterfactual-context",
        checkpoint_hash=reasoner.checkpoint_hash,
        context="the prompt, and the prompt without the span",
        tau=float(run.manifest["decode"]["tau"]),
        tensor="u as stored (Λ of e is the same number)",
        density=f"p(u_k | u_<k, context), {MODEL_DENSITY}; stop decisions in columns of their own",
    )


def _slots(reasoner: NFCoTReasoner) -> int | None:
    return int(reasoner.model.config.codec["slots"]) if reasoner.variable_k else None


def _pool(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: Plan,
    work: Sequence[tuple[int, Sequence[Span]]],
    out: Path | None,
) -> pd.DataFrame:
    kept = kept_block(out, "elsewhere") if out is not None else None
    if kept is not None:
        return kept["pool"]
    prompts = run.traces["prompt"]
    lengths = {length_of(reasoner, prompts.iat[r], s.ranges) for r, mine in work for s in mine}
    tau = float(run.manifest["decode"]["tau"])
    pool = elsewhere(run, reasoner, sorted(lengths), plan.elsewhere, plan.seed, tau)
    if out is not None:
        keep_block(out, "elsewhere", {"pool": pool})
    return pool
