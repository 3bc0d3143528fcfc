"""All reasoners side by side: counted costs, equal budgets and data, a folder that goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.metadata import EntryPoint
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from nfcot_model import cli
from nfcot_model.comparison.cost import count_flops, count_passes
from nfcot_model.comparison.folder import Questions
from nfcot_model.comparison.measure import Measured, Sampling, measure
from nfcot_model.comparison.plan import plan
from nfcot_model.comparison.pooling import difference, mean_pass_at_k, pooled_share
from nfcot_model.comparison.results import donor_test
from nfcot_model.comparison.run import compare, config_of
from nfcot_model.comparison.speed import Speed
from nfcot_model.comparison.verdicts import verdict_words
from nfcot_model.errors import UserError
from nfcot_model.evaluation.intervals import wilson
from nfcot_model.sandbox import Sandbox
from nfcot_model.training.config import PRESETS, load_config
from nfcot_model.training.data import training_batch
from nfcot_model.worlds import make_world
from tests.tiny import tiny_baseline, tiny_reasoner

ASKED = Questions(["digits"], ["2"], 4, Sampling(2, 2, 1.0))


def settings(path: Path) -> Path:
    """A YAML file: the tiny preset with few, small steps, and brief answers."""
    data = yaml.safe_load((PRESETS / "tiny.yaml").read_text())
    for name in ("codec", "warmup", "joint", "gate"):
        steps = {"joint": 12, "codec": 3}.get(name, 0)
        data[name] |= {"steps": steps, "warmup": 1, "batch": 4, "validate_every": 1000}
    data["model"] |= {"max_answer_tokens": 6, "baseline": {"max_reasoning_tokens": 8}}
    path.write_text(yaml.safe_dump({**data, "save_minutes": 0.01}))
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return load_config(None, settings(tmp_path_factory.mktemp("settings") / "train.yaml"))


# Costs


def test_operations_of_matrix_products_and_attention_are_counted() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    with count_flops() as counter:
        product = a @ b
    assert counter.get_total_flops() == 2 * 3 * 5 * 7
    with count_flops() as counter:
        product.sum().backward()
    assert counter.get_total_flops() == 2 * 3 * 5 * 7  # the weight's gradient; `a` has none
    q = torch.randn(2, 3, 8, 4, requires_grad=True)
    with count_flops() as counter:
        out = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    forward = 2 * (2 * 3) * (2 * 8 * 8 * 4)
    assert counter.get_total_flops() == forward
    with count_flops() as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2.5 * forward


@pytest.mark.parametrize("kind", ["direct", "pause", "coconut", "codi"])
def test_passes_of_an_answer_are_those_of_the_kind(kind: str) -> None:
    """`think` and `answer` read the prompt, a thought and a token of the answer are one each."""
    reasoner = tiny_baseline(kind, max_answer_tokens=2)
    problem = make_world("digits", "test", 0, 1)[0]
    K = reasoner.max_thoughts
    with count_passes(reasoner.model) as count:
        thoughts = reasoner.think([problem.prompt], tau=0.0, noise_seeds=[0])
        assert count.passes == K  # the prompt, and each thought but the last is fed
        count.passes = 0
        reasoner.answer([problem.prompt], thoughts)
    assert count.passes in (1, 2, 3)
    assert count.positions == 0  # nothing was trained


def test_budgets_are_equal_and_every_pass_over_a_position_is_paid(config) -> None:
    steps = {}
    for kind in ("text", "direct", "codi", "looped"):
        found = plan(config_of(config, kind, 0), 4.0e4)
        assert found.tokens == pytest.approx(4.0e4, rel=0.01)
        steps[kind] = found.stages["joint"].steps
    # CODI reads the text and thinks too; a looped stack passes four times over what direct reads.
    assert steps["direct"] > steps["text"] > steps["codi"]
    assert steps["direct"] == pytest.approx(4 * steps["looped"], rel=0.05)


def test_a_codec_is_paid_from_the_same_budget_and_operations_can_be_equal(config) -> None:
    found = plan(config_of(config, "nfcot", 0), 4.0e4)
    assert list(found.stages) == ["codec", "joint"]
    assert found.tokens == pytest.approx(4.0e4, rel=0.01)
    equal = plan(config_of(config, "direct", 0), found.flops, "flops")
    assert equal.flops == pytest.approx(found.flops, rel=0.01)
    with pytest.raises(UserError, match=r"'nfcot' needs .* for 2 joint steps"):
        plan(config_of(config, "nfcot", 0), 400.0)


# Figures


def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples() -> None:
    counts, samples = [0, 1, 3, 8], 8
    for k in (1, 2, 4, 8):
        chances = []
        for count in counts:
            verdicts = [i < count for i in range(samples)]
            chances.append(np.mean([any(c) for c in combinations(verdicts, k)]))
        assert mean_pass_at_k(counts, samples)[str(k)] == pytest.approx(np.mean(chances))


def test_intervals_know_families_and_seeds() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((1, 200)) < 0.7
    alone = pooled_share(right, [str(i) for i in range(200)])
    assert (alone.low, alone.high) == pytest.approx(wilson(right.sum(), 200), abs=2e-3)
    families = pooled_share(np.repeat(right, 4, axis=1), [str(i // 4) for i in range(800)])
    assert families == pytest.approx(alone, abs=1e-9)  # copies of a problem tell nothing new
    agreeing = pooled_share(np.repeat(right, 3, axis=0), [str(i) for i in range(200)])
    assert agreeing == pytest.approx(alone, abs=1e-9)
    apart = np.concatenate([rng.random((1, 200)) < p for p in (0.5, 0.7, 0.9)])
    assert pooled_share(apart, [str(i) for i in range(200)]).low < 0.5
    assert pooled_share(np.ones((3, 50), bool), ["a"] * 25 + ["b"] * 25).low < 0.5


def test_intervals_cover_what_was_planted() -> None:
    rng = np.random.default_rng(1)
    groups = [str(i // 2) for i in range(200)]
    covered = 0
    for _ in range(200):
        chance = np.clip(0.8 + rng.normal(0, 0.05, (3, 1)), 0, 1)
        shared = rng.random(100).repeat(2)[None]
        found = pooled_share(shared < chance, groups)
        covered += found.low <= 0.8 <= found.high
    assert 0.85 <= covered / 200 <= 1.0


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(2)
    groups = [str(i) for i in range(300)]
    base = rng.random((2, 300)) < 0.6
    same = difference(base, base, groups)
    assert same.value == 0
    assert same.high == -same.low == pytest.approx(1.96 / 302, rel=1e-3)  # 300 tell no more
    twice = difference(
        np.repeat(base, 2, 1), np.repeat(base, 2, 1), [g for g in groups for _ in "ab"]
    )
    assert twice == same  # nor do copies of them
    better = base | (rng.random((2, 300)) < 0.2)
    gap = difference(better, base, groups)
    assert gap.low > 0
    assert gap.value == pytest.approx(0.08, abs=0.03)
    uneven = [[False] * 300, [True] * 300]
    assert difference(uneven, [[True] * 300] * 2, groups).low == -1.0


def measured(follow: int, own: int, pairs: int, positions: float = 2.0) -> Measured:
    swaps = {"donor_follow": (follow, pairs), "own_prompt": (own, pairs)}
    return Measured("digits", "2", ["a"], [True], positions, 9, 9, 1, [1], [1], swaps)


def test_the_donor_test_names_what_was_planted() -> None:
    assert donor_test([measured(95, 2, 100)]).verdict == "followed"
    assert donor_test([measured(2, 95, 100)]).verdict == "ignored"
    assert donor_test([measured(50, 45, 100)]).verdict == "mixed"
    assert donor_test([measured(5, 0, 5)]).verdict == "unknown"
    assert donor_test([measured(0, 100, 100, positions=0.0)]).verdict == "none"
    # Three seeds that ask the same pairs are not three times as many pairs.
    few = measured(14, 6, 20)
    assert donor_test([few] * 3).verdict == donor_test([few]).verdict == "mixed"


def test_speeds_are_compared_within_rounds() -> None:
    slow, fast = Speed([2.0, 8.0, 4.0], [4, 4, 4], 64), Speed([1.0, 4.0, 2.0], [1, 1, 1], 64)
    assert fast.faster_than(slow) == (2.0, 4.0)
    assert fast.ms_batch1 == 2000
    assert fast.per_second_batch == 64


@pytest.mark.parametrize("kind", ["nfcot", "dual", "text", "looped", "direct"])
def test_any_kind_is_measured(kind: str) -> None:
    if kind in ("nfcot", "dual"):
        reasoner = tiny_reasoner(max_answer_tokens=4, reasoner=kind)
    else:
        reasoner = tiny_baseline(kind)
    problems = make_world("digits", "test", 0, 3, 2)
    with Sandbox() as sandbox:
        found = measure(reasoner, problems, sandbox, Sampling(2, 2, 1.0), steps="2")
    assert len(found.right) == len(found.groups) == 3
    assert len(found.sampled) == len(found.distinct) == 2
    assert found.flops > 0
    assert found.passes > found.positions or kind == "looped"
    assert (found.positions == 0) == (kind == "direct")
    assert Measured.from_dict(json.loads(json.dumps(found.to_dict()))) == found


# The folder


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    """text and direct, once in one go and once stopped twice; and the problems each has seen."""
    seen: dict[str, dict[int, list[str]]] = {}
    current: list[str] = []

    def watched(data, stage, seed, name, step):
        batch = training_batch(data, stage, seed, name, step)
        if current and name == "joint":
            seen.setdefault(current[0], {})[step] = [p.id for p in batch]
        return batch

    def note(name, seed, progress):
        current[:] = [name]

    def say(text: str) -> None:
        current[:] = [text.split(",")[0]] if text.endswith("training") else []

    def stop_training(name, seed, progress):
        if name == "direct":
            raise StoppedError

    def stop_measuring(text: str) -> None:
        if text == "direct, seed 0: measuring":
            raise StoppedError

    options = {"names": ["text", "direct"], "seeds": 1, "rounds": 1}
    whole, parts = (tmp_path_factory.mktemp(name) / "c" for name in ("whole", "parts"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nfcot_model.training.objectives.training_batch", watched)
        one = compare(config, whole, ASKED, **options, report=note, say=say)
    for name in ("comparison.json", "plans"):  # counting them again would tell nothing
        copy = shutil.copytree if name == "plans" else shutil.copy
        parts.mkdir(exist_ok=True)
        copy(whole / name, parts / name)
    with pytest.raises(StoppedError):
        compare(config, parts, ASKED, **options, report=stop_training)
    with pytest.raises(StoppedError):
        compare(config, parts, ASKED, **options, say=stop_measuring)
    two = compare(config, parts, ASKED, **options)
    return one, two, seen, parts


def test_a_stopped_comparison_goes_on_to_the_same_figures(compared) -> None:
    one, two, _, _ = compared
    for a, b in zip(one.contenders, two.contenders, strict=True):
        assert (a.reasoner, a.plan, a.cells) == (b.reasoner, b.plan, b.cells)
        assert all(seconds > 0 for seconds in b.processor_seconds)
    assert two.missing == []


def test_reasoners_see_the_same_problems_in_the_same_order(compared) -> None:
    _, _, seen, _ = compared
    shared = seen["text"].keys() & seen["direct"].keys()
    assert len(shared) >= 12
    assert all(seen["text"][step] == seen["direct"][step] for step in shared)


def run_command(capsys, monkeypatch, *arguments: str) -> tuple[int, str, str]:
    point = EntryPoint("compare", "nfcot_model.comparison.cli:compare", cli.GROUP)
    monkeypatch.setattr(cli, "available", lambda: {"compare": point})
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def options(config_file: Path, out: Path) -> list[str]:
    asked = ["--worlds", "digits", "--steps", "2", "-n", "4", "--samples", "2", "--sampled", "2"]
    return ["--config", str(config_file), "-o", str(out), *asked, "--rounds", "1"]


def test_the_command_prints_what_is_there_and_names_what_is_missing(
    compared, tmp_path, capsys, monkeypatch
) -> None:
    *_, folder = compared
    given = options(settings(tmp_path / "t.yaml"), folder)
    chosen = ["--only", "text,direct", "--seeds", "2", "--no-train", "--json"]
    code, out, err = run_command(capsys, monkeypatch, *given, *chosen)
    document = json.loads(out)
    assert code == 0
    assert document["missing"] == [
        {"reasoner": "text", "seed": 1},
        {"reasoner": "direct", "seed": 1},
    ]
    assert "not trained yet: text (seed 1), direct (seed 1)" in err
    for row in document["rows"]:
        assert (row["world"], row["steps"], row["seeds"]) == ("digits", "2", 1)
        assert 0 <= row["low"] <= row["pass_at_1"] <= row["high"] <= 1
        assert min(row["flops"], row["ms_batch1"], row["answers_per_second_batch64"]) > 0
    assert [row["positions"] for row in document["rows"]][1] == 0
    text, direct = document["reasoners"]
    assert text["versus_text"] is None
    assert direct["versus_text"]["passes_fewer"] > 1
    assert direct["training_tokens"] == pytest.approx(text["training_tokens"], rel=0.05)
    table = (folder / "table.md").read_text()
    assert "| text | 1 | 0.000 (0.000–0.490) |" in table
    assert json.loads((folder / "table.json").read_text()) == document


def test_a_causal_verdict_is_shown_in_the_place_of_the_donor_test(
    compared, tmp_path, capsys, monkeypatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(compared[-1], folder)
    study = folder / "causal" / "text-0" / "causal.json"
    study.parent.mkdir(parents=True)
    checkpoint = json.loads(next(folder.glob("cells/text-0-*.json")).read_text())["checkpoint"]
    tasks = [{"task": "digits", "verdict": "necessary"}, {"task": "shuffle", "verdict": "inert"}]
    given = options(settings(tmp_path / "t.yaml"), folder)
    chosen = ["--only", "text,direct", "--seeds", "1", "--no-train", "--json"]
    study.write_text(json.dumps({"checkpoint_hash": checkpoint, "tasks": tasks}))
    code, out, _ = run_command(capsys, monkeypatch, *given, *chosen)
    text, direct = json.loads(out)["reasoners"]
    assert code == 0
    assert text["causal"] == {"digits": "necessary", "shuffle": "inert"}
    assert direct["causal"] is None
    assert "| digits necessary, shuffle inert |" in (folder / "table.md").read_text()
    assert verdict_words({"digits": "inert", "shuffle": "inert"}) == "inert"
    for broken, named in (
        ({"checkpoint_hash": "f00", "tasks": tasks}, "is of another checkpoint"),
        ({"checkpoint_hash": checkpoint, "tasks": [{}]}, "names no tasks with verdicts"),
    ):
        study.write_text(json.dumps(broken))
        code, _, err = run_command(capsys, monkeypatch, *given, *chosen)
        assert code == 2
        assert f"error: {study}: {named}" in err


def test_bad_input_is_one_line(compared, tmp_path, capsys, monkeypatch) -> None:
    *_, folder = compared
    given = options(settings(tmp_path / "t.yaml"), folder)
    direct = folder / "train" / "direct-0" / "joint" / "model"
    tiny_baseline("direct").save(tmp_path / "other")
    for more, words in (
        (["--only", "text,telepathy"], "'telepathy', no such reasoner"),
        (["--only", "text,text"], "'text', named twice"),
        (["--equal", "money"], "--equal money: expected tokens or flops"),
        (["--budget", "-3"], "--budget -3: expected a positive number of tokens"),
        (["--tau", "0"], "--tau 0: samples need a positive temperature"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--load", "direct"], "--load direct: expected NAME=FOLDER"),
        (["--budget", "9e9"], "holds another comparison (budget differ)"),
        (["--load", f"text={direct}"], "reasons as 'direct', expected a model of text"),
        (["--load", f"direct={tmp_path / 'other'}"], "not comparable, its backbone has model_type"),
    ):
        code, out, err = run_command(capsys, monkeypatch, *given, *more)
        assert (code, out) == (2, "")
        assert words in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    given = options(settings(tmp_path / "t.yaml"), tmp_path / "full")
    assert "not empty and no comparison" in run_command(capsys, monkeypatch, *given)[2]
    given = options(settings(tmp_path / "t.yaml"), tmp_path / "new")
    code, _, err = run_command(capsys, monkeypatch, *given, "--budget", "10", "--only", "nfcot")
    assert code == 2
    assert "'nfcot' needs" in err


def test_a_loaded_checkpoint_is_measured_and_another_in_its_place_refused(
    config, compared, tmp_path
) -> None:
    *_, folder = compared
    model = str(folder / "train" / "direct-0" / "joint" / "model")
    one = {"names": ["direct"], "seeds": 2, "rounds": 1}
    found = compare(config, tmp_path / "c", ASKED, **one, loaded={"direct": model})
    assert [c.seeds for c in found.contenders] == [[0]]
    assert found.contenders[0].plan is None
    more = replace(ASKED, n=5)
    asked = compare(config, tmp_path / "c", more, **one, loaded={"direct": model})
    assert [len(m.right) for m in asked.contenders[0].cells["digits", "2"]] == [5]
    path = tmp_path / "c" / "cells" / "direct-0-digits-2.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "checkpoint": "0" * 16}))
    with pytest.raises(UserError, match="figures of another checkpoint"):
        compare(config, tmp_path / "c", more, **one, loaded={"direct": model})
