"""Λ of the spans of some traces beside their placebos, as rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.context.placebo import Floats, Length, length_of, matched, peaks, rank
from analyses.context.ratio import log_ratios
from analyses.context.spans import Ranges, Span, without
from analyses.stored import stored_thoughts
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = ["TABLES", "block_tables"]

TABLES = ("spans", "thoughts", "placebos")
_PLACEBO = ("trace_id", "group", "span", "text", "step", "K", "total", "peak", "peak_k", "invalid")


@dataclass(frozen=True)
class _Removals:
    """What was found for each removal: the columns of `LogRatios`, NaN where it is not valid."""

    ratios: Floats
    stops: Floats
    peak: Floats
    peak_k: NDArray[np.int64]
    total: Floats
    valid: NDArray[np.bool_]


def block_tables(
    run: Run,
    reasoner: NFCoTReasoner,
    block: Sequence[tuple[int, Sequence[Span]]],
    pool: pd.DataFrame,
    placebos: int,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """`TABLES` of some traces (row of the run, its spans); each removal is scored once.

    `pool` as `elsewhere` gives it. Columns as `ContextResult` says.
    """
    rows = np.array([row for row, _ in block])
    prompts = run.traces["prompt"].iloc[rows].tolist()
    lengths = [
        [length_of(reasoner, prompt, span.ranges) for span in spans]
        for prompt, (_, spans) in zip(prompts, block, strict=True)
    ]
    beside: list[list[list[Span]]] = []
    places: dict[tuple[int, Ranges], int] = {}
    for i, (row, spans) in enumerate(block):
        rng = np.random.default_rng([seed, row])
        beside.append(
            [
                matched(reasoner, prompts[i], length, span.ranges, placebos, rng)
                for span, length in zip(spans, lengths[i], strict=True)
            ]
        )
        for span in [*spans, *(p for mine in beside[i] for p in mine)]:
            places.setdefault((i, span.ranges), len(places))
    removals = [(i, without(prompts[i], ranges)) for i, ranges in places]
    tau = float(run.manifest["decode"]["tau"])
    scored = log_ratios(reasoner, prompts, stored_thoughts(run, rows), removals, tau=tau)
    peak, peak_k, total = peaks(scored)
    valid = scored.valid.numpy()
    ratios, stops = (
        np.where(valid[:, None], values.double().numpy(), np.nan)
        for values in (scored.thoughts, scored.stop)
    )
    found = _Removals(ratios, stops, peak, peak_k, total, valid)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for i, (row, spans) in enumerate(block):
        trace = run.traces.iloc[row]
        for number, span in enumerate(spans):
            own = places[i, span.ranges]
            here = np.array([places[i, p.ranges] for p in beside[i][number]], dtype=np.int64)
            there = _there(pool, lengths[i][number], str(trace["group"]))
            who = {"trace_id": trace["trace_id"], "group": trace["group"], "span": number}
            facts = _span_row(trace, prompts[i], span, lengths[i][number])
            tables["spans"].append(who | facts | _ranked(found, own, here, there, int(trace["K"])))
            tables["thoughts"] += [
                who | row for row in _thought_rows(found, own, here, there, int(trace["K"]))
            ]
            tables["placebos"] += [
                who
                | {"text": p.name, "step": span.step, "K": int(trace["K"])}
                | {name: getattr(found, name)[j] for name in ("total", "peak", "peak_k")}
                | {"invalid": not valid[j]}
                for p, j in zip(beside[i][number], here, strict=True)
            ]
    frames = {
        name: pd.DataFrame(made, columns=list(_PLACEBO) if name == "placebos" else None)
        for name, made in tables.items()
    }
    for name in ("spans", "placebos"):
        frames[name]["step"] = frames[name]["step"].astype("Int64")
    return frames


def _span_row(trace: pd.Series, prompt: str, span: Span, length: Length) -> dict[str, Any]:
    return {
        "world": trace["world"],
        "name": span.name,
        "text": " … ".join(prompt[a:b] for a, b in span.ranges),
        "ranges": json.dumps(span.ranges),
        "step": span.step,
        "words": length.words,
        "tokens": length.tokens,
        "K": int(trace["K"]),
    }


def _ranked(
    found: _Removals, own: int, here: NDArray[np.int64], there: pd.DataFrame, K: int
) -> dict[str, Any]:
    ranks = {
        f"p_{name}_{where}": _rank(getattr(found, name)[own], others)
        for name in ("total", "peak")
        for where, others in (
            ("same", getattr(found, name)[here]),
            ("elsewhere", there[name].to_numpy(dtype=np.float64)),
        )
    }
    return {
        "total": found.total[own],
        "stop_total": found.stops[own, :K].sum(),
        "peak": found.peak[own],
        "peak_k": found.peak_k[own],
        "n_same": len(here),
        "n_elsewhere": len(there),
        **ranks,
        "invalid": not found.valid[own],
    }


def _thought_rows(
    found: _Removals, own: int, here: NDArray[np.int64], there: pd.DataFrame, K: int
) -> Iterator[dict[str, Any]]:
    values = found.ratios[own, :K]
    p_same = rank(values, found.ratios[here][:, :K].T)
    p_there = rank(values, np.broadcast_to(there["peak"].to_numpy(np.float64), (K, len(there))))
    for k in range(K):
        yield {
            "k": k,
            "log_ratio": values[k],
            "stop_log_ratio": found.stops[own, k],
            "p_same": p_same[k],
            "p_elsewhere": p_there[k],
            "invalid": not found.valid[own],
        }


def _there(pool: pd.DataFrame, length: Length, group: str) -> pd.DataFrame:
    """The placebos elsewhere of this length, but for those of the same problem group."""
    fits = (pool["words"] == length.words) & (pool["tokens"] == length.tokens)
    return pool[fits & (pool["group"] != group)]


def _rank(value: float, placebos: Floats) -> float:
    return float(rank(np.array([value]), placebos[None])[0])
