"""Sweeps: planted signals found where they are, planted nulls not, and nothing lost when killed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, kstest, norm

import probes.controls.panel as panel
import probes.drawing
import probes.jobs
import probes.sweep as sweep_module
import probes.workers as workers
from nfcot_model.errors import UserError
from nfcot_model.files import canonical_json
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from probes.artifact import read_probe
from probes.cells import Cell
from probes.crossfit import crossfit
from probes.estimators import ESTIMATORS
from probes.features import read_space
from probes.figures import sweep_figure
from probes.fit import Options
from probes.metrics import evaluate
from probes.multiplicity import adjusted_p, best_cell
from probes.permutations import donors
from probes.reading import Task, read_rows
from probes.sites import parse_site, site_rows
from probes.splits import deal_groups, split_groups
from probes.sweep import Plan, Sweep, sweep
from probes.sweeping import sweep_folder, write_sweep
from probes.units import Units, open_units
from tests.synthetic_run import synthetic_run

QUICK = Options(controls=False, permutations=19, draws=100)
SMALL = Plan(sites=("u", "eps"), options=QUICK, permutations=19, cell_draws=20)
FAST = replace(SMALL, estimators=("lda", "mass_mean"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def signal(folder: Path) -> Run:
    """Thoughts that encode the labels of their own step."""
    return synthetic_run(folder / "signal", n=240, D=12, steps=(2, 3), tau=0.3)


@pytest.fixture(scope="module")
def noise(folder: Path) -> Run:
    return synthetic_run(folder / "noise", n=240, samples=2, signal=False, steps=(3, 3))


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one for the PNG takes seconds."""

    def refuse(figures: object) -> None:
        raise RuntimeError("no browser here")

    monkeypatch.setattr(probes.drawing, "_write_png", refuse)


def labelled(run: Run, values: NDArray[Any]) -> Run:
    """The run with these values [traces] as the problem label `planted`."""
    texts = [canonical_json({"planted": value}) for value in values.tolist()]
    return replace(run, traces=run.traces.assign(labels=texts))


def planted(run: Run, site: str, share: float = 1.0) -> Run:
    """A label that is a linear function of what stands at the site, for a share of the traces."""
    found = parse_site(site)
    X = read_space(run, found)[site_rows(run, found).first]
    rng = np.random.default_rng(1)
    truth = X @ rng.normal(size=X.shape[1]) > 0
    coin = rng.random(len(truth)) < 0.5
    return labelled(run, np.where(rng.random(len(truth)) < share, truth, coin))


def same(a: Sweep, b: Sweep) -> bool:
    return json.dumps(jsonable(a.to_dict())) == json.dumps(jsonable(b.to_dict()))


def cell(found: Sweep, site: str, name: str = "logistic") -> Cell:
    return next(c for c in found.cells if (c.site, c.name) == (site, name))


def control(found: Sweep, site: str, name: str) -> Cell:
    return next(c for c in found.controls if (c.site, c.name) == (site, name))


# --- planted truth ---


def test_a_planted_signal_is_found_at_its_site(noise: Run) -> None:
    found = sweep(planted(noise, "u@1", 0.8), "planted", SMALL, Units)
    assert found.best.site in ("u@1", "eps@1")  # without a mean, u is the noise
    assert found.best_p == 1 / 20
    assert found.best.metrics["auroc"].low > 0.7
    assert found.null_max is not None
    assert found.null_max.median < 0.65 < cell(found, "u@1").value
    for one, p in zip(found.cells, found.adjusted_p, strict=True):
        assert (p == 1 / 20) == one.site.endswith("@1"), (one.site, one.name, p)
    assert {c.name for c in found.cells} == {"logistic", "lda", "mass_mean"}


def test_the_test_groups_choose_nothing(noise: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands at them, every cell is the same; only the last figure is not."""
    run = planted(noise, "u@1", 0.8)
    before = sweep(run, "planted", SMALL, Units)
    held = before.best.split.test | before.best.split.control
    rows = np.flatnonzero(np.isin(run.traces["group"], sorted(held)).repeat(run.traces["K"]))

    def spoiled(run: Run, site: Any) -> NDArray[np.float32]:
        values = read_space(run, site).copy()
        values[rows] = np.random.default_rng(0).normal(size=(len(rows), values.shape[1]))
        return values

    monkeypatch.setattr(probes.jobs, "read_space", spoiled)
    monkeypatch.setattr(sweep_module, "read_space", spoiled)
    after = sweep(run, "planted", SMALL, Units)
    assert [c.to_dict() for c in after.cells] == [c.to_dict() for c in before.cells]
    assert after.adjusted_p == before.adjusted_p
    assert after.best.metrics["auroc"].low < 0.5 < after.best.metrics["auroc"].high
    best = before.best
    assert cell(before, "u@1").n == best.n - best.n_test - best.n_control
    parts = (set(best.split.fold), set(best.split.control), set(best.split.test))
    assert sum(map(len, parts)) == len(set.union(*parts)) == best.groups


def test_on_noise_the_adjusted_p_value_of_the_best_cell_is_uniform() -> None:
    """Statistical: 200 sweeps of two sites and three estimators, labels alike within groups.

    Logistic regression chooses its penalty on the true labels and keeps it under exchanged ones.
    """
    P, groups = 19, np.repeat(np.arange(30), 2).astype(str).astype(object)
    estimators = [ESTIMATORS[name] for name in ("logistic", "lda", "mass_mean")]
    rng = np.random.default_rng(0)
    found = []
    for seed in range(200):
        y = rng.permutation(np.repeat([0, 1], 15)).repeat(2)
        site = rng.normal(size=(60, 3)) + 2 * rng.normal(size=(30, 3)).repeat(2, axis=0)
        sites = [site, site + rng.normal(size=(60, 3))]  # two sites that are alike
        fold = torch.from_numpy(deal_groups(y, groups, 3, seed))
        permuted = torch.from_numpy(y[donors(groups, np.ones((60, 1), bool), P, seed).trace])
        cells = [
            Cell(str(i), name, 60, 30, None, fit.value, {}, tuple(fit.null.tolist()))
            for i, X in enumerate(sites)
            for name, fit in crossfit(
                torch.from_numpy(X), torch.from_numpy(y), "binary", 2, fold, estimators, permuted
            ).items()
        ]
        adjusted = adjusted_p(cells)
        # spread evenly over its step, a p-value of steps is uniform
        found.append(adjusted[best_cell(cells, adjusted)] - rng.random() / (P + 1))
    assert kstest(found, "uniform").pvalue > 0.01
    assert binomtest(int((np.array(found) <= 0.05).sum()), 200, 0.05).pvalue > 0.01


def test_a_known_auroc_is_in_its_interval_at_the_nominal_rate() -> None:
    """Statistical: 200 runs of 60 test groups of 3 rows that are alike.

    The truth is that of the fitted direction w, exactly: between two Gaussians that differ by d and
    share the covariance I, Phi(w'd / sqrt(2 w'w)).
    """
    rng = np.random.default_rng(0)
    groups = np.arange(240).repeat(3).astype(str).astype(object)
    covered = 0
    values = []
    for seed in range(200):
        y = rng.integers(2, size=240).repeat(3)
        X = 0.6 * rng.normal(size=(240, 4)).repeat(3, axis=0) + 0.8 * rng.normal(size=(720, 4))
        X[:, 0] += 0.9 * y
        split = split_groups(y, groups, [False, True], seed)
        task = Task("binary", [False, True], y, groups, split.rows(groups), seed)
        reading = read_rows(task, X.astype(np.float32), "mass_mean")
        weights = reading.fitted.weights
        assert weights is not None
        w = weights.coef[0] / weights.scale
        known = norm.cdf(0.9 * w[0] / np.sqrt(2 * w @ w))
        metrics, _ = evaluate("binary", task.test_y, reading.test, task.test_groups, seed, 200)
        covered += metrics["auroc"].low <= known <= metrics["auroc"].high
        values.append(metrics["auroc"].value - known)
    assert binomtest(covered, 200, 0.95).pvalue > 0.01, covered
    assert abs(np.mean(values)) < 0.01


def test_a_leak_within_groups_is_not_rewarded(noise: Run) -> None:
    """A label of groups whose thoughts know their group: rows alone would give it away."""
    rng = np.random.default_rng(0)
    groups, own = np.unique(noise.traces["group"], return_inverse=True)
    run = labelled(noise, rng.integers(2, size=len(groups))[own].astype(bool))
    centres = rng.normal(size=(len(groups), 8)) * 20

    def leaky(run: Run, site: Any) -> NDArray[np.float32]:
        return (read_space(run, site) + centres[own].repeat(run.traces["K"], axis=0)).astype("f4")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes.jobs, "read_space", leaky)
        patch.setattr(sweep_module, "read_space", leaky)
        found = sweep(run, "planted", replace(SMALL, sites=("u",)), Units)
    assert all(abs(c.value - 0.5) < 0.15 for c in found.cells)
    assert found.best_p > 0.05
    assert found.best.headline.startswith("reads nothing")


# --- controls ---


def with_controls(run: Run, label: str, **plan: Any) -> Sweep:
    options = replace(QUICK, controls=True, permutations=99)
    made = Plan(options=options, permutations=0, cell_draws=20, estimators=("logistic",))
    return sweep(run, label, replace(made, **plan), Units)


def test_what_the_prompt_says_too_is_reported_as_reading_the_prompt(signal: Run) -> None:
    first = signal.thoughts.groupby("trace_id", sort=False)["labels"].first()
    said = [json.loads(text)["operation"] for text in first]
    run = replace(
        signal, traces=signal.traces.assign(prompt=[f"please {word} it" for word in said])
    )
    found = with_controls(run, "operation", sites=("u@0", "eps@0"))
    assert found.best.site == "u@0"
    assert found.best.metrics["auroc"].low > 0.9
    assert found.best.headline.startswith("reads the prompt (prompt_words ")
    assert control(found, "0", "prompt_words").value > 0.97
    # where the thought knows nothing of it, there is nothing to accuse
    only = with_controls(run, "operation", sites=("eps@0",))
    assert only.best.headline.startswith("reads nothing")
    assert control(only, "0", "prompt_words").value > 0.97


def test_what_the_length_says_too_is_reported_as_reading_length(
    signal: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(signal, traces=signal.traces.assign(prompt="compile"))
    K = run.traces["K"].to_numpy()

    def knowing(run: Run, site: Any) -> NDArray[np.float32]:
        values = read_space(run, site).copy()
        values[:, 0] = K.repeat(K) + np.random.default_rng(0).normal(size=K.sum()) / 3
        return values

    monkeypatch.setattr(probes.jobs, "read_space", knowing)
    monkeypatch.setattr(sweep_module, "read_space", knowing)
    found = with_controls(run, "steps", sites=("u@0",))
    assert found.best.metrics["auroc"].low > 0.9
    assert re.match(
        r"reads length and position \(length_position 1.000 alone\): ", found.best.headline
    )
    assert control(found, "0", "prompt_words").value == pytest.approx(0.5)


def test_controls_of_a_model_that_is_gone_are_named_and_the_rest_is_there(
    signal: Run, tmp_path: Path
) -> None:
    found = with_controls(signal, "operation", sites=("u@0", "u@1"))
    names = {c.name for c in found.controls if c.reason is None}
    assert names == {
        "prompt_words",
        "decoded_text",
        "length_position",
        "random_features",
        "control_task",
    }
    for name, site in (("prompt_state", "0"), ("prompt_embedding", "1"), ("untrained", "u@1")):
        gone = control(found, site, name)
        assert np.isnan(gone.value)
        assert "its model cannot be loaded" in str(gone.reason)
    assert control(found, "u@1", "random_features").value < 0.5 < cell(found, "u@1").value
    assert "not available: prompt_state" in found.best.headline
    write_sweep(found, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "sweep.json").read_text(), parse_constant=pytest.fail)
    assert {c["reason"] for c in stored["controls"]} > {None}


# --- what is read ---


def test_traces_are_counted_out_where_they_have_no_such_thought(folder: Path) -> None:
    run = synthetic_run(folder / "ragged", n=200, D=12, steps=(1, 4), tau=0.3)
    plan = replace(SMALL, sites=("u",), estimators=("lda",), permutations=9)
    found = sweep(run, "operation", plan, Units)
    K = run.traces.set_index("group")["K"]
    for k in range(4):
        training = [K[group] > k for group in found.best.split.fold]
        assert cell(found, f"u@{k}", "lda").n == sum(training)
    k = parse_site(found.best.site).place.n
    assert found.best.out[f"no thought {k}"] == int(K.le(k).sum())
    assert found.best.n + sum(found.best.out.values()) == len(run.traces)


def test_places_with_too_few_traces_are_refused_with_the_reason(folder: Path) -> None:
    made = synthetic_run(folder / "thin", n=120, D=12, steps=(2, 3), tau=0.3)
    rare = np.flatnonzero(made.traces["K"] == 3)[2:]
    values = np.where(made.traces["K"] == 2, made.traces.index % 2 == 0, True)
    values[rare[:1]] = False
    run = labelled(made, values)
    found = sweep(run, "planted", replace(SMALL, sites=("u",)), Units)
    assert set(found.refused) == {"2"}
    assert "class False of the label is in" in found.refused["2"]
    assert {c.site for c in found.cells} == {"u@0", "u@1"}


def test_numbers_are_read_by_ridge(noise: Run) -> None:
    X = read_space(noise, parse_site("u@1"))[site_rows(noise, parse_site("u@1")).first]
    values = X[:, 0] * 3 + np.random.default_rng(0).normal(size=len(X)) / 2
    found = sweep(labelled(noise, values.round(4)), "planted", SMALL, Units)
    assert {c.name for c in found.cells} == {"ridge"}
    assert (found.statistic, found.kind, found.best.classes) == ("r2", "number", None)
    assert found.best.site in ("u@1", "eps@1")
    assert found.best.metrics["r2"].low > 0.3
    assert found.best_p == 1 / 20
    assert cell(found, "u@0", "ridge").value < 0.1
    assert set(cell(found, "u@1", "ridge").metrics) == {"r2", "mae"}


def test_one_class_against_the_rest_has_alarms_set_apart(signal: Run) -> None:
    plan = replace(SMALL, sites=("u@0",), options=replace(QUICK, positive="add"))
    found = sweep(signal, "operation", plan, Units)
    assert (found.kind, found.statistic) == ("binary", "auroc")
    assert found.best.classes == ["not add", "add"]
    assert found.best.n_control > 0
    limits = found.best.reading.limits
    assert limits is not None
    assert 0 < limits.negatives < found.best.n_control


def test_pooled_places_and_attention_stand_beside_thoughts(signal: Run) -> None:
    plan = replace(SMALL, sites=("u@mean", "u@all", "u@concat2"), permutations=9)
    found = sweep(signal, "steps", plan, Units)
    assert [c.name for c in found.cells if c.site == "u@all"] == ["attention"]
    p = dict(zip([(c.site, c.name) for c in found.cells], found.adjusted_p, strict=True))
    assert np.isnan(p["u@all", "attention"])
    assert not np.isnan(p["u@mean", "logistic"])


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"sites": ("w",)}, "w"),
        ({"sites": ("u@9",)}, "--site u@9: not in"),
        ({"places": ("x",)}, "x"),
        ({"estimators": ("forest",)}, "--estimator 'forest': for a multiclass label expected one"),
        ({"estimators": ("attention",)}, "give a site such as u@all"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_opened(
    signal: Run, plan: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as error:
        sweep(signal, "operation", replace(SMALL, **plan), pytest.fail)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_values_are_refused_before_anything_is_opened(
    signal: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Run, site: Any) -> NDArray[np.float32]:
        if site.space == "eps":
            raise UserError("trace 7 holds NaN")
        return read_space(run, site)

    monkeypatch.setattr(probes.jobs, "read_space", broken)
    monkeypatch.setattr(sweep_module, "read_space", broken)
    with pytest.raises(UserError, match="trace 7 holds NaN"):
        sweep(signal, "operation", SMALL, pytest.fail)


# --- killed, damaged, side by side ---


@pytest.fixture(scope="module")
def whole(signal: Run) -> Sweep:
    return sweep(signal, "operation", FAST, Units)


def opened(signal: Run, out: Path, plan: Plan = FAST) -> Callable[[], Units]:
    folder, identity = sweep_folder(signal, "operation", plan, None, out)
    return lambda: open_units(folder, identity)


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the units that are done, one by one."""
    names: list[str] = []
    really = workers.done

    def noted(job: Any) -> Any:
        names.append(job.name)
        return really(job)

    monkeypatch.setattr(workers, "done", noted)
    return names


def test_an_interrupted_sweep_goes_on_to_the_same_end(
    signal: Run, whole: Sweep, worked: list[str], tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    units = opened(signal, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        sweep(signal, "operation", FAST, units, progress=stop)
    first = list(worked)
    worked.clear()
    told: list[tuple[int, int]] = []
    found = sweep(signal, "operation", FAST, units, progress=lambda *p: told.append(p))
    assert same(found, whole)
    assert len(first) == 3
    assert not {*first} & {*worked}
    assert {*first, *worked} == {c.site for c in whole.cells}
    assert told == [(done, 6) for done in range(3, 7)]
    worked.clear()
    assert same(sweep(signal, "operation", FAST, units), whole)
    assert worked == []
    log = (tmp_path / "out" / "log.txt").read_text().splitlines()
    assert [line.split()[1] for line in log] == [c.site for c in whole.cells[::2]]


@pytest.fixture(scope="module")
def finished(signal: Run, folder: Path) -> Path:
    sweep(signal, "operation", FAST, opened(signal, folder / "finished"))
    return folder / "finished"


@pytest.mark.parametrize("damage", ["cut", "empty", "other figure", "another unit's", "gone"])
def test_a_damaged_unit_is_done_again(
    signal: Run, whole: Sweep, worked: list[str], finished: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    units = opened(signal, tmp_path / "out")
    files = sorted((tmp_path / "out" / "units").iterdir())
    text = files[0].read_text()
    if damage == "gone":
        files[0].unlink()
    else:
        plain = json.loads(text)
        plain["cells"][0]["value"] = 0.99
        changed = {
            "cut": text[: len(text) // 2],
            "empty": "",
            "other figure": json.dumps(plain),
            "another unit's": files[1].read_text(),
        }
        files[0].write_text(changed[damage])
    assert same(sweep(signal, "operation", FAST, units), whole)
    assert len(worked) == 1
    assert files[0].read_text() == text


def test_units_are_done_again_when_more_controls_can_be_computed(
    signal: Run, worked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(
        FAST,
        sites=("u@1",),
        permutations=0,
        options=replace(QUICK, controls=True, permutations=99),
    )
    units = opened(signal, tmp_path / "out", plan)
    missing = sweep(signal, "operation", plan, units)
    assert np.isnan(control(missing, "1", "prompt_state").value)
    done = list(worked)
    worked.clear()
    assert same(sweep(signal, "operation", plan, units), missing)
    assert worked == [], "nothing has changed"
    states = np.random.default_rng(0).normal(size=(len(signal.traces), 3)).astype(np.float32)
    really, read = sweep_module.control_states, panel.read_control
    monkeypatch.setattr(
        sweep_module,
        "control_states",
        lambda *a, **k: replace(
            really(*a, **k), available=("prompt_state",), unavailable={"untrained_u": "no model"}
        ),
    )
    monkeypatch.setattr(
        panel, "read_control", lambda *a: states if a[1] == "prompt_state" else read(*a)
    )
    found = sweep(signal, "operation", plan, units)
    assert sorted(worked) == sorted(done)
    assert 0 <= control(found, "1", "prompt_state").value < 0.5
    monkeypatch.undo()


def test_a_fold_with_one_group_of_a_class_has_no_interval(folder: Path) -> None:
    """Hardly a group of a class for each fold, and then many: values alone, then intervals."""
    run = synthetic_run(folder / "rare", n=200, D=6, steps=(1, 1))
    for rare, sure in ((14, False), (60, True)):
        values = np.isin(np.arange(len(run.traces)), np.arange(rare))
        plan = replace(SMALL, sites=("u",), estimators=("mass_mean",), permutations=0)
        found = cell(sweep(labelled(run, values), "planted", plan, Units), "u@0", "mass_mean")
        for name in ("auroc", "balanced_accuracy"):
            assert np.isfinite(found.metrics[name].value)
            assert np.isfinite(found.metrics[name].low) == sure
        assert np.isfinite(found.metrics["accuracy"].low)


def test_another_plan_or_other_files_keep_their_folder(signal: Run, tmp_path: Path) -> None:
    opened(signal, tmp_path / "out")()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"holds another sweep \(plan differ\); give another"):
        opened(signal, tmp_path / "out", replace(FAST, permutations=20))()
    other = replace(signal, manifest=signal.manifest | {"hash": "another"})
    with pytest.raises(UserError, match=r"holds another sweep .*run_hash"):
        opened(other, tmp_path / "out")()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and holds no sweep"):
        opened(signal, tmp_path / "full")()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and holds no sweep"):
        opened(signal, tmp_path / "file")()


def test_every_plan_has_its_own_folder(signal: Run) -> None:
    plans = [FAST, replace(FAST, sites=("u",)), replace(FAST, options=replace(QUICK, seed=1))]
    folders = {sweep_folder(signal, label, p, None, None)[0] for p in plans for label in "ab"}
    assert len(folders) == 6


def test_a_sweep_killed_before_any_file_operation_goes_on_to_the_same_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.killed_sweep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    operations = int(done.stdout)
    assert operations > 20
    expected = results(tmp_path / "whole")
    assert {"sweep.json", "cells.parquet", "best/probe.json"} <= expected.keys()
    for n in range(1, operations + 1):
        assert results(tmp_path / str(n)) == expected, n


def results(folder: Path) -> dict[str, bytes]:
    """What a sweep leaves, without its diary and what a killed writer leaves behind."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: p.read_bytes()
        for name, p in found.items()
        if p.suffix != ".tmp" and name != "log.txt"
    }


def test_processes_side_by_side_find_the_same(
    signal: Run, whole: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(workers, "WORTH_PROCESSES", 0)
    torch.set_num_threads(2)
    try:
        found = sweep(signal, "operation", FAST, opened(signal, tmp_path / "out"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert same(found, whole)
    assert len(list((tmp_path / "out" / "units").iterdir())) == 6


# --- what is written ---


def test_a_cell_is_read_as_it_was_written(whole: Sweep) -> None:
    for one in whole.cells:
        assert Cell.from_dict(json.loads(json.dumps(jsonable(one.to_dict())))) == one


class Addresses(HTMLParser):
    """What the page itself would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data")]


def test_the_page_loads_nothing_and_shows_the_cells_values(whole: Sweep, tmp_path: Path) -> None:
    assert write_sweep(whole, tmp_path / "out") == "no browser here"
    page = Addresses()
    text = (tmp_path / "out" / "sweep.html").read_text()
    page.feed(text)
    assert page.found == []
    assert "cdn.plot.ly" not in text[: text.index("plotly.js v")]
    figure = sweep_figure(whole)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 2
    for trace, name in zip(maps, ("lda", "mass_mean"), strict=True):
        for row, space in enumerate(trace.y):
            for column, place in enumerate(trace.x):
                shown, real = trace.z[row][column], cell(whole, f"{space}@{place}", name).value
                assert shown == real or np.isnan(shown) == np.isnan(real) is True
    stars = [
        f"{space}@{place}"
        for trace in maps
        for space, texts in zip(trace.y, trace.text, strict=True)
        for place, text in zip(trace.x, texts, strict=True)
        if "★" in text
    ]
    assert stars == [whole.best.site]


def test_what_is_kept_fits_together(whole: Sweep, signal: Run, tmp_path: Path) -> None:
    write_sweep(whole, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "sweep.json").read_text(), parse_constant=pytest.fail)
    frame = pd.read_parquet(tmp_path / "out" / "cells.parquet")
    assert stored["adjusted_p"] == whole.best_p
    assert len(frame) == len(stored["cells"]) + len(stored["controls"]) == 12
    for row, told in zip(frame.to_dict("records"), stored["cells"], strict=True):
        assert (row["site"], row["name"]) == (told["site"], told["estimator"])
        assert row["value"] == told["value"]
        assert row["auroc_low"] == told["metrics"]["auroc"]["low"]
    probe = read_probe(tmp_path / "out" / "best")
    probe.refuse_mismatch(signal)
    assert (str(probe.site), probe.meta["estimator"]) == (whole.best.site, whole.best.estimator)
    page = (tmp_path / "out" / "sweep.md").read_text()
    assert whole.best.headline in page
    assert f"adjusted p {whole.best_p:.3g}" in page
