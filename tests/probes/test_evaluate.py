"""Evaluating a fitted probe: the fit's own figures, other runs, other thresholds, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.artifact import Probe, save_probe
from probes.evaluate import evaluate_probe
from probes.fit import Options, ProbeResult, fit_probe
from probes.tables import read_label_table
from tests.synthetic_run import synthetic_run

MADE: dict[str, Any] = {"D": 24, "tau": 0.3}
OPTIONS = Options(controls=False, permutations=99, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def signal(folder: Path) -> Run:
    return synthetic_run(folder / "signal", n=700, samples=2, steps=(2, 3), **MADE)


@pytest.fixture(scope="module")
def other(folder: Path) -> Run:
    return synthetic_run(folder / "other", n=120, steps=(1, 3), seed=9, **MADE)


@pytest.fixture(scope="module")
def clean(folder: Path) -> Run:
    return synthetic_run(folder / "clean", n=300, steps=(2, 2), seed=5, **MADE)


@pytest.fixture(scope="module")
def fitted(signal: Run) -> ProbeResult:
    return fit_probe(signal, "operation", "u@1", replace(OPTIONS, positive="add"))


@pytest.fixture(scope="module")
def probe(folder: Path, fitted: ProbeResult) -> Probe:
    saved = save_probe(fitted, folder / "probe")
    assert saved is not None
    return saved


def test_on_its_own_run_it_says_what_the_fit_said(
    signal: Run, fitted: ProbeResult, probe: Probe
) -> None:
    found = evaluate_probe(probe, signal, options=OPTIONS)
    assert json.dumps({k: e.to_dict() for k, e in found.metrics.items()}) == json.dumps(
        {k: e.to_dict() for k, e in fitted.metrics.items()}
    )
    assert found.withheld == fitted.withheld
    assert found.permutation == fitted.permutation
    assert found.calibration == fitted.calibration
    assert (found.n, found.groups) == (fitted.n_test, fitted.groups_test)
    assert found.n + sum(found.out.values()) == len(signal.traces)
    assert found.out["a group that trained the probe"] > found.n
    assert found.out["a group that fixed its thresholds"] > 0
    assert found.probe_headline == fitted.headline
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("label", ["operation", "offset"])
def test_more_classes_and_numbers_too(signal: Run, tmp_path: Path, label: str) -> None:
    options = replace(OPTIONS, kind="number" if label == "offset" else "multiclass")
    fitted = fit_probe(signal, label, "u@-1", options)
    probe = save_probe(fitted, tmp_path / "probe")
    assert probe is not None
    found = evaluate_probe(probe, signal, options=OPTIONS)
    assert found.metrics == fitted.metrics
    assert found.thresholds is None
    assert len(found.controls) == (label == "operation")


def test_another_run_is_read_with_an_interval(probe: Probe, other: Run) -> None:
    found = evaluate_probe(probe, other)
    assert found.n + sum(found.out.values()) == len(other.traces)
    assert found.out["no thought 1"] == int((other.traces["K"] < 2).sum())
    assert found.metrics["auroc"].value > 0.97
    assert found.permutation.p_value == 1 / 1000
    (majority,) = found.controls
    assert majority.metrics["auroc"].value == 0.5
    assert majority.difference["auroc"].low > 0.4
    assert "better than permuted labels" in found.headline
    assert "of other" in found.headline


def test_a_planted_null_reads_nothing(probe: Probe, tmp_path: Path) -> None:
    noise = synthetic_run(tmp_path / "noise", n=200, steps=(2, 2), signal=False, seed=1, **MADE)
    found = evaluate_probe(probe, noise)
    assert found.metrics["auroc"].low <= 0.5 <= found.metrics["auroc"].high
    assert found.headline.startswith("reads nothing: auroc")


def test_an_unrelated_clean_run_fixes_the_thresholds(probe: Probe, other: Run, clean: Run) -> None:
    """All its traces are negatives, whatever they hold: here a third are not, so it is stricter."""
    usual, found = evaluate_probe(probe, other), evaluate_probe(probe, other, control_run=clean)
    assert found.control_set is not None
    assert found.thresholds is not None
    assert (found.control_set.run, found.control_set.n) == ("clean", 300)
    assert found.thresholds.negatives == 300
    assert found.metrics["recall_at_5pct"].value < usual.metrics["recall_at_5pct"].value
    assert found.metrics["auroc"] == usual.metrics["auroc"]
    assert found.metrics["fpr_at_5pct"].value == 0
    assert "it has 300" in found.withheld["recall_at_1pct"]
    json.dumps(found.to_dict(), allow_nan=False)


def test_groups_of_the_training_or_the_judged_fix_no_threshold(
    probe: Probe, signal: Run, other: Run, clean: Run
) -> None:
    found = evaluate_probe(probe, other, control_run=signal)
    assert found.control_set is not None
    trained = set(probe.meta["train_groups"])
    assert found.control_set.n == int((~signal.traces["group"].isin(trained)).sum())
    assert found.control_set.out["a group that trained the probe"] > 0
    with pytest.raises(UserError, match=r"--control other: every group of it .* is judged"):
        evaluate_probe(probe, other, control_run=other)
    held = evaluate_probe(probe, signal, control_run=clean)  # its own control groups are fresh now
    assert held.out["a group that fixed its thresholds"] == 0
    assert held.n == evaluate_probe(probe, signal).n + int(
        signal.traces["group"].isin(set(probe.meta["control_groups"])).sum()
    )


def test_a_single_class_there_withholds_what_compares_classes(probe: Probe, other: Run) -> None:
    labels = ['{"operation": "minus"}'] * len(other.thoughts)
    found = evaluate_probe(probe, replace(other, thoughts=other.thoughts.assign(labels=labels)))
    assert "class 'add' is in 0 held-out groups" in found.withheld["auroc"]
    assert np.isnan(found.metrics["auroc"].value)
    assert np.isfinite(found.metrics["accuracy"].value)
    assert np.isfinite(found.metrics["fpr_at_5pct"].value)
    assert found.permutation.p_value is None
    assert "no permutation test (all held-out labels are equal)" in found.headline
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_label_of_ones_own_is_evaluated(signal: Run, other: Run, tmp_path: Path) -> None:
    made = save_probe(fit_probe(signal, "operation", "u@-1", OPTIONS), tmp_path / "probe")
    assert made is not None
    last = other.thoughts.groupby("trace_id")["labels"].last()
    named = [json.loads(last[t])["operation"] for t in other.traces["trace_id"]]
    named[:3] = ["", "divide", "add"]
    rows = [f"{t},{v}" for t, v in zip(other.traces["trace_id"], named, strict=True)]
    (tmp_path / "own.csv").write_text("trace_id,mine\n" + "\n".join(rows))
    table = read_label_table(tmp_path / "own.csv", [other])
    found = evaluate_probe(made, other, label="mine", table=table)
    assert found.label == "mine"
    assert found.out["no label 'mine'"] == 1
    assert found.out["a label that is no class of the probe"] == 1
    assert found.metrics["accuracy"].value > 0.95


def test_bad_input_is_one_line(
    probe: Probe, signal: Run, other: Run, clean: Run, tmp_path: Path
) -> None:
    bare = replace(other, thoughts=other.thoughts.assign(labels="{}"))
    with pytest.raises(UserError, match=r"--label 'operation': not in other; existing labels"):
        evaluate_probe(probe, bare)
    trained = signal.traces["group"].isin(set(probe.meta["train_groups"]))
    with pytest.raises(UserError, match=r"signal: no trace is left .* with a group that trained"):
        evaluate_probe(
            replace(probe, meta=probe.meta | {"control_groups": signal.traces["group"].tolist()}),
            signal,
        )
    assert trained.any()
    stranger = synthetic_run(tmp_path / "stranger", n=20, checkpoint_hash="another", **MADE)
    for runs in ({"run": stranger}, {"run": other, "control_run": stranger}):
        with pytest.raises(UserError, match="stranger: checkpoint_hash is another"):
            evaluate_probe(probe, **runs)
    number = save_probe(
        fit_probe(signal, "offset", "u@1", replace(OPTIONS, kind="number")), tmp_path / "number"
    )
    assert number is not None
    with pytest.raises(UserError, match=r"--control: only a probe of a binary label"):
        evaluate_probe(number, other, control_run=clean)
    rows = [f"{t},{v}" for t, v in zip(other.traces["trace_id"], range(119), strict=False)]
    (tmp_path / "own.csv").write_text("\n".join(["trace_id,own", *rows[:7], rows[7] + "x"]))
    table = read_label_table(tmp_path / "own.csv", [other])
    with pytest.raises(UserError, match=r"own.csv, row 8, column 'own': '7x' is no finite number"):
        evaluate_probe(number, other, label="own", table=table)
    with pytest.raises(UserError, match=r"--label 'operation': holds|holds 'add'"):
        evaluate_probe(number, other, label="operation")
