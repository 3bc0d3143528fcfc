"""A comparison as text: for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nfcot_model.comparison.results import rows, summary
from nfcot_model.comparison.run import Compared
from nfcot_model.comparison.verdicts import verdict_words

__all__ = ["CELL_HEAD", "SUMMARY_HEAD", "cell_lines", "markdown", "summary_lines"]

SUMMARY_HEAD = (
    "reasoner", "seeds", "pass@1 (95 %)", "against text", "positions", "passes", "faster at 1",
    "faster at 64", "thoughts", "parameters", "steps", "Mtokens", "TFLOP", "minutes",
)  # fmt: skip
CELL_HEAD = (
    "reasoner", "world", "steps", "pass@1 (95 %)", "pass@k", "distinct", "positions", "passes",
    "MFLOP", "ms at 1", "per s at 1", "per s at 64", "donor / own / pairs",
)  # fmt: skip


def summary_lines(compared: Compared) -> list[list[str]]:
    """The cells of the table of reasoners."""
    return [_summary(row) for row in summary(compared)]


def cell_lines(compared: Compared) -> list[list[str]]:
    """The cells of the table of worlds and steps."""
    order = {cell: i for c in compared.contenders for i, cell in enumerate(c.cells)}
    ordered = sorted(rows(compared), key=lambda row: order[row["world"], row["steps"]])
    return [_cell(row) for row in ordered]


def markdown(compared: Compared) -> str:
    """Both tables as Markdown."""
    lines: list[str] = []
    tables = ((SUMMARY_HEAD, summary_lines(compared)), (CELL_HEAD, cell_lines(compared)))
    for head, body in tables:
        lines += [_row(head), _row(["---"] * len(head)), *map(_row, body), ""]
    return "\n".join(lines)


def _row(figures: Sequence[str]) -> str:
    return "| " + " | ".join(figures) + " |"


def _summary(row: dict[str, Any]) -> list[str]:
    against = row["versus_text"]
    steps = row["training_steps"]
    return [
        row["reasoner"],
        str(row["seeds"]),
        _interval(row),
        "–" if against is None else _signed(against),
        f"{row['positions']:.1f}",
        f"{row['passes']:.1f}",
        "–" if against is None else f"{against['faster_batch1']:.2f} ×",
        "–" if against is None else f"{against['faster_batch64']:.2f} ×",
        verdict_words(row["causal"]) if row["causal"] else row["thoughts"],
        f"{row['parameters']:,}",
        "–" if steps is None else " + ".join(f"{n} {name}" for name, n in steps.items()),
        _scaled(row["training_tokens"], 1e6),
        _scaled(row["training_flops"], 1e12),
        _scaled(row["processor_seconds"], 60),
    ]


def _cell(row: dict[str, Any]) -> list[str]:
    at = row["pass_at_k"]
    shown = [k for k in ("1", "8", "64") if k in at] or [*at][:1]
    some = row["distinct_passing"]
    tested = row["donor_follow"] is not None
    shares = (_share(row["donor_follow"]), _share(row["own_prompt"]), str(row["pairs"]))
    return [
        row["reasoner"],
        row["world"],
        row["steps"],
        _interval(row),
        ", ".join(f"{k}: {at[k]:.2f}" for k in shown),
        "–" if some is None else f"{some:.1f}",
        f"{row['positions']:.1f}",
        f"{row['passes']:.1f}",
        f"{row['flops'] / 1e6:.0f}",
        f"{row['ms_batch1']:.0f}",
        f"{row['answers_per_second_batch1']:.1f}",
        f"{row['answers_per_second_batch64']:.0f}",
        " / ".join(shares) if tested else "–",
    ]


def _interval(row: dict[str, Any]) -> str:
    return f"{row['pass_at_1']:.3f} ({row['low']:.3f}–{row['high']:.3f})"


def _signed(row: dict[str, Any]) -> str:
    return f"{row['pass_at_1']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _scaled(value: float | None, unit: float) -> str:
    return "–" if value is None else f"{value / unit:.2f}"
