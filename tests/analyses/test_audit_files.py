"""Calibrations, scores and watches on disk: whole or not there, of one kind, resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analyses.audit import audit_run
from analyses.calibrate import Rule
from analyses.calibration_file import clean_run, load_calibration, save_calibration
from analyses.clean import CleanSet, clean_set
from analyses.cli import app
from analyses.scoring import score_run
from analyses.watch import Watch, follow
from nfcot_model.errors import UserError
from nfcot_model.traces import Run, read_run
from nfcot_model.traces.schema import shard_paths
from tests.synthetic_run import edit_thought, synthetic_run

RULE = Rule(0.05)
D = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def clean(folder: Path) -> Run:
    return synthetic_run(folder / "clean", n=260, D=D, seed=1, activations=4)


@pytest.fixture(scope="module")
def calibrated(clean: Run) -> CleanSet:
    return clean_set(clean, RULE)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return synthetic_run(
        folder / "run", n=150, D=D, seed=2, tamper="noise", tamper_every=7, activations=4
    )


@pytest.mark.parametrize("features", [None, "h"])
def test_a_calibration_comes_back_as_it_was(
    clean: Run, run: Run, tmp_path: Path, features: str | None
) -> None:
    made = clean_set(clean, RULE, features=features)
    save_calibration(made, tmp_path / "cal")
    back = load_calibration(tmp_path / "cal")
    assert back.hash == made.hash
    kept, fresh = (audit_run(run, which, RULE) for which in (back, made))
    pd.testing.assert_frame_equal(kept.trajectories, fresh.trajectories)
    pd.testing.assert_frame_equal(kept.thoughts, fresh.thoughts)
    assert ("knn" in back.ranks.battery.names) == (features == "h")
    directly = audit_run(run, clean, RULE)
    if features is None:
        pd.testing.assert_frame_equal(directly.trajectories, fresh.trajectories)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cal").iterdir()}
    save_calibration(back, tmp_path / "cal")
    assert before.keys() == {p: 0 for p in (tmp_path / "cal").iterdir()}.keys()


def test_another_calibration_or_a_strange_folder_is_not_overwritten(
    calibrated: CleanSet, clean: Run, tmp_path: Path
) -> None:
    save_calibration(calibrated, tmp_path / "cal")
    with pytest.raises(UserError, match="holds another calibration"):
        save_calibration(clean_set(clean, RULE, features="h"), tmp_path / "cal")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no calibration"):
        save_calibration(calibrated, tmp_path / "mine")


def test_where_clean_traces_are_needed_a_calibration_says_of_which_run_it_is(
    calibrated: CleanSet, clean: Run, tmp_path: Path
) -> None:
    assert clean_run(clean.path).hash == clean.hash
    save_calibration(calibrated, tmp_path / "cal")
    with pytest.raises(UserError, match=r"holds no traces; give the clean run .* 'clean'"):
        clean_run(tmp_path / "cal")
    with pytest.raises(UserError, match=r"not a run"):
        clean_run(tmp_path)


@pytest.mark.parametrize(
    ("file", "words"),
    [("calibration.json", "its checksum does not fit"), ("calibration.safetensors", "its hash")],
)
def test_a_damaged_calibration_is_refused(
    calibrated: CleanSet, tmp_path: Path, file: str, words: str
) -> None:
    save_calibration(calibrated, tmp_path / "cal")
    path = tmp_path / "cal" / file
    data = bytearray(path.read_bytes())
    at = data.rfind(b"0.") + 2 if file.endswith("json") else len(data) // 2
    data[at] = data[at] ^ 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        load_calibration(tmp_path / "cal")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint_hash": "other"}, "checkpoint_hash is 'synthetic', that of run is 'other'"),
        ({"tau": 0.9}, "decode.tau is 0.7, that of run is 0.9"),
        ({"world": "shuffle"}, "has no problem of world shuffle"),
        ({"seed": 1}, r"shares (64|70) of group"),
    ],
)
def test_a_calibration_of_something_else_is_refused_by_every_command(
    calibrated: CleanSet, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    other = synthetic_run(tmp_path / "run", **({"n": 70, "D": D, "seed": 8} | changes))
    with pytest.raises(UserError, match=words):
        audit_run(other, calibrated, RULE)
    with pytest.raises(UserError, match=words):
        score_run(other.path, calibrated, tmp_path / "scores", RULE)
    with pytest.raises(UserError, match=words):
        follow(Watch(other.path, calibrated, RULE, tmp_path / "watch"), once=True)
    assert not list(tmp_path.glob("scores/*/*.parquet"))
    assert not list(tmp_path.glob("watch/events/*"))


def test_the_same_thoughts_under_other_names_are_found(clean: Run, tmp_path: Path) -> None:
    """Groups and trace ids differ, the thoughts are copies."""
    traces = clean.traces.assign(
        trace_id="x" + clean.traces["trace_id"], group="x" + clean.traces["group"]
    )
    copy = Run(clean.path, clean.manifest, traces, clean.thoughts)
    with pytest.raises(UserError, match=r"shares 260 of u_sha256"):
        audit_run(copy, clean, RULE)


def test_three_runs_may_be_given_and_must_be_disjoint(clean: Run, folder: Path) -> None:
    fit = synthetic_run(folder / "fit", n=40, D=D, seed=11)
    reference = synthetic_run(folder / "reference", n=120, D=D, seed=12)
    made = clean_set(clean, RULE, others={"fit": fit, "reference": reference})
    assert (made.ranks.n_fit, made.ranks.n_reference, made.ranks.n) == (40, 120, 260)
    assert [made.sets[role]["run"] for role in made.sets] == ["fit", "reference", "clean"]
    again = synthetic_run(folder / "again", n=50, D=D, seed=1)
    with pytest.raises(UserError, match=r"reference\) and clean \(calibration\) share \d+ of"):
        clean_set(clean, RULE, others={"fit": fit, "reference": again})
    hot = synthetic_run(folder / "hot", n=50, D=D, seed=13, tau=0.9)
    with pytest.raises(UserError, match=r"--fit hot: decode.tau is 0.9, that of clean is 0.7"):
        clean_set(clean, RULE, others={"fit": hot, "reference": reference})
    with pytest.raises(UserError, match=r"give both --fit and --reference"):
        clean_set(clean, RULE, others={"fit": fit})
    with pytest.raises(UserError, match=r"holds no traces"):
        audit_run(Run(clean.path, clean.manifest, clean.traces[:0], clean.thoughts[:0]), made, 0.05)


def test_commands_say_how_many_traces_are_missing(clean: Run, tmp_path: Path) -> None:
    asked = ["calibrate", str(clean.path), "-o", str(tmp_path / "cal"), "--guaranteed"]
    with pytest.raises(UserError, match=r"130 calibration traces .* at least 299, so a run of 598"):
        CliRunner().invoke(app, asked, catch_exceptions=False)
    assert not (tmp_path / "cal").exists()


def document(arguments: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_commands_one_after_another(clean: Run, run: Run, tmp_path: Path) -> None:
    cal = str(tmp_path / "cal")
    made = document(["calibrate", str(clean.path), "-o", cal, "--alpha", "0.05"])
    assert made["n"] == 130
    assert made["settings"]["decode.tau"] == 0.7
    assert 2 < made["stop_at_z"] < 6
    against = ["--calibration", cal, "--alpha", "0.05"]
    audit = document(["run", str(run.path), *against, "-o", str(tmp_path / "audit")])
    scores = document(["score", str(run.path), *against, "-o", str(tmp_path / "scores")])
    watch = document(["watch", str(run.path), *against, "-o", str(tmp_path / "watch")])
    assert {f["trace_id"] for f in watch["flagged"]} == {f["trace_id"] for f in audit["flagged"]}
    assert watch["complete"]
    assert watch["drift"]["log10_last"] == pytest.approx(audit["drift"]["log10_last"])
    assert scores["trajectories"] == audit["n"] == watch["n"] == 150
    table = pd.read_parquet(tmp_path / "scores" / "trajectories")
    expected = pd.read_parquet(tmp_path / "audit" / "trajectories.parquet")
    np.testing.assert_allclose(table["p_value"], expected["p_value"])
    assert len(pd.read_parquet(tmp_path / "scores" / "thoughts")) == len(run.thoughts)
    fdr = ["run", str(run.path), "--calibration", cal, "--fdr", "0.1", "-o", str(tmp_path / "f")]
    found = document(fdr)
    assert (found["alpha"], found["fdr"]) == (None, 0.1)
    assert 0 < len(found["flagged"]) <= 30
    failing = CliRunner().invoke(app, ["watch", str(run.path), *against, "--fail-on-flag",
                                       "-o", str(tmp_path / "watch")])  # fmt: skip
    assert failing.exit_code == 1
    assert "resumed after 150 traces" in failing.stderr


def growing(run: Run, to: Path, shards: int) -> Path:
    """The run as it was when only so many shards had been written; repeat to let it grow."""
    for name in ("tensors", "thoughts", "traces"):
        (to / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(run.path / "run.json", to / "run.json")
    for shard in sorted(set(run.traces["shard"]))[:shards]:
        for source, target in zip(
            shard_paths(run.path, shard), shard_paths(to, shard), strict=True
        ):
            if not target.exists():
                shutil.copy(source, target)
    return to


def test_a_watch_takes_each_shard_once_as_it_comes(
    calibrated: CleanSet, run: Run, tmp_path: Path
) -> None:
    live, told = tmp_path / "run", []
    nothing = follow(Watch(growing(run, live, 0), calibrated, RULE, tmp_path / "w"), once=True)
    assert (nothing.n, nothing.complete, nothing.missing) == (0, False, 150)
    with pytest.raises(UserError, match="holds no traces"):
        score_run(live, calibrated, tmp_path / "s", RULE)
    follow(
        Watch(growing(run, live, 1), calibrated, RULE, tmp_path / "w"), once=True, tell=told.append
    )
    assert [event["shard"] for event in told] == ["000000"]
    whole_run = audit_run(read_run(growing(run, live, 2)), calibrated, RULE).summary["coverage"]
    assert (whole_run["expected"], whole_run["scored"], whole_run["missing"]) == (150, 128, 22)
    half = follow(Watch(growing(run, live, 2), calibrated, RULE, tmp_path / "w"), once=True)
    assert (half.shards, half.n, half.complete, half.missing) == (2, 128, False, 22)
    seen = follow(Watch(growing(run, live, 3), calibrated, RULE, tmp_path / "w"))
    whole = follow(Watch(run.path, calibrated, RULE, tmp_path / "whole"))
    assert seen == whole
    assert seen.complete


def test_two_watches_do_not_write_to_one_record(
    calibrated: CleanSet, run: Run, tmp_path: Path
) -> None:
    first = Watch(growing(run, tmp_path / "run", 1), calibrated, RULE, tmp_path / "w")
    second = Watch(tmp_path / "run", calibrated, RULE, tmp_path / "w")

    def meanwhile(event: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="another process is writing"):
            follow(second, once=True)

    follow(first, once=True, tell=meanwhile)
    with pytest.raises(UserError, match="another watch has written here"):
        follow(second, once=True)
    assert len(list((tmp_path / "w" / "events").iterdir())) == 1


def test_a_stream_that_stops_in_the_middle_of_a_record(
    calibrated: CleanSet, run: Run, tmp_path: Path
) -> None:
    """A killed writer leaves tensors without their traces: not a record. A cut file is damage."""
    live = growing(run, tmp_path / "run", 2)
    tensors, thoughts, traces = shard_paths(live, "000002")
    shutil.copy(shard_paths(run.path, "000002")[0], tensors)
    seen = follow(Watch(live, calibrated, RULE, tmp_path / "w"), every=0.1, until_idle=0.0)
    assert (seen.n, seen.complete) == (128, False)
    shutil.copy(shard_paths(run.path, "000002")[1], thoughts)
    whole = shard_paths(run.path, "000002")[2].read_bytes()
    traces.write_bytes(whole[: len(whole) // 2])
    for act in (
        lambda: follow(Watch(live, calibrated, RULE, tmp_path / "w"), once=True),
        lambda: score_run(live, calibrated, tmp_path / "s", RULE),
        lambda: audit_run(read_run(live), calibrated, RULE),
    ):
        with pytest.raises(UserError, match=r"000002.parquet: damaged"):
            act()
    assert len(list((tmp_path / "w" / "events").iterdir())) == 2
    traces.write_bytes(whole)
    assert follow(Watch(live, calibrated, RULE, tmp_path / "w"), once=True).complete


def test_an_empty_run_and_one_that_was_cut_are_refused_by_every_command(
    calibrated: CleanSet, run: Run, tmp_path: Path
) -> None:
    empty = growing(run, tmp_path / "empty", 0)
    cut = growing(run, tmp_path / "cut", 3)
    tensors = shard_paths(cut, "000000")[0]
    tensors.write_bytes(tensors.read_bytes()[:-20])
    acts: tuple[Callable[[Path], object], ...] = (
        lambda path: clean_set(read_run(path), RULE),
        lambda path: audit_run(read_run(path), calibrated, RULE),
        lambda path: score_run(path, calibrated, tmp_path / "s", RULE),
    )
    for path, words in ((empty, "holds no trace|0 calibration traces"), (cut, "damaged")):
        for act in acts:
            with pytest.raises(UserError, match=words):
                act(path)
    with pytest.raises(UserError, match="damaged"):
        follow(Watch(cut, calibrated, RULE, tmp_path / "w"), once=True)
    assert not list(tmp_path.glob("[sw]/*/*"))


def test_thoughts_that_are_not_numbers_are_flagged_everywhere(
    calibrated: CleanSet, tmp_path: Path
) -> None:
    path = synthetic_run(tmp_path / "run", n=100, D=D, seed=33).path
    trace_id = edit_thought(path, "nan")
    result = audit_run(read_run(path), calibrated, RULE)
    assert [entry["trace_id"] for entry in result.summary["invalid"]] == [trace_id]
    assert result.summary["flagged"][0]["invalid"]
    score_run(path, calibrated, tmp_path / "s", RULE)
    table = pd.read_parquet(tmp_path / "s" / "trajectories").set_index("trace_id")
    assert table["invalid"].sum() == 1
    assert table.loc[trace_id, "p_value"] == pytest.approx(1 / 131)
    seen = follow(Watch(path, calibrated, RULE, tmp_path / "w"), once=True)
    assert seen.invalid == 1
    assert trace_id in {flag["trace_id"] for flag in seen.flagged}
    with pytest.raises(UserError, match=r"not a number|do not replay"):
        clean_set(read_run(path), Rule(0.05))


def test_a_run_that_has_grown_is_scored_again_only_where_it_grew(
    calibrated: CleanSet, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyses.scoring.PART_SHARDS", 2)
    live = growing(run, tmp_path / "run", 2)
    assert score_run(live, calibrated, tmp_path / "s", RULE).trajectories == 128
    done = score_run(growing(run, live, 3), calibrated, tmp_path / "s", RULE)
    assert (done.trajectories, done.parts, done.parts_resumed) == (150, 2, 1)
    ids = pd.read_parquet(tmp_path / "s" / "trajectories")["trace_id"].tolist()
    assert ids == run.traces["trace_id"].tolist()


def test_killed_before_any_change_on_disk_and_resumed(tmp_path: Path) -> None:
    """calibrate, score and watch: nothing is lost, doubled or half written."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_audit", str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    operations = json.loads(done.stdout)
    assert all(count >= 5 for count in operations.values()), operations

    def contents(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    whole = contents(tmp_path / "whole")
    assert {name.split("/")[0] for name in whole} == {"cal", "scores", "watch"}
    for verb, count in operations.items():
        for n in range(1, count + 1):
            found = contents(tmp_path / f"{verb}{n}")
            mine = {k.split("/", 1)[1]: v for k, v in whole.items() if k.startswith(verb + "/")}
            assert found == mine, (verb, n)
