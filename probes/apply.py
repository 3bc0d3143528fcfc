"""What does a fitted probe read in another run of the same checkpoint?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, replacing, write_json
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from probes.artifact import Probe
from probes.evaluate import accuracy_interval
from probes.features import read_site
from probes.labels import has_label, read_labels
from probes.sites import site_rows

__all__ = ["ProbeScores", "apply_probe", "save_scores"]


@dataclass(frozen=True)
class ProbeScores:
    """The readings. `frame`: trace_id, k, predicted, probability, seen (group was in training),
    label (JSON, null where unknown) and one `p:<class>` column per class.

    `accuracy` is over the `n_scored` labelled traces whose group the probe was not trained on, from
    `accuracy_low` to `accuracy_high` (95 %, over their `groups_scored` groups); NaN where there is
    none.
    """

    frame: pd.DataFrame
    probe_hash: str
    run: str
    run_hash: str
    site: str
    label: str
    n: int
    out: int
    seen: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n_scored: int
    groups_scored: int

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe apply --json`; null where there is no number."""
        fields: dict[str, Any] = jsonable({k: v for k, v in vars(self).items() if k != "frame"})
        return fields


def apply_probe(probe: Probe, run: Run) -> ProbeScores:
    """Which class does the probe read at its site, in each trace that has it?

    Raises UserError for a run made otherwise (checkpoint, tau, K policy, template, dtype), or one
    without the site.
    """
    probe.refuse_mismatch(run)
    rows = site_rows(run, probe.site)
    x = np.asarray(read_site(run, probe.site, rows), dtype=np.float64)
    if x.shape[1] != probe.weights.mean.size:
        raise UserError(
            f"{run.name}: {x.shape[1]} values at --site {probe.site}, the probe reads"
            f" {probe.weights.mean.size}; fit a probe on this run"
        )
    p = probe.weights.probabilities(x)
    classes = [json.dumps(c) for c in probe.meta["classes"]]
    best = p.argmax(axis=1)
    traces = run.traces.iloc[rows.trace]
    trained_on = set(probe.meta["train_groups"])
    frame = pd.DataFrame(
        {
            "trace_id": traces["trace_id"].to_numpy(),
            "k": run.thoughts["k"].to_numpy()[rows.last],
            "predicted": [classes[i] for i in best],
            "probability": p.max(axis=1),
            "seen": traces["group"].isin(trained_on).to_numpy(),
            "label": None,
        }
    )
    name = probe.meta["label"]
    if has_label(run, name):
        labels = read_labels(run, name, probe.site, rows, kind="multiclass")
        frame["label"] = [
            json.dumps(v) if known else None
            for v, known in zip(labels.values, labels.known, strict=True)
        ]
    frame = pd.concat([frame, pd.DataFrame(p, columns=[f"p:{c}" for c in classes])], axis=1)
    judged = (frame["label"].notna() & ~frame["seen"]).to_numpy(dtype=bool)
    hits = (frame["label"] == frame["predicted"]).to_numpy(dtype=bool)[judged]
    groups = traces["group"].to_numpy(dtype=object)[judged]
    accuracy = accuracy_interval(hits, groups, seed=0)
    return ProbeScores(
        frame=frame,
        probe_hash=probe.hash,
        run=run.name,
        run_hash=run.hash,
        site=probe.meta["site"],
        label=name,
        n=len(frame),
        out=rows.out,
        seen=int(frame["seen"].sum()),
        accuracy=accuracy.value,
        accuracy_low=accuracy.low,
        accuracy_high=accuracy.high,
        n_scored=int(hits.size),
        groups_scored=len(set(groups)),
    )


def save_scores(scores: ProbeScores, run: Run) -> Path:
    """Keep the readings under the run: derived/probe_scores/<hash>/scores.parquet."""
    key = content_hash([scores.probe_hash, scores.run_hash])
    folder = run.path / "derived" / "probe_scores" / key
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scores.parquet"
    with replacing(path) as temporary:
        scores.frame.to_parquet(temporary, index=False, compression="zstd")
    write_json(folder / "inputs.json", scores.to_dict())
    return path
