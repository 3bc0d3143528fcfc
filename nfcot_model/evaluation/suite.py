"""The whole held-out evaluation: worlds × steps × tau, controls and swaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfcot_model.evaluation import SWAP_TAU
from nfcot_model.evaluation.cells import Cell, evaluate_cell, evaluate_control, evaluate_oracle
from nfcot_model.evaluation.swaps import SwapFigures, evaluate_swaps, pooled
from nfcot_model.reasoners import load_nfcot, load_reasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.worlds import Problem, make_world
from nfcot_model.worlds.generate import read_steps

__all__ = ["Evaluation", "evaluate", "problem_cells"]

SWAP_STEPS = (2, 6)


@dataclass(frozen=True)
class Evaluation:
    """Everything that `nfcot eval` prints."""

    model: str
    checkpoint_hash: str
    seed: int
    cells: list[Cell]
    controls: list[SwapFigures]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "checkpoint_hash": self.checkpoint_hash,
            "seed": self.seed,
            "cells": [cell.to_dict() for cell in self.cells],
            "controls": self._controls(),
        }

    def _controls(self) -> dict[str, Any]:
        """The worlds counted together, and each by itself."""
        if not self.controls:
            return {}
        by_world = {figures.world: figures.to_dict() for figures in self.controls}
        return {**pooled(self.controls).to_dict(), "by_world": by_world}


def problem_cells(
    worlds: Sequence[str], steps: Sequence[str], split: str, seed: int, n: int
) -> Iterator[tuple[str, list[Problem]]]:
    """Fresh problems for each world × number of steps; `9` and more come from the split `long`."""
    for world in worlds:
        for text in steps:
            bounds = read_steps(text)
            chosen = "long" if bounds[0] > 8 and split == "test" else split
            yield text, make_world(world, chosen, seed, n, bounds)


def evaluate(
    model: Path,
    cells: Sequence[tuple[str, list[Problem]]],
    *,
    taus: Sequence[float],
    samples: int = 1,
    seed: int = 0,
    controls: Sequence[Path] = (),
    swaps: Sequence[list[Problem]] = (),
    swap_tau: float = SWAP_TAU,
    device: str = "cpu",
    report: Callable[[Cell | SwapFigures], None] | None = None,
) -> Evaluation:
    """Run every cell on one model and its controls; `report` sees each figure as it is ready.

    `controls` are folders of checkpoints of any kind. Raises UserError for a bad folder.
    """
    reasoner = load_nfcot(model, device=device)
    others = [load_reasoner(c, device=device) for c in controls]
    done: list[Cell] = []
    figures: list[SwapFigures] = []

    def keep(cell: Cell) -> None:
        done.append(cell)
        if report is not None:
            report(cell)

    with Sandbox() as sandbox:
        for steps, problems in cells:
            for tau in taus:
                keep(
                    evaluate_cell(
                        reasoner,
                        problems,
                        sandbox,
                        steps=steps,
                        tau=tau,
                        seed=seed,
                        samples=samples,
                    )
                )
            if all(p.steps for p in problems) and reasoner.encodes([p.steps for p in problems]):
                keep(evaluate_oracle(reasoner, problems, sandbox, steps=steps))
            for control in others:
                keep(evaluate_control(control, problems, sandbox, steps=steps))
        for problems in swaps:
            figures.append(evaluate_swaps(reasoner, problems, sandbox, tau=swap_tau, seed=seed))
            if report is not None:
                report(figures[-1])
    return Evaluation(str(model), reasoner.checkpoint_hash, seed, done, figures)
