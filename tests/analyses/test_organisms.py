"""Causal tests find the truth of models whose truth is known, and intervals cover it."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.causal.study import CausalResult, Plan, causal_study
from analyses.causal.summary import means_of
from analyses.causal.verdict import commitment
from analyses.organisms import ORGANISMS, SPLITS, organism, organism_problems
from analyses.organisms.problems import COLOURS, MEANINGS, SHAPES, meaning
from nfcot_model import cli
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.traces import Run, collect, read_run
from nfcot_model.worlds import read_problems, write_problems
from probes.fit import ProbeResult, fit_probe
from probes.intervals import cluster_means

NAMES = tuple(ORGANISMS)
# Nothing changed in so many groups bounds the effect below 5 % (Wilson).
STUDIED = 76
TRACED = 320


@lru_cache(maxsize=3)
def model(name: str) -> NFCoTReasoner:
    return load_reasoner(organism(name))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        collect(model(name), organism_problems(name, "test", 1, TRACED), folder / name, tau=0.7)
    return {name: read_run(folder / name) for name in NAMES}


@pytest.fixture(scope="module")
def studies(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("studies")

    def study(name: str) -> CausalResult:
        problems = organism_problems(name, "test", 1, TRACED)
        plan = Plan(samples=STUDIED, edits=("donor",))
        return causal_study(runs[name], problems, model(name), folder / name, plan)

    return {name: study(name) for name in NAMES}


def drops(result: CausalResult) -> pd.DataFrame:
    """Share of right answers that a donor's thought k makes wrong, per K and k, later ones kept."""
    single = result.tables["single"]
    direct = single[(single["mode"] == "direct") & single["base_correct"]]
    K = direct["k"] - direct["back"]
    return (~direct["correct"].astype(bool)).groupby([K.rename("K"), direct["k"]]).mean().unstack()


def settled(result: CausalResult) -> pd.DataFrame:
    """After how many thoughts is each answer settled? Columns settled and K."""
    early = result.tables["early"]
    return pd.DataFrame({"settled": commitment(early), "K": early.groupby("row")["K"].first()})


def sign_probe(run: Run, name: str) -> ProbeResult:
    return fit_probe(run, "letter", "u@0" if ORGANISMS[name].sign_first else "u@-1")


def test_organisms_differ_in_their_data_alone() -> None:
    made = {name: organism_problems(name, "train", 3, 60) for name in NAMES}
    assert made["early"] == organism_problems("early", "train", 3, 60)
    for early, late, inert in zip(made["early"], made["late"], made["inert"], strict=True):
        assert early.prompt == late.prompt == inert.prompt
        assert early.answer == late.answer != inert.answer
        assert early.steps == inert.steps == [late.steps[-1], *late.steps[:-1]]
        assert str(inert.answer) == "".join(early.prompt.rstrip(".").split()[-2:])
        assert str(early.answer) not in early.prompt


def test_splits_share_no_facts_and_only_training_has_faded_signs() -> None:
    made = {split: organism_problems("late", split, 0, 400) for split in SPLITS}
    groups = {split: {p.group for p in problems} for split, problems in made.items()}
    assert not groups["train"] & groups["calibration"]
    assert not groups["train"] & groups["test"]
    assert not groups["calibration"] & groups["test"]
    faded = {split: np.mean([p.labels["faded"] for p in made[split]]) for split in SPLITS}
    assert 0.1 < faded["train"] < 0.3
    assert faded["calibration"] == faded["test"] == 0
    for problem in made["test"]:
        _, colour, shape = problem.prompt.split(".")[0].split()
        assert problem.answer == "".join(meaning(colour, shape))
    assert Counter(len(p.steps) for p in made["test"]).keys() == {3, 4}


def test_a_sign_must_be_read_as_a_whole() -> None:
    table = {(c, s): meaning(c, s) for c in COLOURS for s in SHAPES}
    assert len(set(table.values())) == 49
    for part, alphabet in enumerate(MEANINGS):
        for colour in COLOURS:
            assert {table[colour, shape][part] for shape in SHAPES} == set(alphabet)
        for shape in SHAPES:
            assert {table[colour, shape][part] for colour in COLOURS} == set(alphabet)


def test_problems_come_back_from_a_file(tmp_path: Path) -> None:
    made = organism_problems("inert", "calibration", 5, 20)
    write_problems(tmp_path / "p.jsonl", made)
    assert read_problems(tmp_path / "p.jsonl") == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lazy", "test", 0, 5), "organism 'lazy' does not exist; choose one of inert, early"),
        (("late", "long", 0, 5), "split 'long' does not exist; choose one of train"),
        (("late", "test", 0, 0), "-n 0: expected at least 1"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, str, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        organism_problems(*arguments)
    with pytest.raises(UserError, match="organism 'lazy'"):
        organism("lazy")


def test_the_command_writes_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "late.jsonl"
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["organism", "problems", "late", "--seed", "7", "-n", "9", "-o", str(out), "--json"]
        )
    assert stop.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["n"], told["model"]) == (9, str(organism("late")))
    assert read_problems(out) == organism_problems("late", "test", 7, 9)
    with pytest.raises(SystemExit) as stop:
        cli.main(["organism", "problems", "late", "-o", str(tmp_path / "no" / "late.jsonl")])
    assert stop.value.code == 2


def test_shipped_organisms_are_small() -> None:
    for name in NAMES:
        assert sum(f.stat().st_size for f in organism(name).iterdir()) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_an_organism_solves_its_problems_and_thinks_their_steps(
    name: str, runs: dict[str, Run]
) -> None:
    run = runs[name]
    assert run.traces["correct"].mean() >= 0.95
    steps = {p.id: len(p.steps) for p in organism_problems(name, "test", 1, TRACED)}
    assert (run.traces["K"] == run.traces["problem_id"].map(steps)).mean() >= 0.99


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_is_the_truth(name: str, studies: dict[str, CausalResult]) -> None:
    (task,) = studies[name].summary["tasks"]
    assert task["task"] == f"organism-{name}"
    assert task["verdict"] == ORGANISMS[name].verdict


def test_transplanted_thoughts_decide_unless_they_are_inert(
    studies: dict[str, CausalResult],
) -> None:
    shares = {n: s.summary["tasks"][0]["sufficiency"] for n, s in studies.items()}
    for name in ("early", "late"):
        assert shares[name]["donor"]["value"] >= 0.85, shares[name]
        assert shares[name]["prompt"]["value"] <= 0.05, shares[name]
    assert shares["inert"]["donor"]["value"] <= 0.02
    assert shares["inert"]["prompt"]["value"] >= 0.98


def test_answers_are_settled_when_the_data_say(studies: dict[str, CausalResult]) -> None:
    found = {name: settled(study) for name, study in studies.items()}
    assert (found["inert"]["settled"] == 0).mean() >= 0.9
    assert (found["early"]["settled"] == 1).mean() >= 0.9
    assert (found["late"]["settled"] == found["late"]["K"]).mean() >= 0.9
    # The truth of one is not that of another: each test above can fail.
    assert (found["early"]["settled"] == found["early"]["K"]).mean() <= 0.1
    assert (found["late"]["settled"] <= 1).mean() <= 0.1
    assert (found["inert"]["settled"] >= 1).mean() <= 0.1


def test_only_the_thought_about_the_sign_is_needed(studies: dict[str, CausalResult]) -> None:
    for name, study in studies.items():
        for K, row in drops(study).iterrows():
            needed = {"inert": None, "early": 0, "late": int(str(K)) - 1}[name]
            for k, share in row.dropna().items():
                assert (share >= 0.8) if k == needed else (share <= 0.05), (name, K, k, share)


def test_a_probe_reads_the_sign_in_all_of_them_also_where_it_is_not_used(
    runs: dict[str, Run],
) -> None:
    for name in NAMES:
        found = sign_probe(runs[name], name)
        assert found.metrics["accuracy"].low >= 0.8, name
        # (the prompt states the sign, so controls that read the prompt read it too)
        controls = {c.name: c.metrics["accuracy"] for c in found.controls if c.reason is None}
        for blind in ("random_features", "shuffled_labels", "majority_class"):
            control = controls[blind]
            assert control.high <= found.metrics["accuracy"].low - 0.3, name


def reader(rng: np.random.Generator, groups: int) -> pd.DataFrame:
    """A synthetic reader: flips 30 % of answers in all, but some groups nearly always.

    A group flips with its own probability, Beta(0.3, 0.7); it has 2 to 8 rows.
    """
    sizes = rng.integers(2, 9, groups)
    flips = rng.random(sizes.sum()) < rng.beta(0.3, 0.7, groups).repeat(sizes)
    names = np.array([f"g{i}" for i in range(groups)], dtype=object).repeat(sizes)
    return pd.DataFrame({"flipped": flips, "group": names})


def test_intervals_cover_the_truth_and_would_not_without_clusters() -> None:
    rng = np.random.default_rng(0)
    covered = naive = together = 0
    for _ in range(200):
        frame = reader(rng, 80)
        interval = means_of(frame, ("flipped",))["flipped"]
        covered += interval.low <= 0.3 <= interval.high
        flips = frame["flipped"].to_numpy(dtype=float)
        alone = np.arange(len(frame)).astype(object)
        interval = cluster_means({"flipped": flips}, alone, draws=200)["flipped"]
        naive += interval.low <= 0.3 <= interval.high
        first, second = (frame.groupby("group")["flipped"].nth(i).to_numpy() for i in (0, 1))
        together += np.corrcoef(first, second)[0, 1]
    assert together / 200 > 0.3, "rows of a group are alike"
    # 99.8 % of a binomial of 200 at 0.95 lies between 0.895 and 0.985; naive is far below.
    assert 0.895 <= covered / 200 <= 0.985
    assert naive / 200 <= 0.85
