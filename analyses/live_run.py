"""A set of problems thought about under watch, each thought told as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.live import READ_EVERY, LiveThought
from analyses.live_calibration import LiveCalibration
from analyses.live_watch import watch
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.worlds import Problem

__all__ = ["Watched", "watch_problems"]


@dataclass(frozen=True)
class Watched:
    """A thought about a problem, or (`thought` None) the end of it: an answer, or none.

    `texts`: at the end, what the thoughts said, where that could not be told before.
    """

    problem_id: str
    thought: LiveThought | None
    answer: str | None = None
    texts: tuple[str, ...] = ()

    def words(self) -> str:
        """One line for people."""
        t = self.thought
        if t is None:
            said = "stopped before the answer" if self.answer is None else self.answer
            thought = f"  thought: {' | '.join(self.texts)}" if self.texts else ""
            return f"{self.problem_id}{thought}  → {said}"
        score = "" if t.score is None else f"  score {t.score:.2f}{' BEYOND' if t.over else ''}"
        numbers = f"energy {t.energy:.2f}  log-volume {t.logvol:.2f}{score}"
        return f"{self.problem_id}  k={t.k}  {numbers}  {t.text or ''}".rstrip()


def watch_problems(
    reasoner: NFCoTReasoner,
    problems: Sequence[Problem],
    *,
    tau: float,
    seed: int,
    max_thoughts: int | None,
    calibration: LiveCalibration | None,
    stop: bool,
    read: bool,
    batch: int,
    listen: Callable[[Watched], object],
    read_every: int = READ_EVERY,
) -> dict[str, Any]:
    """Watch a model think about problems, `batch` at a time, with the noise of `nfcot trace`.

    Returns the summary of `watch` over all of them with `rows` (one per thought) and `problems`
    (answer, whether stopped). Raises UserError without problems and as `watch` does.
    """
    if not problems:
        raise UserError("there is no problem to think about; give a file that holds some")
    frames, ends = [], []
    summary: dict[str, Any] = {}
    for start in range(0, len(problems), batch):
        block = problems[start : start + batch]
        ids = [problem.id for problem in block]

        def tell(thought: LiveThought, ids: Sequence[str] = ids) -> None:
            listen(Watched(ids[thought.row], thought))

        result = watch(
            reasoner,
            [problem.prompt for problem in block],
            tau=tau,
            noise_seeds=[noise_seed(seed, problem.id, 0) for problem in block],
            max_thoughts=max_thoughts,
            calibration=calibration,
            stop=stop,
            read=read,
            read_every=read_every,
            listen=tell,
        )
        late = result.rows[result.rows["text"].notna()]
        late = late if result.summary["text_comes"] == "at the end" else late[:0]
        for row, (id_, answer, halted) in enumerate(
            zip(ids, result.answers, result.stopped, strict=True)
        ):
            listen(Watched(id_, None, answer, tuple(late.loc[late["row"] == row, "text"])))
            ends.append({"problem_id": id_, "answer": answer, "stopped": halted})
        frames.append(result.rows.assign(problem_id=[ids[row] for row in result.rows["row"]]))
        counts = ("n", "thoughts", "stopped", "invalid")
        summary = result.summary | {c: summary.get(c, 0) + result.summary[c] for c in counts}
    rows = pd.concat(frames, ignore_index=True).drop(columns="row")
    plain = rows.astype(object).where(rows.notna(), None)
    return summary | {"problems": ends, "rows": plain.to_dict("records")}
