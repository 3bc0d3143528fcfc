"""A probe that reads along: what it says while the model thinks is what the recorded run says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.sampling import noise_seed
from nfcot_model.sandbox import Sandbox
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.traces.manifest import COMPARABLE
from nfcot_model.worlds import Problem
from probes.apply import apply_probe
from probes.artifact import Probe
from probes.features import read_site
from probes.monitor import ProbeMonitor, ThoughtRead, Watched
from probes.sites import parse_site, site_rows
from probes.weights import Weights
from tests.tiny import digits, tiny_reasoner

TAU = 0.8
PLACES = ("0", "2", "-1", "-2", "step1", "step-1", "mean", "max", "rollmax", "concat2", "concat-2")
SITES = [f"{space}@{place}" for space in ("u", "h@1") for place in (*PLACES, "all")] + [
    *("eps@-1", "mu@mean", "mu@1", "h@0@max", "h@2@-1")
]


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return digits(30)


@pytest.fixture(scope="module")
def reasoner() -> NFCoTReasoner:
    return tiny_reasoner(seed=3)


@pytest.fixture(scope="module")
def run(
    reasoner: NFCoTReasoner, problems: list[Problem], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    path = tmp_path_factory.mktemp("runs") / "run"
    with Sandbox() as sandbox:
        collect(reasoner, problems, path, tau=TAU, activations="all", sandbox=sandbox)
    found = read_run(path)
    assert found.traces["K"].nunique() > 3  # ragged, or the tests show little
    return found


def probe_at(run: Run, site: str, kind: str = "binary", limit: float = 0.5) -> Probe:
    """A probe with weights drawn at random for the site, as if it had been fitted on the run."""
    rng = np.random.default_rng(5)
    X = read_site(run, parse_site(site), site_rows(run, parse_site(site)))
    D, C = X[0].shape[-1], 3 if kind == "multiclass" else 1
    query = rng.normal(size=D) if site.endswith("@all") else None
    weights = Weights(
        rng.normal(size=D), rng.uniform(1, 2, D), rng.normal(size=(C, D)), np.zeros(C), query
    )
    classes = {"binary": [False, True], "multiclass": ["a", "b", "c"]}.get(kind)
    meta = {
        "hash": "x",
        "site": site,
        "label": "invented",
        "kind": kind,
        "classes": classes,
        "positive": None,
        "calibration_link": {"slope": 0.7, "offsets": [0.1] * len(classes)} if classes else None,
        "thresholds": {
            "values": {"recall_at_5pct": limit},
            "reasons": {"recall_at_1pct": "recall at 1 % needs 1,000 negatives"},
            "negatives": 200,
            "groups": 200,
        }
        if kind == "binary"
        else None,
        "settings": run.settings,
        "train_groups": [],
        "control_groups": [],
    }
    return Probe(weights, np.zeros(0), meta)


def watch(monitor: ProbeMonitor, problems: list[Problem], **changes: Any) -> Watched:
    seeds = [noise_seed(0, p.id, 0) for p in problems]
    asked = {"tau": TAU, "noise_seeds": seeds} | changes
    return monitor.think([p.prompt for p in problems], **asked)


def same(a: Thoughts, b: Thoughts) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in Thoughts.__dataclass_fields__)


@pytest.mark.parametrize("site", SITES)
def test_the_last_reading_is_that_of_the_recorded_run(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem], site: str
) -> None:
    probe = probe_at(run, site)
    watched = watch(ProbeMonitor(probe, reasoner), problems)
    final, stored = watched.final, apply_probe(probe, run)
    assert run.traces["trace_id"].iloc[final["row"]].tolist() == stored.frame["trace_id"].tolist()
    assert final["predicted"].tolist() == stored.frame["predicted"].tolist()
    assert watched.out == stored.out
    settled = watched.frame["settled"].all()
    last = run.traces["K"].iloc[final["row"]] - 1
    assert final["k"].tolist() == (stored.frame["k"] if settled else last).tolist()
    for column in ("probability", "p:true", "p:false"):
        np.testing.assert_allclose(final[column], stored.frame[column], atol=1e-5)
    assert not watched.ended.any()


@pytest.mark.parametrize("kind", ["multiclass", "number"])
def test_classes_and_numbers_are_read_too(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem], kind: str
) -> None:
    probe = probe_at(run, "u@-1", kind)
    frame, stored = watch(ProbeMonitor(probe, reasoner), problems).final, apply_probe(probe, run)
    columns = ["predicted"] if kind == "number" else ["p:" + f'"{c}"' for c in "abc"]
    np.testing.assert_allclose(frame[columns], stored.frame[columns], atol=1e-5)
    with pytest.raises(UserError, match="only probes of a binary label raise alarms"):
        ProbeMonitor(probe, reasoner, stop=True)


def test_every_thought_is_read_when_it_is_known_and_nothing_changes(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem]
) -> None:
    heard: list[ThoughtRead] = []
    probe = probe_at(run, "u@-1")
    watched = watch(ProbeMonitor(probe, reasoner, on_reading=heard.append), problems)
    seeds = [noise_seed(0, p.id, 0) for p in problems]
    assert same(
        watched.thoughts,
        reasoner.think([p.prompt for p in problems], tau=TAU, noise_seeds=seeds),
    )
    assert [sorted(set(found.k.tolist())) for found in heard] == [[k] for k in range(len(heard))]
    stored = apply_probe(probe, run, every_thought=True).frame
    frame = watched.frame.sort_values(["row", "k"]).reset_index(drop=True)
    assert run.traces["trace_id"].iloc[frame["row"]].tolist() == stored["trace_id"].tolist()
    assert frame["k"].tolist() == stored["k"].tolist()
    np.testing.assert_allclose(frame["p:true"], stored["p:true"], atol=1e-5)
    assert (frame["alarm_at_5pct"] == (frame["p:true"] > 0.5)).all()
    assert not frame["settled"].any()


def test_a_row_whose_alarm_goes_off_has_had_its_last_thought(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem]
) -> None:
    scores = apply_probe(probe_at(run, "u@-1"), run, every_thought=True)
    assert scores.traces is not None
    limit = float(scores.traces["max"].median())
    probe = probe_at(run, "u@-1", limit=limit)
    free = watch(ProbeMonitor(probe, reasoner), problems)
    cut = watch(ProbeMonitor(probe, reasoner, stop=True), problems)
    assert 0 < cut.ended.sum() < len(problems)
    K = cut.thoughts.K.numpy()
    assert (free.thoughts.K.numpy() >= K).all()
    alarmed = cut.frame[cut.frame["alarm_at_5pct"]]
    assert sorted(alarmed["row"]) == np.flatnonzero(cut.ended).tolist()
    assert (alarmed["k"] == K[alarmed["row"]] - 1).all()
    first = free.frame[free.frame["alarm_at_5pct"]].groupby("row")["k"].first()
    assert first.to_dict() == dict(zip(alarmed["row"], alarmed["k"], strict=True))
    others = torch.from_numpy(~cut.ended)
    assert torch.equal(cut.thoughts.K[others], free.thoughts.K[others])
    assert not cut.thoughts.stopped[~others].any()


def test_a_place_of_its_own_is_read_once_and_settled(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem]
) -> None:
    watched = watch(ProbeMonitor(probe_at(run, "u@1"), reasoner), problems)
    assert set(watched.frame["k"]) == {1}
    assert watched.frame["settled"].all()
    assert watched.out == int((run.traces["K"] < 2).sum())
    probe = probe_at(run, "u@1")
    late = replace(probe, meta=probe.meta | {"site": "u@9"})
    nothing = watch(ProbeMonitor(late, reasoner), problems)
    assert (nothing.out, len(nothing.frame)) == (len(problems), 0)
    assert nothing.frame.columns.tolist() == watched.frame.columns.tolist()


def test_thoughts_that_nobody_heard_are_not_made_up(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem]
) -> None:
    prompts = [p.prompt for p in problems]
    seeds = range(len(prompts))
    given = reasoner.think(prompts, tau=TAU, noise_seeds=seeds, max_thoughts=1)
    listener = ProbeMonitor(probe_at(run, "u@mean"), reasoner).listener(len(prompts), 8)
    with pytest.raises(
        ValueError, match=r"thought 1 of row \d+ is the first that the monitor hear"
    ):
        reasoner.think(prompts, tau=TAU, noise_seeds=seeds, given=given, on_thought=listener)


def test_fixed_thoughts_of_several_slots(problems: list[Problem], tmp_path: Path) -> None:
    """A codec of the whole reasoning: one step of 4 thoughts, side by side too."""
    config = {"codec": {"alignment": "global", "slots": 4, "d_model": 16, "heads": 2, "layers": 1}}
    reasoner = tiny_reasoner(seed=3, **config)
    with Sandbox() as sandbox:
        collect(reasoner, problems[:8], tmp_path / "run", tau=TAU, sandbox=sandbox)
    run = read_run(tmp_path / "run")
    for site in ("u@step0", "u@step-1", "u@concat", "u@concat4", "u@3"):
        probe = probe_at(run, site)
        final = watch(ProbeMonitor(probe, reasoner), problems[:8]).final
        stored = apply_probe(probe, run).frame
        assert final["k"].tolist() == [3] * 8
        np.testing.assert_allclose(final["p:true"], stored["p:true"], atol=1e-5)


def test_what_is_not_known_while_thinking_is_refused(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem]
) -> None:
    with pytest.raises(UserError, match=r"--site e@-1: is not known while the model thinks; a mon"):
        ProbeMonitor(probe_at(run, "e@-1"), reasoner)
    probe = probe_at(run, "u@-1")
    hook = replace(probe, meta=probe.meta | {"site": "blocks.1.hook_out@-1"})
    with pytest.raises(UserError, match=r"--site blocks.1.hook_out@-1: is not known while"):
        ProbeMonitor(hook, reasoner)
    with pytest.raises(UserError, match=r"no threshold at a rate of 0.01 \(recall at 1 % needs"):
        ProbeMonitor(probe, reasoner, stop=True, rate=0.01)
    with pytest.raises(UserError, match=r"rate of 0.2 \(it has those of recall_at_5pct\)"):
        ProbeMonitor(probe, reasoner, stop=True, rate=0.2)
    wide = replace(probe, meta=probe.meta | {"site": "h@1@-1"})
    with pytest.raises(UserError, match=r"--site h@1@-1: holds 32 values .*, the probe reads 4"):
        watch(ProbeMonitor(wide, reasoner), problems)


def test_a_model_or_setting_of_another_kind_is_refused(
    run: Run, reasoner: NFCoTReasoner, problems: list[Problem]
) -> None:
    probe = probe_at(run, "u@-1")
    with pytest.raises(UserError, match=r"checkpoint_hash is .*, the probe was fitted on"):
        ProbeMonitor(probe, tiny_reasoner(seed=4))
    monitor = ProbeMonitor(probe, reasoner)
    with pytest.raises(UserError, match=r"monitor: decode.tau is 0.5, the probe was .* on 0.8"):
        watch(monitor, problems, tau=0.5)
    with pytest.raises(UserError, match=r"monitor: decode.max_thoughts is 3, .* on None"):
        watch(monitor, problems, max_thoughts=3)
    for name in COMPARABLE:
        changed = replace(probe, meta=probe.meta | {"settings": run.settings | {name: "other"}})
        with pytest.raises(UserError, match=f"monitor: {name} is"):
            watch(ProbeMonitor(changed, reasoner), problems)
