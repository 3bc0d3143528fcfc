"""What the lenses read, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nfcot_model.traces.view import printable

__all__ = ["run_tables", "trace_tables"]

INDICES = (*(("k", k) for k in range(5)), *(("back", back) for back in (-3, -2, -1)))


def run_tables(summary: Mapping[str, Any]) -> RenderableType:
    """A summary of `read_run_through`: shares with 95 % intervals beside floors, and notes."""
    found = summary["population"]
    head = (
        f"{summary['run']['name']}: {found['traces']} traces of {found['groups']} problem groups,"
        f" {found['thoughts']} thoughts, tau {summary['tau']:g}; 95 % intervals over groups"
    )
    entries = summary["measures"]
    parts: list[RenderableType] = [escape(printable(head))]
    if {"codec", "mean"} & set(summary["lenses"]):
        parts += [_texts(entries), *_fidelity(entries)]
    if "logit" in summary["lenses"]:
        parts += [_layers(entries, summary["top"]), _grid(entries, summary["top"])]
    if "affine" in summary["lenses"]:
        parts.append(_affine(entries))
    return Group(*parts, *_ends(summary))


def trace_tables(summary: Mapping[str, Any]) -> RenderableType:
    """A summary of `read_trace_through`: what each lens says at each thought."""
    trace, thoughts = summary["trace"], summary["thoughts"]
    verdict = "correct" if trace["correct"] else "wrong"
    facts = Table(show_header=False, box=None)
    facts.add_row("[dim]trace[/]", _safe(trace["trace_id"]))
    facts.add_row("[dim]prompt[/]", _safe(trace["prompt"]))
    facts.add_row("[dim]answer[/]", f"{_safe(trace['answer'])} ({verdict})")
    parts: list[RenderableType] = [facts]
    if {"codec", "mean"} & set(summary["lenses"]):
        texts = Table(title="in the codec's words")
        names = [n for n in ("mean", "codec") if n in summary["lenses"]]
        words = {"mean": "was about to think (mu)", "codec": "thought (u)"}
        for column in ("k", *(words[name] for name in names), "true step"):
            texts.add_column(column, overflow="fold")
        for row in thoughts:
            said = [_safe(row[name]) for name in names]
            texts.add_row(str(row["k"]), *said, _safe(row["step"] or "–"))
        parts.append(texts)
    if "logit" in summary["lenses"]:
        tokens = Table(title="logit lens: likeliest tokens by layer", show_lines=True)
        for column in ("k", *(_layer(entry) for entry in summary["layers"])):
            tokens.add_column(column, overflow="fold")
        for row in thoughts:
            tokens.add_row(str(row["k"]), *(_top(reading["top"]) for reading in row["logit"]))
        parts.append(tokens)
    return Group(*parts, *_ends(summary))


def _texts(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="text of a thought: share that is the true step, word for word")
    columns = {
        "thought": ("codec", "step_hit"),
        "its floor": ("codec", "step_floor"),
        "mean": ("mean", "step_hit"),
        "mean's floor": ("mean", "step_floor"),
        "mean differs": ("mean", "changed"),
    }
    lenses = {entry["lens"] for entry in entries}
    shown = {title: key for title, key in columns.items() if key[0] in lenses}
    for title in ("k", "n", *shown):
        table.add_column(title)
    cells = {(e["at"], e["index"], e["lens"]): e for e in entries if e["lens"] in ("codec", "mean")}
    for at, index in dict.fromkeys((at, index) for at, index, _ in cells):
        row = [_share(cells[at, index, lens]["metrics"][name]) for lens, name in shown.values()]
        n = next(e["n"] for (a, i, _), e in cells.items() if (a, i) == (at, index))
        table.add_row("all" if index is None else str(index), str(n), *row)
    return table


def _fidelity(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the codec itself loses, which bounds what any text can show."""
    whole = [e["metrics"] for e in entries if e["lens"] == "codec" and e["at"] == "all"]
    return [
        f"of the true steps themselves the codec writes back {_share(metrics['codec_round_trip'])}"
        f" (text to e to text), through the flow {_share(metrics['flow_round_trip'])}"
        for metrics in whole
    ]


def _layers(entries: Sequence[Mapping[str, Any]], top: int) -> Table:
    table = Table(title=f"logit lens: share of a text's distinctive tokens among the top {top}")
    table.add_column("layer")
    targets = ("step", "last_step", "answer")
    for title in ("true step", "last step", "own answer"):
        table.add_column(title)
        table.add_column("floor")
    for entry in entries:
        if entry["lens"] == "logit" and entry["at"] == "all":
            metrics = entry["metrics"]
            row = [_share(metrics[f"{t}_{m}"]) for t in targets for m in ("hit", "floor")]
            table.add_row(str(entry["layer"]), *row)
    return table


def _grid(entries: Sequence[Mapping[str, Any]], top: int) -> Table:
    table = Table(title=f"logit lens: true step among the top {top}, share (floor) by thought")
    cells = {
        (e["layer"], e["at"], e["index"]): e["metrics"] for e in entries if e["lens"] == "logit"
    }
    indices = [place for place in INDICES if any(key[1:] == place for key in cells)]
    table.add_column("layer")
    for _, index in indices:
        table.add_column(str(index))
    for layer in dict.fromkeys(layer for layer, _, _ in cells):
        row = []
        for at, index in indices:
            metrics = cells[layer, at, index]
            hit, floor = (_number(metrics[f"step_{m}"]["value"], 2) for m in ("hit", "floor"))
            row.append(f"{hit} [dim]({floor})[/]")
        table.add_row(str(layer), *row)
    return table


def _affine(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="state of a layer, by an affine map to e, in the codec's words")
    for column in ("layer", "true step", "floor", "map to shuffled thoughts"):
        table.add_column(column)
    for entry in entries:
        if entry["lens"] == "affine" and entry["at"] == "all":
            names = ("step_hit", "step_floor", "shuffled_hit")
            table.add_row(str(entry["layer"]), *(_share(entry["metrics"][n]) for n in names))
    return table


def _ends(summary: Mapping[str, Any]) -> list[str]:
    notes = [f"note: {_safe(note)}" for note in summary["notes"]]
    return [*notes, f"[dim]{_safe(summary['not_shown'])}[/]"]


def _share(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "–"
    low, high = (_number(estimate[end], 2).removeprefix("0") for end in ("low", "high"))
    return f"{_number(estimate['value'])} [dim]{low}–{high}[/]"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _layer(entry: Mapping[str, Any]) -> str:
    return "embeddings" if entry["layer"] == 0 else f"layer {entry['layer']}"


def _top(pairs: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(f"{_token(p['token'])} [dim]{p['probability']:.2f}[/]" for p in pairs)


def _token(text: str) -> str:
    """One token, its spaces visible."""
    return _safe(text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))


def _safe(text: str) -> str:
    return escape(printable(text))
