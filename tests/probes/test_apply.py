"""Applying a probe to other runs: readings by trace and thought, alarms, p-values, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import probes.apply
from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.apply import ProbeScores, apply_probe, save_scores
from probes.artifact import Probe, read_probe, save_probe
from probes.features import read_site
from probes.fit import Options, fit_probe
from probes.sites import parse_site, site_rows
from probes.tables import read_label_table
from tests.synthetic_run import synthetic_run

MADE: dict[str, Any] = {"D": 24, "tau": 0.3}
BARE = Options(controls=False, permutations=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apply")


@pytest.fixture(scope="module")
def signal(folder: Path) -> Run:
    return synthetic_run(folder / "signal", n=700, samples=2, steps=(2, 3), **MADE)


@pytest.fixture(scope="module")
def other(folder: Path) -> Run:
    return synthetic_run(folder / "other", n=150, steps=(0, 3), seed=9, **MADE)


def kept(folder: Path, run: Run, label: str, site: str, **options: Any) -> Probe:
    name = f"{label}-{site}-{options}".replace("/", "_")
    probe = save_probe(fit_probe(run, label, site, replace(BARE, **options)), folder / name)
    assert probe is not None
    return read_probe(folder / name)


@pytest.fixture(scope="module")
def binary(folder: Path, signal: Run) -> Probe:
    return kept(folder, signal, "operation", "u@1", positive="add")


@pytest.fixture(scope="module")
def three(folder: Path, signal: Run) -> Probe:
    return kept(folder, signal, "operation", "u@1")


def readings(scores: ProbeScores) -> pd.DataFrame:
    return scores.frame.filter(like="p:")


def test_every_trace_is_read_or_out(binary: Probe, other: Run) -> None:
    scores = apply_probe(binary, other)
    assert scores.out == int((other.traces["K"] < 2).sum()) > 0
    assert scores.n + scores.out == len(other.traces)
    assert (scores.frame["k"] == 1).all()
    assert not scores.frame["trace_id"].duplicated().any()
    assert (scores.seen, scores.strange, scores.labelled) == (0, 0, scores.n)
    assert (scores.frame["predicted"] == scores.frame["label"]).mean() > 0.95
    np.testing.assert_allclose(readings(scores).sum(axis=1), 1.0)
    json.dumps(scores.to_dict(), allow_nan=False)


def test_readings_are_the_artefacts_whatever_the_parts(
    three: Probe, other: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = site_rows(other, three.site)
    told = three.read(read_site(other, three.site, rows))
    monkeypatch.setattr(probes.apply, "ROWS", 7)
    np.testing.assert_allclose(readings(apply_probe(three, other)), told, atol=1e-12)


def test_alarms_go_off_above_the_probes_thresholds(binary: Probe, signal: Run) -> None:
    """The 5 % alarm keeps its rate on fresh negatives; 1 % needs a larger control set."""
    scores = apply_probe(binary, signal)
    assert binary.limits is not None
    limit = binary.limits.values["recall_at_5pct"]
    alarm = scores.frame["alarm_at_5pct"]
    assert (alarm == (scores.frame['p:"add"'] > limit)).all()
    assert scores.alarms == {"alarm_at_5pct": int(alarm.sum())}
    assert "alarm_at_1pct" not in scores.frame
    negatives = ~scores.frame["seen"] & (scores.frame["label"] == '"not add"')
    assert alarm[negatives].mean() < 0.12


def test_seen_are_the_groups_that_trained_or_set_thresholds(binary: Probe, signal: Run) -> None:
    scores = apply_probe(binary, signal)
    groups = signal.traces.set_index("trace_id").loc[scores.frame["trace_id"], "group"]
    fresh = groups[~scores.frame["seen"].to_numpy()]
    assert set(fresh) == set(binary.meta["test_groups"])
    assert scores.seen == len(scores.frame) - len(fresh)


def test_p_values_are_uniform_among_new_negatives(folder: Path, binary: Probe, signal: Run) -> None:
    """Statistical: what is drawn like the control set is as unusual as it should be."""
    new = synthetic_run(folder / "new", n=700, steps=(2, 3), seed=3, **MADE)
    scores = apply_probe(binary, new, conformal=True)
    assert scores.frame["p_value"].min() == 1 / (1 + binary.alarms.size)
    p = scores.frame.loc[scores.frame["label"] == '"not add"', "p_value"]
    for alpha in (0.05, 0.2, 0.5, 0.8):
        assert abs((p <= alpha).mean() - alpha) < 0.1
    assert any("one trace each" in note for note in scores.notes)


def test_every_thought_is_read_by_the_probe_of_one(binary: Probe, other: Run) -> None:
    scores = apply_probe(binary, other, every_thought=True, conformal=True)
    frame = scores.frame
    assert len(frame) == scores.rows == len(other.thoughts)
    assert frame["trace_id"].tolist() == other.thoughts["trace_id"].tolist()
    assert frame["k"].tolist() == other.thoughts["k"].tolist()
    assert scores.n + scores.out == len(other.traces)
    assert "extrapolates" in scores.notes[0]
    once = apply_probe(binary, other, conformal=True)
    at_site = frame[frame["at_site"]].drop(columns="at_site").reset_index(drop=True)
    pd.testing.assert_frame_equal(at_site, once.frame)
    assert frame.loc[~frame["at_site"], "p_value"].isna().all()
    assert (frame["label"] == frame["predicted"]).mean() > 0.95  # each thought's own label
    assert scores.traces is not None
    by_trace = frame.groupby("trace_id", sort=False)['p:"add"']
    for how in ("max", "mean", "last"):
        np.testing.assert_allclose(scores.traces[how], getattr(by_trace, how)())
    assert scores.traces["trace_id"].tolist() == list(by_trace.groups)


def test_more_classes_are_summed_up_by_class(three: Probe, other: Run) -> None:
    scores = apply_probe(three, other, every_thought=True)
    assert scores.traces is not None
    assert 'mean:"times"' in scores.traces
    means = scores.traces.filter(like="mean:").sum(axis=1)
    np.testing.assert_allclose(means, 1.0)


def test_numbers_are_read_without_probabilities(folder: Path, signal: Run, other: Run) -> None:
    probe = kept(folder, signal, "thought:energy", "eps@1")
    scores = apply_probe(probe, other)
    assert scores.frame.columns.tolist() == ["trace_id", "k", "predicted", "seen", "label"]
    assert scores.alarms == {}
    with pytest.raises(UserError, match=r"--conformal: the probe of \S+ \(number\) has no con"):
        apply_probe(probe, other, conformal=True)


def test_labels_of_unknown_classes_are_counted_not_guessed(
    folder: Path, binary: Probe, three: Probe, other: Run, tmp_path: Path
) -> None:
    ids = other.traces["trace_id"]
    values = ["add", "divide", ""] * (len(ids) // 3)
    (tmp_path / "own.csv").write_text(
        "trace_id,operation_seen\n"
        + "\n".join(f"{t},{v}" for t, v in zip(ids, values, strict=True))
    )
    table = read_label_table(tmp_path / "own.csv", [other])
    renamed = replace(three, meta=three.meta | {"label": "operation_seen"})
    scores = apply_probe(renamed, other, table=table)
    read = [v for v, K in zip(values, other.traces["K"], strict=True) if K > 1]
    assert scores.strange == read.count("divide") > 0
    assert scores.labelled == read.count("add") == int(scores.frame["label"].notna().sum())
    # another value than the positive one is a negative, as in the fit
    against = replace(binary, meta=binary.meta | {"label": "operation_seen"})
    assert apply_probe(against, other, table=table).labelled == len(read) - read.count("")


def test_a_run_without_the_label_is_read_all_the_same(binary: Probe, other: Run) -> None:
    bare = replace(other, thoughts=other.thoughts.assign(labels="{}"))
    scores = apply_probe(binary, bare)
    assert scores.labelled == 0
    assert scores.frame["label"].isna().all()
    assert scores.alarms == apply_probe(binary, other).alarms


def test_scores_are_kept_by_probe_run_and_options(
    binary: Probe, other: Run, tmp_path: Path
) -> None:
    run = replace(other, path=tmp_path / "run")
    once, again = apply_probe(binary, other), apply_probe(binary, other, every_thought=True)
    paths = [save_scores(once, run), save_scores(again, run), save_scores(once, run)]
    assert paths[0] == paths[2] != paths[1]
    pd.testing.assert_frame_equal(pd.read_parquet(paths[0]), once.frame)
    assert len(pd.read_parquet(paths[1].with_name("traces.parquet"))) == again.n
    stored = json.loads(paths[1].with_name("inputs.json").read_text(), parse_constant=pytest.fail)
    assert stored == again.to_dict()
    unlabelled = replace(other, thoughts=other.thoughts.assign(labels="{}"))
    assert save_scores(apply_probe(binary, unlabelled), run) not in paths


def test_another_checkpoint_site_or_width_is_refused(
    folder: Path, binary: Probe, signal: Run, tmp_path: Path
) -> None:
    stranger = synthetic_run(tmp_path / "stranger", n=20, checkpoint_hash="another", **MADE)
    with pytest.raises(UserError, match=r"checkpoint_hash is another, .* fitted on synthetic"):
        apply_probe(binary, stranger)
    short = synthetic_run(tmp_path / "short", n=20, steps=(1, 1), **MADE)
    with pytest.raises(UserError, match=r"--site u@1: not in short"):
        apply_probe(binary, short)
    wide = synthetic_run(tmp_path / "wide", n=20, D=25, tau=0.3)
    with pytest.raises(UserError, match=r"wide: 25 values at --site u@1, the probe reads 24"):
        apply_probe(binary, wide)
    mean = kept(folder, signal, "steps", "u@mean")
    with pytest.raises(UserError, match=r"--every-thought: --site u@mean reads several thoughts"):
        apply_probe(mean, signal, every_thought=True)


@pytest.mark.parametrize("name", ["tau", "k_policy", "max_thoughts", "template", "dtype"])
def test_a_run_made_otherwise_is_refused(binary: Probe, signal: Run, name: str) -> None:
    changed = {"decode": signal.manifest["decode"] | {name: "other"}}
    with pytest.raises(UserError, match=f"decode.{name} is other, the probe was fitted on"):
        apply_probe(binary, replace(signal, manifest=signal.manifest | changed))


def test_a_damaged_artefact_is_refused_before_it_reads(binary: Probe, tmp_path: Path) -> None:
    damaged = {"control_groups": None, "headline": 3}
    for field, value in damaged.items():
        meta = {k: v for k, v in binary.meta.items() if k != field} | {field: value}
        (tmp_path / "probe.json").write_text(json.dumps(meta))
        (tmp_path / "probe.safetensors").write_bytes(b"")
        with pytest.raises(UserError, match=r"damaged|does not fit"):
            read_probe(tmp_path)


def test_pooled_sites_are_read_as_they_were_fitted(folder: Path, signal: Run, other: Run) -> None:
    for site in ("u@mean", "u@rollmax", "u@concat2", "u@-1"):
        scores = apply_probe(kept(folder, signal, "steps", site), other)
        there = site_rows(other, parse_site(site))
        assert scores.n == len(there.trace)
        assert (scores.frame["k"] == other.thoughts["k"].to_numpy()[there.last]).all()
