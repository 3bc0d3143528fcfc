"""The causal study of a run: blocks of traces, every measure, rows on disk, a verdict per task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from analyses.causal.edits import EDITS, MODES, edits_with
from analyses.causal.influence import influences
from analyses.causal.interventions import base_of, intervene
from analyses.causal.mediation import Spaces, mediations, probe_spaces
from analyses.causal.scene import Scene
from analyses.causal.scope import Scope, scope_of
from analyses.causal.staging import crowd_of, stage
from analyses.causal.states import Wired, intervene_on_states, wire
from analyses.causal.summary import task_summary
from analyses.causal.trajectories import counterfactuals, early_answers, transplants
from analyses.causal.verdict import Thresholds
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, read_json_object, replacing, write_json
from nfcot_model.reasoners import Reasoner
from nfcot_model.sandbox import Sandbox
from nfcot_model.traces import Run
from nfcot_model.worlds import Problem
from nfcot_model.worlds.problem import problem_set_hash

__all__ = ["TABLES", "CausalResult", "Plan", "causal_study"]

FORMAT_VERSION = 1
BLOCK = 32
TABLES = ("single", "moved", "early", "told", "influence", "mediated", "states")
STUDY = "study.json"


@dataclass(frozen=True)
class Plan:
    """What is to be done: to how many traces, which edits in which modes, from which seed.

    Edits and modes that are not named are those that have a meaning (`scope_of`). `sites` are hooks
    whose states are edited too (none: thoughts only); `label` is the step label that `steer` and
    the probe mediation go by (none: the first of each world).
    """

    samples: int = 200
    edits: tuple[str, ...] | None = None
    modes: tuple[str, ...] | None = None
    sites: tuple[str, ...] = ()
    label: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, asked, known in (("edits", self.edits, EDITS), ("modes", self.modes, MODES)):
            unknown = [name for name in asked or () if name not in known]
            if unknown or asked == ():
                raise UserError(
                    f"--{flag} '{','.join(unknown)}': expected some of {', '.join(known)}"
                )
        if self.samples < 1:
            raise UserError(f"--samples is {self.samples}; expected at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}; expected 0 to 2**63 - 1")


@dataclass(frozen=True)
class CausalResult:
    """What the study found. `tables`: rows per intervention, by name; `summary` as in the JSON."""

    summary: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def causal_study(
    run: Run,
    problems: Sequence[Problem],
    reasoner: Reasoner,
    out: Path,
    plan: Plan = Plan(),
    *,
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    progress: Callable[[int], object] | None = None,
) -> CausalResult:
    """Are the thoughts of this run used? One verdict per world of the run.

    The first `plan.samples` traces of a seeded shuffle are interfered with; donors and means come
    from the whole run. Finished blocks stay in `out/rows`, so the study resumes where it was
    stopped. Thoughts are scored again first, so the result does not hang on stored likelihoods.
    What has no meaning for the reasoner is left out, and the summary says why (`scope_of`). Raises
    UserError for another checkpoint or problem set than the run's, a reasoner without thoughts, a
    label that no step has, a site that cannot be edited, an edit, mode or site asked for that has
    no meaning, and an `out` of another study.
    """
    crowd = crowd_of(run, reasoner, problems)
    scope = scope_of(reasoner, run.manifest["decode"]["tau"])
    plan = replace(
        plan,
        edits=scope.chosen("edits", plan.edits, tuple(EDITS)),
        modes=scope.chosen("modes", plan.modes, MODES),
    )
    if plan.sites:
        scope.refuse("--sites", "states")
    if plan.label is not None:
        scope.refuse("--label", "mediation")
    _check_label(crowd.problems, plan.label)
    wired = wire(reasoner, plan.sites) if plan.sites else None
    spaces = probe_spaces(crowd, plan.label)
    order = torch.randperm(len(crowd.problems), generator=torch.Generator().manual_seed(plan.seed))
    identity = {
        "format_version": FORMAT_VERSION,
        "run": run.hash,
        "checkpoint_hash": reasoner.checkpoint_hash,
        "problems": problem_set_hash(crowd.problems),
        # More samples go on from fewer: they are the beginning of the same shuffle.
        "plan": {**asdict(plan), "samples": None},
    }
    _claim(out, content_hash(_plain(identity)))
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    with Sandbox() as sandbox:
        for number, block in enumerate(order[: plan.samples].split(BLOCK)):
            done = _stored(out, number, len(block))
            if done is None:
                scene = stage(run, reasoner, crowd, block)
                done, values = _block(scene, plan, scope, sandbox, wired, spaces)
                _name(done, run, block, reasoner.thoughts_per_step or 1)
                _store(out, number, done, values)
            for name in TABLES:
                rows[name].append(done[name])
            if progress is not None:
                progress(len(block))
    tables = {name: _joined(frames) for name, frames in rows.items()}
    return CausalResult(_summary(run, reasoner, plan, scope, thresholds, tables), tables)


def _check_label(problems: Sequence[Problem], label: str | None) -> None:
    names = sorted({name for p in problems for labels in p.step_labels for name in labels})
    if label is not None and label not in names:
        has = f"steps have {', '.join(names)}" if names else "no step has labels"
        raise UserError(f"--label '{label}': {has}")


def _block(
    scene: Scene, plan: Plan, scope: Scope, sandbox: Sandbox, wired: Wired | None, spaces: Spaces
) -> tuple[dict[str, pd.DataFrame], torch.Tensor]:
    base = base_of(scene, sandbox)
    known, modes, seed = edits_with(plan.label), plan.modes or (), plan.seed
    edits = {name: known[name] for name in plan.edits or ()}
    single, values = intervene(scene, base, sandbox, seed, edits, modes)
    tables = dict.fromkeys(TABLES, pd.DataFrame())
    tables |= {"single": single, "early": early_answers(scene, base, sandbox)}
    if scope.has("transplants"):
        tables["moved"] = transplants(scene, base, sandbox, seed)
    if scope.has("counterfactuals"):
        tables["told"] = counterfactuals(scene, base, sandbox, seed)
    if scope.has("influence"):
        tables["influence"] = influences(scene, seed)
    if scope.has("mediation"):
        tables["mediated"] = mediations(scene, base, spaces, seed)
    if wired is not None:
        again = wired.scene(scene)
        changed = base_of(again, sandbox)
        tables["states"] = intervene_on_states(
            wired, again, changed, sandbox, plan.sites, seed, modes=modes
        )
    return tables, values


def _name(frames: dict[str, pd.DataFrame], run: Run, block: torch.Tensor, per_step: int) -> None:
    """Say of every row which trace it is about, and count its thought from the end too."""
    names = run.traces.iloc[block.numpy()].reset_index(drop=True)
    for frame in frames.values():
        if not len(frame):
            continue
        local = frame["row"].to_numpy()
        for column in ("trace_id", "group", "world"):
            frame[column] = names[column].to_numpy()[local]
        place = next((column for column in ("k", "step") if column in frame), None)
        if place is not None:
            K = names["K"].to_numpy()[local]
            slots = per_step if place == "step" else 1
            frame["back"] = frame[place] - K // slots
        frame["row"] = block.numpy()[local]


def _summary(
    run: Run,
    reasoner: Reasoner,
    plan: Plan,
    scope: Scope,
    thresholds: Thresholds,
    tables: dict[str, pd.DataFrame],
) -> dict[str, Any]:
    tasks = []
    for task in sorted(tables["early"]["world"].unique()):
        mine = {
            name: frame[frame["world"] == task] if len(frame) else frame
            for name, frame in tables.items()
        }
        tasks.append(
            task_summary(
                task, mine, thresholds, plan.edits or (), constant=reasoner.constant_thoughts
            )
        )
    return {
        "format_version": FORMAT_VERSION,
        "run": {"name": run.name, "hash": run.hash},
        "checkpoint_hash": reasoner.checkpoint_hash,
        "reasoner": reasoner.name,
        "tau": run.manifest["decode"]["tau"],
        "plan": _plain(asdict(plan)),
        "left_out": [{"part": part, "why": why} for part, why in scope.left_out.items()],
        "remarks": list(scope.remarks),
        "level": 0.95,
        "thresholds": thresholds.to_dict(),
        "interventions": int(sum(len(tables[name]) for name in TABLES)),
        "tasks": tasks,
        "not_sampled": sorted(set(run.traces["world"]) - {task["task"] for task in tasks}),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def _claim(out: Path, identity: str) -> None:
    path = out / STUDY
    if path.exists():
        if read_json_object(path).get("identity") != identity:
            raise UserError(
                f"{out}: holds another causal study (another run, checkpoint or plan);"
                " choose another -o"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty and holds no causal study; choose another -o")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {"identity": identity})


def _files(out: Path, number: int) -> dict[str, Path]:
    return {name: out / "rows" / f"{number:05d}-{name}.parquet" for name in TABLES}


def _stored(out: Path, number: int, traces: int) -> dict[str, pd.DataFrame] | None:
    """The tables of a finished block of so many traces; None when it is to be done (again)."""
    values = out / "rows" / f"{number:05d}-values.safetensors"
    try:
        tables = {name: pd.read_parquet(path) for name, path in _files(out, number).items()}
        kept = load_file(values)["u"]
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    whole = len(kept) == len(tables["single"]) and tables["early"]["row"].nunique() == traces
    return tables if whole else None


def _store(out: Path, number: int, frames: dict[str, pd.DataFrame], values: torch.Tensor) -> None:
    (out / "rows").mkdir(exist_ok=True)
    for name, path in _files(out, number).items():
        with replacing(path) as temporary:
            frames[name].to_parquet(temporary, index=False, compression="zstd")
    # Row i is the thought that row i of `single` put in: the edit itself, whatever drew it.
    with replacing(out / "rows" / f"{number:05d}-values.safetensors") as temporary:
        save_file({"u": values.contiguous()}, temporary)
