"""A fitted probe applied while the model thinks: a reading after each thought, before the answer.

monitor = ProbeMonitor(read_probe(folder), reasoner, stop=True, rate=0.01)
watched = monitor.think(prompts, tau=0.7, noise_seeds=seeds)
watched.frame                  # row, k, probability, alarms: as they were known after thought k
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import NewThoughts, Thoughts
from probes.apply import ALARMS, alarms_of, readings_of
from probes.artifact import Probe
from probes.features import gather
from probes.sites import Place, SiteRows
from probes.thresholds import recall_name

__all__ = ["Listener", "ProbeMonitor", "ThoughtRead", "Watched"]

SPACES = ("u", "eps", "mu", "h")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ThoughtRead:
    """What the probe said after one thought, of the rows that it could read there.

    row [m]: place in the batch; k [m]: the thought; told [m] or [m, C]: as `Probe.read`; alarms:
    name -> [m], for each threshold that the probe has.
    """

    row: Ints
    k: Ints
    told: NDArray[np.float64]
    alarms: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Watched:
    """The thoughts, and what the probe said on the way.

    frame: row (place in the batch), k (the thought after which it was known), settled (no later
    thought can change it: an index, or the first N thoughts; the last, mean, maximum, … so far are
    readings of the trace as if it ended there), and the columns of `ProbeScores.frame`. `ended`
    [B]: rows whose thinking the monitor ended. `out`: rows in which there was nothing to read.
    """

    thoughts: Thoughts
    frame: pd.DataFrame
    ended: NDArray[np.bool_]
    out: int

    @property
    def final(self) -> pd.DataFrame:
        """The last reading of each row: what `apply_probe` reads in the recorded trace."""
        return self.frame.groupby("row", sort=True).tail(1).sort_values("row")


class ProbeMonitor:
    """What does a probe read while the model thinks, and shall it think on?

    For sites in u, eps, mu and h@LAYER, at every place: `-1` and pooled places are read as if the
    trace ended at each thought. `stop`: a row whose alarm at `rate` goes off has had its last
    thought. The rate holds for one reading of a trace: of places that are read after every thought,
    whose alarm can go off at any of them, more of the harmless traces are stopped. `on_reading` is
    called with each `ThoughtRead` as soon as it is known.

    Raises UserError for a probe of another checkpoint, one of a space that is known only after
    thinking (e, captured hooks), and for `stop` at a rate for which it has no threshold.
    """

    def __init__(
        self,
        probe: Probe,
        reasoner: NFCoTReasoner,
        *,
        stop: bool = False,
        rate: float = 0.05,
        on_reading: Callable[[ThoughtRead], object] | None = None,
    ) -> None:
        self.probe, self.reasoner, self.on_reading = probe, reasoner, on_reading
        self.site = probe.site
        self.slots: int = reasoner.config["codec"]["slots"]
        self.stop_alarm = _alarm_of(probe, rate) if stop else None
        if self.site.space not in SPACES:
            raise UserError(
                f"--site {self.site}: is not known while the model thinks; a monitor reads"
                f" {', '.join(SPACES[:-1])} and h@LAYER: fit a probe there, or apply this one to a"
                " recorded run"
            )
        _refuse_other(probe, _made_by(reasoner))

    @property
    def hidden(self) -> bool:
        """Must the model tell its states (`hidden=True`), or are thoughts enough?"""
        return self.site.layer is not None

    def think(
        self,
        prompts: Sequence[str],
        *,
        tau: float,
        noise_seeds: Sequence[int],
        max_thoughts: int | None = None,
    ) -> Watched:
        """`NFCoTReasoner.think`, watched: the same thoughts, and the readings of each.

        Raises UserError for a tau or budget other than the probe was fitted at.
        """
        _refuse_other(self.probe, {"decode.tau": float(tau), "decode.max_thoughts": max_thoughts})
        listener = self.listener(len(prompts), self.reasoner.budget(max_thoughts))
        thoughts = self.reasoner.think(
            prompts,
            tau=tau,
            noise_seeds=noise_seeds,
            max_thoughts=max_thoughts,
            on_thought=listener,
            hidden=self.hidden,
        )
        return listener.watched(thoughts)

    def listener(self, rows: int, budget: int) -> Listener:
        """The `on_thought` of one batch, for thinking by other means (with `hidden` as it says)."""
        return Listener(self, rows, budget)


class Listener:
    """Hears one batch think and reads each thought. `read`: all readings so far, in order.

    It must hear a row from its first thought on: what was given before is not known to it.
    """

    def __init__(self, monitor: ProbeMonitor, rows: int, budget: int) -> None:
        self.monitor = monitor
        self.rows, self.budget = rows, budget
        self.read: list[ThoughtRead] = []
        self.ended = np.zeros(rows, dtype=bool)
        self._heard: NDArray[np.float32] | None = None  # [rows * budget, width]
        self._had = np.zeros(rows, dtype=np.int64)

    def __call__(self, new: NewThoughts) -> Tensor | None:
        """Told of one thought of each living row; which rows [B] shall think no further?"""
        monitor = self.monitor
        alive = new.alive.cpu().numpy()
        row = np.flatnonzero(alive)
        k = new.k.cpu().numpy()[row]
        self._keep(new, row, k)
        span = _span(monitor.site.place, k, monitor.slots, self._thoughts_of_probe)
        at = np.flatnonzero(span.count)
        if not at.size:
            return None
        there = SiteRows(row[at], (row * self.budget + span.first)[at], span.count[at], 0)
        assert self._heard is not None
        told = monitor.probe.read(gather(self._heard, monitor.site, there))
        found = ThoughtRead(row[at], k[at], told, alarms_of(monitor.probe, told))
        self.read.append(found)
        if monitor.on_reading is not None:
            monitor.on_reading(found)
        if monitor.stop_alarm is None:
            return None
        halted = np.zeros(self.rows, dtype=bool)
        halted[found.row] = found.alarms[monitor.stop_alarm]
        self.ended |= halted
        return torch.from_numpy(halted).to(new.alive.device)

    def watched(self, thoughts: Thoughts) -> Watched:
        """All readings in one table, beside the thoughts."""
        probe = self.monitor.probe
        none = np.zeros(0, dtype=np.int64)
        width = () if probe.kind != "multiclass" else (len(probe.meta["classes"]),)
        row = np.concatenate([none, *(found.row for found in self.read)])
        k = np.concatenate([none, *(found.k for found in self.read)])
        told = np.concatenate([np.zeros((0, *width)), *(found.told for found in self.read)])
        columns: dict[str, Any] = {
            "row": row,
            "k": k,
            "settled": np.full(len(row), _settled(self.monitor.site.place)),
            **readings_of(probe, told),
            **alarms_of(probe, told),
        }
        out = self.rows - len(np.unique(row))
        return Watched(thoughts, pd.DataFrame(columns), self.ended, out)

    @property
    def _thoughts_of_probe(self) -> int:
        """How many thoughts side by side does the probe read?"""
        assert self._heard is not None
        return int(self.monitor.probe.weights.mean.size // self._heard.shape[1])

    def _keep(self, new: NewThoughts, row: Ints, k: Ints) -> None:
        value = _value(self.monitor, new).cpu().float().numpy()
        if self._heard is None:
            self._refuse_width(value.shape[1])
            self._heard = np.zeros((self.rows * self.budget, value.shape[1]), dtype=np.float32)
        missed = np.flatnonzero(self._had[row] != k)
        if missed.size:
            raise ValueError(
                f"thought {k[missed[0]]} of row {row[missed[0]]} is the first that the monitor"
                f" hears after {self._had[row[missed[0]]]} others; it must hear every thought"
            )
        self._heard[row * self.budget + k] = value[row]
        self._had[row] += 1

    def _refuse_width(self, width: int) -> None:
        read, place = self.monitor.probe.weights.mean.size, self.monitor.site.place
        side = 1 if place.how != "concat" else abs(place.n or read // width)
        if width * side != read:
            raise UserError(
                f"--site {self.monitor.site}: holds {width * side} values in this model, the probe"
                f" reads {read}; fit a probe on a run of this model"
            )


def _value(monitor: ProbeMonitor, new: NewThoughts) -> Tensor:
    """What stands at the thought in the probe's space? [B, width]"""
    if monitor.site.layer is not None:
        if new.hidden is None:
            raise ValueError("the probe reads hidden states: think with hidden=True")
        return new.hidden[:, monitor.site.layer]
    value: Tensor = {"u": new.u, "eps": new.eps, "mu": new.mu}[monitor.site.space]
    return value


@dataclass(frozen=True)
class _Span:
    """Thoughts first .. first + count - 1 of each row; count 0 where there is nothing to read."""

    first: Ints
    count: Ints


def _span(place: Place, k: Ints, slots: int, side: int) -> _Span:
    """Which thoughts are at the place when thought k [m] is the last so far?"""
    have, n = k + 1, place.n
    if place.how == "k" and n is not None:
        first = np.full_like(k, n) if n >= 0 else have + n
        return _Span(first, ((first == k) if n >= 0 else (first >= 0)).astype(np.int64))
    if place.how == "step" and n is not None:
        steps, over = np.divmod(have, slots)
        step = np.full_like(k, n) if n >= 0 else steps + n
        first = (step + 1) * slots - 1
        there = (first == k) if n >= 0 else (step >= 0)
        return _Span(first, (there & (over == 0)).astype(np.int64))
    if place.how == "concat":
        n = side if n is None else n
        first = np.zeros_like(k) if n > 0 else have + n
        return _Span(first, np.where(have == n if n > 0 else first >= 0, abs(n), 0))
    return _Span(np.zeros_like(k), have)


def _settled(place: Place) -> bool:
    return place.how in ("k", "step", "concat") and place.n is not None and place.n >= 0


def _alarm_of(probe: Probe, rate: float) -> str:
    name = recall_name(rate)
    limits = probe.limits
    if limits is None or name not in limits.values:
        reason = "only probes of a binary label raise alarms"
        if limits is not None:
            reason = limits.reasons.get(name, f"it has those of {', '.join(limits.values)}")
        raise UserError(
            f"--stop: the probe has no threshold at a rate of {rate:g} ({reason}); fit it with a"
            " larger control set, or choose another rate"
        )
    return ALARMS[name]


def _made_by(reasoner: NFCoTReasoner) -> dict[str, Any]:
    """Those settings of a run that the model alone decides."""
    return {
        "reasoner": reasoner.name,
        "checkpoint_hash": reasoner.checkpoint_hash,
        "decode.k_policy": "model" if reasoner.variable_k else "fixed",
        "decode.template": reasoner.prompt_template,
        "decode.dtype": reasoner.config["dtype"],
    }


def _refuse_other(probe: Probe, made: dict[str, Any]) -> None:
    for name, found in made.items():
        expected = probe.meta["settings"].get(name)
        if expected != found:
            raise UserError(
                f"monitor: {name} is {found}, the probe was fitted on {expected}; thoughts made"
                " otherwise are not comparable: fit a probe on a run made so"
            )
