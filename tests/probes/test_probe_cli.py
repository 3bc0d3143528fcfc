"""`nfcot probe` from the outside: documents, files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nfcot_model.cli import main
from nfcot_model.traces import Run
from probes.cli import app
from tests.synthetic_run import synthetic_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return synthetic_run(tmp_path / "runs" / "a", n=80, steps=(2, 4))


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_fit_then_apply(run: Run) -> None:
    runner = CliRunner()
    fit = runner.invoke(
        app, ["fit", str(run.path), "--label", "operation", "--site", "u@-1", "--json"]
    )
    assert fit.exit_code == 0, fit.output
    document = json.loads(fit.stdout)
    assert document["estimator"] == "logistic"
    assert (document["n"], document["groups"]) == (80, 80)
    assert set(document["metrics"]) == {"accuracy", "balanced_accuracy", "auroc"}
    for metric in document["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert [c["name"] for c in document["controls"]] == ["shuffled_labels", "majority_class"]
    artifact = Path(document["artifact"])
    assert artifact.parent == run.path.parent / "probes"

    applied = runner.invoke(app, ["apply", str(artifact), str(run.path), "--json"])
    assert applied.exit_code == 0, applied.output
    scores = json.loads(applied.stdout)
    assert scores["n"] == 80
    assert scores["n_scored"] == document["n_test"]
    assert scores["groups_scored"] == document["groups_test"]
    assert scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"]
    assert scores["accuracy_low"] < scores["accuracy_high"]
    shown = runner.invoke(app, ["apply", str(artifact), str(run.path)])
    interval = f"[{scores['accuracy_low']:.3f}, {scores['accuracy_high']:.3f}] (95 % over groups)"
    assert interval in " ".join(shown.stderr.split())
    assert Path(scores["scores"]).is_relative_to(run.path / "derived" / "probe_scores")


def test_fit_shows_a_table_without_json(run: Run) -> None:
    result = CliRunner().invoke(
        app, ["fit", str(run.path), "--label", "operation", "--site", "u@0"]
    )
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "shuffled_labels" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "colour", "--site", "u@0"], "existing labels: step: coefficient"),
        (["--label", "offset", "--site", "u@9"], "existing sites: u@K"),
        (["--label", "offset", "--site", "w@0"], "expected SPACE@PLACE"),
        (["--label", "tampered", "--site", "u@0"], "single class (False)"),
        (["--label", "coefficient", "--site", "u@3"], "trace more problems"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    run = synthetic_run(tmp_path / "runs" / "a", n=30, steps=(2, 4))
    before = files(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["probe", "fit", str(run.path), *arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert files(tmp_path) == before


def test_a_folder_that_is_no_run_or_probe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["probe", "fit", str(tmp_path), "--label", "x", "--site", "u@0"])
    assert stop.value.code == 2
    assert "is not a run" in capsys.readouterr().err
    run = synthetic_run(tmp_path / "a", n=10)
    with pytest.raises(SystemExit) as stop:
        main(["probe", "apply", str(tmp_path / "missing"), str(run.path)])
    assert stop.value.code == 2
    assert "is not a probe" in capsys.readouterr().err
