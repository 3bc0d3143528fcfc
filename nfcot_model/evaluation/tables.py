"""The results table of a model card, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from nfcot_model.evaluation.cells import Cell
from nfcot_model.evaluation.intervals import Share
from nfcot_model.evaluation.suite import Evaluation
from nfcot_model.evaluation.swaps import SwapFigures

__all__ = ["markdown"]

CELL_HEAD = (
    "world", "steps", "reasoner", "tau", "pass@1 (95 % Wilson)", "steps decoded",
    "right length", "-log p(u\\|q) / dim", "places", "n", "pipelines",
)  # fmt: skip
SWAP_HEAD = (
    "world", "tau", "n", "own thoughts", "zeroed", "shuffled", "pairs", "donor",
    "own prompt", "neither",
)  # fmt: skip


def markdown(evaluation: Evaluation) -> str:
    """Every cell and control of an evaluation as two Markdown tables."""
    rows = [_row(CELL_HEAD), _row(["---"] * len(CELL_HEAD)), *map(_cell, evaluation.cells)]
    if evaluation.controls:
        rows += ["", _row(SWAP_HEAD), _row(["---"] * len(SWAP_HEAD))]
        rows += map(_swap, evaluation.controls)
    return "\n".join(rows) + "\n"


def _row(figures: Iterable[str]) -> str:
    return "| " + " | ".join(figures) + " |"


def _cell(c: Cell) -> str:
    figures = (
        c.world,
        c.steps,
        c.reasoner,
        "–" if c.tau is None else f"{c.tau:g}",
        _with_interval(Share(c.pass_at_1, c.low, c.high)),
        _share(c.decode_exact),
        _share(c.right_length),
        _share(c.nll_per_dim),
        f"{c.positions:.1f}",
        str(c.n),
        str(c.groups),
    )
    return _row(figures)


def _swap(s: SwapFigures) -> str:
    shares = s.shares
    kept = [_with_interval(shares[name]) for name in ("pass_at_1", "zeroed", "shuffled")]
    follows = [_with_interval(shares[name]) for name in ("donor_follow", "own_prompt", "neither")]
    return _row([s.world, f"{s.tau:g}", str(s.n), *kept, str(s.pairs), *follows])


def _with_interval(s: Share) -> str:
    return "–" if s.value is None else f"{s.value:.3f} ({s.low:.3f}–{s.high:.3f})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
