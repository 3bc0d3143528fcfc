"""Watching a model while it thinks: scores of each thought, its text, and a stop before the answer.

calibration = calibrate_live(read_run("runs/clean"), alpha=0.01)
result = watch(reasoner, prompts, tau=0.7, noise_seeds=seeds, calibration=calibration)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses.live import READ_EVERY, LiveMonitor, LiveThought
from analyses.live_calibration import STATISTICS, LiveCalibration
from analyses.scored import Scored
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts

__all__ = ["NOT_SHOWN", "LiveResult", "watch"]

NOT_SHOWN = (
    "The scorer is the model itself, while it draws: the energy is that of the noise it was given,"
    " so it shows a wrong temperature or noise source and carries no information about intent"
    " (AUROC 0.50 on a backdoor). The log-volume says how sure the model was, not of what. Decoded"
    " text is the codec's reading of a thought, not evidence that the model uses it. A generation"
    " that was not stopped is not thereby safe."
)


@dataclass(frozen=True)
class LiveResult:
    """What was thought and said under watch. `answers` are None where thinking was stopped.

    `rows`: one row per thought, the fields of `LiveThought` and `invalid`; texts are there in any
    case, from one pass at the end where they did not come alive. `text_comes` says which.
    """

    thoughts: Thoughts
    answers: list[str | None]
    stopped: list[bool]
    rows: pd.DataFrame
    summary: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot audit live --json`, but for the rows."""
        return self.summary

    def to_frame(self) -> pd.DataFrame:
        return self.rows


def watch(
    reasoner: NFCoTReasoner,
    prompts: Sequence[str],
    *,
    tau: float,
    noise_seeds: Sequence[int],
    calibration: LiveCalibration | None = None,
    stop: bool = True,
    read: bool = True,
    read_every: int = READ_EVERY,
    listen: Callable[[LiveThought], object] | None = None,
    max_thoughts: int | None = None,
) -> LiveResult:
    """Think and answer (greedily) under watch. What is not stopped is as it is without watching.

    `listen` hears of each thought, with its text where the flow is causal; texts come `read_every`
    thoughts at a time (1: each at once, which costs more), before the answer. With a `calibration`
    and `stop`, a row ends with the first thought beyond the threshold and gives no answer.
    """
    monitor = LiveMonitor(
        reasoner,
        tau=tau,
        calibration=calibration,
        max_thoughts=max_thoughts,
        stop=stop,
        read=read,
        read_every=read_every,
        listen=listen,
    )
    with monitor:
        thoughts = reasoner.think(
            prompts,
            tau=tau,
            noise_seeds=noise_seeds,
            max_thoughts=max_thoughts,
            on_thought=monitor,
        )
        monitor.flush()
        halted = torch.zeros(len(prompts), dtype=torch.bool)
        if monitor.stopped is not None:
            halted = monitor.stopped.cpu()
        going = (~halted).nonzero()[:, 0]
        answers: list[str | None] = [None] * len(prompts)
        if len(going):
            asked = [prompts[i] for i in going.tolist()]
            said = reasoner.answer(asked, thoughts.rows(going))
            for i, answer in zip(going.tolist(), said, strict=True):
                answers[i] = answer
    rows = monitor.frame()
    if read and not monitor.reads:
        rows["text"] = _read_at_the_end(reasoner, thoughts, rows)
    summary = _summary(monitor, rows, halted, read)
    return LiveResult(thoughts, answers, halted.tolist(), rows, summary)


def _read_at_the_end(
    reasoner: NFCoTReasoner, thoughts: Thoughts, rows: pd.DataFrame
) -> list[str | None]:
    """The texts of whole trajectories; None in those that were ended within a step."""
    slots = reasoner.model.config.codec["slots"]
    whole = (thoughts.K % slots == 0).nonzero()[:, 0]
    texts = reasoner.decode(thoughts.rows(whole)).texts if len(whole) else []
    by_row = dict(zip(whole.tolist(), texts, strict=True))
    if not reasoner.variable_k:
        by_row = {row: ["\n".join(text)] for row, text in by_row.items()}
    pairs = zip(rows["row"], rows["k"], strict=True)
    return [by_row[row][k // slots] if row in by_row else None for row, k in pairs]


def _summary(
    monitor: LiveMonitor, rows: pd.DataFrame, halted: Tensor, read: bool
) -> dict[str, Any]:
    reasoner = monitor.reasoner
    scored = Scored(
        scorer="self, while drawing",
        checkpoint_hash=reasoner.checkpoint_hash,
        context="the prompt",
        tau=monitor.tau,
        tensor="u as drawn (eps is the noise itself)",
        density=f"{' and '.join(STATISTICS)} of p(u_k | u_<k, prompt)",
    )
    order = reasoner.model.flow.order
    return {
        "scored": scored.to_dict(),
        "calibration": None if monitor.calibration is None else monitor.calibration.to_dict(),
        "flow_order": order,
        "text_comes": "never" if not read else "per thought" if monitor.reads else "at the end",
        "n": len(halted),
        "thoughts": len(rows),
        "stopped": int(halted.sum()),
        "invalid": len(np.unique(rows["row"].to_numpy()[rows["invalid"].to_numpy(dtype=bool)])),
        "not_shown": NOT_SHOWN,
    }
