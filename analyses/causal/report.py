"""The causal study as people read it: causal.md with figures, beside causal.json and its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.causal.study import CausalResult
from analyses.causal.summary import EFFECTS
from nfcot_model.files import content_hash, replacing, write_json, write_text
from nfcot_model.terminal import jsonable
from nfcot_model.traces.view import printable
from probes.drawing import draw

__all__ = ["DOES_NOT_SHOW", "causal_markdown", "interval", "scope_lines", "write_report"]

DOES_NOT_SHOW = (
    "A verdict is about the answers of this model on this task, at this temperature, and about the"
    " edits that were made. Used thoughts need not be faithful: that the answer follows a thought"
    " does not show that the decoded text is all the thought says. Inert thoughts make every claim"
    " that rests on reading them void, however well they decode. The necessity quoted is the"
    " largest over thoughts and modes, so its interval is that of a chosen cell. An edit changes"
    " the vector that enters a thought's place, not what that place reads of the prompt: unused"
    " thoughts may stand in places that are needed (see the answers after only the first thoughts)."
    " Off-manifold edits (zero, noise, mean) can break a model whether or not it uses what they"
    " remove: read them against the placebo."
)


def write_report(result: CausalResult, folder: Path) -> tuple[str, ...]:
    """Put causal.md, its figures, the rows and, last, causal.json into `folder`.

    Rows are one Parquet file per kind of intervention. Figures are HTML, and PNG where a browser
    is found to draw them. Returns what could not be written, in words.
    """
    for name, frame in result.tables.items():
        with replacing(folder / f"{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
    figures, notes = _draw(result.summary, folder)
    write_text(folder / "causal.md", causal_markdown(result.summary, figures, notes))
    write_json(folder / "causal.json", jsonable(result.summary))
    return notes


def causal_markdown(
    summary: Mapping[str, Any],
    figures: Mapping[str, Sequence[str]] = {},
    notes: Sequence[str] = (),
) -> str:
    """What did the study find, in one page? `figures`: task -> names of drawn figures."""
    plan = summary["plan"]
    parts = [
        f"# Are the thoughts of {summary['run']['name']} used?",
        "\n".join(
            f"* **{printable(t['task'])}: {t['verdict']}** ({t['meaning']})"
            for t in summary["tasks"]
        ),
        f"Run `{summary['run']['hash']}` of a `{summary['reasoner']}` reasoner, checkpoint"
        f" `{summary['checkpoint_hash']}`, tau {summary['tau']:g}; seed {plan['seed']},"
        f" {summary['interventions']:,} interventions on up to {plan['samples']} traces. Intervals"
        f" are {summary['level']:.0%}, over problem groups. Only traces whose own answer is right"
        " are counted, but for influence and mediation.",
        *scope_lines(summary),
        *(printable(note) for note in notes),
        *(f"No trace of {printable(w)} was among the samples." for w in summary["not_sampled"]),
    ]
    for task in summary["tasks"]:
        parts += _task(task, summary["thresholds"], figures.get(task["task"], ()))
    parts += ["## What this does not show", DOES_NOT_SHOW]
    return "\n\n".join(parts) + "\n"


def scope_lines(summary: Mapping[str, Any]) -> list[str]:
    """What was left out and why, one line per reason, and what to keep in mind of the rest."""
    reasons: dict[str, list[str]] = {}
    for left in summary["left_out"]:
        reasons.setdefault(left["why"], []).append(left["part"])
    return [
        *(f"Left out, {why}: {', '.join(parts)}." for why, parts in reasons.items()),
        *(f"Keep in mind: {remark}." for remark in summary["remarks"]),
    ]


def _task(
    task: Mapping[str, Any], thresholds: Mapping[str, float], figures: Sequence[str]
) -> list[str]:
    name = printable(task["task"])
    s = task["sufficiency"]
    rows = [
        ["sufficiency: donor's answer", interval(s["donor"]), f"≥ {thresholds['sufficiency']:g}"],
        [
            "selectivity: own prompt's answer",
            interval(s["prompt"]),
            f"≤ {thresholds['selectivity']:g}",
        ],
        ["neither", interval(s["neither"]), ""],
        [
            "necessity: largest drop of the pass rate",
            interval(task["necessity"]),
            f"≥ {thresholds['necessity']:g}",
        ],
        [
            "answers changed by on-manifold edits",
            interval(task["effect"]),
            f"inert: high ≤ {thresholds['inert']:g}",
        ],
        [
            "answer is read from thought",
            "–" if task["read_from"] is None else str(task["read_from"]),
            "direct drop ≥ necessity",
        ],
        ["counterfactual following", interval(task["counterfactual_following"]), ""],
        ["  without the last step", interval(task["counterfactual_middle"]), ""],
        ["  still the old answer", interval(task["counterfactual_own"]), ""],
        ["thoughts until the answer is settled", interval(task["commitment"]["mean_k"]), ""],
        ["  settled only by the last thought", interval(task["commitment"]["at_last_thought"]), ""],
        ["  settled before any thought", interval(task["commitment"]["before_any_thought"]), ""],
    ]
    parts = [
        f"## {name}: {task['verdict']}",
        f"{task['traces']} traces of {task['groups']} problem groups, {s['pairs']} transplanted"
        f" pairs; own answers right: {interval(task['solved'])}.",
        *(f"* {printable(note)}" for note in task["notes"]),
        _table(["measure", "value", "threshold"], rows),
        f"### Each thought of {name}",
        "Replaced by an on-manifold thought that says something else (donor, swap_different_value,"
        " decode_edit_encode): drop of the pass rate. Resampled: a fresh draw given its prefix."
        " Same value: swapped for another problem's thought with the same state.",
        _thought_table("k from the end", task["thoughts"]),
        *(
            [_thought_table("k from the start", task["thoughts_from_start"])]
            if task["thoughts"] and task["thoughts"][0]["n"] != task["thoughts"][-1]["n"]
            else []
        ),
        f"### Parts of another trajectory in {name}",
        "The donor's thoughts in the receiver's place: all, those below k (prefix; total: what"
        " comes after is thought again), or those from k on (suffix).",
        _table(
            ["part", "mode", "k", "n", "donor's answer", "own prompt's", "neither"],
            [
                [
                    p["part"],
                    p["mode"],
                    "–" if p["part"] == "all" else str(p["k"]),
                    str(p["n"]),
                    *(interval(p[who]) for who in ("donor", "prompt", "neither")),
                ]
                for p in task["parts"]
            ],
        ),
        f"### Each edit of {name}",
        _effect_table(task["effects"]),
    ]
    if task["states"]:
        parts += [f"### Hidden states and caches of {name}", _effect_table(task["states"])]
    if task["mediation"]:
        parts += [
            f"### Through a probe's directions in {name}",
            "A swap for a donor of another label value, restricted to a subspace; the share is that"
            " of the squared distance moved.",
            _table(
                [
                    "part",
                    "n",
                    "dimensions",
                    "share",
                    "flipped",
                    "Δ log p of the base answer",
                    "of the whole",
                ],
                [
                    [
                        m["part"],
                        str(m["n"]),
                        f"{m['dimensions']['value']:.1f}",
                        f"{m['share']['value']:.2f}",
                        interval(m["flipped"]),
                        interval(m["logp_change"]),
                        "–" if m["of_whole"] is None else f"{m['of_whole']:.2f}",
                    ]
                    for m in task["mediation"]
                ],
            ),
        ]
    return [*parts, *(f"![{f}](figures/{slug(name)}-{f}.png)" for f in figures)]


def _thought_table(count: str, thoughts: Sequence[Mapping[str, Any]]) -> str:
    head = [
        count,
        "traces",
        "direct",
        "total",
        "beyond placebo",
        "resampled flips",
        "same value flips",
    ]
    measures = (
        "necessity_direct",
        "necessity_total",
        "beyond_placebo",
        "resampling_importance",
        "same_value_flipped",
    )
    return _table(
        head,
        [[str(t["k"]), str(t["n"]), *(interval(t[name]) for name in measures)] for t in thoughts],
    )


def _effect_table(effects: Sequence[Mapping[str, Any]]) -> str:
    said = ("flipped", "Δ log p of the base answer", "KL / token", "pass drop")
    head = ["edit", "mode", "n", *(column for name in said for column in (name, "placebo"))]
    measures = [name for measure in EFFECTS for name in (measure, f"placebo_{measure}")]
    rows = []
    for e in effects:
        edit = f"{e['edit']} @ `{e['site']}`" if "site" in e else e["edit"]
        rows.append([edit, e["mode"], str(e["n"]), *(interval(e[name]) for name in measures)])
    return _table(head, rows)


def slug(task: str) -> str:
    """A file name for a task, whose world may be called anything."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", task).strip("-") or "task"
    return plain if plain == task else f"{plain}-{content_hash(task)[:6]}"


def interval(estimate: Mapping[str, float | None]) -> str:
    """A value with its interval, as `0.87 (0.80 to 0.93)`; `–` where there is none."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "–"
    if low is None:
        return f"{value:.2f} (too few groups for an interval)"
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _draw(summary: Mapping[str, Any], folder: Path) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Draw every figure as HTML and PNG; says what could not be done."""
    try:
        from analyses.causal.figures import causal_figures
    except ImportError:
        return {}, ("No figures: plotly is not installed (extra 'app').",)
    drawn = {task["task"]: causal_figures(task) for task in summary["tasks"]}
    place = folder / "figures"
    place.mkdir(exist_ok=True)
    missing = draw(
        [
            (place / f"{slug(task)}-{name}", figure)
            for task, figures in drawn.items()
            for name, figure in figures.items()
        ]
    )
    if missing is not None:
        return {}, (f"No PNG figures, only HTML in figures/: {missing}",)
    return {task: list(figures) for task, figures in drawn.items()}, ()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(printable(cell) for cell in line) + " |" for line in lines)
