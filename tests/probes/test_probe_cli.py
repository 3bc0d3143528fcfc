"""`nfcot probe` from the outside: documents, files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import probes.drawing
from nfcot_model.cli import main
from nfcot_model.reasoners import load_reasoner
from nfcot_model.traces import Run, collect, read_run
from probes.cli import app
from tests.killed_trace import Unchecked
from tests.synthetic_run import synthetic_run
from tests.tiny import brief_reasoner, digits

FAST = ["--no-controls", "--draws", "100", "--permutations", "9"]
ESTIMATE = {"value", "low", "high"}


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one for the PNG takes seconds."""

    def refuse(figures: object) -> None:
        raise RuntimeError("no browser here")

    monkeypatch.setattr(probes.drawing, "_write_png", refuse)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(tmp_path)


def made(folder: Path, n: int = 80, **settings: Any) -> Run:
    return synthetic_run(folder / "runs" / "a", n=n, D=12, steps=(2, 4), tau=0.3, **settings)


def document(*arguments: object) -> dict[str, Any]:
    """The one JSON document that a command writes; nothing else is on stdout."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert isinstance(found, dict)
    return found


def shown(*arguments: object) -> str:
    """What a command shows on stderr, in one line."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """The one line of a command that fails with exit code 2 and leaves `folder` as it was."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(SystemExit) as stop:
        main(["probe", *map(str, arguments)])
    told = capsys.readouterr()
    assert stop.value.code == 2, told.err
    assert told.out == ""
    assert told.err.startswith("error: "), told.err
    assert told.err.count("\n") == 1
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    return told.err


# --- golden commands ---


def test_fit_evaluate_and_apply(run: Run, tmp_path: Path) -> None:
    asked = ["fit", run.path, "--label", "operation", "--site", "u@-1", "--draws", "100"]
    fit = document(*asked)
    assert {"site", "label", "estimator", "headline", "permutation", "calibration"} <= fit.keys()
    assert (fit["site"], fit["label"], fit["estimator"]) == ("u@-1", "operation", "logistic")
    assert (fit["n"], fit["groups"]) == (80, 80)
    assert list(fit["metrics"]) == [
        "accuracy",
        "balanced_accuracy",
        "auroc",
        "average_precision",
        "brier",
        "log_loss",
    ]
    for metric in fit["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert [c["name"] for c in fit["controls"]] == [
        "prompt_words",
        "prompt_state",
        "prompt_embedding",
        "decoded_text",
        "length_position",
        "untrained",
        "random_features",
        "control_task",
        "shuffled_labels",
        "majority_class",
    ]
    for control in fit["controls"]:
        assert (control["metrics"] == {}) == (control["reason"] is not None)
        assert all(set(e) == ESTIMATE for e in control["metrics"].values())
    artifact = Path(fit["artifact"])
    assert artifact == run.path.parent / "probes" / "a-operation-u@-1-logistic-seed0"
    assert {p.name for p in artifact.iterdir()} == {"probe.json", "probe.safetensors"}

    found = document("evaluate", artifact, run.path, "--draws", "100")
    assert found["metrics"] == fit["metrics"]
    assert (found["n"], found["groups"]) == (fit["n_test"], fit["groups_test"])
    assert {"site", "label", "estimator", "controls", "artifact"} <= found.keys()
    assert fit["headline"] in shown("evaluate", artifact, run.path, "--draws", "100")

    scores = document("apply", artifact, run.path)
    assert (scores["n"], scores["out"]) == (80, 0)
    assert scores["rows"] - scores["seen"] == fit["n_test"]
    assert Path(scores["scores"]).is_relative_to(run.path / "derived" / "probe_scores")
    assert scores["scores"] in shown("apply", artifact, run.path).replace(" ", "")


def test_fit_shows_the_headline_the_controls_and_what_it_does_not_show(shared: Run) -> None:
    text = shown("fit", shared.path, "--label", "operation", "--site", "u@0", "--draws", "100")
    for words in (
        "(logistic)",
        "shuffled_labels",
        "better than every control (not available: prompt_state, prompt_embedding, untrained)",
        "no control untrained: ",
        "not that the model uses it",
        "exchanges of labels between test groups",
    ):
        assert words in text, words


def test_folders_tell_probes_apart(shared: Run) -> None:
    asked = ["fit", shared.path, "--label", "operation", "--site", "u@1", *FAST]
    more = (
        ["--estimator", "lda"],
        ["--positive", "add"],
        ["--seed", "7"],
        ["--estimator", "sklearn.svm.LinearSVC(C=0.1)"],
        ["--estimator", "sklearn.svm.LinearSVC(C=0.2)"],
    )
    folders = [document(*asked, *options)["artifact"] for options in more]
    assert len(set(folders)) == len(folders)
    assert folders[0].endswith("a-operation-u@1-lda-seed0")
    assert folders[1].endswith("a-operation=add-u@1-logistic-seed0")


def test_a_probe_that_is_not_linear_is_told_and_not_kept(run: Run) -> None:
    asked = ["--label", "operation", "--site", "u@1", *FAST]
    tree = ["--estimator", "sklearn.tree.DecisionTreeClassifier(random_state=0)"]
    assert document("fit", run.path, *asked, *tree)["artifact"] is None
    assert "not kept: this estimator is not linear" in shown("fit", run.path, *asked, *tree)
    assert not (run.path.parent / "probes").exists()


def test_sweep(run: Run) -> None:
    asked = ["sweep", run.path, "--label", "operation", "--sites", "u,eps@0", "--places", "0,1"]
    found = document(*asked, "--draws", "100", "--permutations", "9")
    assert [c["site"] for c in found["cells"][::3]] == ["u@0", "u@1", "eps@0"]
    for cell in found["cells"]:
        assert {"site", "estimator", "metrics", "adjusted_p"} <= cell.keys()
        assert cell["estimator"] in ("logistic", "lda", "mass_mean")
        assert all(set(e) == ESTIMATE for e in cell["metrics"].values())
    assert found["adjusted_p"] == 0.1
    assert found["null_max"]["permutations"] == 9
    assert found["null_max"]["median"] <= found["null_max"]["max"] < 0.7
    assert found["best"]["site"] in ("u@0", "u@1")
    assert found["best"]["metrics"].keys() >= {"auroc", "brier"}
    assert {"site", "name", "metrics", "reason"} <= found["controls"][0].keys()
    out = Path(found["artifact"])
    assert out.parent == run.path.parent / "probes"
    assert {p.name for p in out.iterdir()} == {
        "plan.json",
        "units",
        "log.txt",
        "best",
        "cells.parquet",
        "sweep.html",
        "sweep.md",
        "sweep.json",
    }
    stored = json.loads((out / "sweep.json").read_text())
    assert stored == {k: v for k, v in found.items() if k != "artifact"}
    text = shown(*asked, "--draws", "100", "--permutations", "9")
    assert "adjusted p 0.1" in text
    assert found["best"]["headline"] in text
    assert "no PNG figure: no browser here" in text
    assert str(out) in text
    scores = document("apply", out / "best", run.path)
    assert scores["n"] + scores["out"] == 80


def test_the_runs_model_gives_all_controls(tmp_path: Path) -> None:
    """Also when it is named because it is not where it was."""
    brief_reasoner().save(tmp_path / "model")
    reasoner = load_reasoner(tmp_path / "model")
    collect(reasoner, digits(40), tmp_path / "runs" / "a", sandbox=Unchecked(), samples=1)
    run = read_run(tmp_path / "runs" / "a")
    values = [f"{t},{i % 2}" for i, t in enumerate(run.traces["trace_id"])]
    (tmp_path / "own.csv").write_text("trace_id,odd\n" + "\n".join(values))
    asked = ["--label", "odd", "--labels", tmp_path / "own.csv", "--draws", "100"]
    fit = document("fit", run.path, "--site", "u@0", *asked, "--model", tmp_path / "model")
    assert [c["name"] for c in fit["controls"] if c["reason"] is not None] == []
    swept = document("sweep", run.path, "--sites", "u@0", *asked, "--permutations", "3")
    assert {c["reason"] for c in swept["controls"]} == {None}


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "colour", "--site", "u@0"], "existing labels: step: coefficient"),
        (["--label", "offset", "--site", "u@9"], "existing sites: u@K"),
        (["--label", "offset", "--site", "w@0"], "w@0"),
        (["--label", "tampered", "--site", "u@0"], "single class (False)"),
        (["--label", "coefficient", "--site", "u@3"], "trace more problems"),
        (
            ["--label", "operation", "--site", "u@0", "--folds", "70"],
            "--folds 70: expected 3 to 20",
        ),
        (["--label", "operation", "--site", "u@0", "--folds", "2"], "--folds 2: expected 3 to 20"),
        (["--label", "operation", "--site", "u@0", "--estimator", "forest"], "one of logistic"),
        (["--label", "operation", "--site", "u@0", "--estimator", "ridge"], "one of logistic"),
        (["--label", "operation", "--site", "u@0", "--estimator", "attention"], "u@all"),
        (["--label", "operation", "--site", "u@0", "--estimator", "os.getcwd()"], "os.getcwd"),
        (["--label", "operation@0", "--site", "u@all", "--estimator", "lda"], "attention"),
        (["--label", "operation", "--site", "u@0", "--kind", "odd"], "--kind 'odd'"),
        (["--label", "operation", "--site", "u@0", "--kind", "binary"], "--positive"),
        (["--label", "operation", "--site", "u@0", "--kind", "number"], "no finite number"),
        (
            ["--label", "operation", "--site", "u@0", "--positive", "divide"],
            "--positive divide: no trace",
        ),
        (["--label", "operation", "--site", "u@0", "--draws", "9"], "--draws is 9"),
        (["--label", "operation", "--site", "u@0", "--permutations", "0"], "--permutations is 0"),
        (["--label", "operation", "--site", "u@0", "--model", "/nowhere"], "/nowhere"),
        (["--label", "operation", "--site", "u@0", "--labels", "/nowhere.csv"], "cannot be read"),
    ],
)
def test_bad_input_of_fit(
    shared: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refused(capsys, shared.path.parent, "fit", shared.path, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "colour"], "existing labels: step: coefficient"),
        (["--label", "tampered"], "single class (False)"),
        (["--label", "operation", "--sites", "u@9"], "existing sites"),
        (["--label", "operation", "--sites", "h"], "h"),
        (["--label", "operation", "--places", "first"], "first"),
        (["--label", "operation", "--estimators", "lda,forest"], "'forest'"),
        (["--label", "operation", "--sites", ""], "--sites"),
        (["--label", "operation", "--estimators", ","], "--estimators"),
        (["--label", "operation", "--folds", "70"], "--folds 70: expected 3 to 20"),
        (["--label", "operation", "--device", "abacus"], "--device"),
        (["--label", "operation", "--seed", str(2**63)], "--seed is"),
    ],
)
def test_bad_input_of_sweep(
    shared: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refused(capsys, shared.path.parent, "sweep", shared.path, *arguments)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("trace_id,score\n{0},high\n{1},2\n", "row 1, column 'score': 'high' is no finite number"),
        ("trace_id,score\n{0},1\n{0},2\n", "row 2, column 'trace_id'"),
        ("trace_id,score\nnobody,1\n", "row 1, column 'trace_id': no trace 'nobody'"),
        ("id,score\n{0},1\n", "no column trace_id"),
        ("", "cannot be read as CSV"),
    ],
)
def test_bad_label_files(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, words: str
) -> None:
    file = tmp_path / "own.csv"
    file.write_text(rows.format(*run.traces["trace_id"]))
    asked = ["--label", "score", "--labels", file, "--kind", "number"]
    for command in (["fit", run.path, "--site", "u@0"], ["sweep", run.path]):
        told = refused(capsys, tmp_path, *command, *asked)
        assert words in told
        assert "own.csv" in told


def test_labels_that_some_traces_lack_are_counted_and_said(run: Run, tmp_path: Path) -> None:
    rows = [f"{t},{i % 2}" for i, t in enumerate(run.traces["trace_id"])][:60]
    (tmp_path / "own.csv").write_text("trace_id,odd\n" + "\n".join(rows))
    asked = ["--label", "odd", "--labels", tmp_path / "own.csv", *FAST]
    fit = document("fit", run.path, "--site", "u@0", *asked)
    assert (fit["n"], fit["out"]["no label 'odd'"]) == (60, 20)
    assert "out: 20 with no label 'odd'" in shown("fit", run.path, "--site", "u@0", *asked)
    assert "out: 20 with no label 'odd'" in shown("sweep", run.path, "--sites", "u@0", *asked)


def test_values_that_are_not_finite_name_their_trace(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Run.shard_tensor

    def broken(self: Run, name: str, shard: str, *rest: Any) -> np.ndarray:
        values = np.array(real(self, name, shard, *rest))
        values[int(run.traces["row"][7])] = np.nan
        return values

    monkeypatch.setattr(Run, "shard_tensor", broken)
    for command in (["fit", run.path, "--site", "u@0"], ["sweep", run.path, "--sites", "u,eps"]):
        told = refused(capsys, tmp_path, *command, "--label", "operation")
        assert f"trace {run.traces['trace_id'][7]}" in told


def test_probes_of_another_model_and_folders_that_are_none(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "probe"
    fit = ["fit", run.path, "--label", "operation", "--site", "u@1", *FAST, "--out", folder]
    document(*fit)
    other = made(tmp_path / "other", n=20, checkpoint_hash="another")
    for command in ("apply", "evaluate"):
        told = refused(capsys, tmp_path, command, folder, other.path)
        assert "checkpoint_hash is another, the probe was fitted on synthetic" in told
        assert "is not a probe" in refused(capsys, tmp_path, command, run.path, run.path)
        assert "is not a run" in refused(capsys, tmp_path, command, folder, tmp_path)
    assert "holds another probe (seed is 0 there, 1 here)" in refused(
        capsys, tmp_path, *fit, "--seed", "1"
    )
    for command in (["fit", "--site", "u@0"], ["sweep"]):
        told = refused(capsys, tmp_path, *command, tmp_path, "--label", "operation")
        assert "is not a run" in told


def test_another_sweep_keeps_its_folder(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["sweep", run.path, "--label", "operation", "--sites", "u@0", *FAST, "--out", out]
    document(*asked)
    assert "holds another sweep (plan differ)" in refused(capsys, tmp_path, *asked, "--seed", "1")
    told = refused(capsys, tmp_path, *asked, "--label", "offset")
    assert "holds another sweep (label differ)" in told
    told = refused(capsys, tmp_path, *asked[:-1], run.path)
    assert "is not empty and holds no sweep" in told
