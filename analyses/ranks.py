"""Which clean scores is a new trajectory ranked among? Three sets, cells of task x length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.battery import Battery, BatteryScores, Noise, fit_battery
from analyses.calibrate import MIN_REFERENCE, Rule
from analyses.cells import ALL, cell_levels, large_cells
from nfcot_model.errors import UserError

__all__ = [
    "Cell",
    "Ranks",
    "calibrate",
    "one_per_group",
    "rank_clean",
    "refuse_too_few",
    "split_groups",
]

Floats = NDArray[np.float64]

FIT_SHARE = 0.2
MIN_STORED = 20


@dataclass(frozen=True, eq=False)
class Cell:
    """Clean calibration trajectories: `scores` [n] sorted, and sorted max_k |z| (`peaks` [n])."""

    scores: Floats
    peaks: Floats

    @property
    def n(self) -> int:
        return int(self.scores.size)


@dataclass(frozen=True, eq=False)
class Ranks:
    """A battery and the clean scores to rank among, in every cell that is not tiny.

    n_fit, n_reference: traces behind the battery. unused: further samples of calibration groups
    that were left out.
    """

    battery: Battery
    cells: Mapping[str, Cell]
    n_fit: int
    n_reference: int
    unused: int

    @property
    def n(self) -> int:
        return self.cells[ALL].n

    def usable(self, rule: Rule) -> list[str]:
        """Which cells are large enough for the rule? `all` is always among them."""
        return [
            name for name, cell in self.cells.items() if name == ALL or cell.n >= rule.cell_minimum
        ]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def split_groups(groups: NDArray[np.object_]) -> NDArray[np.object_]:
    """Which set is each trace in: fit, reference or calibration? [n], whole groups, by their hash.

    A tenth of the groups, two fifths and a half.
    """
    ordered = sorted(set(groups), key=_digest)
    half = len(ordered) // 2
    few = int(half * FIT_SHARE)
    sets = {group: "fit" if i < few else "reference" for i, group in enumerate(ordered[:half])}
    return np.array([sets.get(group, "calibration") for group in groups], dtype=object)


def one_per_group(groups: NDArray[np.object_], trace_ids: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Which one trace stands for each group? [n], decided by the hash of the trace id."""
    chosen: dict[str, int] = {}
    for i in sorted(range(len(groups)), key=lambda i: _digest(str(trace_ids[i]))):
        chosen.setdefault(groups[i], i)
    keep = np.zeros(len(groups), dtype=bool)
    keep[list(chosen.values())] = True
    return keep


def calibrate(clean: Noise, rule: Rule, name: str = "") -> Ranks:
    """What do clean trajectories score, on the terms that new ones will be judged by?

    Splits one clean set of plain arrays in three (runs: `analyses.clean`). Raises UserError when it
    has too few groups for the rule, or holds a value that is not a number. Valid for new
    trajectories exchangeable with these: same model, tau, template, and the same kind of problems.
    """
    sets = split_groups(clean.groups)
    chosen = (sets == "calibration") & one_per_group(clean.groups, clean.ids)
    n_fit, n_reference = (int((sets == which).sum()) for which in ("fit", "reference"))
    groups = len(set(clean.groups))
    how = f" (one per group, half of {groups} groups; the other half is the reference)"
    refuse_too_few(name, int(chosen.sum()), rule, how, n_fit + n_reference)
    fit = clean.take(sets == "fit") if n_fit else None
    battery = fit_battery(clean.take(sets == "reference"), fit=fit)
    scores = battery.score(clean.take(sets == "calibration"))
    return rank_clean(battery, scores, n_fit, n_reference, name)


def refuse_too_few(
    name: str, found: int, rule: Rule, how: str = "", reference: int | None = None
) -> None:
    """Raise UserError, with the number needed, unless the rule can flag anything."""
    needed = rule.needed
    if found >= needed and (reference is None or reference >= MIN_REFERENCE):
        return
    what = f"fdr {rule.fdr:g}" if rule.fdr is not None else f"alpha {rule.rate:g}"
    what += f" guaranteed with confidence {1 - rule.delta:g}" if rule.guaranteed else ""
    flag = "--fdr" if rule.fdr is not None else "--alpha"
    raise UserError(
        f"{name}: {found} calibration traces{how} are too few: {what} needs at least {needed}, so a"
        f" run of {2 * needed} problems; trace more problems or raise {flag}"
    )


def rank_clean(
    battery: Battery, scores: BatteryScores, n_fit: int, n_reference: int, name: str = ""
) -> Ranks:
    """The clean scores to rank among, one trajectory per group. `scores`: of the calibration set.

    Raises UserError for a value that is not a number (a trajectory without thoughts may stand: it
    scores above every number, as it will when it is audited).
    """
    frame = scores.trajectories
    broken = frame["invalid"] & (frame["K"] > 0)
    if broken.any():
        raise UserError(
            f"{name}: trace {frame.loc[broken, 'trace_id'].iloc[0]} has an energy that is not a"
            " number; a calibration run must be clean, collect it again"
        )
    keep = one_per_group(
        frame["group"].to_numpy(dtype=object), frame["trace_id"].to_numpy(dtype=object)
    )
    ranked = frame[keep]
    K = ranked["K"].to_numpy(dtype=np.int64)
    levels = cell_levels(ranked["task"].to_numpy(dtype=object), K)
    score = ranked["score"].to_numpy(dtype=np.float64)
    peak = ranked["peak"].to_numpy(dtype=np.float64)
    cells = {}
    for cell in large_cells(levels, MIN_STORED):
        mine = np.any([names == cell for names in levels], axis=0)
        cells[cell] = Cell(np.sort(score[mine]), np.sort(peak[mine]))
    return Ranks(battery, cells, n_fit, n_reference, int((~keep).sum()))
