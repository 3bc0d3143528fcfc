"""Probes on runs: planted signal, planted null, and the artefact that carries them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nfcot_model.errors import UserError
from nfcot_model.files import canonical_json, content_hash
from nfcot_model.traces import Run
from probes.apply import apply_probe
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
    accuracy = (held_out["predicted"] == held_out["label"]).mean()
    assert accuracy == pytest.approx(fitted.metrics["accuracy"].value)


def test_a_probe_names_the_real_layer_and_other_layers_are_refused(tmp_path: Path) -> None:
    made = {"n": 120, "D": 24, "tau": 0.3, "activations": 24}
    every = synthetic_run(tmp_path / "all", **made)
    last = synthetic_run(tmp_path / "last", manifest={"activations": "thoughts"}, seed=5, **made)
    assert fit_probe(every, "operation", "h@-1@1").site == "h@1@1"
    embeddings = save_probe(fit_probe(every, "operation", "h@0@1"), tmp_path / "embeddings")
    with pytest.raises(UserError, match=r"--site h@0@1: not in last; existing sites: .*h@-1@K"):
        apply_probe(embeddings, last)
    with pytest.raises(UserError, match=r"--site h@0@1: not in last; existing sites: .*h@-1@K"):
        fit_probe(last, "operation", "h@0@1")
    result = fit_probe(last, "operation", "h@-1@1")
    assert result.site == "h@-1@1"
    probe = save_probe(result, tmp_path / "last-layer")
    frame = apply_probe(probe, every).frame
    assert (frame["predicted"] == frame["label"]).mean() > 0.9


def labelled(path: Path, rare: int) -> Run:
    """Thoughts without signal; the label `kind` is rare in so many problem groups."""
    run = synthetic_run(path, n=150, samples=4, signal=False, steps=(2, 2))
    groups = sorted(set(run.traces["group"]))[:rare]
    labels = [
        canonical_json({"kind": "rare" if g in groups else "usual"}) for g in run.traces["group"]
    ]
    return replace(run, traces=run.traces.assign(labels=labels))


@pytest.mark.parametrize("rare", [2, 3])
def test_a_class_of_two_or_three_groups_is_refused(tmp_path: Path, rare: int) -> None:
    with pytest.raises(UserError, match=rf"class 'rare' of the label occurs in {rare} problem gro"):
        fit_probe(labelled(tmp_path / "run", rare), "kind", "u@0")


def test_means_over_classes_are_withheld_where_a_class_has_few_groups(tmp_path: Path) -> None:
    result = fit_probe(labelled(tmp_path / "few", 8), "kind", "u@0")
    assert "class 'rare' is in 2 held-out groups, at least 5" in result.withheld["auroc"]
    for metrics in (result.metrics, *(c.metrics for c in result.controls)):
        assert np.isnan(metrics["auroc"].value)
        assert np.isfinite(metrics["accuracy"].value)
    save_probe(result, tmp_path / "probe")
    stored = json.loads((tmp_path / "probe" / "probe.json").read_text(), parse_constant=pytest.fail)
    assert stored["metrics"]["auroc"] == {"value": None, "low": None, "high": None}
    assert stored["withheld"].keys() == {"auroc", "balanced_accuracy"}
    enough = fit_probe(labelled(tmp_path / "enough", 20), "kind", "u@0")
    assert enough.withheld == {}
    assert np.isfinite(enough.metrics["auroc"].value)


def test_failed_fits_are_errors() -> None:
    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(size=(60, 4)), np.arange(60) % 2, np.arange(60).astype(object)
    x[7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit_logistic(x, y, groups, seed=0)
    rare = np.zeros(60, dtype=int)
    rare[:1] = 1
    with pytest.raises(UserError, match="too few problem groups for 3 inner folds"):
        fit_logistic(rng.normal(size=(60, 4)), rare, groups, seed=0)


def test_any_seed_of_63_bits_will_do(signal: Run) -> None:
    assert fit_probe(signal, "operation", "u@0", seed=2**63 - 1).seed == 2**63 - 1
    for seed in (-1, 2**63):
        with pytest.raises(UserError, match="--seed is"):
            fit_probe(signal, "operation", "u@0", seed=seed)


@pytest.mark.parametrize("text", ["{}", "[]", "1", "[" * 100_000, '{"format_version": 2}'])
def test_a_foreign_probe_json_is_one_line(fitted: ProbeResult, tmp_path: Path, text: str) -> None:
    save_probe(fitted, tmp_path / "probe")
    (tmp_path / "probe" / "probe.json").write_text(text)
    for attempt in (
        lambda: read_probe(tmp_path / "probe"),
        lambda: save_probe(fitted, tmp_path / "probe"),
    ):
        with pytest.raises(UserError) as error:
            attempt()
        assert "\n" not in str(error.value)
        assert "probe" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("site", 3),
        ("site", "v@1"),
        ("classes", "abc"),
        ("classes", []),
        ("train_groups", 7),
        ("train_groups", [["a"]]),
        ("settings", None),
        ("label", ["a"]),
        ("seed", "x"),
        ("run_hash", None),
    ],
)
def test_a_probe_of_other_types_is_one_line(
    fitted: ProbeResult, tmp_path: Path, field: str, value: object
) -> None:
    meta = save_probe(fitted, tmp_path / "probe").meta | {field: value}
    fields = {
        k: v for k, v in meta.items() if k not in ("versions", "run", "hash", "format_version")
    }
    meta["hash"] = content_hash([fields, fitted.weights.hash()])
    (tmp_path / "probe" / "probe.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="fit the probe again"):
        read_probe(tmp_path / "probe")


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
