"""Audits of synthetic runs: plants are found, clean runs are left alone, mismatches refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analyses.audit import audit_run
from analyses.calibrate import clean_flag_range
from analyses.cli import app
from analyses.report import NEGATIVE_STATEMENT, audit_markdown, write_audit
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.files import canonical_json
from nfcot_model.traces import Run, read_run
from tests.synthetic_run import edit_thought, synthetic_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def clean(folder: Path) -> Run:
    return synthetic_run(folder / "clean", n=500, D=16, seed=1)


@pytest.fixture(scope="module")
def swapped(folder: Path) -> Run:
    return synthetic_run(folder / "swapped", n=150, D=16, seed=2, tamper="swap", tamper_every=5)


@pytest.mark.parametrize("tamper", ["swap", "noise", "temperature"])
def test_tampered_trajectories_are_flagged_and_the_others_are_not(
    clean: Run, tmp_path: Path, tamper: str
) -> None:
    run = synthetic_run(tmp_path / "run", n=150, D=16, seed=3, tamper=tamper, tamper_every=3)
    result = audit_run(run, clean, 0.01)
    tampered = run.problem_labels()["tampered"].to_numpy(dtype=bool)
    flagged = result.trajectories["flagged"].to_numpy()
    assert flagged[tampered].mean() > 0.95
    low, high = clean_flag_range(result.summary["calibration"]["n"], 0.01, 100, level=0.998)
    assert low <= flagged[~tampered].sum() <= high
    replayed = result.trajectories["replay_error"].to_numpy() > 1e-3
    np.testing.assert_array_equal(replayed, tampered)
    assert set(result.summary["replay"]["broken"]) == set(run.traces["trace_id"][tampered])


def test_the_swapped_thought_is_named_with_its_text(clean: Run, swapped: Run) -> None:
    result = audit_run(swapped, clean, 0.01)
    drawn, mu, u = (swapped.tensor(name) for name in ("eps", "mu", "u"))
    changed = np.abs(mu + np.exp(swapped.tensor("log_sigma")) * drawn - u).max(axis=1) > 1e-3
    thoughts = swapped.thoughts[changed].set_index("trace_id")
    found = 0
    for entry in result.summary["flagged"]:
        if entry["trace_id"] in thoughts.index:
            true = thoughts.loc[entry["trace_id"]]
            found += entry["stands_out"]["k"] == true["k"] and true["k"] in entry["thoughts"]
            assert entry["origin"]["k"] == (entry["thoughts"] or [entry["stands_out"]["k"]])[0]
            assert entry["texts"][true["k"]] == true["text"]
    assert found >= 0.95 * len(thoughts)


def test_clean_runs_are_flagged_at_the_calibrated_rate(folder: Path, clean: Run) -> None:
    counts = [
        audit_run(synthetic_run(folder / f"clean{s}", n=200, D=16, seed=s), clean, 0.05).flags
        for s in range(20, 26)
    ]
    low, high = clean_flag_range(250, 0.05, 200 * len(counts), level=0.99)
    assert low <= sum(counts) <= high


def test_report_names_scorer_calibration_and_blind_spots(clean: Run, swapped: Run) -> None:
    summary = audit_run(swapped, clean, 0.01).summary
    assert summary["scorer"] == "self"
    assert summary["calibration"]["n"] == 250
    low, high = summary["calibration"]["band"]
    assert 0 < low < 0.01 < high < 0.05
    text = audit_markdown(summary)
    for words in (
        "scorer | `self`",
        clean.hash,
        swapped.manifest["checkpoint_hash"],
        "tau | 0.7",
        "no information about intent",
        NEGATIVE_STATEMENT,
        "is not evidence of aligned reasoning",
        summary["flagged"][0]["trace_id"],
    ):
        assert words in text
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in text
    few, many = summary["calibration"]["flags_if_clean"]
    assert f"{few} to {many} are expected if all were clean (90 % range)" in text


def test_what_cannot_be_scored_is_reported_and_not_dropped(clean: Run, folder: Path) -> None:
    run = synthetic_run(folder / "holes", n=40, D=16, seed=4)
    run.thoughts.loc[3, "energy"] = np.nan
    trace_id = run.thoughts.loc[3, "trace_id"]
    result = audit_run(run, clean, 0.01)
    n = result.summary["calibration"]["n"]
    assert result.summary["n"] == 40
    assert result.summary["invalid"] == [
        {"trace_id": trace_id, "reason": "an energy is not a number", "p_value": 1 / (n + 1)}
    ]
    assert result.summary["flagged"][0]["trace_id"] == trace_id
    write_audit(result, folder / "holes-audit")
    stored = json.loads((folder / "holes-audit" / "audit.json").read_text())
    assert stored["flagged"][0]["score"] is None
    assert "an energy is not a number" in (folder / "holes-audit" / "audit.md").read_text()


def test_planted_labels_are_tallied(clean: Run, swapped: Run) -> None:
    tampered = swapped.problem_labels()["tampered"]
    labels = [{"planted": "swap", "planted_k": 0} if t else {"planted": "none"} for t in tampered]
    traces = swapped.traces.assign(labels=[canonical_json(x) for x in labels])
    run = replace(swapped, traces=traces, manifest=swapped.manifest | {"planted": {}})
    swap, none = audit_run(run, clean, 0.01).summary["planted"]
    assert (swap["kind"], swap["n"], none["kind"], none["n"]) == ("swap", 30, "none", 120)
    assert swap["flagged"] == swap["replay_broken"] == 30
    assert 0 < swap["located"] < 30
    assert none["replay_broken"] == 0


@pytest.mark.parametrize("values", [["add", None, 3], [0.5, 1.5, None], [["a"], {"b": 1}, True]])
def test_a_users_label_named_planted_is_no_ground_truth(
    clean: Run, swapped: Run, values: list[Any]
) -> None:
    labels = [{"planted": values[i % 3], "planted_k": "x"} for i in range(len(swapped.traces))]
    traces = swapped.traces.assign(labels=[canonical_json(x) for x in labels])
    summary = audit_run(replace(swapped, traces=traces), clean, 0.01).summary
    assert summary["planted"] == []
    assert "Known plants" not in audit_markdown(summary)
    real = replace(swapped, traces=traces, manifest=swapped.manifest | {"planted": {}})
    rows = audit_run(real, clean, 0.01).summary["planted"]
    assert all(isinstance(row["kind"], str) for row in rows)
    assert sum(row["n"] for row in rows) == len(traces)
    assert "Known plants" in audit_markdown(audit_run(real, clean, 0.01).summary)


def test_an_edit_of_u_that_no_column_tells_is_reported(clean: Run, tmp_path: Path) -> None:
    path = synthetic_run(tmp_path / "run", n=80, D=16, seed=61).path
    before = audit_run(read_run(path), clean, 0.01).summary["replay"]
    assert (before["broken"], before["record_broken"]) == ([], [])
    trace_id = edit_thought(path, "u")
    result = audit_run(read_run(path), clean, 0.01)
    replay = result.summary["replay"]
    assert replay["broken"] == replay["record_broken"] == [trace_id]
    row = result.trajectories.set_index("trace_id").loc[trace_id]
    assert row["replay_error"] == pytest.approx(0.5 * np.e, rel=1e-3)
    assert row["replay_error_stored"] < 1e-9
    own = result.thoughts[result.thoughts["trace_id"] == trace_id]
    assert (np.abs(own["energy"] - own["energy_recomputed"]) > 0.1).tolist()[0]
    text = audit_markdown(result.summary)
    assert "1 trajectories have another replay error or energy on record" in text
    assert trace_id in text


def test_an_energy_that_its_thought_does_not_have_is_reported(clean: Run, tmp_path: Path) -> None:
    path = synthetic_run(tmp_path / "run", n=80, D=16, seed=62).path
    trace_id = edit_thought(path, "energy")
    replay = audit_run(read_run(path), clean, 0.01).summary["replay"]
    assert (replay["broken"], replay["record_broken"]) == ([], [trace_id])
    changed = synthetic_run(tmp_path / "changed", n=300, D=16, seed=63).path
    edit_thought(changed, "energy")
    with pytest.raises(UserError, match=r"--calibration changed: trace .* is not clean"):
        audit_run(read_run(path), read_run(changed), 0.05)


def test_a_clean_coarse_run_is_not_accused_and_an_edited_one_is(tmp_path: Path) -> None:
    """Errors as measured on the shipped model in bfloat16: at most 0.05 in 300 traces."""
    made = {"D": 16, "wobble": 0.012, "manifest": {"decode": {"dtype": "bfloat16"}}}
    clean = synthetic_run(tmp_path / "clean", n=300, seed=71, **made)
    run = synthetic_run(tmp_path / "run", n=200, seed=72, **made)
    assert run.traces["replay_error"].min() > 5e-3
    summary = audit_run(run, clean, 0.05).summary
    assert summary["replay"]["broken"] == []
    assert 0.05 < summary["replay"]["tolerance"] < 0.2
    text = audit_markdown(summary)
    assert "changed after" not in text
    assert "cannot be told from rounding" in text
    trace_id = edit_thought(run.path, "u")
    assert audit_run(read_run(run.path), clean, 0.05).summary["replay"]["broken"] == [trace_id]


def test_a_world_that_the_calibration_run_lacks_is_refused(clean: Run, tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", n=40, D=16, seed=64, world="shuffle")
    with pytest.raises(UserError, match="has no problem of world shuffle, run has"):
        audit_run(run, clean, 0.01)


def mismatched(folder: Path, **changes: Any) -> Run:
    return synthetic_run(folder, **{"n": 60, "D": 16, "seed": 8, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint_hash": "other"}, "checkpoint_hash is 'synthetic', that of run is 'other'"),
        ({"tau": 0.9}, "decode.tau is 0.7, that of run is 0.9"),
        ({"tau": 0.0}, "tau 0"),
        ({"seed": 1}, "shares 60 of group"),
    ],
)
def test_a_calibration_run_made_otherwise_is_refused(
    clean: Run, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        audit_run(mismatched(tmp_path / "run", **changes), clean, 0.01)


@pytest.mark.parametrize("name", ["max_thoughts", "template", "dtype", "k_policy"])
def test_other_decode_settings_are_refused(clean: Run, tmp_path: Path, name: str) -> None:
    run = mismatched(tmp_path / "run")
    run.manifest["decode"][name] = "changed"
    with pytest.raises(UserError, match=f"decode.{name} is"):
        audit_run(run, clean, 0.01)


def test_a_run_with_plants_cannot_calibrate(clean: Run, swapped: Run) -> None:
    planted = replace(swapped, manifest=swapped.manifest | {"planted": {"source": "x"}})
    with pytest.raises(UserError, match="holds planted anomalies"):
        audit_run(clean, planted, 0.05)


def test_a_run_cannot_calibrate_itself(clean: Run) -> None:
    with pytest.raises(UserError, match=r"shares 500 of trace_id"):
        audit_run(clean, clean, 0.01)


def test_command_writes_report_tables_and_one_document(clean: Run, swapped: Run) -> None:
    arguments = ["run", str(swapped.path), "--calibration", str(clean.path), "--alpha", "0.01"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    out = Path(document["artifact"])
    assert out.parent == swapped.path.parent / "audits"
    assert sorted(p.name for p in out.iterdir()) == [
        "audit.json",
        "audit.md",
        "thoughts.parquet",
        "trajectories.parquet",
    ]
    stored = json.loads((out / "audit.json").read_text())
    assert stored["flagged"] == document["flagged"]
    first = document["flagged"][0]
    assert {"trace_id", "p_value", "adjusted_p", "thoughts"} <= first.keys()
    trajectories = pd.read_parquet(out / "trajectories.parquet")
    assert trajectories["trace_id"].tolist() == swapped.traces["trace_id"].tolist()
    assert trajectories["flagged"].sum() == len(document["flagged"])
    thoughts = pd.read_parquet(out / "thoughts.parquet")
    assert len(thoughts) == len(swapped.thoughts)
    assert not thoughts.duplicated(["trace_id", "k"]).any()
    failing = CliRunner().invoke(app, [*arguments, "--fail-on-flag"])
    assert failing.exit_code == 1
    assert failing.stdout == ""
    said = " ".join(failing.stderr.split())
    assert "if all were clean, 90% range)" in said
    assert "not evidence of aligned reasoning" in said


def test_a_clean_run_does_not_fail(clean: Run, folder: Path) -> None:
    run = synthetic_run(folder / "calm", n=5, D=16, seed=40)
    result = CliRunner().invoke(
        app,
        ["run", str(run.path), "--calibration", str(clean.path), "--fail-on-flag", "--json"],
    )
    assert json.loads(result.stdout)["flagged"] == []
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("calibration", "alpha", "words"),
    [
        ("few", "0.01", "at least 99, so a run of 198 problems"),
        ("clean", "0", "--alpha 0: expected"),
        ("clean", "1.5", "--alpha 1.5: expected"),
        ("clean", "1e-320", "--alpha 9.99989e-321: would need"),
        ("nowhere", "0.01", "is not a run"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_no_file(
    clean: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    calibration: str,
    alpha: str,
    words: str,
) -> None:
    run = synthetic_run(tmp_path / "run", n=20, D=16, seed=50)
    paths = {"few": tmp_path / "few", "clean": clean.path, "nowhere": tmp_path / "nowhere"}
    synthetic_run(paths["few"], n=100, D=16, seed=51)
    before, rate = set(tmp_path.rglob("*")), ["--alpha", alpha]
    with pytest.raises(SystemExit) as stop:
        main(["audit", "run", str(run.path), "--calibration", str(paths[calibration]), *rate])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert set(tmp_path.rglob("*")) == before


def test_a_folder_of_something_else_is_not_written_into(
    clean: Run, swapped: Run, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds no audit"):
        write_audit(audit_run(swapped, clean, 0.01), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["{}", "[]", "1", "[" * 100_000, '{"run": 3, "calibration": []}'])
def test_a_foreign_audit_json_is_one_line(
    clean: Run, swapped: Run, tmp_path: Path, text: str
) -> None:
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(UserError, match="give another folder") as error:
        write_audit(audit_run(swapped, clean, 0.01), tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "audit.json").read_text() == text


def test_escape_sequences_of_decoded_text_reach_neither_terminal_nor_report(
    clean: Run, swapped: Run
) -> None:
    run = replace(swapped, thoughts=swapped.thoughts.assign(text="\x1b[2J\x9b31m kept"))
    summary = audit_run(run, clean, 0.01).summary
    assert "\x1b" not in audit_markdown(summary)
    assert "\x9b" not in audit_markdown(summary)
    assert "kept" in audit_markdown(summary)
