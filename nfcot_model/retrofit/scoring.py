"""A run scored by a retrofit flow: a run of its own, which audits and the dashboard read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfcot_model.errors import UserError
from nfcot_model.retrofit.artifact import Retrofit
from nfcot_model.retrofit.fit import score_run
from nfcot_model.traces import Run
from nfcot_model.traces.reader import committed_shards, read_shard
from nfcot_model.traces.schema import RETROFIT_SCORER
from nfcot_model.traces.writer import commit_shard, discard_empty, keep_problems, open_run, writing

__all__ = ["Scored", "score_into"]

_FOLLOW = {"traces": ("shard", "row", "u_sha256"), "thoughts": ("trace_id", "k", "shard", "row")}
_CIRCUMSTANCES = ("hash", "checksum", "format_version", "shard_size")


@dataclass(frozen=True)
class Scored:
    """What was written? `seen`: traces of problem groups that the flow was fitted on."""

    run: str
    traces: int
    seen: int
    nll_per_dim: float | None


def score_into(
    retrofit: Retrofit, run: Run, out: Path, advance: Callable[[int], object] = lambda n: None
) -> Scored:
    """Write the run again with the flow's eps, logp and energies; `scorer` is "retrofit".

    Thoughts, answers and trace ids are the source's. Its tau is 1, that of the flow's eps. Nothing
    was drawn from this density: replay errors are 0 by construction and show nothing. Raises
    UserError for a run of another model than the flow was fitted on, or one with its own density.
    """
    document = retrofit.document
    if run.scorer != "none":
        raise UserError(f"{run.name}: has a density of its own (scorer {run.scorer})")
    if run.manifest["checkpoint_hash"] != document["checkpoint_hash"]:
        raise UserError(
            f"{run.name}: is of checkpoint {run.manifest['checkpoint_hash']}, the retrofit flow was"
            f" fitted on thoughts of {document['checkpoint_hash']}; fit one on a run of this model"
        )
    eps, logp = score_run(
        retrofit.flow, run, document["settings"]["features"], document["max_thoughts"]
    )
    manifest = open_run(out, _manifest(retrofit, run))
    with writing(out):
        try:
            keep_problems(out, manifest, run.problems())
            done = set(committed_shards(out))
            for shard in committed_shards(run.path):
                rows = (run.thoughts["shard"] == shard).to_numpy()
                if shard not in done:
                    columns = _columns(run, shard, eps.numpy()[rows], logp.numpy()[rows])
                    commit_shard(out, shard, *columns)
                advance(int((run.traces["shard"] == shard).sum()))
        finally:
            discard_empty(out)
    seen = int(run.traces["group"].isin(document["groups"]).sum())
    nll = -float(logp.mean()) / run.D if len(logp) else None
    return Scored(str(out), len(run.traces), seen, nll)


def _manifest(retrofit: Retrofit, run: Run) -> dict[str, Any]:
    kept = {name: value for name, value in run.manifest.items() if name not in _CIRCUMSTANCES}
    return kept | {
        "scorer": RETROFIT_SCORER,
        # Part of what must agree before runs are compared, so that two flows are never mixed up.
        "reasoner": f"{run.manifest['reasoner']}+retrofit:{retrofit.hash}",
        "retrofit": {
            "hash": retrofit.hash,
            "source_run": run.hash,
            "source_tau": run.manifest["decode"]["tau"],
            "quality": retrofit.document["quality"],
        },
        "decode": run.manifest["decode"] | {"tau": 1.0},
    }


def _columns(
    run: Run, shard: str, eps: np.ndarray, logp: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    traces_table, thoughts_table = read_shard(run.path, shard, verify=True)
    traces: dict[str, Any] = {
        name: traces_table[name].to_pylist()
        for name in traces_table.column_names
        if name not in _FOLLOW["traces"]
    }
    thoughts: dict[str, Any] = {
        name: thoughts_table[name].to_pylist()
        for name in thoughts_table.column_names
        if name not in _FOLLOW["thoughts"]
    }
    energy = 0.5 * np.square(eps.astype(np.float64)).sum(-1)
    owner = np.repeat(np.arange(len(traces["K"])), traces["K"])
    thoughts |= {"logp": logp, "energy": energy.astype(np.float32)}
    traces |= {
        "tau": [1.0] * len(traces["K"]),
        "logp_u": np.bincount(owner, logp.astype(np.float64), minlength=len(traces["K"])),
        "energy": np.bincount(owner, energy, minlength=len(traces["K"])),
        "replay_error": np.zeros(len(traces["K"])),
    }
    tensors = {name: run.shard_tensor(name, shard) for name in run.tensor_names}
    return traces, thoughts, tensors | {"eps": eps}
