"""Which clean traces is a run ranked against, and may it be? A calibration and its identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.battery import BatteryScores, Selection, fit_battery
from analyses.battery.bands import energy_quantiles
from analyses.battery.source import positive_tau
from analyses.calibrate import Rule
from analyses.ranks import Ranks, one_per_group, rank_clean, refuse_too_few, split_groups
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash
from nfcot_model.traces import Run
from nfcot_model.traces.replay import disagree

__all__ = [
    "REPLAY_TOLERANCE",
    "CleanSet",
    "Identity",
    "clean_set",
    "refuse_mismatch",
    "refuse_settings",
    "refuse_traces",
    "run_identity",
]

REPLAY_TOLERANCE = 1e-3
ROLES = ("fit", "reference", "calibration")
MEMBERS = ("trace_id", "group", "u_sha256")

Digests = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Identity:
    """What must agree, and who must not come back? Of one or more clean runs.

    `members`: sorted 64-bit hashes of trace ids, groups and of the thoughts themselves.
    """

    name: str
    settings: dict[str, Any]
    worlds: list[str]
    members: dict[str, Digests]


@dataclass(frozen=True, eq=False)
class CleanSet:
    """A calibration of one kind of trace: ranks, and the identity that it holds for.

    `sets`: role (fit, reference, calibration) -> run, run_hash, n. `replay_error_max`: of the clean
    traces; `tolerance`: what rounding explains. `band_by_k`: usual energies at each position.
    """

    ranks: Ranks
    identity: Identity
    sets: dict[str, dict[str, Any]]
    replay_error_max: float
    tolerance: float
    band_by_k: list[dict[str, Any]]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def hash(self) -> str:
        """Which calibration is this? Hash of settings and of the sets it was made of."""
        return content_hash([self.identity.settings, self.sets, list(self.ranks.battery.names)])


def digests(names: Iterable[str]) -> Digests:
    """64 bits of each name's SHA-256, sorted, each once."""
    return np.unique(np.array([_digest(name) for name in names], dtype=np.uint64))


def _digest(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8], "big"))


def run_identity(run: Run, keep: NDArray[np.bool_] | None = None) -> Identity:
    """What a calibration on (some of) this run's traces would hold for. Reads tables only.

    Raises UserError at tau = 0 and for a run without traces.
    """
    positive_tau(run.manifest, run.name)
    traces = run.traces if keep is None else run.traces[keep]
    if traces.empty:
        raise UserError(f"{run.name}: holds no traces; trace some problems into it")
    members = {name: digests(_named(traces, name)) for name in MEMBERS}
    return Identity(run.name, run.settings, sorted(set(traces["world"])), members)


def _named(traces: pd.DataFrame, column: str) -> pd.Series:
    """The names that tell traces apart; all traces without thoughts have the same thoughts."""
    return traces.loc[traces["K"] > 0, column] if column == "u_sha256" else traces[column]


def refuse_mismatch(run: Run, clean: Identity) -> None:
    """Raise UserError unless clean traces of `clean` are a null for `run`.

    Checkpoint, tau, budget, template and dtype must agree; the clean traces must have problems of
    every world of the run; no trace, problem group or thoughts may be in both, for ranks among
    traces of one's own problems are not p-values.
    """
    refuse_settings(run, clean)
    ids, groups, worlds = (
        run.traces[column].to_numpy(dtype=object) for column in ("trace_id", "group", "world")
    )
    refuse_traces(run.name, ids, groups, worlds, clean)
    _refuse_shared(run.name, "u_sha256", _named(run.traces, "u_sha256"), clean)


def refuse_settings(run: Run, clean: Identity) -> None:
    """Raise UserError for a run that was made with other settings than the clean traces."""
    for name, mine in run.settings.items():
        theirs = clean.settings.get(name)
        if mine != theirs:
            raise UserError(
                f"--calibration {clean.name}: {name} is {theirs!r}, that of {run.name} is {mine!r};"
                " calibrate on clean traces made with the same settings"
            )


def refuse_traces(
    name: str,
    ids: NDArray[np.object_],
    groups: NDArray[np.object_],
    worlds: NDArray[np.object_],
    clean: Identity,
) -> None:
    """Raise UserError for traces of worlds that the clean ones lack, or that are among them."""
    missing = set(worlds) - set(clean.worlds)
    if missing:
        raise UserError(
            f"--calibration {clean.name}: has no problem of world {', '.join(sorted(missing))},"
            f" {name} has; calibrate on clean traces of the same kind of problems"
        )
    for column, names in (("trace_id", ids), ("group", groups)):
        _refuse_shared(name, column, names, clean)


def _refuse_shared(run: str, column: str, names: Iterable[str], clean: Identity) -> None:
    distinct = sorted(set(names))
    shared = np.isin([_digest(name) for name in distinct], clean.members[column])
    if shared.any():
        raise UserError(
            f"--calibration {clean.name}: shares {int(shared.sum())} of {column} with {run}"
            f" ({distinct[int(np.argmax(shared))]}); calibrate on other problems"
        )


def clean_set(
    run: Run,
    rule: Rule,
    *,
    others: Mapping[str, Run] | None = None,
    features: str | None = None,
) -> CleanSet:
    """Calibrate on a clean run, split in three, or on three runs.

    others: the runs for `fit` and `reference`, when they are not to be split off `run`. features:
    `h` or a captured site, for hidden-state statistics. Raises UserError for runs without noise
    (tau = 0, no density), sets that share a trace, a group or thoughts, runs made otherwise than
    each other, too few traces for the rule, and traces that are visibly not clean: planted, not
    replaying, or with an energy on record that their thoughts do not have.
    """
    positive_tau(run.manifest, run.name)
    runs = {role: (others or {}).get(role, run) for role in ROLES}
    keep = _roles(runs)
    chosen = keep["calibration"] & _first_of_group(run)
    groups = len(set(run.traces["group"]))
    how = f" (one per group, half of {groups} groups; the other half is the reference)"
    reference = sum(int(keep[role].sum()) for role in ("fit", "reference"))
    for role in ROLES:
        _refuse_planted(runs[role])
    refuse_too_few(run.name, int(chosen.sum()), rule, "" if others else how, reference)
    identity = _joint_identity(run, runs, keep)
    parts = {role: Selection(runs[role], keep[role]) for role in ROLES}
    fitting = parts["fit"] if keep["fit"].any() else None
    battery = fit_battery(parts["reference"], fit=fitting, features=features)
    scored = {role: battery.score(parts[role]) for role in ROLES if keep[role].any()}
    usual, ranked = scored["reference"], scored["calibration"]
    counts = {role: int(keep[role].sum()) for role in ROLES}
    ranks = rank_clean(battery, ranked, counts["fit"], counts["reference"], run.name)
    largest = max(_replay_error(scores) for scores in scored.values())
    tolerance = _tolerance(run, largest)
    _refuse_changed(run.name, list(scored.values()), tolerance)
    return CleanSet(
        ranks=ranks,
        identity=identity,
        sets={
            role: {"run": runs[role].name, "run_hash": runs[role].hash, "n": counts[role]}
            for role in ROLES
        },
        replay_error_max=largest,
        tolerance=tolerance,
        band_by_k=energy_quantiles(
            usual.thoughts["energy"].to_numpy(), usual.thoughts["k"].to_numpy()
        ),
    )


def _roles(runs: Mapping[str, Run]) -> dict[str, NDArray[np.bool_]]:
    """Which traces of its run has each role? A run in several roles is split by its groups."""
    run = runs["calibration"]
    sets = split_groups(run.traces["group"].to_numpy(dtype=object))
    if all(runs[role] is run for role in ROLES):
        return {role: sets == role for role in ROLES}
    if any(runs[role] is run for role in ("fit", "reference")):
        raise UserError(
            f"{run.name}: give both --fit and --reference, or neither; with one of them, the other"
            " set would come from the run to calibrate on"
        )
    return {role: np.ones(len(runs[role].traces), dtype=bool) for role in ROLES}


def _first_of_group(run: Run) -> NDArray[np.bool_]:
    return one_per_group(*(run.traces[c].to_numpy(dtype=object) for c in ("group", "trace_id")))


def _joint_identity(
    run: Run, runs: Mapping[str, Run], keep: Mapping[str, NDArray[np.bool_]]
) -> Identity:
    """The identity of all three sets together; refuses sets that overlap or differ."""
    own = {role: run_identity(runs[role], keep[role]) for role in ROLES if keep[role].any()}
    for role, identity in own.items():
        for name, value in identity.settings.items():
            if value != run.settings[name]:
                raise UserError(
                    f"--{role} {identity.name}: {name} is {value!r}, that of {run.name} is"
                    f" {run.settings[name]!r}; the three clean sets need the same settings"
                )
    for i, first in enumerate(own):
        for second in list(own)[i + 1 :]:
            for column in MEMBERS:
                shared = np.intersect1d(own[first].members[column], own[second].members[column])
                if shared.size:
                    raise UserError(
                        f"{own[first].name} ({first}) and {own[second].name} ({second}) share"
                        f" {shared.size} of {column}; the three clean sets must be disjoint, give"
                        " runs on other problems"
                    )
    members = {
        column: np.unique(np.concatenate([identity.members[column] for identity in own.values()]))
        for column in MEMBERS
    }
    return Identity(run.name, run.settings, own["calibration"].worlds, members)


def _refuse_planted(clean: Run) -> None:
    if "planted" in clean.manifest:
        raise UserError(
            f"--calibration {clean.name}: holds planted anomalies; calibrate on a clean run"
        )


def _tolerance(clean: Run, largest: float) -> float:
    """How large a replay error does rounding alone explain?

    A float32 run replays to 1e-3. In a coarser dtype thinking and scoring round differently, so
    twice the clean run's own largest error is the measure.
    """
    if clean.manifest["decode"]["dtype"] == "float32":
        return REPLAY_TOLERANCE
    return max(REPLAY_TOLERANCE, 2 * largest)


def _replay_error(scores: BatteryScores) -> float:
    thinking = scores.trajectories["K"] > 0
    return float(scores.trajectories["replay_err"][thinking].max())


def _refuse_changed(name: str, sets: list[BatteryScores], tolerance: float) -> None:
    """Raise UserError for clean traces that show that they are not as they were drawn."""
    errors = pd.concat([s.trajectories.loc[s.trajectories["K"] > 0, "replay_err"] for s in sets])
    broken = int((~(errors <= tolerance)).sum())
    if broken:
        raise UserError(
            f"--calibration {name}: {broken} of its trajectories do not replay, so they are"
            " not as they were drawn; calibrate on a clean run"
        )
    thoughts = pd.concat([s.thoughts for s in sets], ignore_index=True)
    changed = disagree(thoughts["energy_stored"].to_numpy(), thoughts["energy"].to_numpy())
    if changed.any():
        raise UserError(
            f"--calibration {name}: trace {thoughts.loc[changed, 'trace_id'].iloc[0]} has another"
            " energy on record than its thoughts give, so it is not clean; trace it again"
        )
