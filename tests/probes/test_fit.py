"""Probes on runs: planted signal, planted null, and the artefact that carries them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nfcot_model.errors import UserError
from nfcot_model.traces import Run
from probes.apply import apply_probe, save_scores
from probes.artifact import read_probe, weights_of
from probes.estimators import class_scores, fit_logistic
from probes.fit import ProbeResult, fit_probe, save_probe
from tests.synthetic_run import synthetic_run


@pytest.fixture(scope="module")
def signal(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    return synthetic_run(folder / "signal", n=200, D=24, steps=(2, 4), samples=2, tau=0.3)


@pytest.fixture(scope="module")
def fitted(signal: Run) -> ProbeResult:
    return fit_probe(signal, "operation", "u@1", seed=3)


def control(result: ProbeResult, name: str) -> dict[str, tuple[float, float, float]]:
    found = next(c for c in result.controls if c.name == name)
    return {metric: (e.value, e.low, e.high) for metric, e in found.metrics.items()}


def test_planted_signal_is_read_and_shuffled_labels_are_not(fitted: ProbeResult) -> None:
    assert fitted.metrics["accuracy"].value > 0.97
    assert fitted.metrics["auroc"].low > 0.98
    value, low, high = control(fitted, "shuffled_labels")["auroc"]
    assert low <= 0.5 <= high
    assert value < 0.65
    assert control(fitted, "majority_class")["auroc"][0] == 0.5
    assert (fitted.n, fitted.groups) == (400, 200)
    assert fitted.n_test == 2 * fitted.groups_test


def test_planted_null_is_at_chance(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "null", n=300, signal=False)
    result = fit_probe(run, "operation", "u@0")
    assert result.metrics["auroc"].low <= 0.5 <= result.metrics["auroc"].high
    assert result.metrics["accuracy"].low <= 1 / 3 <= result.metrics["accuracy"].high


def test_noise_does_not_carry_what_the_thought_does(signal: Run) -> None:
    result = fit_probe(signal, "operation", "eps@1")
    assert result.metrics["auroc"].low <= 0.5 <= result.metrics["auroc"].high


def test_traces_without_the_thought_are_counted_not_read(signal: Run) -> None:
    result = fit_probe(signal, "operation", "u@3")
    assert result.n == int((signal.traces["K"] > 3).sum())
    assert result.out["no thought 3"] == len(signal.traces) - result.n > 0


def test_the_same_seed_gives_the_same_result(signal: Run, fitted: ProbeResult) -> None:
    again = fit_probe(signal, "operation", "u@1", seed=3)
    assert again.to_dict() == fitted.to_dict()
    assert again.weights.hash() == fitted.weights.hash()


@pytest.mark.parametrize("classes", [2, 3])
def test_weights_predict_as_sklearn_does(classes: int) -> None:
    rng = np.random.default_rng(classes)
    y = rng.integers(classes, size=120)
    x = rng.normal(size=(120, 5)) * [1, 10, 0.1, 3, 1] + y[:, None] * [1, 0, 0.1, 0, 0]
    model = fit_logistic(x, y, np.arange(120).astype(object), seed=0)
    weights = weights_of(model, classes)
    np.testing.assert_allclose(
        weights.probabilities(x), class_scores(model, x, classes), atol=1e-12
    )


def test_artefact_survives_the_disk_and_reads_the_same(
    signal: Run, fitted: ProbeResult, tmp_path: Path
) -> None:
    save_probe(fitted, tmp_path / "probe")
    probe = read_probe(tmp_path / "probe")
    assert probe.meta["checkpoint_hash"] == signal.manifest["checkpoint_hash"]
    assert probe.meta["run_hash"] == signal.hash
    assert probe.weights.hash() == fitted.weights.hash()
    assert not list(tmp_path.rglob("*.pkl"))
    scores = apply_probe(probe, signal)
    held_out = scores.frame[~scores.frame["seen"]]
    assert len(held_out) == fitted.n_test
    assert scores.accuracy == pytest.approx(fitted.metrics["accuracy"].value)


def test_apply_reads_other_runs_and_keeps_scores_by_trace_and_k(
    fitted: ProbeResult, tmp_path: Path
) -> None:
    other = synthetic_run(tmp_path / "other", n=60, D=24, steps=(1, 3), seed=9, tau=0.3)
    probe = save_probe(fitted, tmp_path / "probe")
    scores = apply_probe(probe, other)
    assert scores.out == int((other.traces["K"] < 2).sum()) > 0
    assert scores.seen == 0
    assert scores.accuracy > 0.95
    stored = pd.read_parquet(save_scores(scores, other))
    assert not stored.duplicated(["trace_id", "k"]).any()
    assert set(stored["k"]) == {1}
    np.testing.assert_allclose(stored.filter(like="p:").sum(axis=1), 1.0)


def test_apply_refuses_another_checkpoint_and_a_missing_site(
    fitted: ProbeResult, tmp_path: Path
) -> None:
    probe = save_probe(fitted, tmp_path / "probe")
    other = synthetic_run(tmp_path / "other", n=20, D=24, checkpoint_hash="another")
    with pytest.raises(UserError, match=r"checkpoint_hash is another, .* fitted on synthetic"):
        apply_probe(probe, other)
    short = synthetic_run(tmp_path / "short", n=20, D=24, steps=(1, 1))
    with pytest.raises(UserError, match=r"--site u@1: not in short"):
        apply_probe(probe, short)


def test_a_damaged_artefact_is_refused(fitted: ProbeResult, tmp_path: Path) -> None:
    save_probe(fitted, tmp_path / "probe")
    text = (tmp_path / "probe" / "probe.json").read_text()
    (tmp_path / "probe" / "probe.json").write_text(text.replace('"u@1"', '"u@0"'))
    with pytest.raises(UserError, match=r"hash does not fit"):
        read_probe(tmp_path / "probe")
    (tmp_path / "probe" / "probe.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"damaged"):
        read_probe(tmp_path / "probe")
    with pytest.raises(UserError, match=r"is not a probe"):
        read_probe(tmp_path / "nowhere")


def test_a_folder_keeps_its_first_probe(fitted: ProbeResult, tmp_path: Path) -> None:
    save_probe(fitted, tmp_path / "probe")
    save_probe(fitted, tmp_path / "probe")
    with pytest.raises(UserError, match=r"holds another probe.*label is operation there"):
        save_probe(replace(fitted, label="offset"), tmp_path / "probe")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds no probe"):
        save_probe(fitted, tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]
