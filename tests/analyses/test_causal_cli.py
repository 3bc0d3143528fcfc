"""`nfcot causal` from the command line: what it writes, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nfcot_model.cli import main
from nfcot_model.traces import collect
from nfcot_model.worlds import make_world
from probes import drawing
from tests.tiny import brief_reasoner


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nfcot_model.reasoners import load_reasoner

    folder = tmp_path_factory.mktemp("causal")
    brief_reasoner().save(folder / "model")
    reasoner = load_reasoner(folder / "model")
    problems = make_world("digits", "test", 1, 12, (2, 3))
    collect(reasoner, problems, folder / "run", model_path=folder / "model")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["causal", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_a_report_and_its_rows(
    traced: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_browser(figures: object) -> None:
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(drawing, "_write_png", no_browser)
    out = tmp_path / "report"
    asked = (traced / "run", "-o", out, "--samples", 6, "--edits", "resample,donor")
    code, printed, _ = run(capsys, *asked, "--json")
    assert code == 0
    summary = json.loads(printed)
    [task] = summary["tasks"]
    assert task["task"] == "digits"
    assert task["verdict"] == "undetermined"
    assert set(task["sufficiency"]) == {"donor", "prompt", "neither", "pairs"}
    assert {"verdict", "thoughts", "counterfactual_following"} <= set(task)
    assert json.loads((out / "causal.json").read_text())["tasks"] == summary["tasks"]
    rows = pd.read_parquet(out / "single.parquet")
    assert set(rows["edit"]) == {"resample", "donor"}
    assert (
        len(rows)
        + sum(
            len(pd.read_parquet(out / f"{name}.parquet"))
            for name in ("moved", "early", "told", "influence", "mediated", "states")
        )
        == summary["interventions"]
    )
    page = (out / "causal.md").read_text()
    assert "digits: undetermined" in page
    assert "No PNG figures" in page
    assert "![" not in page
    assert (out / "figures" / "digits-early-decision.html").exists()
    # Repeated, it finds everything done; with another plan the folder is not its own.
    code, _, err = run(capsys, *asked)
    assert code == 0
    assert "digits: undetermined" in err
    code, _, err = run(capsys, *asked, "--seed", 5)
    assert code == 2
    assert err.startswith(f"error: {out}: holds another causal study")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--edits", "shout"), "--edits 'shout': expected some of zero"),
        (("--modes", "sideways"), "--modes 'sideways': expected some of direct, total"),
        (("--label", "colour"), "--label 'colour': steps have coefficient, offset, operation"),
        (("--samples", "0"), "--samples is 0"),
        (("--inert", "2"), "--inert is 2"),
        (("--sites", "blocks.9.hook_out"), "no hook is called blocks.9.hook_out"),
        (("--model", "demo"), "demo: is checkpoint"),
        (("--problems", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line(
    traced: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "report"
    code, printed, err = run(capsys, traced / "run", "-o", out, *arguments)
    assert (code, printed) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not out.exists()


def test_a_run_that_lost_its_problems_says_so(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(traced / "run", tmp_path / "run")
    (tmp_path / "run" / "problems.jsonl").unlink()
    code, _, err = run(capsys, tmp_path / "run", "-o", tmp_path / "report")
    assert code == 2
    assert "problems" in err
