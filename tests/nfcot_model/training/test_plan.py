"""What a training says before it starts: lengths, memory, and recipes that keep what they claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nfcot_model.errors import UserError
from nfcot_model.tokenizer import train_tokenizer
from nfcot_model.training.baselines import baseline_losses
from nfcot_model.training.collate import joint_batch
from nfcot_model.training.config import PRESETS, LoraSettings, TrainConfig, load_config
from nfcot_model.training.examples import read_examples
from nfcot_model.training.fresh import fresh_reasoner, outline
from nfcot_model.training.lengths import Spread, _measured
from nfcot_model.training.memory import _activations, estimate
from nfcot_model.training.plan import plan_of, plan_without_weights
from nfcot_model.worlds import make_world, write_problems
from tests.tiny import tokenizer_texts

QWEN3: dict[str, dict[str, Any]] = {
    "qwen3_8b_code": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "qwen3_1p7b_lora_24gb": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
}
SIZES = {"qwen3_8b_code": 8.19e9, "qwen3_1p7b_lora_24gb": 1.72e9}


def write_shape(folder: Path, name: str) -> Path:
    """A folder of that backbone's shape, with some tokenizer, and no weights."""
    folder.mkdir()
    shape = {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        **QWEN3[name],
    }
    (folder / "config.json").write_text(json.dumps(shape))
    train_tokenizer(tokenizer_texts(), 400).save_pretrained(folder)
    return folder


def write_rows(path: Path, n: int, words: int) -> Path:
    rows = (
        {
            "prompt": f"Write f{i}. " + "add 1 " * 100,
            "reasoning": "4 " * words,
            "answer": "4 " * 200,
        }
        for i in range(n)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", sorted(QWEN3))
def test_a_recipe_fits_the_machine_it_names(name: str, tmp_path) -> None:
    """Sequences as the paper has them: about 385 tokens of reasoning, and a long tail."""
    if "lora" in name:
        pytest.importorskip("peft")
    pytest.importorskip("datasets")
    backbone = write_shape(tmp_path / "backbone", name)
    rows = write_rows(tmp_path / "rows.jsonl", 30, 385)
    config = load_config(name, None, backbone=backbone, examples=rows)
    assert (Path("configs") / f"{name}.yaml").resolve() == (PRESETS / f"{name}.yaml").resolve()
    assert config.machine is not None
    plan = plan_without_weights(config, config.machine.processes)
    plan.refuse(config)
    backbone_size = sum(p.numel() for p in outline(config).model.backbone.parameters())
    assert backbone_size == pytest.approx(SIZES[name], rel=0.01)
    assert [stage.stage for stage in plan.memory] == ["codec", "warmup", "joint"]
    assert max(stage.total_gb for stage in plan.memory) > 0.2 * config.machine.memory_gb
    assert config.model.codec.slots == config.model.max_thoughts == 64
    assert config.model.codec.alignment == "global"
    assert config.joint.target_noise == config.warmup.target_noise == 0.3
    if name == "qwen3_8b_code":
        alone = plan_without_weights(config, 1)
        with pytest.raises(UserError, match=r"stage 'joint' needs about \d+\.\d GB on each of 1"):
            alone.refuse(config)


def tiny(**changes: Any) -> TrainConfig:
    config = load_config("tiny", None)
    return config.model_copy(update=changes)


def test_weights_gradients_and_moments_are_counted_exactly() -> None:
    config = tiny()
    reasoner = fresh_reasoner(config)
    model = reasoner.model
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    by_stage = {stage.stage: stage for stage in estimate(model, config, 64, 1)}
    head = count["flow"] + count["projection"] + count["nf_head"]
    assert by_stage["codec"].trained == count["codec"]
    assert by_stage["warmup"].trained == head
    assert by_stage["joint"].trained == head + count["backbone"]
    for stage in by_stage.values():
        assert stage.parameters == sum(count.values())
        assert stage.weights_gb == pytest.approx(4e-9 * sum(count.values()))
        assert stage.gradients_gb == pytest.approx(4e-9 * stage.trained)
        assert stage.optimizer_gb == pytest.approx(8e-9 * stage.trained)


def test_sharding_divides_all_but_the_codec() -> None:
    config = tiny(fsdp=True)
    model = fresh_reasoner(config).model
    codec = sum(p.numel() for p in model.codec.parameters())
    rest = sum(p.numel() for p in model.parameters()) - codec
    joint = estimate(model, config, 64, 4)[-1]
    assert joint.weights_gb == pytest.approx(4e-9 * (codec + rest / 4))
    assert joint.optimizer_gb == pytest.approx(8e-9 * joint.trained / 4)
    assert joint.gathered_gb > 0


WIDE = {
    "model_type": "qwen3", "hidden_size": 128, "intermediate_size": 384, "head_dim": 32,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
"""Wide enough for the layers to matter."""


def wide(kind: str, checkpointing: bool = False) -> TrainConfig:
    config = load_config("tiny", None, reasoner=kind)
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"backbone": WIDE}),
            "gradient_checkpointing": checkpointing,
        }
    )


def held_by_autograd(model: Any, loss_of: Callable[[], object]) -> int:
    """Bytes that are saved for the backward pass, weights left out."""
    kept: dict[int, int] = {}
    owned = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of()
        held = sum(kept.values())
    assert loss is not None
    return held


@pytest.mark.parametrize("kind", ["looped", "dual", "codi", "coconut"])
def test_stacks_that_run_several_times_keep_that_much_more(kind: str) -> None:
    config = wide(kind)
    reasoner = fresh_reasoner(config)
    model = reasoner.model.train()
    problems = make_world("digits", "train", 0, 16, steps=(6, 8))
    if kind == "dual":
        model.codec.requires_grad_(False)
        layout, e = joint_batch(reasoner, problems)
        held = held_by_autograd(model, lambda: model(**vars(layout), e=e).loss)
    else:
        settings = config.model.baseline
        held = held_by_autograd(
            model, lambda: baseline_losses(model, reasoner, problems, settings, part=1)
        )
    longest = max(lengths[-1] for _, lengths, _ in _measured(reasoner, problems))
    said = _activations(model, config, "joint", len(problems), longest)
    assert said == pytest.approx(held, rel=0.35)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_near_what_autograd_keeps(checkpointing: bool) -> None:
    """Within 35 % of what is really saved."""
    config = wide("nfcot", checkpointing)
    reasoner = fresh_reasoner(config)
    model = reasoner.model
    model.codec.requires_grad_(False)
    layout, e = joint_batch(reasoner, make_world("digits", "train", 0, 16, steps=(6, 8)))
    model.train()
    if checkpointing:
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    held = held_by_autograd(model, lambda: model(**vars(layout), e=e).loss)
    rows, columns = layout.input_ids.shape
    said = _activations(model, config, "joint", rows, columns)
    if checkpointing:  # the one layer that is computed again is not kept at this point
        assert held < said
        assert held > 0.15 * said
    else:
        assert said == pytest.approx(held, rel=0.35)


def test_lengths_are_those_of_the_streams(tmp_path) -> None:
    problems = make_world("digits", "train", 0, 50, steps=(2, 6))
    write_problems(tmp_path / "p.jsonl", problems)
    config = load_config("tiny", None, problems=tmp_path / "p.jsonl")
    reasoner = fresh_reasoner(config)
    lengths = plan_of(reasoner, config, 1).lengths
    layout, _ = joint_batch(reasoner, problems)
    true = (layout.attention_mask.sum(-1) + 1).tolist()  # and the end of the text
    assert lengths.positions == Spread.of(true)
    assert lengths.thoughts.longest == 6
    assert lengths.positions.mean == pytest.approx(np.mean(true))
    assert (lengths.n, lengths.too_long, lengths.first) == (50, 0, None)


def test_a_plan_needs_no_weights_and_says_the_same(tmp_path) -> None:
    config = tiny()
    with_weights = plan_of(fresh_reasoner(config), config, 2)
    assert plan_without_weights(config, 2) == with_weights


def test_what_does_not_fit_is_counted_named_and_can_be_left_out_by_a_file(tmp_path) -> None:
    rows = [{"prompt": f"p {i}", "reasoning": "#1 4x\n#2 5x", "answer": "x"} for i in range(9)]
    rows[4]["reasoning"] = "\n".join(["#1 4x"] * 30)
    rows[7]["prompt"] = "add 3 " * 400
    source = tmp_path / "r.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config("tiny", None, examples=source)
    kept: list[Any] = []
    lengths = plan_without_weights(config, 1, kept).lengths
    assert (lengths.n, lengths.too_long, len(kept)) == (9, 2, 7)
    with pytest.raises(
        UserError, match=r"problem 'r:5': the reasoning needs 30 thoughts.*\(2 of 9"
    ):
        lengths.refuse()


def test_the_command_plans_and_writes_what_fits(tmp_path, capsys) -> None:
    from nfcot_model.cli import main

    rows = [{"prompt": f"p {i}", "reasoning": ["#1 4x"], "answer": "x"} for i in range(9)]
    rows[4]["reasoning"] = ["#1 4x"] * 30
    source, fitting = tmp_path / "r.jsonl", tmp_path / "fit.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "plan", "--preset", "tiny", "--examples", str(source)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--fitting", str(fitting), "--processes", "2", "--json"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    plan = json.loads(said.out)
    assert plan["lengths"]["too_long"] == 1
    assert {stage["processes"] for stage in plan["memory"]} == {2}
    assert "It assumes" in said.err
    assert len(read_examples(str(fitting))) == 8


def test_adapters_are_counted_without_touching_the_model() -> None:
    pytest.importorskip("peft")
    config = tiny(lora=LoraSettings(rank=4))
    model = fresh_reasoner(config).model
    joint = estimate(model, config, 64, 1)[-1]
    assert not any("lora" in name for name, _ in model.named_parameters())
    rest = sum(
        p.numel() for m in (model.flow, model.projection, model.nf_head) for p in m.parameters()
    )
    # q, o: 32 → 32; k, v: 32 → 32; gate, up, down: 32 ↔ 64; rank 4; three framing tokens of 32.
    layers = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
    assert joint.trained == rest + layers + 3 * 32
