"""A trace on one page: bands and neighbours hold, pages need nothing else and run nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.context.study import Plan
from analyses.explain.clean import bands, neighbours
from analyses.explain.explanation import explain_trace
from analyses.explain.page import explanation_html, explanation_markdown, write_explanation
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import make_world
from tests.analyses.runs import brief_run
from tests.synthetic_run import synthetic_run

SMALL = ("--placebos", "2", "--elsewhere", "3", "--spans", "sentences")


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, NFCoTReasoner, Run]:
    folder = tmp_path_factory.mktemp("explain")
    run, reasoner = brief_run(folder)
    clean = make_world("digits", "calibration", 1, 60, (2, 4))
    collect(reasoner, clean, folder / "clean", model_path=folder / "model")
    return run, reasoner, read_run(folder / "clean")


def test_ranks_of_clean_thoughts_among_clean_ones_are_uniform(tmp_path: Path) -> None:
    clean = synthetic_run(tmp_path / "clean", n=400, seed=1, wobble=0.2)
    fresh = synthetic_run(tmp_path / "fresh", n=400, seed=2, wobble=0.2)
    first = fresh.thoughts[fresh.thoughts["k"] == 0]
    found = bands(clean, first[["k", "energy", "logvol"]], "nobody's")
    p = np.array([entry["energy"]["p"] for entry in found])
    for alpha in (0.05, 0.2, 0.5):
        assert abs((p <= alpha).mean() - alpha) <= 0.08
    quantiles = np.array([entry["energy"]["quantiles"] for entry in found])
    assert abs((first["energy"].to_numpy() > quantiles[:, 3]).mean() - 0.05) <= 0.04


def test_neighbours_are_the_nearest_of_other_groups(tmp_path: Path) -> None:
    clean = synthetic_run(tmp_path / "clean", n=120, steps=(3, 4), seed=1)
    trace = clean.traces.iloc[7]
    u = clean.trace_tensor("u", trace["trace_id"])
    mine = neighbours(clean, u, trace["group"])
    assert all(n["trace_id"] != trace["trace_id"] for entry in mine for n in entry["nearest"])
    assert all(entry["p"] > 0.002 for entry in mine[:3])
    stranger = neighbours(clean, u, "nobody's")
    assert stranger[0]["nearest"][0]["trace_id"] == trace["trace_id"]
    assert stranger[0]["nearest"][0]["distance"] <= 1e-3
    far = neighbours(clean, u + 30, "nobody's")
    assert all(entry["p"] <= 0.01 for entry in far[:3])
    stored = clean.tensor("u")
    rows = np.flatnonzero(clean.thoughts["k"].to_numpy() == 0)
    away = np.linalg.norm((stored[rows] - u[0]) / stored[rows].std(0, ddof=1), axis=1)
    away[clean.thoughts["trace_id"].to_numpy()[rows] == trace["trace_id"]] = np.inf
    assert mine[0]["nearest"][0]["trace_id"] == clean.thoughts["trace_id"].iat[rows[away.argmin()]]


def test_pages_hold_everything_and_run_nothing(brief: tuple[Run, NFCoTReasoner, Run]) -> None:
    run, reasoner, clean = brief
    evil = "x <script>alert(1)</script> | `a` [b](http://c) \x1b[2J Compile it."
    traces = run.traces.copy()
    traces.loc[0, "answer"] = evil
    marked = Run(run.path, run.manifest, traces, run.thoughts)
    plan = Plan("clauses", placebos=3, elsewhere=4)
    found = explain_trace(marked, reasoner, traces["trace_id"][0], plan, clean=clean)
    page, text = explanation_html(found.summary), explanation_markdown(found.summary)
    for made in (page, text):
        assert "\x1b" not in made
        assert traces["trace_id"][0] in made
        for thought in found.summary["thoughts"]:
            assert f"k={thought['k']}" in made
        assert "gives no verdict" in made
    assert "<script" not in page
    assert "src=" not in page
    assert "<svg" in page
    assert "\\<script" in text
    assert "\\`a\\`" in text
    assert len(found.to_frame()) == len(found.context.thoughts)
    for span in found.summary["lambda"]["spans"]:
        assert len(span["by_thought"]) == int(traces["K"][0])


def explain(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "explain", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_command(
    brief: tuple[Run, NFCoTReasoner, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, clean = brief
    trace = run.traces["trace_id"][1]
    asked = (run.path, trace[:8], "--calibration", clean.path, *SMALL)
    for name in ("a.html", "b.md"):
        code, out, _ = explain(capsys, *asked, "-o", tmp_path / name)
        assert code == 0
        assert "Nearest clean thoughts" in out
        assert "no `nfcot causal` report" in " ".join(out.split())
        assert (tmp_path / name).exists()
    code, out, _ = explain(capsys, *asked, "-o", tmp_path / "a.html", "--json")  # again
    assert code == 0
    summary = json.loads(out)
    assert summary["trace"]["trace_id"] == trace
    assert summary["thoughts"][0]["clean"]["energy"]["n"] > 20
    assert summary["causal"] is None
    code, out, _ = explain(capsys, run.path, trace, *SMALL)
    assert code == 0
    assert "give a clean run" in " ".join(out.split())


def test_a_causal_study_beside_the_run_is_found(
    brief: tuple[Run, NFCoTReasoner, Run], tmp_path: Path
) -> None:
    run, reasoner, _ = brief
    trace = run.traces["trace_id"][0]
    folder = run.path.parent / "causal" / "study"
    folder.mkdir(parents=True)
    summary = {
        "run": {"name": run.name, "hash": run.hash},
        "tasks": [{"task": "digits", "verdict": "inert", "meaning": "no edit changes answers"}],
    }
    (folder / "causal.json").write_text(json.dumps(summary))
    rows = {"trace_id": [trace, trace, "other"], "k": [0, 0, 1], "mode": ["direct"] * 3}
    edits = {"edit": ["zero"] * 3, "flipped": [True, False, True]}
    frame = pd.DataFrame(rows | edits | {"placebo_flipped": [False] * 3})
    frame.to_parquet(folder / "single.parquet")
    plan = Plan("sentences", placebos=0, elsewhere=0)
    found = explain_trace(run, reasoner, trace, plan).summary["causal"]
    assert found["task"]["verdict"] == "inert"
    assert found["thoughts"] == [
        {"k": 0, "mode": "direct", "edit": "zero", "flipped": 0.5, "placebo_flipped": 0.0}
    ]
    page = explanation_markdown(explain_trace(run, reasoner, trace, plan).summary)
    assert "digits: **inert**" in page
    other = explain_trace(run, reasoner, run.traces["trace_id"][2], plan).summary
    assert other["causal"]["thoughts"] == []
    (folder / "causal.json").write_text(json.dumps(summary | {"run": {"hash": "another"}}))
    assert explain_trace(run, reasoner, trace, plan).summary["causal"] is None
    with pytest.raises(UserError, match="is a study of another run"):
        explain_trace(run, reasoner, trace, plan, causal=folder)


def test_bad_input_is_one_line(
    brief: tuple[Run, NFCoTReasoner, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = brief
    trace = run.traces["trace_id"][0]
    (tmp_path / "mine.md").write_text("notes")
    other = synthetic_run(tmp_path / "other", n=30)
    for arguments, message in (
        ((run.path, "zz"), "holds no trace 'zz'"),
        ((run.path, trace, "-o", tmp_path / "a.pdf"), "a name that ends in .html or .md"),
        ((run.path, trace, "-o", tmp_path / "mine.md"), "holds something else"),
        ((run.path, trace, "--calibration", other.path), "--calibration other: checkpoint_hash is"),
        ((run.path, trace, "--causal", tmp_path), "holds no causal.json"),
        ((run.path, trace, "--spans", "nowhere"), "--spans nowhere"),
        ((tmp_path, trace), "is not a run"),
    ):
        code, out, err = explain(capsys, *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert message in err
    assert (tmp_path / "mine.md").read_text() == "notes"
    with pytest.raises(UserError, match=r"ends in \.html or \.md"):
        write_explanation({}, tmp_path / "x")
