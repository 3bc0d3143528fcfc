"""What does each thought score and say while a model thinks, and shall it think on?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from analyses.live_calibration import LiveCalibration, stabilised
from analyses.scored import refuse_without_likelihood
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import NewThoughts

__all__ = ["READ_EVERY", "LiveMonitor", "LiveThought"]

READ_EVERY = 8


@dataclass(frozen=True)
class LiveThought:
    """One thought just drawn: whose, which, how it scored. `z` are None without calibration.

    `over`: beyond the threshold; such a thought is the last where the monitor stops. `score` is
    infinite where anything is no number. `text` is None where the model's flow is not causal (text
    comes at the end only), within a step of several thoughts, and where nobody asked for text.
    """

    row: int
    k: int
    energy: float
    logvol: float
    z_energy: float | None
    z_logvol: float | None
    score: float | None
    over: bool
    text: str | None


COLUMNS = (*LiveThought.__dataclass_fields__, "invalid")


class LiveMonitor:
    """An `on_thought` that scores every thought of one call of `think`, from the first.

    Scores and stops are decided at once. Text and `listen` follow in order, on a thread of their
    own, so that thinking does not wait for them; `close` (or leaving the `with`) does. (Where torch
    computes on more than half of the cores, text is read in between: both would only be in each
    other's way.) Texts are read `read_every` thoughts at a time, which costs less than one by one:
    told at the latest `read_every - 1` thoughts later, at once where one is beyond the threshold,
    and after the last thought with `flush`. Raises UserError for a calibration of another model or
    temperature, a reasoner without likelihood, and a `read_every` below 1.
    """

    def __init__(
        self,
        reasoner: NFCoTReasoner,
        *,
        tau: float,
        calibration: LiveCalibration | None = None,
        max_thoughts: int | None = None,
        stop: bool = True,
        read: bool = True,
        read_every: int = READ_EVERY,
        listen: Callable[[LiveThought], object] | None = None,
    ) -> None:
        refuse_without_likelihood(reasoner, "watching")
        if read_every < 1:
            raise UserError(f"--read-every {read_every}: expected at least 1 thought")
        if calibration is not None:
            calibration.check(reasoner, tau, max_thoughts)
        self.reasoner, self.tau, self.calibration = reasoner, tau, calibration
        self.stop, self.listen, self.read_every = stop, listen, read_every
        self.reads = read and reasoner.variable_k and reasoner.model.flow.order == "causal"
        self.stopped: Tensor | None = None
        self._steps: list[dict[str, NDArray[Any]]] = []
        self._texts: dict[tuple[int, int], str] = {}
        self._untold: list[int] = []
        self._unread: list[tuple[Tensor, Tensor]] = []  # u and alive, from a step's start on
        self._reading = reasoner.model.flow.reading() if self.reads else None
        threads = torch.get_num_threads()
        busy = reasoner.model.device.type == "cpu" and threads > 1 and 2 * threads > _cores()
        self._between = self.reads and busy
        aside = listen is not None or (self.reads and not busy)
        self._thread = ThreadPoolExecutor(1, "nfcot-live") if aside else None
        self._jobs: list[Future[None]] = []

    def __call__(self, new: NewThoughts) -> Tensor | None:
        """Score these thoughts; the rows that shall think no further, if any."""
        alive = new.alive.cpu().numpy()
        if (new.k.cpu().numpy()[alive] != len(self._steps)).any():
            raise UserError(
                "a LiveMonitor watches one think from its first thought; make a new one"
            )
        step = self._scored(new, alive)
        self._steps.append(step)
        halted = None
        if self.calibration is not None:
            over = torch.from_numpy(step["over"])
            if self.stopped is None:
                self.stopped = torch.zeros_like(over)
            if self.stop:
                self.stopped = self.stopped | over
                halted = over.to(new.alive.device)
        if self._between:
            self._take(len(self._steps) - 1, new.u, new.alive)
        elif self._thread is not None:
            self._follow(self._take, len(self._steps) - 1, new.u, new.alive)
        return halted

    def _scored(self, new: NewThoughts, alive: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """The columns of this step, a value per row, by the names of `LiveThought`."""
        eps, log_sigma, u = (drawn.cpu().numpy() for drawn in (new.eps, new.log_sigma, new.u))
        with np.errstate(invalid="ignore", over="ignore"):
            energy = np.square(eps).sum(-1, dtype=np.float64) * (0.5 / (self.tau or 1.0) ** 2)
            logvol = -log_sigma.sum(-1, dtype=np.float64)
            finite = np.isfinite(energy + logvol + u.sum(-1))
            step = {"alive": alive, "energy": energy, "logvol": logvol, "invalid": ~finite}
            if self.calibration is not None:
                values = stabilised(energy, logvol, self.calibration.D)
                z = self.calibration.z(values, len(self._steps))
                score = np.where(finite, self.calibration.score(z), np.inf)
                step |= {"z_energy": z[:, 0], "z_logvol": z[:, 1], "score": score}
                step["over"] = alive & (score > 1)
        return step

    def _follow(self, job: Callable[..., None], *arguments: object) -> None:
        assert self._thread is not None
        self._jobs.append(self._thread.submit(job, *arguments))

    def _take(self, k: int, u: Tensor, alive: Tensor) -> None:
        self._untold.append(k)
        if self._reading is None:
            self._tell()
            return
        self._unread.append((u, alive))
        slots = self.reasoner.model.config.codec["slots"]
        beyond = any(self._steps[i]["over"].any() for i in self._untold if "over" in self._steps[i])
        if (k + 1) % slots == 0 and (len(self._untold) >= self.read_every or beyond):
            self._tell()

    def _tell(self) -> None:
        """Read what is complete and not yet read; tell of what is not yet told."""
        slots = self.reasoner.model.config.codec["slots"]
        whole = len(self._unread) // slots * slots
        if self._reading is not None and whole:
            first = self._untold[0]
            drawn, self._unread = self._unread[:whole], self._unread[whole:]
            e = torch.stack([self._reading.next(u, alive) for u, alive in drawn], dim=1)
            chunks = e.view(len(e), -1, slots, e.shape[-1])
            # Alive at the last thought of a step.
            ended = torch.stack([alive for _, alive in drawn[slots - 1 :: slots]], dim=1)
            mask = torch.ones(int(ended.sum()), slots, dtype=torch.bool)
            said = self.reasoner.read(chunks[ended].cpu(), mask) if len(mask) else []
            for (row, step), (text,) in zip(ended.nonzero().tolist(), said, strict=True):
                for k in range(first + step * slots, first + (step + 1) * slots):
                    self._texts[row, k] = text
        told, self._untold = self._untold, []
        if self.listen is None:
            return
        if self._between:
            self._follow(self._listened, told)
        else:
            self._listened(told)

    def _listened(self, told: Sequence[int]) -> None:
        assert self.listen is not None
        for k in told:
            values = self._steps[k]
            for row in np.flatnonzero(values["alive"]).tolist():
                self.listen(self._thought(k, row, values))

    def _thought(self, k: int, row: int, values: dict[str, NDArray[Any]]) -> LiveThought:
        def at(name: str) -> float | None:
            return float(values[name][row]) if name in values else None

        return LiveThought(
            row=row,
            k=k,
            energy=float(values["energy"][row]),
            logvol=float(values["logvol"][row]),
            z_energy=at("z_energy"),
            z_logvol=at("z_logvol"),
            score=at("score"),
            over=bool(at("over")),
            text=self._texts.get((row, k)),
        )

    def flush(self) -> None:
        """Thinking is over: read and tell what is left, without waiting for it."""
        if self._between:
            self._tell()
        elif self._thread is not None:
            self._follow(self._tell)

    def wait(self) -> None:
        """Until what was drawn so far is taken in; raises what a listener raised."""
        for job in self._jobs:
            job.result()

    def close(self) -> None:
        """Wait until every text is read and everything told; raises what a listener raised."""
        self.flush()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self.wait()

    def __enter__(self) -> LiveMonitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def frame(self) -> pd.DataFrame:
        """One row per thought, by row and k; after `close`."""
        if not self._steps:
            return pd.DataFrame(columns=list(COLUMNS))
        alive = np.stack([values["alive"] for values in self._steps], axis=1)
        row, k = np.nonzero(alive)
        columns: dict[str, Any] = dict.fromkeys(COLUMNS)
        columns |= {"row": row, "k": k, "over": False}
        for name in COLUMNS[2:]:
            if name in self._steps[0]:
                column = np.stack([values[name] for values in self._steps], axis=1)[row, k]
                columns[name] = column.astype(bool if column.dtype == bool else np.float64)
        texts = [self._texts.get(at) for at in zip(row.tolist(), k.tolist(), strict=True)]
        columns["text"] = np.array(texts, dtype=object)
        return pd.DataFrame(columns)


def _cores() -> int:
    """How many cores may this process use?"""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
