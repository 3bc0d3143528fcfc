"""What does a fitted probe read in another run of the same checkpoint?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, replacing, write_json
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from probes.artifact import Probe
from probes.calibration import conformal_p
from probes.features import gather, read_space
from probes.labels import has_label
from probes.sites import Place, Site, SiteRows, real_site, site_rows
from probes.tables import LabelTable
from probes.thresholds import RATES, recall_name
from probes.truth import Truth, no_truth, truth_of
from probes.weights import Features

__all__ = [
    "ALARMS",
    "ProbeScores",
    "alarms_of",
    "apply_probe",
    "read_in_parts",
    "readings_of",
    "save_scores",
]

# recall_at_1pct -> alarm_at_1pct
ALARMS = {name: name.replace("recall", "alarm") for name in map(recall_name, RATES)}
ROWS = 2**14
EXTRAPOLATION = (
    "the probe was fitted at {site}; read at other thoughts it extrapolates: neither its"
    " probabilities nor the rates of its alarms are calibrated there, and the maximum over thoughts"
    " exceeds a threshold more often than one thought does"
)
UNIT = (
    "p-values are for one trace each, drawn like the {n} negative traces ({groups} problem groups)"
    " of the probe's control set; traces of one group are alike, and those of groups the probe has"
    " seen are not such draws"
)


@dataclass(frozen=True)
class ProbeScores:
    """The readings of a run, one row of `frame` per trace, or per thought of each.

    frame: trace_id, k, predicted (class as JSON, or number), probability (calibrated, of that
    class), one `p:CLASS` column per class, alarm_at_5pct and alarm_at_1pct where the probe has
    these thresholds, p_value (conformal, where asked for), seen (the group trained the probe or
    set its thresholds), label (as predicted; null where unknown) and, per thought, at_site.
    traces: with every thought only: trace_id, max, mean and last over its thoughts, of the positive
    class's probability or the number, of more classes `max:CLASS` and so on.

    `n`: traces read; `out`: traces without the site's thought (with every thought: without any);
    `seen`, `labelled`, `strange`: how many of the rows are of seen groups, have a label, have one
    that is no class of the probe; `alarms`: rows above each threshold; `notes`: what these figures
    do not show. A probability says what was read, not that the model uses it.
    """

    frame: pd.DataFrame
    traces: pd.DataFrame | None
    probe_hash: str
    run: str
    run_hash: str
    site: str
    label: str
    kind: str
    every_thought: bool
    conformal: bool
    n: int
    rows: int
    out: int
    seen: int
    labelled: int
    strange: int
    alarms: dict[str, int]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The fields of `nfcot probe apply --json`."""
        tables = ("frame", "traces")
        plain: dict[str, Any] = jsonable({k: v for k, v in vars(self).items() if k not in tables})
        return plain


def apply_probe(
    probe: Probe,
    run: Run,
    *,
    table: LabelTable | None = None,
    conformal: bool = False,
    every_thought: bool = False,
) -> ProbeScores:
    """What does the probe read at its site, in each trace that has it, and does it raise an alarm?

    `table`: the user's own labels. `conformal`: also how unusual each score is among the negatives
    that fixed the probe's thresholds. `every_thought`: read all thoughts of each trace with the
    probe of one thought (an extrapolation, see `notes`); p-values stay at the probe's own.
    Raises UserError for a run made otherwise (checkpoint, tau, K policy, template, dtype), one
    without the site or with values of another width there, a p-value of a probe that has no control
    scores, and every thought of a site that pools thoughts.
    """
    probe.refuse_mismatch(run)
    site = real_site(run, probe.site)
    if conformal and not probe.alarms.size:
        raise UserError(
            f"--conformal: the probe of {probe.meta['label']} ({probe.kind}) has no control scores"
            " to compare with; fit one of a binary label (--positive VALUE makes any label one)"
        )
    if every_thought and not site.place.single:
        raise UserError(
            f"--every-thought: --site {site} reads several thoughts at once; a probe of one thought"
            " such as u@-1 can be read at each"
        )
    rows = site_rows(run, site)
    values = read_space(run, site)
    if every_thought:
        own, rows = rows.first, _all_thoughts(run)
    truth = _truth(probe, run, site, rows, table, every_thought)
    told = read_in_parts(probe, run, values, site, rows)
    traces = run.traces.iloc[rows.trace]
    columns: dict[str, Any] = {
        "trace_id": traces["trace_id"].to_numpy(),
        "k": run.thoughts["k"].to_numpy()[rows.last],
        **readings_of(probe, told),
    }
    at_site = np.ones(len(rows.first), dtype=bool)
    if every_thought:
        at_site = columns["at_site"] = np.isin(rows.first, own)
    alarms = alarms_of(probe, told)
    columns |= alarms
    if conformal:
        columns["p_value"] = np.where(at_site, conformal_p(told, probe.alarms), np.nan)
    known = {*probe.meta["train_groups"], *probe.meta["control_groups"]}
    columns["seen"] = traces["group"].isin(known).to_numpy()
    columns["label"] = _spelled(probe, truth)
    notes = [EXTRAPOLATION.format(site=site)] if every_thought else []
    if conformal and probe.limits is not None:
        notes.append(UNIT.format(n=probe.alarms.size, groups=probe.limits.groups))
    return ProbeScores(
        frame=pd.DataFrame(columns),
        traces=_over_thoughts(probe, told, traces["trace_id"]) if every_thought else None,
        probe_hash=probe.hash,
        run=run.name,
        run_hash=run.hash,
        site=str(site),
        label=probe.meta["label"],
        kind=probe.kind,
        every_thought=every_thought,
        conformal=conformal,
        n=len(np.unique(rows.trace)),
        rows=len(rows.first),
        out=rows.out,
        seen=int(columns["seen"].sum()),
        labelled=int(truth.known.sum()),
        strange=int(truth.strange.sum()),
        alarms={name: int(alarm.sum()) for name, alarm in alarms.items()},
        notes=notes,
    )


def read_in_parts(
    probe: Probe, run: Run, values: NDArray[np.float32], site: Site, rows: SiteRows
) -> NDArray[np.float64]:
    """`Probe.read` at site rows, some at a time, so that a large run is never held in float64.

    values: what `read_space` gave. Raises UserError for another width than the probe reads.
    """
    parts = []
    for start in range(0, len(rows.first), ROWS):
        part = np.zeros(len(rows.first), dtype=bool)
        part[start : start + ROWS] = True
        X: Features = gather(values, site, rows.where(part))
        probe.refuse_width(run, X)
        parts.append(probe.read(X))
    return np.concatenate(parts)


def _all_thoughts(run: Run) -> SiteRows:
    """Every thought of the run as a row of its own; traces without any are out."""
    K = run.traces["K"].to_numpy(dtype=np.int64)
    trace = np.repeat(np.arange(K.size), K)
    one = np.ones(trace.size, dtype=np.int64)
    return SiteRows(trace, np.arange(trace.size), one, int((K == 0).sum()))


def _truth(
    probe: Probe,
    run: Run,
    site: Site,
    rows: SiteRows,
    table: LabelTable | None,
    every_thought: bool,
) -> Truth:
    """The probe's label where the run or the table has it; at every thought, that thought's own."""
    if table is None and not has_label(run, probe.meta["label"]):
        return no_truth(probe, len(rows.first))
    if not every_thought:
        return truth_of(probe, run, site, rows, table=table)
    found = no_truth(probe, len(rows.first))
    for k in range(int(run.traces["K"].max())):
        there = replace(site, place=Place("k", k))
        here = site_rows(run, there)
        truth = truth_of(probe, run, there, here, table=table)
        for name in ("y", "known", "strange"):
            getattr(found, name)[here.first] = getattr(truth, name)
    return found


def readings_of(probe: Probe, told: NDArray[np.float64]) -> dict[str, Any]:
    """What `Probe.read` told, as columns: predicted, probability and one per class."""
    if probe.kind == "number":
        return {"predicted": told}
    p = np.stack([1 - told, told], axis=1) if probe.kind == "binary" else told
    names = [json.dumps(c) for c in probe.meta["classes"]]
    return {
        "predicted": np.array(names, dtype=object)[p.argmax(axis=1)],
        "probability": p.max(axis=1),
        **{f"p:{name}": p[:, i] for i, name in enumerate(names)},
    }


def alarms_of(probe: Probe, told: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Which rows are above each threshold that the probe has?"""
    limits = probe.limits.values if probe.limits is not None else {}
    return {alarm: told > limits[name] for name, alarm in ALARMS.items() if name in limits}


def _spelled(probe: Probe, truth: Truth) -> NDArray[Any]:
    if probe.kind == "number":
        return truth.y
    names = [*(json.dumps(c) for c in probe.meta["classes"]), None]
    return np.array(names, dtype=object)[truth.y]


def _over_thoughts(probe: Probe, told: NDArray[np.float64], trace_ids: pd.Series) -> pd.DataFrame:
    """The largest, mean and last reading of each trace, in the order of the run."""
    names = [""] if told.ndim == 1 else [":" + json.dumps(c) for c in probe.meta["classes"]]
    readings = pd.DataFrame(told.reshape(len(told), -1), columns=names)
    by_trace = readings.groupby(trace_ids.to_numpy(), sort=False)
    parts = [getattr(by_trace, how)().add_prefix(how) for how in ("max", "mean", "last")]
    return pd.concat(parts, axis=1).rename_axis("trace_id").reset_index()


def save_scores(scores: ProbeScores, run: Run) -> Path:
    """Keep the readings under the run: derived/probe_scores/<hash>/scores.parquet.

    The hash is of probe, run, options and labels. With every thought, traces.parquet holds the
    summary of each trace. inputs.json is written last: where it is, the rest is whole.
    """
    labels = content_hash(jsonable(scores.frame["label"].to_list()))
    options = [scores.site, scores.every_thought, scores.conformal]
    key = content_hash([scores.probe_hash, scores.run_hash, options, labels])
    folder = run.path / "derived" / "probe_scores" / key
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in _tables(scores):
        with replacing(folder / name) as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
    write_json(folder / "inputs.json", scores.to_dict())
    return folder / "scores.parquet"


def _tables(scores: ProbeScores) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "scores.parquet", scores.frame
    if scores.traces is not None:
        yield "traces.parquet", scores.traces
