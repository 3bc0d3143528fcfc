"""Policy gradient: exact ratios, the clip and the advantages, what is learned and what is not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from nfcot_model.cli import main
from nfcot_model.errors import UserError
from nfcot_model.reasoners import NFCoTReasoner, load_reasoner
from nfcot_model.training.grpo import objective
from nfcot_model.training.grpo.advantage import advantages, informative, surrogate
from nfcot_model.training.grpo.densities import Categorical, Gaussian, entropy, kl, log_ratio
from nfcot_model.training.grpo.objective import pass_rates
from nfcot_model.training.grpo.policies import NFCoTPolicy, Policy, Temperatures, Trajectories
from nfcot_model.training.grpo.problems import _read, anchor_problems, file_hash
from nfcot_model.training.grpo.settings import GRPOConfig, load_grpo_config
from nfcot_model.training.grpo.text_policy import TextPolicy
from nfcot_model.training.grpo.train import train_grpo
from nfcot_model.training.loop import Progress
from nfcot_model.worlds import make_world, write_problems
from tests.tiny import brief_reasoner, tiny_baseline, tiny_reasoner

PROMPTS = [p.prompt for p in make_world("digits", "train", 0, 3, steps=(2, 3)) for _ in range(3)]
SEEDS = list(range(len(PROMPTS)))
HOT = Temperatures(tau=0.8, answer=1.3, stop=2.0)


def some_policy(kind: str) -> tuple[Policy, Any]:
    if kind == "text":
        reasoner = tiny_baseline("text")
        return TextPolicy(reasoner), reasoner
    codec = {"alignment": "global", "slots": 3, "d_model": 16, "layers": 1, "heads": 2}
    more = {"codec": codec} if kind == "fixed K" else {}
    reasoner = tiny_reasoner(max_answer_tokens=6, **more)
    return NFCoTPolicy(reasoner), reasoner


@pytest.mark.parametrize("kind", ["step", "fixed K", "text"])
def test_an_unchanged_policy_has_ratio_one_and_no_divergence(kind: str) -> None:
    policy, reasoner = some_policy(kind)
    drawn = policy.sample(PROMPTS, SEEDS, HOT)
    one, other = (policy.densities(reasoner.model, drawn, HOT) for _ in range(2))
    assert log_ratio(one, other).abs().max() == 0
    assert kl(one, other).abs().max() < 1e-6
    part = policy.densities(reasoner.model, drawn.rows(torch.tensor([7, 2])), HOT)
    picked = {name: part_of.logp()[[7, 2]] for name, part_of in one.parts.items()}
    for name, factor in part.parts.items():
        torch.testing.assert_close(factor.logp(), picked[name], atol=1e-4, rtol=1e-4)
        assert factor.logp().requires_grad
    assert (
        set(one.parts)
        == {
            "step": {"thoughts", "stop", "answer"},
            "fixed K": {"thoughts", "answer"},
            "text": {"reasoning", "answer"},
        }[kind]
    )
    assert all(math.isfinite(float(value)) for value in entropy(one).values())


def test_recomputed_densities_are_those_of_sampling() -> None:
    policy, reasoner = some_policy("step")
    at = Temperatures(tau=0.8)
    drawn = policy.sample(PROMPTS, SEEDS, at)
    thoughts = drawn.thoughts
    found = policy.densities(reasoner.model, drawn, at)
    gaussian, stop, answer = (found.parts[n] for n in ("thoughts", "stop", "answer"))
    assert isinstance(gaussian, Gaussian)
    z = (gaussian.u - gaussian.mu) * torch.exp(-gaussian.log_sigma)
    torch.testing.assert_close(
        0.8 * z[thoughts.mask], thoughts.eps[thoughts.mask], atol=1e-3, rtol=1e-3
    )
    drawn_from = Normal(thoughts.mu, 0.8 * thoughts.log_sigma.exp())
    each = drawn_from.log_prob(thoughts.u) + 0.5 * math.log(2 * math.pi)
    summed = (each * thoughts.mask[..., None]).sum((1, 2)) / (thoughts.K * reasoner.D)
    torch.testing.assert_close(gaussian.logp(), summed, atol=1e-4, rtol=1e-4)

    scored = reasoner.score(PROMPTS, thoughts, tau=0.8)
    decisions = thoughts.K - (~thoughts.stopped).long()
    stops = scored.stop_logp.sum(-1) / decisions.clamp(min=1)
    torch.testing.assert_close(stop.logp(), stops, atol=1e-4, rtol=1e-4)
    assert len(set(thoughts.K.tolist())) > 1  # else nothing was decided

    said = reasoner.answer_logp(PROMPTS, thoughts, drawn.answers).logp
    tokens = torch.tensor([len(t) for t in drawn.tokens]) + drawn.ended
    again = reasoner.tokens(drawn.answers)
    same = drawn.ended & torch.tensor([a == b for a, b in zip(again, drawn.tokens, strict=True)])
    assert bool(same.any())
    torch.testing.assert_close(
        answer.logp()[same], (said / tokens)[same].float(), atol=1e-4, rtol=1e-4
    )


def test_stop_decisions_are_drawn_with_their_probability() -> None:
    policy, reasoner = some_policy("step")
    n = 600
    seeds = list(range(n))
    for temperature in (1.0, 3.0):
        at = Temperatures(tau=1e-4, stop=temperature)
        drawn = policy.sample(PROMPTS[:1] * n, seeds, at)
        logits = policy.densities(reasoner.model, drawn.rows(torch.tensor([0])), at).parts["stop"]
        assert isinstance(logits, Categorical)
        p = float(logits.logits[0, 0, 1].detach().exp())
        share = float((drawn.thoughts.K == 1).float().mean())
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n) + 1e-3
    greedy = policy.sample(PROMPTS, SEEDS, Temperatures(0.8, answer=0.0, stop=0.0))
    usual = reasoner.think(PROMPTS, tau=0.8, noise_seeds=SEEDS)
    torch.testing.assert_close(greedy.thoughts.u, usual.u, atol=1e-4, rtol=1e-4)
    assert greedy.answers == reasoner.answer(PROMPTS, usual)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-3, 3)), min_size=1, max_size=8),
    st.floats(0.01, 0.9),
)
def test_the_clip_is_that_of_a_reference_by_hand(
    pairs: list[tuple[float, float]], eps: float
) -> None:
    def by_hand(delta: float, advantage: float) -> float:
        ratio = math.exp(max(-20.0, min(20.0, delta)))
        inside = max(1 - eps, min(1 + eps, ratio))
        return min(ratio * advantage, inside * advantage)

    delta, advantage = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    expected = torch.tensor([by_hand(*pair) for pair in pairs], dtype=torch.float64)
    torch.testing.assert_close(surrogate(delta, advantage, eps), expected)


def test_beyond_the_clip_there_is_no_gradient_in_favour_and_one_against() -> None:
    moved = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    surrogate(moved, torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2).sum().backward()
    assert moved.grad is not None
    assert (moved.grad != 0).tolist() == [False, True, True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5),
    st.floats(0.5, 4),
    st.floats(-2, 2),
)
def test_advantages_are_centred_of_unit_spread_and_blind_to_scale(
    groups: list[list[int]], scale: float, shift: float
) -> None:
    rewards = torch.tensor(groups, dtype=torch.float64)
    found = advantages(rewards)
    torch.testing.assert_close(found.mean(-1), torch.zeros(len(groups), dtype=torch.float64))
    spread = found.std(-1, correction=0)
    torch.testing.assert_close(spread, informative(rewards).double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(advantages(scale * rewards + shift), found, atol=1e-6, rtol=1e-6)
    assert bool((found[~informative(rewards)] == 0).all())


def test_divergences_are_those_of_the_distributions() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True], [True, False]])
    u, *numbers = (torch.randn(2, 2, 3) for _ in range(5))
    one, other = Gaussian(u, *numbers[:2], mask), Gaussian(u, *numbers[2:], mask)
    p, q = (Normal(g.mu, g.log_sigma.exp()) for g in (one, other))
    exact = (kl_divergence(p, q) * mask[..., None]).sum((1, 2)) / (3 * mask.sum(-1))
    torch.testing.assert_close(one.kl(other), exact)
    whole = (p.entropy() * mask[..., None]).sum((1, 2)) / (3 * mask.sum(-1))
    torch.testing.assert_close(one.entropy(), whole)


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    rewards = np.array([[1, 0, 0, 0], [0, 0, 0, 0]])
    assert pass_rates(rewards) == {"pass_at_1": 0.125, "pass_at_4": 0.5}


def brief(start: Path, **more: Any) -> GRPOConfig:
    few: dict[str, Any] = {
        "start": str(start),
        "data": {"worlds": {"digits": 1.0}},
        "lengths": (2, 3),
        "steps": 8,
        "prompts": 4,
        "group": 4,
        "kl": 0.0,
        "anchor": 0.0,
        "anchor_batch": 2,
        "lr": 3e-3,
        "warmup": 2,
        "validate_every": 100,
        "validate_problems": 4,
        "validate_samples": 4,
    }
    return GRPOConfig.model_validate({**few, **more})


def start_of(folder: Path, kind: str = "nfcot") -> Path:
    reasoner = brief_reasoner() if kind == "nfcot" else tiny_baseline("text")
    reasoner.save(folder / kind)
    return folder / kind


def many_thoughts(problems: Any, answers: Any, thoughts: Any) -> list[float]:
    return [float(K >= 3) for K in thoughts.K.tolist()]


def first_dimension(problems: Any, answers: Any, thoughts: Any) -> list[float]:
    return (thoughts.u[:, 0, 0] > 0).float().tolist()


def rewards_of(out: Path) -> list[float]:
    lines = (out / "grpo" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["reward"] for line in lines]


@pytest.mark.parametrize(
    ("kind", "reward"),
    [("nfcot", many_thoughts), ("nfcot", first_dimension), ("text", first_dimension)],
)
def test_a_planted_reward_is_learned(kind: str, reward: Any, tmp_path: Path) -> None:
    config = brief(start_of(tmp_path, kind), reasoner=kind, steps=12, group=8, lr=1e-2)
    figures = train_grpo(config, tmp_path / "out", reward=reward, i_train_against_a_monitor=True)
    course = rewards_of(tmp_path / "out")
    assert np.mean(course[-4:]) > course[0] + 0.2
    assert figures["pass_at_1_digits"] <= figures["pass_at_4_digits"]
    card = (tmp_path / "out" / "grpo" / "model" / "README.md").read_text()
    assert "Warning: this model was trained against a reward" in card
    saved = json.loads((tmp_path / "out" / "grpo" / "model" / "config.json").read_text())
    assert saved["grpo"]["trained_against_a_monitor"] is True
    assert load_reasoner(tmp_path / "out" / "grpo" / "model").name == kind


@pytest.mark.parametrize("kind", ["nfcot", "text"])
def test_a_constant_reward_changes_nothing(kind: str, tmp_path: Path) -> None:
    start = start_of(tmp_path, kind)

    def constant(problems: Any, answers: Any, thoughts: Any) -> list[float]:
        return [1.0] * len(problems)

    train_grpo(
        brief(start, reasoner=kind, kl=0.1, steps=3),
        tmp_path / "out",
        reward=constant,
        i_train_against_a_monitor=True,
    )
    before, after = (
        load_reasoner(f).model.state_dict()  # type: ignore[attr-defined]
        for f in (start, tmp_path / "out" / "grpo" / "model")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_beside_a_constant_reward_only_the_anchor_trains(tmp_path: Path) -> None:
    """With the same anchor, sampling or not: the same weights. Flow and codec never move."""
    start = tmp_path / "start"
    tiny_reasoner("llama", max_answer_tokens=4).save(start)
    found = []
    for policy in (0.0, 1.0):
        config = brief(start, anchor=1.0, policy=policy, steps=3)
        train_grpo(config, tmp_path / f"{policy}")
        found.append(load_reasoner(tmp_path / f"{policy}" / "grpo" / "model"))
    one, other = (r.model.state_dict() for r in found)  # type: ignore[attr-defined]
    before = load_reasoner(start).model.state_dict()  # type: ignore[attr-defined]
    for name in before:
        torch.testing.assert_close(one[name], other[name])
        frozen = name.startswith(("codec", "flow"))
        assert torch.equal(one[name], before[name]) >= frozen
    assert not torch.equal(one["nf_head.out.weight"], before["nf_head.out.weight"])


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["nfcot", "text"])
def test_a_stopped_training_resumes_with_the_same_curve(kind: str, tmp_path: Path) -> None:
    """Stopped between the two optimizer steps of an update, whose samples are then drawn again."""
    config = brief(
        start_of(tmp_path, kind),
        reasoner=kind,
        inner=2,
        kl=0.1,
        anchor=0.0 if kind == "nfcot" else 0.1,
        save_minutes=0.0,
    )

    def stop(progress: Progress) -> None:
        if progress.step == 5:
            raise KilledError

    def run(out: str, **more: Any) -> None:
        train_grpo(
            config, tmp_path / out, reward=many_thoughts, i_train_against_a_monitor=True, **more
        )

    run("whole")
    with pytest.raises(KilledError):
        run("cut", report=stop)
    saved = json.loads((tmp_path / "cut" / "grpo" / "state.json").read_text())
    assert saved["step"] == 4
    run("cut")
    whole, cut = (
        (tmp_path / name / "grpo" / "metrics.jsonl").read_text().splitlines()
        for name in ("whole", "cut")
    )
    assert [json.loads(line) for line in whole] == [json.loads(line) for line in cut]
    second = [json.loads(line) for line in whole][1::2]
    assert max(row.get("ratio_away", 0) for row in second) > 0
    one, other = (load_reasoner(tmp_path / n / "grpo" / "model") for n in ("whole", "cut"))
    assert one.checkpoint_hash == other.checkpoint_hash


def test_groups_without_a_difference_are_counted_and_end_a_hopeless_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "PATIENCE", 3)
    config = brief(start_of(tmp_path))
    with pytest.raises(UserError, match=r"no group of the first 3 updates .* easier problems"):
        train_grpo(config, tmp_path / "hopeless")

    def first_of_four(problems: Any, answers: Any, thoughts: Any) -> list[float]:
        """Only the first problem's answers differ in reward."""
        return [float(i == 0) for i in range(len(problems))]

    train_grpo(config, tmp_path / "some", reward=first_of_four, i_train_against_a_monitor=True)
    rows = (tmp_path / "some" / "grpo" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(row)["mixed_groups"] for row in rows} == {0.25}
    assert {json.loads(row)["pass_at_4"] for row in rows} == {0.25}


def test_problems_are_drawn_anew_until_enough_groups_are_mixed(tmp_path: Path) -> None:
    """One group in four is mixed here, so that four of them need four draws."""
    start = start_of(tmp_path)
    seen: list[list[str]] = []

    def first_of_four(problems: Any, answers: Any, thoughts: Any) -> list[float]:
        seen.append([p.id for p in problems])
        return [float(i == 0) for i in range(len(problems))]

    for draws, rounds in ((1, 1), (3, 3), (9, 4)):
        seen.clear()
        out = tmp_path / f"{draws}"
        config = brief(start, steps=1, prompts=4, draws=draws)
        train_grpo(config, out, reward=first_of_four, i_train_against_a_monitor=True)
        row = json.loads((out / "grpo" / "metrics.jsonl").read_text().splitlines()[0])
        assert (row["groups"], row["mixed_groups"]) == (4 * rounds, 0.25)
        assert len({tuple(ids) for ids in seen[:rounds]}) == rounds


def test_draws_are_joined_in_order_with_their_densities() -> None:
    policy, reasoner = some_policy("step")
    parts = [policy.sample(PROMPTS[:n], SEEDS[:n], HOT) for n in (9, 4)]
    joined = Trajectories.joined(parts)
    expected = [policy.densities(reasoner.model, part, HOT) for part in parts]
    found = policy.densities(reasoner.model, joined, HOT)
    for name, part in found.parts.items():
        each = torch.cat([one.parts[name].logp() for one in expected])
        torch.testing.assert_close(part.logp(), each, atol=1e-4, rtol=1e-4)
    assert joined.answers == parts[0].answers + parts[1].answers


def test_the_command_trains_resumes_and_says_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    tiny_reasoner("llama", max_answer_tokens=6).save(start)
    out = tmp_path / "out"
    words = ["train", "grpo", "--preset", "tiny", "--from", str(start), "-o", str(out), "--json"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["model"] == str(out / "grpo" / "model")
        assert {"pass_at_1_digits", "pass_at_4_digits", "thoughts_digits"} <= set(
            printed["validation"]
        )
    model = load_reasoner(out / "grpo" / "model")
    assert isinstance(model, NFCoTReasoner)
    assert model.model.config.grpo["reward"] == "verdict of execution"
    assert model.model.config.grpo["trained_against_a_monitor"] is False
    assert "Warning" not in (out / "grpo" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "nowhere"], "nowhere: no such model folder"),
        (["--from", "demo-text"], "reasons as 'text', expected a model of nfcot"),
        (["--reasoner", "codi"], "field 'reasoner'"),
        (["--preset", "tiny", "--config", "x.yaml"], "either --preset or --config"),
        (["--preset", "nothing"], "no such preset; choose one of demo, tiny"),
        (["--config", "x.yaml"], "x.yaml: cannot be read"),
        (["--steps", "0"], "field 'steps'"),
        (["--problems", "untested.jsonl"], "field 'check': is missing"),
        (["--problems", "bare.jsonl"], "has no steps or no answer, which the supervised anchor"),
        (["--config", "odd.yaml"], "field 'tua': is not known; expected one of start"),
        (["--config", "long.yaml"], "lengths 9, 13: a pipeline has 1 to 12 steps"),
        (["--config", "idle.yaml"], "policy 0 and anchor 0"),
        (["--config", "told.yaml"], "nowhere.jsonl: no such file"),
        (["--config", "told.yaml", "--problems", "bare.jsonl"], "nowhere.jsonl: no such file"),
        (["--config", "bare.yaml"], "bare.jsonl: problem"),
        (["--config", "both.yaml"], "anchor_problems and anchor_lengths are both given"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    words: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("untested.jsonl").write_text('{"prompt": "a"}\n')
    check = '"check": {"kind": "exact", "expected": "b"}'
    Path("bare.jsonl").write_text("".join(f'{{"prompt": "{p}", {check}}}\n' for p in "abc"))
    Path("odd.yaml").write_text("start: demo\nsteps: 2\ntua: 1\n")
    Path("long.yaml").write_text("start: demo\nsteps: 2\nlengths: [9, 13]\n")
    Path("idle.yaml").write_text("start: demo\nsteps: 2\npolicy: 0\nanchor: 0\n")
    for name, more in (
        ("told", "nowhere.jsonl"),
        ("bare", "bare.jsonl"),
        ("both", "bare.jsonl\nanchor_lengths: [2, 3]"),
    ):
        Path(f"{name}.yaml").write_text(f"start: demo\nsteps: 2\nanchor_problems: {more}\n")
    with pytest.raises(SystemExit) as ended:
        main(["train", "grpo", "-o", "out", *words])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert expected in " ".join(said.split())
    assert len(said.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_other_bad_input_is_refused(tmp_path: Path) -> None:
    start = start_of(tmp_path)
    config = brief(start)
    with pytest.raises(UserError, match="i_train_against_a_monitor=True if that is what you want"):
        train_grpo(config, tmp_path / "out", reward=many_thoughts)
    with pytest.raises(UserError, match="without a reward"):
        train_grpo(config, tmp_path / "out", i_train_against_a_monitor=True)
    assert not (tmp_path / "out").exists()

    def broken(problems: Any, answers: Any, thoughts: Any) -> list[float]:
        return [math.nan] * len(problems)

    with pytest.raises(UserError, match="a reward is not a finite number"):
        train_grpo(config, tmp_path / "nan", reward=broken, i_train_against_a_monitor=True)
    with pytest.raises(UserError, match="holds another training"):
        train_grpo(config, tmp_path / "nan")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")
    with pytest.raises(UserError, match=r"not empty, and no grpo\.json"):
        train_grpo(config, tmp_path / "mine")


@pytest.mark.parametrize("anchored", [False, True])
def test_problems_of_a_file_need_no_reasoning_without_an_anchor_or_with_one_of_another_file(
    anchored: bool, tmp_path: Path
) -> None:
    problems = [
        p.model_copy(update={"steps": [], "step_labels": [], "answer": None})
        for p in make_world("digits", "train", 0, 12, steps=(2, 3))
    ]
    write_problems(tmp_path / "p.jsonl", problems)
    data = {"problems": str(tmp_path / "p.jsonl")}
    few = make_world("digits", "train", 1, 3, steps=2)
    write_problems(tmp_path / "few.jsonl", few)
    told = {"anchor_problems": str(tmp_path / "few.jsonl"), "anchor": 0.5} if anchored else {}
    config = brief(start_of(tmp_path), data=data, steps=2, **told)
    if anchored:
        assert {p.id for step in range(9) for p in anchor_problems(config, step)} == {
            p.id for p in few
        }
    figures = train_grpo(
        config, tmp_path / "out", reward=first_dimension, i_train_against_a_monitor=True
    )
    rows = (tmp_path / "out" / "grpo" / "metrics.jsonl").read_text().splitlines()
    assert ("anchor" in json.loads(rows[0])) == anchored
    assert 0 < figures["pass_at_1_digits"] < 1


def test_a_problem_that_goes_over_to_the_other_file_is_another_training(tmp_path: Path) -> None:
    problems = make_world("digits", "train", 0, 8, steps=(2, 3))
    rewarded, told = tmp_path / "p.jsonl", tmp_path / "few.jsonl"
    config = GRPOConfig(
        start="demo", data={"problems": str(rewarded)}, anchor_problems=str(told), steps=2
    )
    hashes = []
    for border in (4, 5, 4):
        _read.cache_clear()
        write_problems(rewarded, problems[:border])
        write_problems(told, problems[border:])
        hashes.append(file_hash(config))
    assert hashes[0] == hashes[2] != hashes[1]


def test_text_starts_from_the_shipped_text_model() -> None:
    assert load_grpo_config(None, None, reasoner="text").start == "demo-text"
    assert load_grpo_config("demo", None).start == "demo"
