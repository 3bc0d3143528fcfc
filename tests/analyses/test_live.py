"""Watching changes nothing but what it stops; text is that of one pass; stops are calibrated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from threading import current_thread

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import live as live_monitor
from analyses.live import LiveMonitor, LiveThought
from analyses.live_calibration import calibrate_live, stabilised
from analyses.live_run import Watched, watch_problems
from analyses.live_watch import watch
from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.sampling import draw_noise
from nfcot_model.thoughts import NewThoughts, Thoughts
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import make_world, write_problems
from tests.synthetic_run import synthetic_run
from tests.tiny import brief_reasoner, digits


def prompts(n: int = 6) -> list[str]:
    return [p.prompt for p in digits(n)]


def assert_identical(a: Thoughts, b: Thoughts) -> None:
    for name in Thoughts.__dataclass_fields__:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("order", ["causal", "alternating"])
def test_watching_changes_nothing_and_reads_what_one_pass_reads(order: str) -> None:
    reasoner = brief_reasoner(flow={"d_model": 16, "heads": 2, "order": order})
    heard: list[LiveThought] = []
    asked = {"tau": 0.8, "noise_seeds": range(6)}
    found = watch(reasoner, prompts(), listen=heard.append, **asked)
    thoughts = reasoner.think(prompts(), **asked)
    assert_identical(found.thoughts, thoughts)
    assert found.answers == reasoner.answer(prompts(), thoughts)
    texts = [text for row in reasoner.decode(thoughts).texts for text in row]
    assert found.rows["text"].tolist() == texts
    assert found.summary["text_comes"] == {"causal": "per thought"}.get(order, "at the end")
    live = {(t.row, t.k): t.text for t in heard}
    if order == "causal":
        assert [live[r, k] for r, k in found.rows[["row", "k"]].itertuples(index=False)] == texts
    else:
        assert set(live.values()) == {None}
    assert [(t.row, t.k) for t in heard] == sorted(live, key=lambda at: (at[1], at[0]))
    scores = reasoner.score(prompts(), thoughts, tau=0.8)
    for name in ("energy", "logvol"):
        wanted = getattr(scores, name)[scores.mask].numpy()
        np.testing.assert_allclose(found.rows[name], wanted, atol=1e-3, rtol=1e-3)


def test_several_thoughts_a_step_share_its_text() -> None:
    codec = {"d_model": 16, "layers": 1, "heads": 2, "max_text_tokens": 6, "slots": 2}
    reasoner = brief_reasoner(codec=codec, max_thoughts=6)
    found = watch(reasoner, prompts(), tau=0.8, noise_seeds=range(6))
    assert found.summary["text_comes"] == "per thought"
    decoded = reasoner.decode(found.thoughts).texts
    for row, k, text in found.rows[["row", "k", "text"]].itertuples(index=False):
        assert text == decoded[row][k // 2]


@pytest.mark.parametrize("slots", [1, 2])
def test_texts_are_the_same_however_many_are_read_together(slots: int) -> None:
    codec = {"d_model": 16, "layers": 1, "heads": 2, "max_text_tokens": 6, "slots": slots}
    reasoner = brief_reasoner(codec=codec, max_thoughts=6)
    told: dict[int, list[LiveThought]] = {}
    for every in (1, 3, 99):
        told[every] = []
        listen = told[every].append
        watch(reasoner, prompts(), tau=0.8, noise_seeds=range(6), read_every=every, listen=listen)
    assert told[1] == told[3] == told[99]
    assert any(thought.text for thought in told[1])


@pytest.mark.parametrize(
    ("threads", "cores", "between"), [(1, 1, False), (2, 2, True), (2, 3, True), (2, 4, False)]
)
def test_texts_are_read_on_a_core_of_their_own_where_one_is_left(
    threads: int, cores: int, between: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoner = brief_reasoner(max_thoughts=6)
    asked = {"tau": 0.8, "noise_seeds": range(6)}
    expected = [t for row in reasoner.decode(reasoner.think(prompts(), **asked)).texts for t in row]
    monkeypatch.setattr(live_monitor, "_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    on = set()
    read = reasoner.read
    monkeypatch.setattr(reasoner, "read", lambda *a: (on.add(current_thread()), read(*a))[1])
    found = watch(reasoner, prompts(), **asked)
    assert found.rows["text"].tolist() == expected
    assert (on == {current_thread()}) == between


def test_texts_come_while_it_thinks_and_at_once_where_a_thought_is_beyond(tmp_path: Path) -> None:
    """Told of thought k before thought k + `read_every`, or k + 1 where one is beyond."""
    reasoner = brief_reasoner(max_thoughts=6)
    collect(reasoner, digits(200), tmp_path / "clean", tau=0.8)
    known = calibrate_live(read_run(tmp_path / "clean"), 0.1)
    never, always = (replace(known, thresholds=np.full(2, t)) for t in (1e9, 1e-9))
    for calibration, last in ((never, 2), (always, 0)):
        told: list[int] = []
        monitor = LiveMonitor(
            reasoner,
            tau=0.8,
            calibration=calibration,
            stop=False,
            read_every=3,
            listen=lambda thought, told=told: told.append(thought.k),
        )
        waiting: list[int] = []

        def slowly(
            new: NewThoughts,
            monitor: LiveMonitor = monitor,
            told: list[int] = told,
            waiting: list[int] = waiting,
        ) -> None:
            monitor(new)
            monitor.wait()
            waiting.append(int(new.k.max()) - max(told, default=-1))

        with monitor:
            reasoner.think(prompts(), tau=0.8, noise_seeds=range(6), on_thought=slowly)
        assert max(waiting) == last
        assert max(told) + 1 == len(waiting)


def test_a_threshold_stops_as_many_clean_ones_as_it_says(tmp_path: Path) -> None:
    """Several calibrations, each on fresh trajectories of the same law."""
    shares = []
    for repeat in range(4):
        clean = synthetic_run(tmp_path / f"clean{repeat}", n=240, D=8, seed=repeat, wobble=0.2)
        fresh = synthetic_run(tmp_path / f"new{repeat}", n=240, D=8, seed=50 + repeat, wobble=0.2)
        calibration = calibrate_live(clean, 0.2)
        assert calibration.n == len(clean.traces) - calibration.n_reference
        low, high = calibration.band
        assert low < 0.1 < high
        energy, logvol = (fresh.thoughts[name].to_numpy(float) for name in ("energy", "logvol"))
        k = fresh.thoughts["k"].to_numpy(int)
        score = calibration.score(calibration.z(stabilised(energy, logvol, 8), k))
        largest = pd.Series(score).groupby(fresh.thoughts["trace_id"].to_numpy()).max()
        shares.append(float((largest > 1).mean()))
    # Sd of the mean of four shares: binomial of 960, Beta of four sets of 120. The log-volume is
    # constant here and never over its threshold, so the energy alone stops alpha / 2.
    assert abs(np.mean(shares) - 0.1) <= 3.5 * np.sqrt(0.09 / 960 + 0.09 / 480)


def test_hot_thinking_is_stopped_and_clean_thinking_is_not(tmp_path: Path) -> None:
    reasoner = load_reasoner("demo")
    problems = make_world("digits", "calibration", 3, 120, (2, 4))
    collect(reasoner, problems, tmp_path / "clean", model_path="demo")
    calibration = calibrate_live(read_run(tmp_path / "clean"), 0.05)
    asked = [p.prompt for p in make_world("digits", "test", 3, 24, (2, 4))]
    shares = {}
    for tau in (0.7, 1.4):
        noise = draw_noise(range(24), reasoner.max_thoughts, reasoner.D, tau)
        monitor = LiveMonitor(reasoner, tau=0.7, calibration=calibration, read=False)
        with monitor:
            thoughts = reasoner.think(
                asked, tau=0.7, noise_seeds=(), noise=noise, on_thought=monitor
            )
        assert monitor.stopped is not None
        rows = monitor.frame()
        last = rows.groupby("row").tail(1).set_index("row")["over"]
        assert last.tolist() == monitor.stopped.tolist()
        assert not thoughts.stopped[monitor.stopped].any()
        assert rows["text"].isna().all()
        shares[tau] = float(monitor.stopped.float().mean())
    assert shares[1.4] >= 0.8
    assert shares[0.7] <= 0.25


def test_what_is_stopped_gives_no_answer_and_the_others_give_theirs(tmp_path: Path) -> None:
    reasoner = brief_reasoner()
    collect(reasoner, digits(200), tmp_path / "clean", tau=0.8)
    calibration = calibrate_live(read_run(tmp_path / "clean"), 0.3)
    free = watch(reasoner, prompts(30), tau=0.8, noise_seeds=range(30))
    seen = watch(
        reasoner, prompts(30), tau=0.8, noise_seeds=range(30), calibration=calibration, stop=False
    )
    found = watch(reasoner, prompts(30), tau=0.8, noise_seeds=range(30), calibration=calibration)
    assert seen.answers == free.answers
    assert 0 < sum(found.stopped) < 30
    assert seen.rows["over"].groupby(seen.rows["row"]).any().tolist() == found.stopped
    for halted, answer, wanted in zip(found.stopped, found.answers, free.answers, strict=True):
        assert answer == (None if halted else wanted)
    assert found.summary["stopped"] == sum(found.stopped)


def test_noise_that_is_no_number_stops_at_once(tmp_path: Path) -> None:
    reasoner = brief_reasoner()
    collect(reasoner, digits(60), tmp_path / "clean", tau=0.8)
    calibration = calibrate_live(read_run(tmp_path / "clean"), 0.1)
    noise = draw_noise(range(3), reasoner.max_thoughts, reasoner.D, 0.8)
    noise[1, 0, 0] = torch.nan
    for known in (calibration, None):
        monitor = LiveMonitor(reasoner, tau=0.8, calibration=known)
        with monitor:
            reasoner.think(prompts(3), tau=0.8, noise_seeds=(), noise=noise, on_thought=monitor)
        rows = monitor.frame()
        assert rows.loc[rows["row"] == 1, "invalid"].all()
        assert not rows.loc[rows["row"] != 1, "invalid"].any()
        if known is not None:
            assert len(rows[rows["row"] == 1]) == 1
            assert np.isinf(rows.loc[rows["row"] == 1, "score"]).all()


def test_misuse_is_refused(tmp_path: Path) -> None:
    reasoner = brief_reasoner()
    collect(reasoner, digits(60), tmp_path / "clean", tau=0.8)
    clean = read_run(tmp_path / "clean")
    calibration = calibrate_live(clean, 0.1)
    for change, field in (
        ({"tau": 0.7}, "decode.tau"),
        ({"tau": 0.8, "max_thoughts": 2}, "decode.max_thoughts"),
    ):
        with pytest.raises(UserError, match=f"its {field} is .*; calibrate on clean traces"):
            LiveMonitor(reasoner, calibration=calibration, **change)
    with pytest.raises(UserError, match="its checkpoint_hash is"):
        LiveMonitor(brief_reasoner(seed=3), tau=0.8, calibration=calibration)
    with pytest.raises(UserError, match=r"too few: alpha 0.01 needs 199, so a run of 398 problems"):
        calibrate_live(clean, 0.01)
    for more, message in (
        ({"planted": {}}, "holds planted anomalies"),
        ({"decode": clean.manifest["decode"] | {"tau": 0}}, "without noise"),
    ):
        told = Run(clean.path, clean.manifest | more, clean.traces, clean.thoughts)
        with pytest.raises(UserError, match=message):
            calibrate_live(told, 0.1)
    broken = clean.thoughts.assign(energy=clean.thoughts["energy"].where(clean.thoughts.index > 0))
    with pytest.raises(UserError, match="has a score that is not a number"):
        calibrate_live(Run(clean.path, clean.manifest, clean.traces, broken), 0.1)
    monitor = LiveMonitor(reasoner, tau=0.8)
    with monitor:
        reasoner.think(prompts(2), tau=0.8, noise_seeds=(1, 2), on_thought=monitor)
        with pytest.raises(UserError, match="watches one think from its first thought"):
            reasoner.think(prompts(2), tau=0.8, noise_seeds=(1, 2), on_thought=monitor)


def test_text_that_comes_at_the_end_is_told_with_the_answer() -> None:
    reasoner = brief_reasoner(flow={"d_model": 16, "heads": 2, "order": "alternating"})
    told: list[Watched] = []
    problems = digits(3)
    asked = {"tau": 0.8, "seed": 0, "max_thoughts": None, "calibration": None, "stop": True}
    summary = watch_problems(reasoner, problems, **asked, read=True, batch=2, listen=told.append)
    assert (summary["text_comes"], summary["n"]) == ("at the end", 3)
    ends = {line.problem_id: line for line in told if line.thought is None}
    for problem in problems:
        mine = [r["text"] for r in summary["rows"] if r["problem_id"] == problem.id]
        assert ends[problem.id].texts == tuple(mine)
        assert " | ".join(mine) in ends[problem.id].words()
    assert all(line.thought.text is None for line in told if line.thought is not None)


def test_what_a_listener_raises_is_not_lost() -> None:
    def fails(thought: LiveThought) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watch(brief_reasoner(), prompts(2), tau=0.8, noise_seeds=(1, 2), listen=fails)


def live(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "live", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reasoner: NFCoTReasoner = brief_reasoner()
    reasoner.save(tmp_path / "model")
    reasoner = load_reasoner(tmp_path / "model")
    write_problems(tmp_path / "p.jsonl", digits(5))
    collect(reasoner, make_world("digits", "calibration", 1, 60), tmp_path / "clean")
    collect(reasoner, digits(5), tmp_path / "run")
    asked = (tmp_path / "model", tmp_path / "p.jsonl")
    code, out, _ = live(capsys, *asked, "--batch", 2, "--json")
    assert code == 0
    summary = json.loads(out)
    run = read_run(tmp_path / "run")
    assert [row["text"] for row in summary["rows"]] == run.thoughts["text"].tolist()
    assert [p["answer"] for p in summary["problems"]] == run.traces["answer"].tolist()
    code, out, err = live(capsys, *asked, "--calibration", tmp_path / "clean", "--alpha", "0.1")
    assert (code, out) == (0, "")
    assert "k=0" in err
    assert "text comes per thought (flow: causal)" in " ".join(err.split())
    for more, message in (
        (("--alpha", "0.001", "--calibration", tmp_path / "clean"), "alpha 0.001 needs 1999"),
        (
            ("--tau", "0.9", "--alpha", "0.1", "--calibration", tmp_path / "clean"),
            "its decode.tau is 0.7",
        ),
        (("--tau", "-1"), "--tau is -1"),
        (("--calibration", tmp_path / "no"), "is not a run"),
    ):
        code, out, err = live(capsys, *asked, *more)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert message in err
