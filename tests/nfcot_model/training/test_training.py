"""Training: it learns, it survives kill -9 with the same curve, and it refuses nonsense."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from nfcot_model.errors import UserError
from nfcot_model.reasoners import load_reasoner
from nfcot_model.training.collate import joint_batch
from nfcot_model.training.config import PRESETS, DataConfig, StageConfig, TrainConfig, load_config
from nfcot_model.training.data import (
    _held_out_groups,
    _user_problems,
    held_out,
    training_batch,
)
from nfcot_model.training.loop import Guard
from nfcot_model.training.stages import train
from nfcot_model.worlds import make_world, write_problems
from tests.tiny import tiny_reasoner

RUN = """
import os, signal, sys
from pathlib import Path
import torch
from nfcot_model.training.config import TrainConfig
from nfcot_model.training.stages import train
torch.set_num_threads(1)
config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
fatal = sys.argv[3:]
def report(progress):
    if [progress.stage, str(progress.step)] == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
train(config, ["codec", "warmup", "joint"], Path(sys.argv[2]), report=report)
"""


def small(**stage: int) -> TrainConfig:
    config = load_config("tiny", None)
    sections = {
        name: getattr(config, name).model_copy(update={"steps": steps, "validate_every": 20})
        for name, steps in {"codec": 32, "warmup": 12, "joint": 32, **stage}.items()
    }
    return config.model_copy(update={**sections, "save_minutes": 0.0})


def run(config: Path, out: Path, *fatal: str) -> int:
    return subprocess.run([sys.executable, "-c", RUN, config, out, *fatal], check=False).returncode


def curve(out: Path, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / stage / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_training_resumes_with_the_same_loss_curve(tmp_path) -> None:
    config = tmp_path / "config.json"
    config.write_text(small().model_dump_json())
    assert run(config, tmp_path / "whole") == 0
    killed = tmp_path / "killed"
    assert run(config, killed, "codec", "21") == -signal.SIGKILL
    assert not (killed / "codec" / "model").exists()
    assert run(config, killed, "joint", "11") == -signal.SIGKILL
    assert run(config, killed) == 0
    for stage in ("codec", "warmup", "joint"):
        assert curve(killed, stage) == curve(tmp_path / "whole", stage)
    one, other = (
        load_reasoner(folder / "joint" / "model").model.state_dict()
        for folder in (killed, tmp_path / "whole")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_stages_learn_and_freeze_what_they_should(tmp_path) -> None:
    config = small(codec=150, warmup=30, joint=60)
    train(config, ["codec", "warmup", "joint"], tmp_path / "t")
    losses = {s: [row["loss"] for row in curve(tmp_path / "t", s)] for s in ("codec", "joint")}
    assert losses["codec"][-1] < 0.6 * losses["codec"][0]
    assert losses["joint"][-1] < 0.9 * losses["joint"][0]
    states = {
        s: load_reasoner(tmp_path / "t" / s / "model").model.state_dict()
        for s in ("codec", "warmup", "joint")
    }

    def moved(earlier: str, later: str) -> set[str]:
        changed = (n for n, t in states[later].items() if not torch.equal(t, states[earlier][n]))
        return {name.split(".")[0] for name in changed}

    assert moved("codec", "warmup") == {"flow", "nf_head", "projection"}
    assert moved("warmup", "joint") == {"backbone", "flow", "nf_head", "projection"}


def test_a_backbone_with_tied_embeddings_trains_and_resumes(tmp_path) -> None:
    tiny = small(codec=4, warmup=2, joint=6)
    backbone = {**tiny.model.backbone, "tie_word_embeddings": True}
    config = tiny.model_copy(update={"model": tiny.model.model_copy(update={"backbone": backbone})})
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    assert run(path, tmp_path / "t", "joint", "1") == -signal.SIGKILL
    assert run(path, tmp_path / "t") == 0
    model = load_reasoner(tmp_path / "t" / "joint" / "model").model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_kill_while_a_finished_model_is_saved_loses_nothing(tmp_path) -> None:
    config = small(codec=4, warmup=2, joint=2)
    train(config, ["codec"], tmp_path / "t")
    (tmp_path / "t" / "codec" / "model").rename(tmp_path / "t" / "codec" / ".model.tmp")
    (tmp_path / "t" / "codec" / ".model.tmp" / "model.safetensors").unlink()
    train(config, ["codec", "warmup"], tmp_path / "t")
    assert load_reasoner(tmp_path / "t" / "warmup" / "model")


def test_more_processes_than_problems_in_a_micro_batch_are_refused(tmp_path) -> None:
    config = small(codec=0, warmup=0)
    joint = config.joint.model_copy(update={"batch": 7, "accumulate": 2})
    config = config.model_copy(update={"joint": joint})
    several = SimpleNamespace(num_processes=4)
    with pytest.raises(UserError, match=r"joint\.batch 7 in 2 micro-batches .* set batch to 8"):
        train(config, ["codec", "joint"], tmp_path / "t", accelerator=several)
    assert not (tmp_path / "t").exists()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path) -> None:
    folder = tmp_path / "t" / "codec"
    train(small(codec=2), ["codec"], tmp_path / "t")
    (folder / "model").rename(folder / ".model.tmp")
    left = [".state-7.safetensors.0123abcd.tmp", ".state.json.0123abcd.tmp"]
    mine = [".state-7.safetensors.tmp", ".notes.0123abcd.tmp", "state-x.tmp"]
    for name in left + mine:
        (folder / name).write_text("x")
    train(small(codec=2), ["codec"], tmp_path / "t")
    assert not [name for name in left if (folder / name).exists()]
    assert all((folder / name).exists() for name in mine)


def test_nothing_is_written_for_data_that_do_not_fit(tmp_path) -> None:
    write_problems(tmp_path / "p.jsonl", make_world("digits", "train", 0, 9, steps=(8, 8)))
    data = DataConfig(problems=str(tmp_path / "p.jsonl"))
    short = small().model.model_copy(update={"max_thoughts": 5})
    cases = {
        "needs 8 thoughts": small().model_copy(update={"data": data, "model": short}),
        "no such file": small().model_copy(update={"data": DataConfig(problems="none.jsonl")}),
        "no Hugging Face model folder": small().model_copy(
            update={"model": small().model.model_copy(update={"backbone": str(tmp_path)})}
        ),
    }
    for named, config in cases.items():
        with pytest.raises(UserError, match=named):
            train(config, ["codec"], tmp_path / "t")
        assert not (tmp_path / "t").exists()


def test_users_problems_train_too(tmp_path) -> None:
    write_problems(tmp_path / "p.jsonl", make_world("digits", "train", 0, 60, steps=(1, 4)))
    config = small(codec=12, warmup=2, joint=2).model_copy(
        update={"data": DataConfig(problems=str(tmp_path / "p.jsonl"))}
    )
    figures = train(config, ["codec", "warmup", "joint"], tmp_path / "t")
    assert figures["joint"]["nll"] > 0


def test_a_step_is_a_function_of_its_number_and_never_of_a_held_out_pipeline() -> None:
    data, stage = DataConfig(renumber=0.5), StageConfig(steps=10, batch=32)
    batch = training_batch(data, stage, 0, "joint", 5)
    assert batch == training_batch(data, stage, 0, "joint", 5)
    assert batch != training_batch(data, stage, 0, "joint", 6)
    seen = {p.group for s in range(20) for p in training_batch(data, stage, 0, "joint", s)}
    assert not seen & {p.group for p in held_out(data, 0)}


def test_targets_are_the_answer_after_the_thoughts() -> None:
    reasoner = tiny_reasoner()
    problems = make_world("digits", "train", 0, 3, steps=(1, 4))
    layout, _ = joint_batch(reasoner, problems)
    for i, problem in enumerate(problems):
        columns = (layout.targets[i] >= 0).nonzero()[:, 0]
        predicted = layout.targets[i][columns]
        assert reasoner.tokenizer.decode(predicted[-1:]) == "<eos>"
        text = reasoner.tokenizer.decode(predicted, skip_special_tokens=True)
        assert text == problem.answer
        following = layout.input_ids[i][columns[:-1] + 1]
        assert following.tolist() == predicted[:-1].tolist()


def test_the_guard_skips_blow_ups_and_gives_up_when_they_persist() -> None:
    guard = Guard()
    assert guard.allows(1.0, 0)
    assert not guard.allows(float("nan"), 1)
    assert not guard.allows(1e6, 2)
    assert guard.allows(1.2, 3)
    assert not any(guard.allows(float("inf"), step) for step in range(4, 13))
    with pytest.raises(UserError, match="training diverged"):
        guard.allows(float("inf"), 13)


def test_the_guard_walks_through_a_stretch_of_larger_gradients() -> None:
    guard = Guard()
    assert all(guard.allows(0.25, step) for step in range(100))
    allowed = [guard.allows(11.7, step) for step in range(100, 110)]
    assert not allowed[0]
    assert all(allowed[2:])
    with pytest.raises(UserError, match="training diverged"):
        [guard.allows(10.0**step, step) for step in range(110, 120)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"joint": {"steps": -1}}, "joint.steps': expected greater than or equal to 0, found -1"),
        ({"joint": {"steps": 5, "lrr": 1}}, "joint.lrr': is not known; expected one of steps, "),
        ({"reasoner": "magic"}, "reasoner': expected 'nfcot', 'dual', 'regressed', 'text', "),
        ({"model": {"D": 4}}, "model.backbone': is missing"),
        ({"model": {"backbone": 3}}, "model.backbone': expected a mapping or text, found 3"),
        ({"model": {"backbone": "x", "flow": {"order": "nope"}}}, "model.flow.order': expected"),
        ({"model": {"backbone": "x", "codec": {"heads": 3}}}, "model.codec': d_model 128 is not"),
        ({"model": {"backbone": "x", "codec": {"slot": 3}}}, "model.codec.slot': is not known"),
        ({"data": {"worlds": {"nowhere": 1.0}}}, "data.worlds': expected positive weights"),
        ({"joint": {"steps": 5, "batch": 2, "accumulate": 3}}, "joint': accumulate 3 is more"),
        (
            {"joint": {"steps": 5, "lr": "x", "clip": "x"}},
            "joint.lr': expected a number, ",
        ),
    ],
)
def test_a_bad_config_names_file_and_field_and_what_was_expected(tmp_path, change, named) -> None:
    data = {**yaml.safe_load((PRESETS / "tiny.yaml").read_text()), **change}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=rf"c\.yaml: field '{re.escape(named)}"):
        load_config(None, path)


def test_presets_and_folders_that_do_not_fit_are_refused(tmp_path) -> None:
    with pytest.raises(
        UserError, match="choose one of compare, demo, qwen3_1p7b_lora_24gb, qwen3_8b_code, tiny"
    ):
        load_config("huge", None)
    with pytest.raises(UserError, match="one of them"):
        load_config(None, None)
    with pytest.raises(UserError, match="cannot be read"):
        load_config(None, tmp_path / "none.yaml")
    with pytest.raises(UserError, match="run `nfcot train warmup`"):
        train(small(), ["joint"], tmp_path / "t")
    assert not (tmp_path / "t").exists(), "a refused training writes nothing"
    train(small(codec=1), ["codec"], tmp_path / "t")
    other = small(codec=1).model_copy(update={"seed": 9})
    with pytest.raises(UserError, match="holds another training"):
        train(other, ["codec"], tmp_path / "t")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"not empty, and no train\.json"):
        train(small(), ["codec"], tmp_path / "full")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("joint", "clip", 0),
        ("joint", "clip", -1),
        ("joint", "lr", float("inf")),
        ("joint", "target_noise", float("nan")),
        ("joint", "warmup", -5),
        ("joint", "weight_decay", -5),
        ("model", "codec", {"slots": 0}),
        ("model", "codec", {"layers": 0}),
        ("model", "flow", {"blocks": 0}),
        ("model", "flow", {"max_log_scale": 0}),
        ("data", "worlds", {"digits": float("nan")}),
    ],
)
def test_settings_without_sense_are_refused(tmp_path, section, field, value) -> None:
    config = yaml.safe_load((PRESETS / "tiny.yaml").read_text())
    config.setdefault(section, {})[field] = value
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=rf"train.yaml: field '{section}\.{field}"):
        load_config(None, path)


@pytest.mark.parametrize("data", [[], "worlds", 3])
def test_sections_must_be_mappings(tmp_path, data) -> None:
    config = yaml.safe_load((PRESETS / "tiny.yaml").read_text()) | {"data": data or None}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"each section of them \(.*data.*\) a mapping"):
        load_config(None, path, problems=Path("p.jsonl"))


@pytest.mark.parametrize("n", [2, 5, 60])
def test_what_is_held_out_is_never_trained_on(tmp_path, n) -> None:
    path = tmp_path / "p.jsonl"
    write_problems(path, make_world("digits", "train", 1, n, steps=(5, 7)))
    data, stage = DataConfig(problems=str(path)), StageConfig(steps=1, batch=400)
    out = {p.group for p in held_out(data, 0)}
    trained = {p.group for p in training_batch(data, stage, 0, "joint", 0)}
    assert len(out) == max(1, n // 20)
    assert trained
    assert not out & trained


def test_one_group_is_too_little_to_train_on(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    write_problems(path, make_world("digits", "train", 1, 1))
    with pytest.raises(UserError, match="of one group"):
        held_out(DataConfig(problems=str(path)), 0)


def test_a_training_does_not_go_on_with_other_problems(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    config = small(codec=4, warmup=0, joint=4)
    data = DataConfig(problems=str(path))
    config = config.model_copy(update={"data": data})
    write_problems(path, make_world("digits", "train", 1, 40))
    figures = train(config, ["codec"], tmp_path / "t")
    assert train(config, ["codec"], tmp_path / "t") == figures, "finished stages tell theirs"
    write_problems(path, make_world("digits", "train", 2, 40))
    for cached in (_user_problems, _held_out_groups):
        cached.cache_clear()
    with pytest.raises(UserError, match="problems differ"):
        train(config, ["joint"], tmp_path / "t")


def test_validation_comes_when_asked_for(tmp_path) -> None:
    config = small(codec=30)
    config = config.model_copy(
        update={"codec": config.codec.model_copy(update={"validate_every": 7})}
    )
    train(config, ["codec"], tmp_path / "t")
    steps = [row["step"] for row in curve(tmp_path / "t", "codec") if "val_exact" in row]
    assert steps == [7, 14, 21, 28, 29]
