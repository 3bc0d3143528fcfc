"""Plants in a real run of a tiny model: what changes, what does not, and what gives it away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.audit import audit_run
from analyses.calibrate import clean_flag_range
from analyses.tamper import KINDS, Plant, _redrawn, choose_plants, plant_run
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.thoughts import Thoughts
from nfcot_model.traces import Run, read_run
from nfcot_model.traces.collecting import collect
from nfcot_model.traces.records import Draw
from nfcot_model.worlds import Problem, make_world
from tests.tiny import brief_reasoner, digits


@pytest.fixture(scope="module")
def reasoner() -> NFCoTReasoner:
    return brief_reasoner(D=16)


@pytest.fixture(scope="module")
def asked() -> list[Problem]:
    return digits(90)


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, reasoner: NFCoTReasoner, asked: list[Problem]
) -> Run:
    out = tmp_path_factory.mktemp("runs") / "source"
    collect(reasoner, asked, out, tau=0.7)
    return read_run(out)


@pytest.fixture(scope="module")
def planted(source: Run, reasoner: NFCoTReasoner, asked: list[Problem]) -> Run:
    out = source.path.parent / "planted"
    return plant_run(source, asked, reasoner, out, share=0.4, severity=20.0, seed=5)


def test_plants_are_labelled_and_take_turns(planted: Run) -> None:
    labels = planted.problem_labels()
    counts = labels["planted"].value_counts()
    assert counts[["swap", "noise", "hot"]].tolist() == [12, 12, 12]
    assert counts["none"] == 54
    one = labels["planted"].isin(["swap", "noise"])
    assert labels["planted_k"].notna().tolist() == one.tolist()


def test_traces_without_a_plant_are_as_they_were(source: Run, planted: Run) -> None:
    clean = planted.problem_labels()["planted"].eq("none")
    columns = ["problem_id", "answer", "verdict", "correct", "K", "stopped", "steps"]
    before, after = source.traces.loc[clean, columns], planted.traces.loc[clean, columns]
    assert before.equals(after)
    np.testing.assert_allclose(
        source.traces.loc[clean, "energy"], planted.traces.loc[clean, "energy"], rtol=1e-4
    )
    for old, new in zip(
        source.traces.loc[clean, "trace_id"], planted.traces.loc[clean, "trace_id"], strict=True
    ):
        np.testing.assert_array_equal(source.trace_tensor("u", old), planted.trace_tensor("u", new))


def test_only_the_planted_thought_differs_and_the_drawn_noise_stays(
    source: Run, planted: Run
) -> None:
    labels = planted.problem_labels()
    everything = source.tensor("u")
    for i in np.flatnonzero(labels["planted"].isin(["swap", "noise"])):
        old, new = source.traces["trace_id"][i], planted.traces["trace_id"][i]
        u_old, u_new = source.trace_tensor("u", old), planted.trace_tensor("u", new)
        k = int(labels["planted_k"][i])
        changed = np.flatnonzero((u_old != u_new).any(axis=1))
        assert changed.tolist() == [k]
        np.testing.assert_array_equal(
            source.trace_tensor("eps", old), planted.trace_tensor("eps", new)
        )
        if labels["planted"][i] == "swap":
            assert (everything == u_new[k]).all(axis=1).any()
        else:
            moved = np.linalg.norm(u_new[k] - u_old[k])
            assert moved == pytest.approx(20.0 * np.linalg.norm(u_old[k]), rel=1e-4)


def test_energies_are_those_of_the_thoughts_as_they_stand(planted: Run) -> None:
    eps = (planted.tensor("u") - planted.tensor("mu")) / np.exp(planted.tensor("log_sigma"))
    energy = 0.5 * ((eps / 0.7) ** 2).sum(axis=1)
    np.testing.assert_allclose(planted.thoughts["energy"], energy, rtol=1e-3, atol=1e-4)
    error = np.abs(eps - planted.tensor("eps")).max(axis=1)
    trace = np.repeat(np.arange(len(planted.traces)), planted.traces["K"])
    worst = np.zeros(len(planted.traces))
    np.maximum.at(worst, trace, error)
    np.testing.assert_allclose(planted.traces["replay_error"], worst, rtol=1e-3, atol=1e-5)


def test_replay_gives_edits_away_and_heat_does_not(planted: Run) -> None:
    kinds = planted.problem_labels()["planted"]
    broken = planted.traces["replay_error"] > 1e-3
    assert broken[kinds.isin(["swap", "noise"])].all()
    assert not broken[kinds.isin(["hot", "none"])].any()


def test_an_audit_flags_noise_and_heat(
    source: Run, reasoner: NFCoTReasoner, asked: list[Problem], tmp_path: Path
) -> None:
    """At the severity of the demo; untouched traces within the exact Beta-binomial range."""
    planted = plant_run(source, asked, reasoner, tmp_path / "p", kinds=["noise", "hot"], seed=5)
    clean = make_world("digits", "calibration", 9, 160)
    collect(reasoner, clean, tmp_path / "clean", tau=0.7)
    summary = audit_run(planted, read_run(tmp_path / "clean"), 0.05).summary
    tally = {row["kind"]: row for row in summary["planted"]}
    assert (tally["noise"]["n"], tally["hot"]["n"]) == (14, 13)
    assert tally["noise"]["flagged"] >= 10
    assert tally["noise"]["located"] >= 9
    assert tally["hot"]["flagged"] >= 10
    low, high = clean_flag_range(summary["calibration"]["n"], 0.05, tally["none"]["n"], 0.998)
    assert low <= tally["none"]["flagged"] <= high


def test_the_same_recipe_gives_the_same_run(
    planted: Run, source: Run, reasoner: NFCoTReasoner, asked: list[Problem], tmp_path: Path
) -> None:
    again = plant_run(source, asked, reasoner, tmp_path / "p", share=0.4, severity=20.0, seed=5)
    assert again.hash == planted.hash != source.hash
    assert again.traces["u_sha256"].tolist() == planted.traces["u_sha256"].tolist()


def test_redrawing_the_longest_trajectory_shorter_leaves_no_empty_columns(
    reasoner: NFCoTReasoner, asked: list[Problem]
) -> None:
    mask = torch.arange(9) < torch.tensor([9, 2])[:, None]
    thoughts = Thoughts.given(torch.ones(2, 9, reasoner.D), mask)
    draws = [Draw(problem, 0, seed) for seed, problem in enumerate(asked[:2])]
    decode = {"tau": 0.7, "max_thoughts": None}
    redrawn = _redrawn(thoughts, {0: Plant("hot", None)}, draws, reasoner, decode, seed=0)
    assert redrawn.mask.shape[1] == redrawn.u.shape[1] == int(redrawn.K.max())
    assert int(redrawn.K.max()) <= reasoner.max_thoughts < 9
    torch.testing.assert_close(redrawn.u[1, :2], thoughts.u[1, :2])


def test_a_swap_needs_a_donor_of_another_group() -> None:
    K, groups = np.array([2, 2, 3, 0]), np.array(["a", "a", "a", "b"], dtype=object)
    assert choose_plants(K, groups, ["swap"], 1.0, 0) == {}
    groups = np.array(["a", "a", "b", "b"], dtype=object)
    plants = choose_plants(K, groups, ["swap"], 1.0, 1)
    first = np.array([0, 2, 4, 7])
    for i, plant in plants.items():
        donor = int(np.searchsorted(first, plant.donor_row, side="right")) - 1
        assert groups[donor] != groups[i]
        assert plant.donor_row - first[donor] == plant.k
    assert 3 not in plants


def test_a_swap_stays_in_its_world() -> None:
    K, groups = np.full(40, 3), np.arange(40).astype(object)
    worlds = np.array(["a", "b"] * 20, dtype=object)
    plants = choose_plants(K, groups, ["swap"], 1.0, 0, worlds)
    assert len(plants) == 40
    assert all(worlds[plant.donor_row // 3] == worlds[i] for i, plant in plants.items())


def test_other_kinds_are_planted_where_swaps_have_no_donor() -> None:
    K, groups = np.full(40, 3), np.full(40, "one", dtype=object)
    plants = choose_plants(K, groups, KINDS, 0.5, 0)
    assert Counter(plant.kind for plant in plants.values()) == {"noise": 10, "hot": 10}
    groups = np.arange(40).astype(object)
    plants = choose_plants(K, groups, KINDS, 0.6, 0)
    assert Counter(plant.kind for plant in plants.values()) == {"swap": 8, "noise": 8, "hot": 8}


def test_a_shortfall_of_plants_is_on_record(
    reasoner: NFCoTReasoner, asked: list[Problem], tmp_path: Path
) -> None:
    same = [p.model_copy(update={"group": "one", "labels": {"planted_k": 7}}) for p in asked[:8]]
    collect(reasoner, same, tmp_path / "source", tau=0.7)
    source = read_run(tmp_path / "source")
    only = plant_run(source, same, reasoner, tmp_path / "swap", kinds=["swap"], share=0.5)
    assert only.manifest["planted"]["wanted"] == 4
    assert only.manifest["planted"]["made"] == {"swap": 0}
    mixed = plant_run(source, same, reasoner, tmp_path / "mixed", share=0.5)
    assert mixed.manifest["planted"]["made"] == {"swap": 0, "noise": 2, "hot": 2}
    assert mixed.problem_labels()["planted_k"].notna().sum() == 2


def test_bad_requests_write_nothing(
    source: Run, reasoner: NFCoTReasoner, asked: list[Problem], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for scorer in ("none", "retrofit"):
        other = replace(source, manifest=source.manifest | {"scorer": scorer})
        with pytest.raises(UserError, match=rf"no density of their own model \(scorer: {scorer}\)"):
            plant_run(other, asked, reasoner, out)
    with pytest.raises(UserError, match="checkpoint_hash"):
        plant_run(source, asked, brief_reasoner(seed=1, D=16), out)
    with pytest.raises(UserError, match="40 of its problems were not given"):
        plant_run(source, asked[:50], reasoner, out)
    with pytest.raises(UserError, match="kinds"):
        plant_run(source, asked, reasoner, out, kinds=["cold"])
    with pytest.raises(UserError, match="share"):
        plant_run(source, asked, reasoner, out, share=0.0)
    assert not out.exists()
    with pytest.raises(UserError, match="holds another run"):
        plant_run(source, asked, reasoner, source.path)
    assert read_run(source.path).hash == source.hash
