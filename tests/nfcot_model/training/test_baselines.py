"""Recipes of reasoners without a flow: they train, resume, and follow their papers' layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nfcot_model.baseline import unroll
from nfcot_model.errors import UserError
from nfcot_model.layout import lay_out
from nfcot_model.reasoners import load_reasoner
from nfcot_model.training.baselines import (
    _codi,
    _explicit_layout,
    _head,
    _tail,
    baseline_losses,
    coconut_text,
    stage_of,
)
from nfcot_model.training.config import BaselineSettings, TrainConfig, load_config
from nfcot_model.training.loop import Progress
from nfcot_model.training.stages import train
from nfcot_model.worlds import make_world, write_problems
from tests.tiny import tiny_baseline

PROBLEMS = make_world("digits", "train", 0, 4, steps=(1, 4))
SETTINGS = BaselineSettings(thoughts=3, per_step=2, stages=2, projector=24)


def brief(kind: str, folder: Path) -> TrainConfig:
    """A training of a dozen steps on 40 problems, two of them held out."""
    problems = folder / "p.jsonl"
    write_problems(problems, make_world("digits", "train", 0, 40, steps=(1, 3)))
    config = load_config("tiny", None, reasoner=kind, problems=problems)
    few = {"validate_every": 100, "batch": 4, "accumulate": 1}
    model = config.model.model_copy(
        update={
            "baseline": BaselineSettings(thoughts=2, stages=2, projector=16, loops=2),
            "max_answer_tokens": 4,
        }
    )
    return config.model_copy(
        update={
            "codec": config.codec.model_copy(update={"steps": 2, **few}),
            "warmup": config.warmup.model_copy(update={"steps": 0}),
            "joint": config.joint.model_copy(update={"steps": 8, **few}),
            "gate": config.gate.model_copy(update={"steps": 4, **few}),
            "model": model,
        }
    )


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["text", "direct", "pause", "codi", "regressed"])
def test_each_kind_trains(kind: str, tmp_path) -> None:
    config = brief(kind, tmp_path)
    figures = train(config, ["codec", "warmup", "joint", "gate"], tmp_path / "t")
    assert figures["joint"]["loss"] > 0
    assert figures["joint"]["pass_digits"] >= 0
    assert load_reasoner(tmp_path / "t" / "joint" / "model").name == kind
    first, *_, last = (tmp_path / "t" / "joint" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["loss"] < json.loads(first)["loss"]


def test_reasoning_beyond_the_context_is_refused_before_anything_is_written(tmp_path) -> None:
    config = brief("codi", tmp_path)
    backbone = {**config.model.backbone, "max_position_embeddings": 16}
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"backbone": backbone})}
    )
    with pytest.raises(
        UserError, match=r"positions with reasoning and answer, the backbone has 16"
    ):
        train(config, ["joint"], tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(("kind", "last"), [("coconut", "joint"), ("looped", "gate")])
def test_a_stopped_training_resumes_with_the_same_curve(kind: str, last: str, tmp_path) -> None:
    """Coconut is stopped where its curriculum moves on, and the optimizer with it."""
    config = brief(kind, tmp_path).model_copy(update={"save_minutes": 0.0})
    stages = ["joint", "gate"]

    def stop(progress: Progress) -> None:
        if progress.stage == last and progress.step > 1:
            raise KilledError

    train(config, stages[:-1] if kind == "looped" else stages, tmp_path / "whole")
    if kind == "looped":
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        train(config, stages, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(config, stages, tmp_path / "cut", report=stop)
    train(config, stages, tmp_path / "cut")
    whole, cut = (
        (tmp_path / name / last / "metrics.jsonl").read_text().splitlines()
        for name in ("whole", "cut")
    )
    assert [json.loads(line) for line in whole] == [json.loads(line) for line in cut]
    one, other = (load_reasoner(tmp_path / n / last / "model") for n in ("whole", "cut"))
    assert one.name == kind
    assert one.checkpoint_hash == other.checkpoint_hash
    if kind == "looped":
        before, after = (
            load_reasoner(tmp_path / "cut" / name / "model").model.state_dict()
            for name in ("joint", "gate")
        )
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"gate.weight", "gate.bias"}


def test_the_curriculum_goes_from_all_text_to_none() -> None:
    settings = BaselineSettings(stages=3, cot_share=0.25, last_share=0.25)
    parts = [stage_of("coconut", settings, step, 40) for step in range(40)]
    assert parts == sorted(parts)
    assert [parts.count(part) for part in range(5)] == [10, 7, 7, 6, 10]
    assert {stage_of("codi", settings, step, 40) for step in range(40)} == {0}
    problem = next(p for p in make_world("digits", "train", 3, 40) if len(p.steps) == 5)
    for part in range(4):
        lines = coconut_text(problem, part, 3).split("\n")
        assert lines == [*problem.steps[part:], problem.answer]
    assert coconut_text(problem, 4, 3) == problem.answer


@pytest.mark.parametrize("kind", ["coconut", "codi", "pause"])
def test_thoughts_in_training_are_those_of_thinking(kind: str) -> None:
    reasoner = tiny_baseline(kind)
    head = _head(reasoner, PROBLEMS)
    tail = _tail(reasoner, [p.answer for p in PROBLEMS])
    K = reasoner.max_thoughts
    found = unroll(reasoner.model, head, K, tail, hidden=True)
    thoughts = reasoner.think([p.prompt for p in PROBLEMS], tau=0.0, noise_seeds=[])
    torch.testing.assert_close(found.u, thoughts.u, atol=2e-4, rtol=1e-4)
    prompts = reasoner.tokens([p.prompt for p in PROBLEMS], opening=True)
    answers = reasoner.tokens([p.answer for p in PROBLEMS])
    whole = lay_out(prompts, [K] * 4, reasoner.model.ids, answers=answers)
    states = reasoner.model.stream(whole, thoughts.u).last_hidden_state
    expected = reasoner.model.token_loss(states, whole.targets)
    torch.testing.assert_close(
        reasoner.model.token_loss(found.states, tail.targets), expected, atol=1e-4, rtol=1e-4
    )
    assert found.hidden is not None
    torch.testing.assert_close(found.hidden[-1], found.states)


def test_gradients_flow_through_coconut_s_thoughts() -> None:
    """The same loss with thoughts that are given has another gradient."""
    reasoner = tiny_baseline("coconut")
    model = reasoner.model
    text = ["#1 4x+7"] * 4
    found = unroll(model, _head(reasoner, PROBLEMS), 3, _tail(reasoner, text))
    prompts = reasoner.tokens([p.prompt for p in PROBLEMS], opening=True)
    whole = lay_out(prompts, [3] * 4, model.ids, answers=reasoner.tokens(text))
    given = model.stream(whole, found.u.detach()).last_hidden_state
    weight = model.backbone.model.layers[0].mlp.up_proj.weight
    losses = (
        model.token_loss(found.states, _tail(reasoner, text).targets),
        model.token_loss(given, whole.targets),
    )
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
    through, around = (torch.autograd.grad(loss, weight)[0] for loss in losses)
    assert (through - around).norm() > 0.05 * around.norm()


def test_text_and_direct_predict_what_follows_the_prompt() -> None:
    for kind in ("text", "direct"):
        reasoner = tiny_baseline(kind)
        losses = baseline_losses(reasoner.model, reasoner, PROBLEMS, SETTINGS, 0)
        reasoning = ["\n".join(p.steps) for p in PROBLEMS]
        layout = _explicit_layout(reasoner, PROBLEMS, reasoning)
        if kind == "direct":
            prompts = reasoner.tokens([p.prompt for p in PROBLEMS], opening=True)
            answers = reasoner.tokens([p.answer for p in PROBLEMS])
            layout = lay_out(prompts, [0] * 4, reasoner.model.ids, answers=answers)
        predicted = reasoner.tokenizer.decode(layout.targets[0][layout.targets[0] >= 0])
        expected = f"{PROBLEMS[0].answer}<eos>"
        assert predicted == (f"{reasoning[0]}</think>{expected}" if kind == "text" else expected)
        states = reasoner.model.stream(layout, torch.zeros(4, 1, reasoner.D)).last_hidden_state
        torch.testing.assert_close(
            losses["loss"], reasoner.model.token_loss(states, layout.targets)
        )


def test_codi_teaches_before_the_answer_and_never_through_its_teacher() -> None:
    reasoner = tiny_baseline("codi")
    losses = baseline_losses(reasoner.model, reasoner, PROBLEMS, SETTINGS, 0)
    assert set(losses) == {"loss", "teacher", "answer", "distill"}
    total = losses["teacher"] + losses["answer"] + losses["distill"]
    torch.testing.assert_close(losses["loss"], total)
    assert torch.autograd.grad(losses["distill"], reasoner.model.projector[0].weight)[0].abs().sum()
    weighty = BaselineSettings(thoughts=3, distill=20.0)
    heavy = baseline_losses(reasoner.model, reasoner, PROBLEMS, weighty, 0)
    torch.testing.assert_close(heavy["loss"] - losses["loss"], 19 * losses["distill"])


def test_the_distillation_is_zero_where_student_and_teacher_say_the_same() -> None:
    """Without thoughts and reasoning both streams are `[prompt] <think> </think> answer`."""
    reasoner = tiny_baseline("codi", thoughts=0)
    one_step = [p.model_copy(update={"steps": p.steps[:1]}) for p in PROBLEMS]
    losses = _codi(reasoner, one_step, SETTINGS, 0)(reasoner.model)
    assert float(losses["distill"].detach()) < 1e-4
    kept = SETTINGS.model_copy(update={"drop_last_step": False})
    assert float(_codi(reasoner, one_step, kept, 0)(reasoner.model)["distill"].detach()) > 1e-3
