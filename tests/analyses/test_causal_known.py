"""The shipped checkpoint, known to answer from its thoughts, through the whole study."""

from __future__ import annotations

from pathlib import Path

from analyses.causal.scene import state_of
from analyses.causal.study import Plan, causal_study
from nfcot_model.reasoners import load_reasoner
from nfcot_model.traces import collect, read_run
from nfcot_model.worlds import make_world, what_if


def test_thoughts_of_the_shipped_checkpoint_are_used(tmp_path: Path) -> None:
    reasoner = load_reasoner("demo")
    problems = make_world("digits", "test", 5, 60, (3, 4))
    collect(reasoner, problems, tmp_path / "run")
    run = read_run(tmp_path / "run")
    plan = Plan(samples=24, edits=("swap_same_value", "swap_different_value"))
    result = causal_study(run, problems, reasoner, tmp_path / "report", plan)
    [task] = result.summary["tasks"]
    assert task["verdict"] == "necessary+sufficient"
    assert task["read_from"] == -1
    assert task["sufficiency"]["donor"]["value"] >= 0.9
    assert task["sufficiency"]["prompt"]["value"] <= 0.05
    assert task["commitment"]["at_last_thought"]["value"] >= 0.9

    moved = result.tables["moved"]
    prefix = moved[moved["part"] == "prefix"]
    frozen = prefix[prefix["mode"] == "direct"]
    assert frozen["prompt"].mean() >= 0.9  # the last thought is still its own
    again = prefix[prefix["mode"] == "total"]
    assert len(again) == len(frozen)
    hits = [  # the donor's state, the receiver's operations
        row.answer
        == what_if(
            problems[row.row], row.k - 1, state_of(problems[row.giver].steps[row.k - 1])
        ).answer
        for row in again.itertuples()
    ]
    assert sum(hits) / len(hits) >= 0.9
    suffix = moved[moved["part"] == "suffix"]
    assert suffix["donor"].mean() >= 0.9

    told = result.tables["told"]
    middle = told[(told["step"] > 0) & (told["back"] < -1)]
    assert len(middle) >= 20
    assert middle["implied"].mean() >= 0.9

    single = result.tables["single"]
    same = single[single["edit"] == "swap_same_value"]
    other = single[single["edit"] == "swap_different_value"]
    assert len(same) >= 20
    assert same["flipped"].mean() <= same["placebo_flipped"].mean() + 0.02
    assert other[other["mode"] == "total"]["flipped"].mean() >= 0.9
    frozen = other[(other["mode"] == "direct") & (other["back"] < -1)]
    assert frozen["flipped"].mean() <= 0.05  # only the last thought is read by the answer

    moved = result.tables["influence"]
    ahead = moved["j"] - moved["k"]
    assert moved[ahead == 1]["moved"].mean() > 10 * moved[ahead > 1]["moved"].mean()
