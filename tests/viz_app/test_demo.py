"""Does the demo leave everything the dashboard shows, and does a repetition reuse it?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nfcot_model.checkpoints import SMALL
from nfcot_model.errors import UserError
from nfcot_model.traces import list_runs, read_run
from probes.intervals import Estimate
from tests.tiny import brief_reasoner, tiny_baseline
from viz_app.demo import DemoPlan, run_demo
from viz_app.summary import (
    AuditLine,
    DemoSummary,
    KindLine,
    ProbeLine,
    WorldLine,
    world_lines,
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> DemoPlan:
    model = tmp_path_factory.mktemp("model")
    brief_reasoner().save(model)
    other = tmp_path_factory.mktemp("other")
    tiny_baseline("coconut").save(other)
    return DemoPlan(
        model=model,
        others={"small-coconut": other},
        worlds=("digits",),
        calibration=130,
        test=70,
        label="offset",
        site="u@0",
        each=6,
    )


@pytest.fixture(scope="module")
def runs_dir(plan: DemoPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    run_demo(folder, plan=replace(plan, alpha=0.05))
    return folder


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_leaves_runs_a_probe_and_two_audits(runs_dir: Path, plan: DemoPlan) -> None:
    names = ["calibration", "clean", "small-coconut", "tampered"]
    assert [path.name for path in list_runs(runs_dir)] == names
    other = read_run(runs_dir / "small-coconut")
    assert other.manifest["reasoner"] == "coconut"
    assert {len(problem.steps or []) for problem in other.problems()} <= {2, 3, 4}
    assert len(read_run(runs_dir / "calibration").traces) == plan.calibration
    tampered = read_run(runs_dir / "tampered")
    planted = tampered.problem_labels()["planted"].value_counts()
    assert set(planted.index) == {"none", "swap", "noise", "hot"}
    assert planted.drop("none").sum() == round(plan.share * plan.test)
    assert len(list((runs_dir / "probes").glob("*/probe.json"))) == 1
    audits = [json.loads(p.read_text()) for p in (runs_dir / "audits").glob("*/audit.json")]
    assert {audit["run"]["name"] for audit in audits} == {"clean", "tampered"}
    assert {audit["calibration"]["run"] for audit in audits} == {"calibration"}


def test_a_repetition_reuses_the_runs(runs_dir: Path, plan: DemoPlan) -> None:
    before = files(runs_dir)
    summary = run_demo(runs_dir, plan=replace(plan, alpha=0.05))
    after = files(runs_dir)
    shards = [name for name in before if name.endswith((".safetensors", ".parquet"))]
    runs = [name for name in shards if name.split("/")[0] not in ("audits", "probes")]
    assert runs
    assert {name: before[name] for name in runs} == {name: after[name] for name in runs}
    assert after.keys() == before.keys()
    assert summary.clean.n == summary.tampered.n == plan.test
    assert summary.replay_error_max < 1e-3
    assert json.loads(json.dumps(summary.to_dict()))["clean"]["alpha"] == 0.05


def test_another_plan_in_the_same_folder_is_refused(runs_dir: Path, plan: DemoPlan) -> None:
    before = files(runs_dir)
    with pytest.raises(
        UserError, match=r"holds another run .*or delete \S+/calibration: the demo makes it again"
    ):
        run_demo(runs_dir, plan=replace(plan, tau=0.5))
    assert files(runs_dir) == before


def test_world_lines_count_per_world(runs_dir: Path) -> None:
    run = read_run(runs_dir / "clean")
    traces = run.traces.copy()
    traces["world"] = np.where(np.arange(len(traces)) < 10, "a", "b")
    traces["correct"] = np.arange(len(traces)) < 5
    thoughts = run.thoughts.copy()
    mine = thoughts["trace_id"].isin(traces["trace_id"][:10])
    thoughts["match"] = pd.array([True if m else None for m in mine], dtype="boolean")
    a, b = world_lines(replace(run, traces=traces, thoughts=thoughts))
    assert (a.world, a.traces, a.pass_at_1, a.decode_match) == ("a", 10, 0.5, 1.0)
    assert (b.world, b.traces, b.pass_at_1, b.decode_match) == ("b", len(traces) - 10, 0.0, 0.0)
    first = traces[:10]
    nats = -first["logp_u"].sum() / (first["K"].sum() * run.D)
    assert a.nll_per_dim == pytest.approx(nats)


def summary(flagged: int) -> DemoSummary:
    planted = [
        {"kind": "hot", "n": 60, "flagged": 31, "located": None},
        {"kind": "swap", "n": 60, "flagged": 57, "located": 50},
    ]
    clean = AuditLine("clean", 0.01, 450, 600, flagged, (0.002, 0.02), (1, 12), 0.9, [])
    return DemoSummary(
        runs_dir=Path("runs"),
        checkpoint_hash="abcd",
        tau=0.7,
        worlds=[WorldLine("digits", 300, 0.75, 0.5, 0.25, 4.5)],
        replay_error_max=2e-6,
        probe=ProbeLine(
            "offset", "u@3", 10, 80, Estimate(0.9, 0.8, 0.95), Estimate(0.1, 0.05, 0.2)
        ),
        clean=clean,
        tampered=replace(clean, run="tampered", planted=planted),
        others=[
            KindLine(f"small-{kind}", kind, 100, 4.0, {"digits": 0.215, "shuffle": 0.03})
            for kind in SMALL
        ],
        seconds={"load": 1.0, "audit": 2.0},
        advice="look at it: nfcot app runs",
    )


def test_the_summary_is_one_screen_with_every_figure() -> None:
    text = str(summary(flagged=4))
    for part in (
        "0.750",
        "0.900 [0.800, 0.950]",
        "0.100 [0.050, 0.200]",
        "57 of   60",
        "3.0 in all",
        "coconut   digits 0.21   shuffle 0.03   K 4.0",
        "-log p(u|q)/dim",
        "(false alarms 0.20% to 2.00%, 90% range)",
    ):
        assert part in text
    assert "4 of  600 flagged   inside the 90% range by chance, 1 to 12" in text
    assert text.count("\n") < 30
    assert max(map(len, text.splitlines())) <= 100


def test_the_summary_says_when_clean_runs_are_flagged_too_often() -> None:
    assert "outside the 90% range by chance" in str(summary(flagged=13))


def test_the_shipped_checkpoint_thinks_and_its_tampered_thoughts_are_seen(tmp_path: Path) -> None:
    plan = DemoPlan(worlds=("digits",), calibration=260, test=100)
    result = run_demo(tmp_path, plan=plan)
    (digits,) = result.worlds
    assert digits.pass_at_1 > 0.5
    assert digits.decode_match > 0.7
    assert result.replay_error_max < 1e-3
    assert result.probe.accuracy.low > result.probe.shuffled.high
    assert [row["flagged"] / row["n"] > 0.8 for row in result.tampered.planted] == [True] * 3
    assert result.clean.flagged <= result.clean.flags_if_clean[1] + 2
