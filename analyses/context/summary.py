"""Λ over many traces: by name of the span, and does it point at the right thought?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analyses.lens.measures import estimates
from probes.intervals import Estimate

__all__ = ["ALPHA", "NOT_SHOWN", "by_name", "localisation"]

ALPHA = 0.05
MOST_NAMES = 200
LEAST_PLACEBOS = round(1 / ALPHA) - 1

NOT_SHOWN = (
    "Λ is no causal proof. It compares how likely the stored thoughts are with a part of the prompt"
    " and without it; what the model would have thought without it is not asked. Removing text also"
    " shortens the prompt, moves what follows and may leave it ungrammatical; placebos of matched"
    " length bound that, they do not remove it. A thought is scored given those before it, so text"
    " that acted through an earlier thought has its Λ there. Two spans that say the same cover for"
    " each other, and both look idle. A rank among placebos is only as good as the placebos are"
    " alike; other text of the same prompt may drive thoughts too."
)


def by_name(spans: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """What do spans of one name do on average? Means with 95 % intervals over problem groups.

    `…_below`: share with a rank of at most 0.05 among its placebos, of those with at least 19 of
    them (fewer cannot reach it). Sorted by mean total, at most 200 names; spans that are `invalid`
    are left out of the means only.
    """
    entries = []
    for name, mine in spans.groupby("name", sort=True):
        columns = {name_: mine[name_] for name_ in ("total", "stop_total", "peak")}
        for where in ("same", "elsewhere"):
            for what in ("total", "peak"):
                p = mine[f"p_{what}_{where}"]
                columns[f"{what}_{where}_below"] = _below(p, mine[f"n_{where}"])
        found = _means(columns, mine["group"], seed)
        entries.append(
            {
                "name": name,
                "n": len(mine),
                "groups": int(mine["group"].nunique()),
                "invalid": int(mine["invalid"].sum()),
                **{key: value.to_dict() for key, value in found.items()},
            }
        )
    entries.sort(key=lambda e: -(e["total"]["value"] if e["total"]["value"] is not None else 0.0))
    return entries[:MOST_NAMES]


def _below(p: pd.Series, placebos: pd.Series) -> pd.Series:
    """Is the rank at most `ALPHA`? NaN where it could not be."""
    can = p.notna() & (placebos >= LEAST_PLACEBOS)
    return (p <= ALPHA).astype(float).where(can)


def _means(columns: Mapping[str, pd.Series], groups: pd.Series, seed: int) -> dict[str, Estimate]:
    """Means with intervals over groups; shares of 0 or 1 end where the exact interval does."""
    values = np.stack([c.to_numpy(dtype=np.float64) for c in columns.values()], axis=1)
    shares = np.array([name.endswith(("top1", "below")) for name in columns])
    found = estimates(values, groups.to_numpy(dtype=object), seed, shares)
    return dict(zip(columns, found, strict=True))


def localisation(
    tables: Mapping[str, pd.DataFrame], slots: int | None, seed: int
) -> list[dict[str, Any]]:
    """Does Λ of a span that is said to drive a step peak at the thoughts of that step?

    One entry per world, and per step index within it (`step` None: all). `top1`: share of spans
    whose largest Λ is at a thought of their step; `placebo_top1`: the same of their placebos, asked
    for the same step; `above`: the difference, per span. `chance`: one thought in K. `owner_top1`:
    share of steps whose thoughts have the largest Λ for their own span, among all spans with a
    step; `owner_chance`: one in as many. `own_below`: share of them whose Λ at the thoughts of
    their step ranks at most 0.05 among placebos of the same prompt, at the same thoughts, of those
    with at least 19 placebos. Spans whose step was never thought are only counted. Empty where no
    span has a step, or no thought has one (a codec of whole reasonings).
    """
    spans = tables["spans"][tables["spans"]["step"].notna()]
    if not len(spans) or slots is None:
        return []
    spans = spans.assign(
        reached=spans["K"] >= (spans["step"] + 1) * slots,
        top1=_hits(spans, slots),
        chance=slots / spans["K"],
    )
    beside = tables["placebos"]
    beside = beside[beside["step"].notna()]
    hits = beside.assign(placebo_top1=_hits(beside, slots))
    mean = hits.groupby(["trace_id", "span"])["placebo_top1"].mean().reset_index()
    spans = spans.merge(mean, on=["trace_id", "span"], how="left")
    spans = spans.merge(_owners(tables, spans, slots), on=["trace_id", "span"], how="left")
    spans["above"] = spans["top1"] - spans["placebo_top1"]
    entries = []
    for world, mine in spans.groupby("world", sort=True):
        steps = [None, *sorted(int(step) for step in mine["step"].unique())]
        entries += [_entry(str(world), step, mine, seed) for step in steps]
    return entries


_MEASURES = (
    *("top1", "placebo_top1", "above", "chance"),
    *("owner_top1", "owner_chance", "own_below"),
)


def _entry(world: str, step: int | None, spans: pd.DataFrame, seed: int) -> dict[str, Any]:
    mine = spans if step is None else spans[spans["step"] == step]
    counted = mine[mine["reached"] & ~mine["invalid"]]
    found = _means({name: counted[name] for name in _MEASURES}, counted["group"], seed)
    return {
        "world": world,
        "step": step,
        "n": len(counted),
        "groups": int(counted["group"].nunique()),
        "never_thought": int((~mine["reached"]).sum()),
        "invalid": int((mine["reached"] & mine["invalid"]).sum()),
        **{name: estimate.to_dict() for name, estimate in found.items()},
    }


def _hits(frame: pd.DataFrame, slots: int) -> pd.Series:
    """Is the peak at a thought of the step? NaN where there is no number."""
    hit = (frame["peak_k"] // slots == frame["step"]).astype(float)
    return hit.where(~frame["invalid"], np.nan)


def _owners(tables: Mapping[str, pd.DataFrame], spans: pd.DataFrame, slots: int) -> pd.DataFrame:
    """Of each span with a step: has it the largest Λ of all such spans at the step's thoughts?"""
    known = spans[["trace_id", "span", "step", "reached", "n_same"]]
    thoughts = tables["thoughts"].merge(known, on=["trace_id", "span"])
    thoughts = thoughts.assign(at=thoughts["k"] // slots)
    by_step = thoughts.groupby(["trace_id", "at", "span"])["log_ratio"].sum(min_count=1)
    below = _below(thoughts["p_same"], thoughts["n_same"])
    mine = thoughts.assign(below=below)[thoughts["at"] == thoughts["step"]]
    own_below = mine.groupby(["trace_id", "span"])["below"].mean()
    best = by_step.reset_index().sort_values("log_ratio", ascending=False, na_position="last")
    best = best.drop_duplicates(["trace_id", "at"]).rename(columns={"span": "winner"})
    joined = known.merge(
        best, left_on=["trace_id", "step"], right_on=["trace_id", "at"], how="left"
    )
    count = known.groupby("trace_id")["span"].transform("size").to_numpy()
    return pd.DataFrame(
        {
            "trace_id": joined["trace_id"],
            "span": joined["span"],
            "owner_top1": (joined["winner"] == joined["span"]).astype(float),
            "owner_chance": 1.0 / count,
        }
    ).join(own_below.rename("own_below"), on=["trace_id", "span"])
