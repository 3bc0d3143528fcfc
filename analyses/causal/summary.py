"""What a causal study found about one task: every measure with its interval, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analyses.causal.verdict import VERDICTS, Thresholds, commitment, verdict
from nfcot_model.evaluation.intervals import wilson
from probes.intervals import Estimate, cluster_means

__all__ = ["ON_MANIFOLD", "means_of", "task_summary"]

# Replacements that are thoughts of this model in good standing, and say something else.
ON_MANIFOLD = ("donor", "swap_different_value", "decode_edit_encode")
# A cell of fewer problem groups decides nothing.
MIN_GROUPS = 5
EFFECTS = ("flipped", "logp_change", "kl", "dropped")


def means_of(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, Estimate]:
    """The means of columns with 95 % intervals over problem groups (column `group`).

    Where a column of yes and no (or of their differences) never varies, resampling cannot show how
    unsure it is: the interval is then Wilson's for as many trials as there are groups. Fewer than
    five groups have no interval.
    """
    if not len(frame):
        return {column: Estimate(math.nan, math.nan, math.nan) for column in columns}
    values = {column: frame[column].to_numpy(dtype=float) for column in columns}
    groups = frame["group"].to_numpy(dtype=object)
    found = cluster_means(values, groups)
    if len(set(groups)) < MIN_GROUPS:
        return {name: Estimate(e.value, math.nan, math.nan) for name, e in found.items()}
    for column, value in values.items():
        level = value[0]
        counted = frame[column].dtype == bool or column == "excess"
        if counted and (value == level).all() and level in (-1.0, 0.0, 1.0):
            unseen = wilson(0, len(set(groups)))[1]
            least = -1.0 if column == "excess" else 0.0
            low, high = max(least, level - unseen), min(1.0, level + unseen)
            found[column] = Estimate(level, low, high)
    return found


def task_summary(
    task: str,
    tables: Mapping[str, pd.DataFrame],
    thresholds: Thresholds,
    edits: Sequence[str] = (),
    *,
    constant: bool = False,
) -> dict[str, Any]:
    """Everything about one task, as it stands in the report.

    `tables` are the study's (`single`, `moved`, `early`, `told`, `influence`, `mediated`,
    `states`), each with the columns `group`, `row` and, where it has `k`, `back` (k - K). Necessity
    is the largest drop of the pass rate of solved traces over thoughts and modes, so its interval
    is that of a chosen cell. The effect is the share of answers changed by on-manifold edits, all
    thoughts together, or by whole transplants, whichever is larger. `notes` say what is missing:
    `edits` that could not be made, measures without which there is no verdict, close calls.
    `constant`: all traces have the same thoughts, so that these cannot decide between answers.
    """
    single, moved = _solved(tables["single"]), tables["moved"]
    whole = moved[moved["part"] == "all"] if len(moved) else moved
    follows = means_of(whole, ("donor", "prompt", "neither", "flipped"))
    real = single[single["edit"].isin(ON_MANIFOLD)] if len(single) else single
    cells = [
        means_of(frame, ("dropped",))["dropped"]
        for _, frame in _by(real, ["back", "mode"])
        if frame["group"].nunique() >= MIN_GROUPS
    ]
    necessity = _largest(cells)
    changed = [means_of(frame, ("flipped",))["flipped"] for _, frame in _by(real, ["mode"])]
    effect = _largest([*changed, follows["flipped"]])
    said = "constant"
    if not constant:
        said = verdict(follows["donor"], follows["prompt"], necessity, effect, thresholds)
    told = tables["told"]
    following = means_of(told, ("implied", "own"))
    middle = told[told["back"] < -1] if len(told) else told
    early = tables["early"]
    solved = early[early["base_correct"].astype(bool)]
    measured = {
        "sufficiency": follows["donor"],
        "selectivity": follows["prompt"],
        "necessity": necessity,
        "inert": effect,
    }
    return {
        "task": task,
        "verdict": said,
        "meaning": VERDICTS[said],
        "notes": [
            *_not_done(single, edits),
            *([] if constant else _unsure(measured, thresholds)),
        ],
        "traces": int(early["row"].nunique()),
        "groups": int(early["group"].nunique()),
        "solved": means_of(_first(early), ("base_correct",))["base_correct"].to_dict(),
        "sufficiency": {
            **{name: follows[name].to_dict() for name in ("donor", "prompt", "neither")},
            "pairs": len(whole),
        },
        "necessity": necessity.to_dict(),
        "read_from": _read_from(real, thresholds.necessity),
        "effect": effect.to_dict(),
        "thoughts": _thoughts(single, "back"),
        "thoughts_from_start": _thoughts(single, "k"),
        "effects": [_effect(name, frame) for name, frame in _by(single, ["edit", "mode"])],
        "parts": [
            {
                "part": part,
                "mode": mode,
                "k": int(k),
                "n": len(frame),
                **_plain(means_of(frame, ("donor", "prompt", "neither"))),
            }
            for (part, mode, k), frame in _by(moved, ["part", "mode", "k"])
        ],
        "early_decision": [
            {
                "missing": int(missing),
                "n": len(frame),
                **_plain(means_of(frame, ("same", "correct"))),
            }
            for (missing,), frame in _by(
                solved.assign(missing=lambda f: f["K"] - f["k"]), ["missing"]
            )
        ],
        "commitment": _commitment(solved),
        "counterfactual_following": following["implied"].to_dict(),
        "counterfactual_middle": means_of(middle, ("implied",))["implied"].to_dict(),
        "counterfactual_own": following["own"].to_dict(),
        "counterfactuals": [
            {
                "k": int(back),
                "n": len(frame),
                **_plain(means_of(frame, ("implied", "own"))),
            }
            for (back,), frame in _by(told, ["back"])
        ],
        "influence": [
            {
                "k": int(k),
                "j": int(j),
                "n": len(frame),
                **_plain(means_of(frame, ("moved", "placebo_moved"))),
            }
            for (k, j), frame in _by(tables["influence"], ["k", "j"])
        ],
        "mediation": [
            {
                "part": part,
                "n": len(frame),
                **_plain(means_of(frame, ("flipped", "logp_change", "share", "dimensions"))),
                "of_whole": _of_whole(frame, tables["mediated"]),
            }
            for (part,), frame in _by(tables["mediated"], ["part"])
        ],
        "states": [
            {"site": site, **_effect((edit, mode), frame)}
            for (site, edit, mode), frame in _by(
                _solved(tables["states"]), ["site", "edit", "mode"]
            )
        ],
    }


def _thoughts(single: pd.DataFrame, count: str) -> list[dict[str, Any]]:
    """Each thought, counted from the end (`back`: -1 is the last) or from the start (`k`)."""
    places = sorted(set(single[count]), key=abs) if len(single) else []
    return [_thought(single[single[count] == place], int(place)) for place in places]


def _thought(frame: pd.DataFrame, place: int) -> dict[str, Any]:
    """The thoughts at one place. `low` and `high` are those of the total effect."""
    real = frame[frame["edit"].isin(ON_MANIFOLD)]
    direct, total = (
        means_of(real[real["mode"] == mode], ("dropped",))["dropped"]
        for mode in ("direct", "total")
    )
    fresh = frame[(frame["edit"] == "resample") & (frame["mode"] == "total")]
    same = frame[frame["edit"] == "swap_same_value"]
    return {
        "k": place,
        "n": int(frame["row"].nunique()),
        "necessity_direct": direct.to_dict(),
        "necessity_total": total.to_dict(),
        "low": total.to_dict()["low"],
        "high": total.to_dict()["high"],
        "resampling_importance": means_of(fresh, ("flipped",))["flipped"].to_dict(),
        "same_value_flipped": means_of(same, ("flipped",))["flipped"].to_dict(),
        "beyond_placebo": means_of(real, ("excess",))["excess"].to_dict(),
    }


def _read_from(real: pd.DataFrame, necessity: float) -> int | None:
    """From which thought is the answer read? The one whose edits alone cost most right answers.

    Counted from the end (-1 is the last) or from the start (0 is the first), whichever place costs
    more. Later thoughts are frozen, so that nothing else changes. None where the drop of the pass
    rate there does not reach the threshold.
    """
    direct = real[real["mode"] == "direct"] if len(real) else real
    found = {
        int(place): (int(frame["dropped"].sum()), float(frame["dropped"].mean()))
        for count in ("back", "k")
        for (place,), frame in _by(direct, [count])
        if frame["group"].nunique() >= MIN_GROUPS
    }
    # Between equals the end, and the place nearer to it.
    most = max(found, key=lambda place: (found[place][0], place < 0, place), default=None)
    return most if most is not None and found[most][1] >= necessity else None


def _effect(name: Sequence[Any], frame: pd.DataFrame) -> dict[str, Any]:
    columns = [*EFFECTS, *(f"placebo_{c}" for c in EFFECTS), "excess"]
    return {
        "edit": name[0],
        "mode": name[1],
        "n": len(frame),
        **_plain(means_of(frame, columns)),
    }


def _solved(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of traces whose own answer is right, with `dropped` and what exceeds the placebo."""
    if not len(frame):
        return frame
    return frame[frame["base_correct"].astype(bool)].assign(
        dropped=lambda f: ~f["correct"].astype(bool),
        placebo_dropped=lambda f: ~f["placebo_correct"].astype(bool),
        excess=lambda f: f["flipped"].astype(float) - f["placebo_flipped"].astype(float),
    )


def _not_done(single: pd.DataFrame, edits: Sequence[str]) -> list[str]:
    """Which edits could not be made, or not everywhere?"""
    if not len(single):
        return ["no trace's own answer is right: nothing about edits is counted"]
    places = single[["row", "k"]].drop_duplicates().shape[0]
    notes = []
    for edit in edits:
        done = single[single["edit"] == edit][["row", "k"]].drop_duplicates().shape[0]
        if done < places:
            notes.append(
                f"{edit}: made at {done} of {places} thoughts (elsewhere there is no donor, label"
                " or step for it)"
            )
    return notes


def _unsure(measured: Mapping[str, Estimate], thresholds: Thresholds) -> list[str]:
    """Which measures are missing, and which are closer to their threshold than is sure?"""
    notes = []
    for name, estimate in measured.items():
        limit = thresholds.to_dict()[name]
        what = "effect of edits" if name == "inert" else name
        if math.isnan(estimate.value):
            notes.append(
                f"{what} is not measured: no solved trace with a fitting donor in"
                f" {MIN_GROUPS} groups, or no such edit was asked for"
            )
        elif estimate.low < limit < estimate.high:
            notes.append(f"close call: the interval of {what} holds its threshold {limit:g}")
    return notes


def _of_whole(part: pd.DataFrame, mediated: pd.DataFrame) -> float | None:
    """Which fraction of the whole swap's change of log-probability does a part make?"""
    whole = mediated[mediated["part"] == "all"]["logp_change"].mean()
    return float(part["logp_change"].mean() / whole) if whole else None


def _commitment(early: pd.DataFrame) -> dict[str, Any]:
    if not len(early):
        nothing = Estimate(math.nan, math.nan, math.nan).to_dict()
        names = ("mean_k", "at_last_thought", "by_first_thought", "before_any_thought")
        return {"median_k": None, **dict.fromkeys(names, nothing)}
    settled = commitment(early).rename("settled").reset_index()
    frame = settled.merge(early.groupby("row")[["K", "group"]].first().reset_index(), on="row")
    frame["at_last"] = frame["settled"] == frame["K"]
    frame["at_first"] = frame["settled"] <= 1
    frame["before"] = frame["settled"] == 0
    found = means_of(frame, ("settled", "at_last", "at_first", "before"))
    return {
        "mean_k": found["settled"].to_dict(),
        "median_k": float(frame["settled"].median()),
        "at_last_thought": found["at_last"].to_dict(),
        "by_first_thought": found["at_first"].to_dict(),
        "before_any_thought": found["before"].to_dict(),
    }


def _first(early: pd.DataFrame) -> pd.DataFrame:
    return early.groupby("row", as_index=False).first()


def _by(frame: pd.DataFrame, columns: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    return list(frame.groupby(columns, sort=True)) if len(frame) else []


def _largest(estimates: Sequence[Estimate]) -> Estimate:
    known = [e for e in estimates if not math.isnan(e.value)]
    return max(
        known, key=lambda e: (e.value, e.low), default=Estimate(math.nan, math.nan, math.nan)
    )


def _plain(found: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    return {name: estimate.to_dict() for name, estimate in found.items()}
