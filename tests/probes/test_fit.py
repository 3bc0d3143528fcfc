"""Probes on runs: planted signal, planted null, and the artefact that carries them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.neighbors import KNeighborsClassifier

from nfcot_model.errors import UserError
from nfcot_model.files import canonical_json
from nfcot_model.traces import Run
from probes.apply import apply_probe
from probes.artifact import Probe, _hash, read_probe, save_probe, split_of
from probes.controls.compare import Control
from probes.features import read_site
from probes.fit import Options, ProbeResult, fit_probe
from probes.fitting import fit_rows
from probes.sites import parse_site, site_rows
from tests.synthetic_run import synthetic_run

BARE = Options(controls=False, permutations=19, draws=200)


@pytest.fixture(scope="module")
def signal(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    return synthetic_run(folder / "signal", n=200, D=24, steps=(2, 4), samples=2, tau=0.3)


@pytest.fixture(scope="module")
def fitted(signal: Run) -> ProbeResult:
    return fit_probe(signal, "operation", "u@1", Options(seed=3, permutations=99, draws=300))


def control(result: ProbeResult, name: str) -> Control:
    return next(c for c in result.controls if c.name == name)


def kept(result: ProbeResult, folder: Path) -> Probe:
    probe = save_probe(result, folder)
    assert probe is not None
    return probe


def test_planted_signal_is_read_and_shuffled_labels_are_not(fitted: ProbeResult) -> None:
    assert fitted.metrics["accuracy"].value > 0.97
    assert fitted.metrics["auroc"].low > 0.98
    shuffled = control(fitted, "shuffled_labels").metrics["auroc"]
    assert shuffled.low <= 0.5 <= shuffled.high
    assert shuffled.value < 0.65
    assert control(fitted, "majority_class").metrics["auroc"].value == 0.5
    assert (fitted.n, fitted.groups) == (400, 200)
    assert fitted.n_test == 2 * fitted.groups_test
    assert fitted.permutation.p_value == 1 / 100
    assert fitted.mdl is not None
    assert fitted.mdl.compression.low > 2


def test_controls_are_judged_on_the_same_rows_with_paired_differences(fitted: ProbeResult) -> None:
    for name in ("prompt_words", "length_position", "random_features", "control_task"):
        found = control(fitted, name)
        assert found.reason is None
        assert found.metrics["auroc"].value < 0.7
        assert found.difference["auroc"].low > 0.2
        assert found.difference["auroc"].value == pytest.approx(
            fitted.metrics["auroc"].value - found.metrics["auroc"].value
        )


def test_controls_of_a_model_that_is_gone_say_why_and_nothing_fails(fitted: ProbeResult) -> None:
    for name in ("prompt_state", "prompt_embedding", "untrained"):
        found = control(fitted, name)
        assert found.metrics == found.difference == {}
        assert "its model cannot be loaded" in str(found.reason)
        assert name in fitted.headline.split("not available: ")[1]
    assert "better than every control" in fitted.headline


def test_planted_null_is_at_chance(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "null", n=300, signal=False)
    result = fit_probe(run, "operation", "u@0", replace(BARE, permutations=99))
    assert result.metrics["auroc"].low <= 0.5 <= result.metrics["auroc"].high
    assert result.metrics["accuracy"].low <= 1 / 3 <= result.metrics["accuracy"].high
    assert result.permutation.p_value is not None
    assert result.permutation.p_value > 0.05
    assert result.headline.startswith("reads nothing: balanced_accuracy 0.")


def test_noise_does_not_carry_what_the_thought_does(signal: Run) -> None:
    result = fit_probe(signal, "operation", "eps@1", BARE)
    assert result.metrics["auroc"].low <= 0.5 <= result.metrics["auroc"].high


def test_traces_without_the_thought_or_the_label_are_counted_not_read(signal: Run) -> None:
    result = fit_probe(signal, "operation", "u@3", BARE)
    assert result.n == int((signal.traces["K"] > 3).sum())
    assert result.out["no thought 3"] == len(signal.traces) - result.n > 0
    labels = signal.thoughts["labels"].where(signal.thoughts.index % 3 > 0, "{}")
    gaps = replace(signal, thoughts=signal.thoughts.assign(labels=labels))
    partly = fit_probe(gaps, "operation", "u@1", BARE)
    rows = site_rows(signal, parse_site("u@1"))
    assert partly.out["no label 'operation'"] == int((rows.first % 3 == 0).sum()) > 0
    assert partly.n + sum(partly.out.values()) == len(signal.traces)


def test_the_same_seed_gives_the_same_result(signal: Run, fitted: ProbeResult) -> None:
    mine = replace(BARE, seed=3)
    once, again = (fit_probe(signal, "operation", "u@1", mine) for _ in range(2))
    assert again.to_dict() == once.to_dict()
    assert once.split.hash == again.split.hash == fitted.split.hash
    assert once.reading.test.tolist() == again.reading.test.tolist() == fitted.reading.test.tolist()


def test_no_group_is_in_two_parts(signal: Run) -> None:
    split = fit_probe(signal, "operation", "u@1", replace(BARE, positive="add")).split
    parts = (set(split.fold), set(split.control), set(split.test))
    assert sum(map(len, parts)) == len(set.union(*parts)) == signal.traces["group"].nunique()


@pytest.mark.parametrize("positive", [None, "add"])
def test_artefact_survives_the_disk_and_reads_the_same(
    signal: Run, tmp_path: Path, positive: str | None
) -> None:
    result = fit_probe(signal, "operation", "u@1", replace(BARE, positive=positive))
    kept(result, tmp_path / "probe")
    probe = read_probe(tmp_path / "probe")
    assert probe.meta["checkpoint_hash"] == signal.manifest["checkpoint_hash"]
    assert probe.meta["run_hash"] == signal.hash
    assert probe.meta["positive"] == positive
    assert sorted(p.name for p in (tmp_path / "probe").iterdir()) == [
        "probe.json",
        "probe.safetensors",
    ]
    X = read_site(signal, probe.site, site_rows(signal, probe.site))
    rows = result.split.rows(signal.traces["group"].to_numpy())
    np.testing.assert_allclose(probe.read(X)[rows.test], result.reading.test, atol=1e-9)
    held_out = apply_probe(probe, signal).frame.loc[lambda f: ~f["seen"]]
    assert len(held_out) == result.n_test
    right = (held_out["predicted"] == held_out["label"]).mean()
    assert right == pytest.approx(result.metrics["accuracy"].value)


def test_thresholds_come_from_groups_that_neither_train_nor_test(signal: Run) -> None:
    result = fit_probe(signal, "operation", "u@1", replace(BARE, positive="add"))
    assert result.reading.limits is not None
    rows = result.split.rows(signal.traces["group"].to_numpy())
    assert result.n_control == len(rows.control)
    negatives = result.reading.alarms.size
    assert 0 < negatives < result.n_control
    assert "recall_at_1pct" not in result.reading.limits.values
    assert f"1,000 negatives in the control set, it has {negatives}" in str(
        result.to_dict()["withheld"] | result.to_dict()["thresholds"]
    )


@pytest.mark.parametrize(
    ("estimator", "named", "linear"),
    [
        ("lda", "lda", True),
        ("sklearn.svm.LinearSVC(C=0.01)", "LinearSVC(C=0.01)", True),
        (SGDClassifier(loss="log_loss", random_state=0), "SGDClassifier", True),
        (KNeighborsClassifier(), "KNeighborsClassifier()", False),
    ],
)
def test_any_estimator_will_do_and_only_linear_ones_are_kept(
    signal: Run, tmp_path: Path, estimator: Any, named: str, linear: bool
) -> None:
    result = fit_probe(signal, "operation", "u@1", replace(BARE, estimator=estimator))
    assert named in result.estimator
    assert result.metrics["accuracy"].value > 0.9
    probe = save_probe(result, tmp_path / "probe")
    assert (probe is not None) == linear == (tmp_path / "probe").exists()
    if linear:
        assert read_probe(tmp_path / "probe").meta["estimator"] == result.estimator


def test_attention_reads_all_thoughts_of_a_trace(signal: Run, tmp_path: Path) -> None:
    options = replace(BARE, estimator="attention", positive="2")
    result = fit_probe(signal, "steps", "u@all", options)
    assert (result.estimator, result.n) == ("attention", len(signal.traces))
    probe = kept(result, tmp_path / "probe")
    assert probe.weights.query is not None
    assert apply_probe(read_probe(tmp_path / "probe"), signal).n == result.n


def test_a_probe_names_the_real_layer_and_other_layers_are_refused(tmp_path: Path) -> None:
    made: dict[str, Any] = {"n": 120, "D": 24, "tau": 0.3, "activations": 24}
    every = synthetic_run(tmp_path / "all", **made)
    last = synthetic_run(tmp_path / "last", manifest={"activations": "thoughts"}, seed=5, **made)
    assert fit_probe(every, "operation", "h@-1@1", BARE).site == "h@1@1"
    embeddings = kept(fit_probe(every, "operation", "h@0@1", BARE), tmp_path / "embeddings")
    with pytest.raises(UserError, match=r"--site h@0@1: not in last; existing sites: .*h@-1@K"):
        apply_probe(embeddings, last)
    with pytest.raises(UserError, match=r"--site h@0@1: not in last; existing sites: .*h@-1@K"):
        fit_probe(last, "operation", "h@0@1", BARE)
    result = fit_probe(last, "operation", "h@-1@1", BARE)
    assert result.site == "h@-1@1"
    frame = apply_probe(kept(result, tmp_path / "last-layer"), every).frame
    assert (frame["predicted"] == frame["label"]).mean() > 0.9


def labelled(path: Path, rare: int) -> Run:
    """Thoughts without signal; the label `kind` is rare in so many problem groups."""
    run = synthetic_run(path, n=150, samples=4, signal=False, steps=(2, 2))
    groups = sorted(set(run.traces["group"]))[:rare]
    labels = [
        canonical_json({"kind": ["a", "b", "c"][i % 3] if g not in groups else "rare"})
        for i, g in enumerate(run.traces["group"])
    ]
    return replace(run, traces=run.traces.assign(labels=labels))


@pytest.mark.parametrize("rare", [2, 3])
def test_a_class_of_two_or_three_groups_is_refused(tmp_path: Path, rare: int) -> None:
    with pytest.raises(UserError, match=rf"class 'rare' of the label occurs in {rare} problem gro"):
        fit_probe(labelled(tmp_path / "run", rare), "kind", "u@0", BARE)


def test_means_over_classes_are_withheld_where_a_class_has_few_groups(tmp_path: Path) -> None:
    options = replace(BARE, controls=True)
    result = fit_probe(labelled(tmp_path / "few", 8), "kind", "u@0", options)
    assert "class 'rare' is in 2 held-out groups, at least 5" in result.withheld["auroc"]
    assert {"auroc", "balanced_accuracy"} <= result.withheld.keys()
    # those that give every row the same score have an AUROC of 0.5, whatever the classes
    others = ("prompt_words", "random_features", "shuffled_labels")
    for metrics in (result.metrics, *(control(result, name).metrics for name in others)):
        assert np.isnan(metrics["auroc"].value)
        assert np.isfinite(metrics["accuracy"].value)
    assert "accuracy 0." in result.headline
    kept(result, tmp_path / "probe")
    stored = json.loads((tmp_path / "probe" / "probe.json").read_text(), parse_constant=pytest.fail)
    assert stored["metrics"]["auroc"] == {"value": None, "low": None, "high": None}
    assert stored["withheld"] == result.withheld
    enough = fit_probe(labelled(tmp_path / "enough", 24), "kind", "u@0", BARE)
    assert "auroc" not in enough.withheld
    assert np.isfinite(enough.metrics["auroc"].value)


def test_any_seed_of_63_bits_will_do(signal: Run) -> None:
    options = replace(BARE, seed=2**63 - 1)
    assert fit_probe(signal, "operation", "u@0", options).seed == 2**63 - 1
    for seed in (-1, 2**63):
        with pytest.raises(UserError, match="--seed is"):
            Options(seed=seed)


@pytest.mark.parametrize("field", ["draws", "permutations"])
def test_options_without_sense_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=f"--{field} is 0"):
        Options(**{field: 0})


@pytest.fixture(scope="module")
def result(signal: Run) -> ProbeResult:
    return fit_probe(signal, "operation", "u@1", BARE)


@pytest.mark.parametrize("text", ["{}", "[]", "1", "[" * 100_000, '{"format_version": 2}'])
def test_a_foreign_probe_json_is_one_line(result: ProbeResult, tmp_path: Path, text: str) -> None:
    kept(result, tmp_path / "probe")
    (tmp_path / "probe" / "probe.json").write_text(text)
    for attempt in (
        lambda: read_probe(tmp_path / "probe"),
        lambda: save_probe(result, tmp_path / "probe"),
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
        ("kind", "other"),
        ("classes", "abc"),
        ("classes", []),
        ("calibration_link", 3),
        ("calibration_link", {}),
        ("calibration_link", {"slope": "x", "offsets": [0.0]}),
        ("calibration_link", {"slope": 1.0, "offsets": [0.0, 1.0]}),
        ("thresholds", {}),
        ("train_groups", 7),
        ("train_groups", [["a"]]),
        ("control_groups", [["a"]]),
        ("settings", None),
        ("label", ["a"]),
        ("seed", "x"),
        ("run_hash", None),
    ],
)
def test_a_probe_of_other_types_is_one_line(
    result: ProbeResult, tmp_path: Path, field: str, value: object
) -> None:
    probe = kept(result, tmp_path / "probe")
    meta = probe.meta | {field: value}
    meta["hash"] = _hash(meta, probe.weights, probe.alarms)
    (tmp_path / "probe" / "probe.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"fit (the probe|it) again"):
        read_probe(tmp_path / "probe")


def test_a_damaged_artefact_is_refused(result: ProbeResult, tmp_path: Path) -> None:
    kept(result, tmp_path / "probe")
    text = (tmp_path / "probe" / "probe.json").read_text()
    (tmp_path / "probe" / "probe.json").write_text(text.replace('"u@1"', '"u@0"'))
    with pytest.raises(UserError, match=r"hash does not fit"):
        read_probe(tmp_path / "probe")
    (tmp_path / "probe" / "probe.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"damaged"):
        read_probe(tmp_path / "probe")
    with pytest.raises(UserError, match=r"is not a probe"):
        read_probe(tmp_path / "nowhere")


def test_a_folder_keeps_its_first_probe(result: ProbeResult, tmp_path: Path) -> None:
    kept(result, tmp_path / "probe")
    kept(result, tmp_path / "probe")
    with pytest.raises(UserError, match=r"holds another probe.*label is operation there"):
        save_probe(replace(result, label="offset"), tmp_path / "probe")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds no probe"):
        save_probe(result, tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_kept_split_trains_and_tests_on_the_same_groups(signal: Run, tmp_path: Path) -> None:
    """What tested one probe tests the next, at another site and by another seed."""
    bare = Options(controls=False, permutations=19, draws=100)
    first = fit_probe(signal, "operation", "u@1", bare)
    save_probe(first, tmp_path / "first")
    kept = split_of(tmp_path / "first")
    assert kept == first.split
    again = fit_probe(signal, "operation", "e@0", replace(bare, seed=9, split=kept))
    assert again.split == first.split
    assert (again.n_test, again.groups_test) == (first.n_test, first.groups_test)


def test_a_split_of_fewer_groups_leaves_the_others_out_and_says_so(signal: Run) -> None:
    few = list(dict.fromkeys(signal.traces["group"]))[:60]
    values = [bool(i % 2) for i in range(60)]
    part = dict(zip(few, values, strict=True))
    texts = [canonical_json({"coin": part[g]} if g in part else {}) for g in signal.traces["group"]]
    split = fit_probe(
        replace(signal, traces=signal.traces.assign(labels=texts)), "coin", "u@1", BARE
    ).split
    found = fit_probe(signal, "operation", "u@1", replace(BARE, split=split))
    inside = signal.traces["group"].isin(few)
    assert (found.n, found.groups) == (int(inside.sum()), 60)
    assert found.out["a group that is in no part of the split"] == int((~inside).sum()) > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e20, 1e150])
def test_numbers_of_any_size_are_read_alike(scale: float) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5)).astype(np.float32)
    y, fold = X[:, 0] + 0.3 * rng.normal(size=200), np.arange(200) % 5
    plain = fit_rows(X, y, "number", 0, fold, "ridge")
    scaled = fit_rows(X, scale * y, "number", 0, fold, "ridge")
    assert scaled.penalty == plain.penalty
    assert scaled.value == pytest.approx(plain.value, abs=1e-4)
    np.testing.assert_allclose(scaled.out_of_fold / scale, plain.out_of_fold, atol=1e-4)


def test_whitened_means_read_small_directions_out_of_fold_as_the_kept_probe_does() -> None:
    """The label is in the difference of two columns that are nearly one."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=400)
    base = rng.normal(size=400)
    X = np.stack([base, base + 1e-3 * (y - 0.5 + 0.1 * rng.normal(size=400))], axis=1)
    found = fit_rows(X, y, "binary", 2, np.arange(400) % 5, "mass_mean_whitened")
    assert found.value > 0.95
    assert ((found.read(X)[:, 0] > 0) == y).mean() > 0.95


def test_a_positive_value_that_no_trace_has_is_refused(signal: Run) -> None:
    with pytest.raises(UserError, match="--positive nothing: no trace has that value of 'oper"):
        fit_probe(signal, "operation", "u@1", replace(BARE, positive="nothing"))


def test_a_label_that_lengths_fix_has_no_p_value_and_is_not_called_nothing(signal: Run) -> None:
    found = fit_probe(signal, "steps", "u@mean", BARE)
    assert found.permutation.p_value is None
    assert "follows from the number of thoughts" in str(found.permutation.reason)
    assert "reads nothing" not in found.headline
