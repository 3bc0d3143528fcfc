"""An explanation as sections: words and tables, the same for terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.context.view import nats

__all__ = ["Section", "Table", "sections"]


@dataclass(frozen=True)
class Table:
    """Rows of text under a head. `shade` gives cells a strength from -1 to 1, None for none."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    shade: Sequence[Sequence[float | None]] | None = None


@dataclass(frozen=True)
class Section:
    """A title, paragraphs, and a table."""

    title: str
    words: Sequence[str] = ()
    table: Table | None = None


def sections(summary: Mapping[str, Any]) -> list[Section]:
    """What an explanation says (`Explanation.summary`), in order."""
    return [
        _facts(summary),
        _thoughts(summary),
        *([_neighbours(summary)] if summary["calibration"] else []),
        _lambda(summary),
        _causal(summary),
        Section("What this does not show", [summary["not_shown"]]),
    ]


def _facts(summary: Mapping[str, Any]) -> Section:
    trace, run = summary["trace"], summary["run"]
    scored = summary["scored"]["profile"]
    verdict = "correct" if trace["correct"] else "wrong"
    rows = [
        ["run", f"{run['name']} ({run['hash']})"],
        ["problem, group", f"{trace['problem_id']}, {trace['group']}"],
        ["prompt", trace["prompt"]],
        ["answer", f"{trace['answer']} ({verdict})"],
        ["reference answer", trace["reference_answer"] or "–"],
        ["log p(u), log p(e)", f"{number(trace['logp_u'])}, {number(trace['logp_e'])} nats"],
        ["replay error", number(trace["replay_error"])],
        ["scorer", f"{scored['scorer']}, checkpoint {scored['checkpoint_hash']}"],
        ["tensor, density", f"{scored['tensor']}, {scored['density']}"],
        ["tau", f"{scored['tau']:g}"],
    ]
    words = ["**Some scores are no number: invalid.**"] if summary["invalid"] else []
    return Section(f"Trace {trace['trace_id']}", words, Table(["", ""], rows))


def _thoughts(summary: Mapping[str, Any]) -> Section:
    clean = summary["calibration"]
    head = ["k", "decoded text", "true step", "energy", "log-volume", "log p", "go on"]
    rows = []
    for row in summary["thoughts"]:
        match = "" if row["match"] is None else " ✓" if row["match"] else " ✗"
        cells = [str(row["k"]), f"{row['text']}{match}", row["reference"] or "–"]
        for name in ("energy", "logvol", "logp"):
            cells.append(_banded(row[name], row["clean"][name] if clean else None))
        rows.append([*cells, nats(row["stop_logp"])])
    words = [
        "Scores stored in the run, each with the 5 to 95 % band of clean thoughts at the same index"
        f" in {clean['run']} and its two-sided rank p there."
        if clean
        else "Scores stored in the run; give a clean run (--calibration) to see what is usual."
    ]
    return Section("Thoughts", words, Table(head, rows))


def _banded(value: float | None, band: Mapping[str, Any] | None) -> str:
    if band is None or "quantiles" not in band:
        return number(value)
    low, high = number(band["quantiles"][1]), number(band["quantiles"][3])
    return f"{number(value)} [{low}, {high}] p {number(band['p'])}"


def _neighbours(summary: Mapping[str, Any]) -> Section:
    rows = []
    for row in summary["thoughts"]:
        beside = row["neighbours"]
        if not beside["nearest"]:
            rows.append([str(row["k"]), row["text"], "–", "–", "–"])
            continue
        found = "; ".join(
            f"{n['text']} ({number(n['distance'])}, {n['trace_id'][:8]})" for n in beside["nearest"]
        )
        usual, p = number(beside["usual_distance"]), number(beside["p"])
        rows.append([str(row["k"]), row["text"], found, usual, p])
    head = ["k", "decoded text", "nearest (distance, trace)", "usual distance", "p"]
    words = [
        "Clean thoughts at the same index, of other problem groups, nearest in u per clean sd. p:"
        " the share of clean thoughts whose own nearest neighbour is as far."
    ]
    return Section("Nearest clean thoughts", words, Table(head, rows))


def _lambda(summary: Mapping[str, Any]) -> Section:
    spans, population = summary["lambda"]["spans"], summary["lambda"]["population"]
    K = len(summary["thoughts"])
    values = [v for span in spans for v in span["by_thought"] if v is not None]
    largest = max((abs(v) for v in values), default=1.0) or 1.0
    head = ["span", *(f"k={k}" for k in range(K)), "total", "K decision", "p here", "p elsewhere"]
    rows, shade = [], []
    for span in spans:
        by_thought = span["by_thought"]
        stars = [_star(p) for p in span["p_same"]]
        cells = [f"{nats(v)}{s}" for v, s in zip(by_thought, stars, strict=True)]
        ranks = [number(span[f"p_total_{where}"]) for where in ("same", "elsewhere")]
        totals = [nats(span["total"]), nats(span["stop_total"])]
        rows.append([span["text"], *cells, *totals, *ranks])
        tints = [None if v is None else v / largest for v in by_thought]
        shade.append([None, *tints, None, None, None, None])
    words = [
        "Nats by which each thought is likelier with the span than without it, and the same of the"
        " decisions to go on or stop. * marks values that at most 5 % of this prompt's placebos"
        " reach at that thought; p ranks the total among placebos of matched length, here and in"
        f" other prompts ({population['placebos_elsewhere']} of all lengths)."
    ]
    return Section("Λ: which text drove which thought", words, Table(head, rows, shade))


def _star(p: float | None) -> str:
    return "*" if p is not None and p <= 0.05 else ""


def _causal(summary: Mapping[str, Any]) -> Section:
    causal = summary["causal"]
    if causal is None:
        return Section(
            "Causal check",
            ["None: no `nfcot causal` report of this run was found (give its folder: --causal)."],
        )
    task = causal["task"]
    words = [
        f"{task['task']}: **{task['verdict']}** ({task['meaning']})."
        if task
        else "The study has no verdict on this trace's task."
    ]
    rows = [
        [
            str(row["k"]),
            row["edit"],
            row["mode"],
            f"{row['flipped']:.2f}",
            f"{row['placebo_flipped']:.2f}",
        ]
        for row in causal["thoughts"]
    ]
    if not rows:
        return Section("Causal check", [*words, "This trace was not among those interfered with."])
    head = ["k", "edit", "mode", "answers changed", "by placebos"]
    return Section("Causal check", words, Table(head, rows))


def number(value: float | None) -> str:
    """A number with three digits, in as few signs as it needs."""
    return "–" if value is None else f"{value:.3g}"
