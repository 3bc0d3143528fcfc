"""The causal study of a run: blocks of traces, every measure, rows on disk, a verdict per task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses.causal.edits import EDITS, MODES
from analyses.causal.interventions import base_of, intervene
from analyses.causal.scene import Crowd, Scene
from analyses.causal.trajectories import counterfactuals, early_answers, transplants
from analyses.causal.verdict import Thresholds, commitment, task_summary
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, replacing, write_json
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import draw_noise
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run
from nfcot_model.worlds import WORLDS, Problem

__all__ = ["CausalResult", "Plan", "causal_study"]

BLOCK = 32
TABLES = ("single", "moved", "early", "told")


@dataclass(frozen=True)
class Plan:
    """What is to be done: how many traces, which edits, in which modes, from which seed."""

    samples: int = 200
    edits: tuple[str, ...] = tuple(EDITS)
    modes: tuple[str, ...] = MODES
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, asked, known in (("edit", self.edits, EDITS), ("mode", self.modes, MODES)):
            unknown = [name for name in asked if name not in known]
            if unknown or not asked:
                raise UserError(f"no {kind} '{', '.join(unknown)}'; there are {', '.join(known)}")
        if self.samples < 1:
            raise UserError(f"--samples {self.samples}: expected at least 1")


@dataclass(frozen=True)
class CausalResult:
    """What the study found. `tables`: rows per intervention, by name; `summary` as in the JSON."""

    summary: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def causal_study(
    run: Run,
    problems: Sequence[Problem],
    reasoner: NFCoTReasoner,
    out: Path,
    plan: Plan = Plan(),
    *,
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    progress: Callable[[int], object] | None = None,
) -> CausalResult:
    """Are the thoughts of this run used? One verdict per world of the run.

    The first `plan.samples` traces of a seeded shuffle are interfered with; donors and means come
    from the whole run. Finished blocks stay in `out/rows`, so the study resumes. Raises UserError
    for another checkpoint or problem set than the run's, tau = 0, and an `out` of another study.
    """
    crowd, asked = _crowd(run, problems, reasoner)
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(plan.seed))
    chosen = order[: plan.samples]
    identity = content_hash([run.hash, reasoner.checkpoint_hash, vars(plan)])
    _claim(out, identity)
    blocks = chosen.split(BLOCK)
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    with Sandbox() as sandbox:
        for number, block in enumerate(blocks):
            done = _stored(out, number) or _block(
                run, asked, reasoner, crowd, block, plan, number, sandbox
            )
            _store(out, number, done)
            for name in TABLES:
                rows[name].append(done[name])
            if progress is not None:
                progress(len(block))
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in rows.items()}
    return CausalResult(_summary(run, reasoner, plan, thresholds, tables), tables)


def _crowd(
    run: Run, problems: Sequence[Problem], reasoner: NFCoTReasoner
) -> tuple[Crowd, list[Problem]]:
    if reasoner.checkpoint_hash != run.manifest["checkpoint_hash"]:
        raise UserError(f"{run.path}: was traced with another checkpoint; give that one")
    if run.manifest["decode"]["tau"] <= 0:
        raise UserError(f"{run.path}: was traced at tau 0; resampling needs noise, trace above 0")
    known = {problem.id: problem for problem in problems}
    missing = [i for i in run.traces["problem_id"] if i not in known]
    if missing:
        raise UserError(f"--problems: lacks {missing[0]}, which the run was traced on")
    asked = [known[i] for i in run.traces["problem_id"]]
    K = torch.tensor(run.traces["K"].to_numpy())
    mask = torch.arange(int(K.max())) < K[:, None]
    u = torch.zeros(*mask.shape, run.D)
    u[mask] = torch.from_numpy(run.tensor("u"))
    return Crowd(u, mask, asked, run.traces["correct"].tolist()), asked


def _block(
    run: Run,
    asked: Sequence[Problem],
    reasoner: NFCoTReasoner,
    crowd: Crowd,
    block: torch.Tensor,
    plan: Plan,
    number: int,
    sandbox: Sandbox,
) -> dict[str, pd.DataFrame]:
    scene = _scene(run, asked, reasoner, crowd, block)
    base = base_of(scene, sandbox)
    rng = torch.Generator().manual_seed(plan.seed * 1_000_003 + number)
    invented = all(problem.world in WORLDS for problem in scene.problems)
    frames = {
        "single": intervene(scene, base, sandbox, rng, plan.edits, plan.modes),
        "moved": transplants(scene, base, sandbox, rng),
        "early": early_answers(scene, base, sandbox),
        "told": counterfactuals(scene, base, sandbox, rng) if invented else pd.DataFrame(),
    }
    names = run.traces.iloc[block.numpy()].reset_index(drop=True)
    for frame in frames.values():
        if len(frame):
            for column in ("trace_id", "group", "world"):
                frame[column] = names[column].to_numpy()[frame["row"]]
            frame["row"] = block.numpy()[frame["row"]]
    single = frames["single"]
    if len(single):
        single["back"] = single["k"] - names["K"].to_numpy()[_local(block, single["row"])]
    return frames


def _local(block: torch.Tensor, rows: pd.Series) -> Any:
    place = {int(row): i for i, row in enumerate(block.tolist())}
    return rows.map(place).to_numpy()


def _scene(
    run: Run,
    asked: Sequence[Problem],
    reasoner: NFCoTReasoner,
    crowd: Crowd,
    block: torch.Tensor,
) -> Scene:
    """The traces of a block as they were drawn, with the noise that drew them."""
    decode = run.manifest["decode"]
    tensors = {}
    for name in ("eps", "mu", "log_sigma"):
        whole = torch.zeros_like(crowd.u)
        whole[crowd.mask] = torch.from_numpy(run.tensor(name))
        tensors[name] = whole[block]
    mask = crowd.mask[block]
    stopped = torch.tensor(run.traces["stopped"].to_numpy())[block]
    thoughts = Thoughts(
        crowd.u[block], tensors["eps"], tensors["mu"], tensors["log_sigma"], mask, stopped
    )
    budget = min(decode["max_thoughts"] or reasoner.max_thoughts, reasoner.max_thoughts)
    seeds = run.traces["seed"].to_numpy()[block.numpy()].tolist()
    noise = draw_noise(seeds, budget, reasoner.D, decode["tau"])
    return Scene(
        reasoner,
        [asked[i] for i in block.tolist()],
        thoughts.rows(slice(None)),
        noise,
        decode["tau"],
        crowd,
        block,
    )


def _summary(
    run: Run,
    reasoner: NFCoTReasoner,
    plan: Plan,
    thresholds: Thresholds,
    tables: dict[str, pd.DataFrame],
) -> dict[str, Any]:
    tasks = []
    for task in sorted(tables["early"]["world"].unique()):
        mine = {
            name: frame[frame["world"] == task] if len(frame) else frame
            for name, frame in tables.items()
        }
        figures = task_summary(
            task, mine["single"], mine["moved"], mine["early"], mine["told"], thresholds
        )
        early = mine["early"]
        settled = commitment(early)
        K = early.groupby("row")["K"].first()
        figures["commitment"] = {
            "mean_k": float(settled.mean()),
            "at_last_thought": float((settled == K.loc[settled.index]).mean()),
        }
        figures["early_decision"] = [
            {"missing": int(missing), "correct": float(part["correct"].mean()), "n": len(part)}
            for missing, part in early.groupby(early["K"] - early["k"])
        ]
        tasks.append(figures)
    return {
        "run": {"name": run.name, "hash": run.hash},
        "checkpoint_hash": reasoner.checkpoint_hash,
        "tau": run.manifest["decode"]["tau"],
        "plan": {**vars(plan), "edits": list(plan.edits), "modes": list(plan.modes)},
        "thresholds": thresholds.to_dict(),
        "tasks": tasks,
    }


def _claim(out: Path, identity: str) -> None:
    path = out / "study.json"
    if path.exists():
        if identity not in path.read_text():
            raise UserError(f"{out}: holds another causal study; choose another -o")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty and holds no causal study; choose another -o")
    (out / "rows").mkdir(parents=True)
    write_json(path, {"identity": identity})


def _stored(out: Path, number: int) -> dict[str, pd.DataFrame] | None:
    files = {name: out / "rows" / f"{number:05d}-{name}.parquet" for name in TABLES}
    if not all(file.exists() for file in files.values()):
        return None
    return {name: pd.read_parquet(file) for name, file in files.items()}


def _store(out: Path, number: int, frames: dict[str, pd.DataFrame]) -> None:
    for name, frame in frames.items():
        path = out / "rows" / f"{number:05d}-{name}.parquet"
        if not path.exists():
            with replacing(path) as temporary:
                frame.to_parquet(temporary, index=False, compression="zstd")
