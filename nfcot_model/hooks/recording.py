"""Activations of a whole run: planned first, then captured shard by shard beside it on disk."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from time import perf_counter

import numpy as np
import pandas as pd
import torch

from nfcot_model import __version__
from nfcot_model.errors import UserError
from nfcot_model.files import write_json
from nfcot_model.hooks.bridge import ThoughtBridge, hooked
from nfcot_model.hooks.capture import capture_sites
from nfcot_model.hooks.sites import Site, choose_sites
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces.activations import (
    FORMAT_VERSION,
    MANIFEST,
    ActivationSet,
    is_whole,
    new_set,
    thoughts_hash,
    write_activations,
)
from nfcot_model.traces.model_of import refuse_other_model
from nfcot_model.traces.reader import Run
from nfcot_model.traces.writer import writing

__all__ = ["RESIDUAL", "ActivationPlan", "ActivationSummary", "plan_activations", "record"]

RESIDUAL = ("blocks.*.hook_out",)
LIBRARIES = ("torch", "transformers", "transformer-lens", "numpy", "safetensors")


@dataclass(frozen=True)
class ActivationPlan:
    """What would be captured, where, and how many bytes is it?

    bytes: of all sites at all thoughts of the run, without file headers; bytes_missing: of the
    shards in `missing`, which are not there yet or not as they were written.
    """

    run: Run = field(repr=False)
    reasoner: NFCoTReasoner = field(repr=False)
    bridge: ThoughtBridge = field(repr=False)
    sites: tuple[Site, ...]
    target: ActivationSet
    missing: tuple[str, ...]
    bytes: int
    bytes_missing: int


@dataclass(frozen=True)
class ActivationSummary:
    """What was captured? `captured` of the run's `shards` were made now, the others were there.

    bytes_estimated: said before anything was written; bytes: what the files take.
    """

    run: str
    folder: str
    sites: list[str]
    traces: int
    thoughts: int
    shards: int
    captured: int
    bytes_estimated: int
    bytes: int
    seconds: float


def plan_activations(
    run: Run, reasoner: NFCoTReasoner, sites: Sequence[str] = RESIDUAL
) -> ActivationPlan:
    """What would capturing these sites at every thought of a run take? Writes nothing.

    sites: hook names, with stars for parts of them. Raises UserError for a site that does not
    exist or cannot be read by thought, for a reasoner that is not the run's (checkpoint, dtype),
    and when the disk has less room than is needed.
    """
    refuse_other_model(run, reasoner)
    bridge = hooked(reasoner.model)
    chosen = tuple(sorted(choose_sites(bridge, sites), key=lambda site: site.name))
    target = _target(run, chosen)
    shards = {str(name): part for name, part in run.traces.groupby("shard", sort=False)}
    names = [site.name for site in chosen]
    missing = {
        shard: part
        for shard, part in shards.items()
        if not is_whole(target.file(shard), names, thoughts_hash(part))
    }
    per_thought = sum(4 * int(np.prod(site.row or ())) for site in chosen)
    needed = per_thought * int(sum(part["K"].sum() for part in missing.values()))
    free = shutil.disk_usage(run.path).free
    if needed > free:
        raise UserError(
            f"{run.path}: {len(names)} sites need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are"
            " free; free some space or choose fewer --sites"
        )
    return ActivationPlan(
        run,
        reasoner,
        bridge,
        chosen,
        target,
        tuple(missing),
        per_thought * int(run.traces["K"].sum()),
        needed,
    )


def record(
    plan: ActivationPlan, progress: Callable[[int], object] | None = None
) -> ActivationSummary:
    """Capture what is planned: one causal pass over `[prompt; thoughts]` for each shard.

    The answer is left out: it comes after the thoughts, and attention is causal. Every file is
    whole or not there, so a killed capture goes on after the last one. progress: called with the
    number of traces that are captured. Raises UserError when another process captures the same.
    """
    started = perf_counter()
    advance = progress or (lambda n: None)
    run, target = plan.run, plan.target
    target.folder.mkdir(parents=True, exist_ok=True)
    shards = {str(name): part for name, part in run.traces.groupby("shard", sort=False)}
    with writing(target.folder):
        write_json(target.folder / MANIFEST, target.manifest)
        for shard, part in shards.items():
            if shard in plan.missing:
                arrays = _capture_shard(plan, shard, part)
                write_activations(target.file(shard), arrays, thoughts_hash(part))
            advance(len(part))
    return ActivationSummary(
        run=str(run.path),
        folder=str(target.folder),
        sites=[site.name for site in plan.sites],
        traces=len(run.traces),
        thoughts=len(run.thoughts),
        shards=len(shards),
        captured=len(plan.missing),
        bytes_estimated=plan.bytes,
        bytes=sum(target.file(shard).stat().st_size for shard in shards),
        seconds=perf_counter() - started,
    )


def _capture_shard(plan: ActivationPlan, shard: str, part: pd.DataFrame) -> dict[str, np.ndarray]:
    reasoner, K = plan.reasoner, part["K"].tolist()
    layout = reasoner.layout(part["prompt"].tolist(), K, side="right")
    u = torch.zeros(*layout.mask.shape, reasoner.D, device=layout.mask.device)
    u[layout.mask] = torch.from_numpy(plan.run.shard_tensor("u", shard)).to(u)
    found = capture_sites(plan.bridge, layout, u, plan.sites)
    return {name: value[layout.mask].float().cpu().numpy() for name, value in found.items()}


def _target(run: Run, chosen: Sequence[Site]) -> ActivationSet:
    identity = {
        "format_version": FORMAT_VERSION,
        "run_hash": run.hash,
        "checkpoint_hash": run.manifest["checkpoint_hash"],
        "dtype": run.manifest["decode"]["dtype"],
        "stored": "float32",
        "sites": [
            {"name": s.name, "axes": ["row", *s.axes[2:]], "row": list(s.row or ())}
            | {"meaning": s.meaning}
            for s in chosen
        ],
        "versions": {"nfcot-scope": __version__, "python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
    }
    return new_set(run.path, identity)
