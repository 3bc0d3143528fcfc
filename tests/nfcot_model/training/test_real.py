"""Training at scale, in the small: adapters, shards, packing, examples, chats, and faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from nfcot_model.errors import UserError
from nfcot_model.layout import Layout
from nfcot_model.model import NFCoTModel
from nfcot_model.reasoners import load_reasoner
from nfcot_model.tokenizer import THINK, THOUGHT
from nfcot_model.training.backbones import check_backbone
from nfcot_model.training.baselines import baseline_losses
from nfcot_model.training.collate import joint_batch
from nfcot_model.training.config import (
    BaselineSettings,
    DataConfig,
    LoraSettings,
    StageConfig,
    TrainConfig,
    load_config,
)
from nfcot_model.training.data import held_out, training_batch
from nfcot_model.training.examples import Streamed, read_examples
from nfcot_model.training.fresh import fresh_reasoner
from nfcot_model.training.packing import packed
from nfcot_model.training.plan import plan_without_weights
from nfcot_model.training.room import memory_advice
from nfcot_model.training.stages import train
from nfcot_model.worlds import make_world, write_problems
from tests.tiny import BACKBONES, tiny_baseline, tiny_reasoner

PROBLEMS = make_world("digits", "train", 0, 9, steps=(1, 6))
SHARED = """
import sys
from pathlib import Path
import torch
from accelerate.state import AcceleratorState, PartialState
from nfcot_model.training.config import TrainConfig
from nfcot_model.training.stages import train
torch.set_num_threads(1)
folder = Path(sys.argv[1])
def run(name, report=None):
    AcceleratorState._reset_state()
    config = TrainConfig.model_validate_json((folder / f"{name}.json").read_text())
    train(config, ["codec", "warmup", "joint"], folder / name, report=report)
def stop(progress):
    if (progress.stage, progress.step) == ("joint", 4):
        raise InterruptedError
run("copies")
try:
    run("shards", stop)
except InterruptedError:
    (folder / "stopped").touch()
assert not (folder / "shards" / "joint" / "model").exists()
run("shards")
PartialState().destroy_process_group()
"""


def brief(folder: Path, **changes: Any) -> TrainConfig:
    """A training of a few steps on 40 problems, two of them held out; saved after every step."""
    problems = folder / "p.jsonl"
    write_problems(problems, make_world("digits", "train", 0, 40, steps=(1, 3)))
    config = load_config("tiny", None, problems=problems)
    few = {"validate_every": 100, "batch": 4}
    steps = {"codec": 3, "warmup": 2, "joint": 12}
    stages = {
        name: getattr(config, name).model_copy(update={"steps": n, **few})
        for name, n in steps.items()
    }
    model = config.model.model_copy(update={"max_answer_tokens": 4})
    return config.model_copy(update={**stages, "model": model, "save_minutes": 0.0, **changes})


def curve(out: Path, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / stage / "metrics.jsonl").read_text().splitlines()]


class KilledError(Exception):
    pass


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its precision for a whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_adapters_train_resume_and_leave_an_ordinary_checkpoint(precision: str, tmp_path) -> None:
    pytest.importorskip("peft")
    config = brief(
        tmp_path,
        lora=LoraSettings(rank=4),
        mixed_precision=precision,
        gradient_checkpointing=True,
    )
    stages = ["codec", "warmup", "joint"]
    figures = train(config, stages, tmp_path / "whole")

    def stop(progress: Any) -> None:
        if progress.stage == "joint" and progress.step > 10:
            raise KilledError

    with pytest.raises(KilledError):
        train(config, stages, tmp_path / "cut", report=stop)
    from safetensors import safe_open

    state = json.loads((tmp_path / "cut" / "joint" / "state.json").read_text())["tensors"]
    with safe_open(tmp_path / "cut" / "joint" / state, "pt") as saved:
        names = [name for name in saved.keys() if name.startswith("model.backbone")]  # noqa: SIM118
    assert names
    assert all("lora" in name or "trainable_tokens" in name for name in names)
    assert train(config, stages, tmp_path / "cut") == figures
    assert curve(tmp_path / "cut", "joint") == curve(tmp_path / "whole", "joint")
    before, after, again = (
        load_reasoner(tmp_path / name / "model")
        for name in ("whole/warmup", "whole/joint", "cut/joint")
    )
    assert after.checkpoint_hash == again.checkpoint_hash
    old, new = before.model.state_dict(), after.model.state_dict()
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert "backbone.model.layers.1.mlp.up_proj.weight" in changed
    assert "backbone.model.norm.weight" not in changed
    rows = new["backbone.model.embed_tokens.weight"] != old["backbone.model.embed_tokens.weight"]
    assert set(rows.any(-1).nonzero()[:, 0].tolist()) <= {
        after.model.ids.think, after.model.ids.thought, after.model.ids.end_think
    }  # fmt: skip
    thoughts = after.think([p.prompt for p in PROBLEMS], tau=0.5, noise_seeds=list(range(9)))
    assert torch.isfinite(thoughts.u).all()


def test_the_merged_model_is_the_one_that_was_validated(tmp_path) -> None:
    pytest.importorskip("peft")
    config = brief(tmp_path, lora=LoraSettings(rank=4, targets=["q_proj", "down_proj"]))
    joint = config.joint.model_copy(update={"target_noise": 0.0, "lr": 0.02})
    config = config.model_copy(update={"joint": joint})
    figures = train(config, ["codec", "warmup", "joint"], tmp_path / "t")["joint"]
    reasoner = load_reasoner(tmp_path / "t" / "joint" / "model")
    layout, e = joint_batch(reasoner, held_out(config.data, config.seed))
    with torch.no_grad():
        out = reasoner.model(**vars(layout), e=e)
    assert float(out.loss) == pytest.approx(figures["loss"], abs=1e-4)
    wrong = config.model_copy(update={"lora": LoraSettings(targets=["nowhere"])})
    with pytest.raises(UserError, match=r"lora\.targets: .*nowhere"):
        train(wrong, ["codec", "warmup", "joint"], tmp_path / "w")


def test_without_peft_adapters_are_refused_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    config = brief(tmp_path, lora=LoraSettings())
    with pytest.raises(UserError, match=r"peft is not installed; run pip install"):
        train(config, ["codec"], tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_two_processes_with_shards_train_and_resume_as_two_with_copies(tmp_path) -> None:
    """FSDP on two CPU processes: stopped, resumed, and every loss as without shards."""
    configs = {"copies": brief(tmp_path), "shards": brief(tmp_path, fsdp=True)}
    for name, config in configs.items():
        joint = config.joint.model_copy(update={"steps": 4})
        config = config.model_copy(update={"joint": joint})
        (tmp_path / f"{name}.json").write_text(config.model_dump_json())
    (tmp_path / "run.py").write_text(SHARED)
    command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    arguments = ["--rdzv-endpoint", "localhost:0", tmp_path / "run.py", tmp_path]
    done = subprocess.run([sys.executable, *command, *arguments], check=False)
    assert done.returncode == 0
    assert (tmp_path / "stopped").exists()
    for stage in ("codec", "warmup", "joint"):
        curves = [curve(tmp_path / name, stage) for name in ("copies", "shards")]
        for copies, shards in zip(*curves, strict=True):
            assert {k: copies[k] for k in shards} == pytest.approx(shards, abs=2e-4)
        last = {"codec": 2, "warmup": 1, "joint": 3}[stage]
        assert [row["step"] for row in curves[0]] == [0, last]
    one, other = (
        load_reasoner(tmp_path / name / "joint" / "model").model.state_dict()
        for name in ("copies", "shards")
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("backbone", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("length", [8, 90, 1000])
def test_packed_streams_have_the_losses_and_gradients_of_separate_ones(
    backbone: str, length: int
) -> None:
    reasoner = tiny_reasoner(backbone)
    model = reasoner.model
    layout, e = joint_batch(reasoner, PROBLEMS)
    tight = packed(layout, length)
    rows = {8: len(PROBLEMS), 1000: 1}.get(length)
    assert rows is None or len(tight.input_ids) <= rows
    assert int(tight.attention_mask.sum()) == int(layout.attention_mask.sum())

    def losses(streams: Layout) -> tuple[dict[str, float], torch.Tensor]:
        model.zero_grad()
        out = model(**vars(streams), e=e)
        out.loss.backward()
        return {k: float(v) for k, v in out.items()}, model.projection.weight.grad.clone()

    (apart, gradient), (together, same) = losses(layout), losses(tight)
    assert together == pytest.approx(apart, abs=2e-4)
    torch.testing.assert_close(same, gradient, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", ["text", "direct", "pause"])
def test_packing_changes_no_loss_of_token_streams(kind: str) -> None:
    reasoner = tiny_baseline(kind)
    settings = BaselineSettings(thoughts=3)
    apart = baseline_losses(reasoner.model, reasoner, PROBLEMS, settings, 0)
    together = baseline_losses(reasoner.model, reasoner, PROBLEMS, settings, 0, packing=200)
    torch.testing.assert_close(apart["loss"], together["loss"], atol=1e-4, rtol=1e-4)


def test_a_packed_training_runs(tmp_path) -> None:
    config = brief(tmp_path)
    data = config.data.model_copy(update={"packing": 128})
    figures = train(config.model_copy(update={"data": data}), ["codec", "warmup"], tmp_path / "t")
    assert figures["warmup"]["loss"] > 0


def rows(path: Path, n: int, **changes: Any) -> Path:
    made = [
        {"prompt": f"add {i}", "reasoning": f"#1 {i}x\n\n#2 4x", "answer": f"x + {i}", "more": 1}
        for i in range(n)
    ]
    made[-1] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_examples_become_problems(tmp_path) -> None:
    found = read_examples(str(rows(tmp_path / "r.jsonl", 3, reasoning=["a", "b\n"])))
    assert [p.steps for p in found] == [["#1 0x", "#2 4x"], ["#1 1x", "#2 4x"], ["a", "b\n"]]
    assert found[0].check.expected == found[0].answer == "x + 0"
    message = [{"role": "user", "content": "add 1"}]
    again = read_examples(str(rows(tmp_path / "m.jsonl", 2, prompt=message)))
    assert again[1].prompt == "add 1"
    assert again[1].group == found[1].group


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reasoning": ""}, r"r\.jsonl:4: field 'reasoning': is empty"),
        ({"reasoning": "\n \n"}, r"r\.jsonl:4: field 'reasoning': is empty"),
        ({"reasoning": []}, r"r\.jsonl:4: field 'reasoning': is empty"),
        ({"reasoning": None}, r"r\.jsonl:4: field 'reasoning': is missing"),
        ({"answer": 3}, r"r\.jsonl:4: field 'answer': is a int; expected text"),
        ({"prompt": "\ud800"}, r"r\.jsonl:4: field 'prompt': has half of a surrogate pair"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "expected one message of a user"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(tmp_path, changes, named) -> None:
    with pytest.raises(UserError, match=named):
        read_examples(str(rows(tmp_path / "r.jsonl", 4, **changes)))


def test_damaged_and_empty_files_of_rows_are_named(tmp_path) -> None:
    path = rows(tmp_path / "r.jsonl", 3)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UserError, match=r"r\.jsonl:3: malformed JSON"):
        read_examples(str(path))
    path.write_text("")
    with pytest.raises(UserError, match=r"r\.jsonl: holds no rows to train on"):
        plan_without_weights(load_config("tiny", None, examples=path), 1)


def test_a_problem_with_a_step_of_no_text_is_named(tmp_path) -> None:
    empty = PROBLEMS[0].model_copy(update={"steps": [" "], "step_labels": []})
    write_problems(tmp_path / "e.jsonl", [empty, PROBLEMS[1]])
    with pytest.raises(UserError, match=r"has a step of no text"):
        held_out(DataConfig(problems=str(tmp_path / "e.jsonl")), 0)


def test_a_stream_is_a_function_of_its_place(tmp_path) -> None:
    pytest.importorskip("datasets")
    path = str(rows(tmp_path / "r.jsonl", 200))
    stage = StageConfig(steps=30, batch=16)
    data = DataConfig(examples=path, streaming=True, buffer=50)
    whole = [training_batch(data, stage, 0, "joint", step) for step in range(30)]
    assert training_batch(data, stage, 0, "joint", 7) == whole[7], "going back"
    fresh = Streamed(path, 50, 0)
    assert sorted(p.prompt for p in fresh.take(16 * 20, 16)) == sorted(p.prompt for p in whole[20])
    out = {p.prompt for p in held_out(data, 0)}
    seen = [p.prompt for batch in whole for p in batch]
    assert 2 <= len(out) <= 25
    assert not out & set(seen)
    epoch = 200 - len(out)
    assert len(set(seen[: epoch // 16 * 16])) == epoch // 16 * 16, "no row twice in an epoch"
    assert whole[0] != training_batch(data, stage, 1, "joint", 0), "another seed"


def test_a_training_streams_examples(tmp_path) -> None:
    pytest.importorskip("datasets")
    path = rows(tmp_path / "r.jsonl", 60)
    config = brief(tmp_path)
    data = DataConfig(examples=str(path), streaming=True, buffer=20)
    config = config.model_copy(update={"data": data})
    assert train(config, ["codec", "warmup"], tmp_path / "t")["warmup"]["loss"] > 0
    rows(path, 61)
    with pytest.raises(UserError, match="problems differ"):
        train(config, ["joint"], tmp_path / "t")


def test_without_datasets_streaming_is_refused_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"datasets is not installed; run pip install"):
        Streamed(str(rows(tmp_path / "r.jsonl", 4)), 2, 0)


TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def write_backbone(folder: Path, kind: str = "qwen3", **shape: Any) -> Path:
    """A local Hugging Face folder with weights and a tokenizer that knows no thoughts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({"<end>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    config = {**BACKBONES.get(kind, {"model_type": kind}), "vocab_size": 257, **shape}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tokenizer_is_given_the_tokens_it_lacks_and_the_embeddings_grow(tmp_path) -> None:
    folder = write_backbone(tmp_path / "backbone")
    config = brief(tmp_path)
    codec = {**vars(config.model.codec), "max_text_tokens": 40}
    model = config.model.model_copy(
        update={"backbone": str(folder), "chat": True, "system": "Be brief.",
                "codec": type(config.model.codec)(**codec)}
    )  # fmt: skip
    config = config.model_copy(update={"model": model})
    train(config, ["codec", "warmup", "joint"], tmp_path / "t")
    reasoner = load_reasoner(tmp_path / "t" / "joint" / "model")
    vocabulary = reasoner.tokenizer.get_vocab()
    assert {THINK, THOUGHT, "</think>", "<pad>"} <= vocabulary.keys()
    assert AutoTokenizer.from_pretrained(folder).get_vocab().keys() < vocabulary.keys()
    assert reasoner.model.get_input_embeddings().num_embeddings >= len(vocabulary) == 261
    asked = reasoner.tokenizer.decode(reasoner.tokens(["hi"], opening=True)[0])
    assert asked == "[system]Be brief.\n[user]hi\n[assistant]"
    assert reasoner.tokenizer.decode(reasoner.tokens(["hi"])[0]) == "hi"
    assert reasoner.prompt_template != tiny_reasoner().prompt_template == "{prompt}"


def test_a_chat_needs_a_template(tmp_path) -> None:
    config = brief(tmp_path)
    model = config.model.model_copy(update={"chat": True})
    with pytest.raises(UserError, match="has no chat template"):
        train(config.model_copy(update={"model": model}), ["codec"], tmp_path / "t")
    assert not (tmp_path / "t").exists()


ENCODER = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "shape", "named"),
    [
        ("bert", ENCODER, "bert is an encoder: earlier places see later ones"),
        ("electra", {**ENCODER, "embedding_size": 8, "is_decoder": True}, "8 wide and states 16"),
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}, "mamba "),
    ],
)
def test_backbones_that_cannot_carry_thoughts_are_refused(tmp_path, kind, shape, named) -> None:
    folder = write_backbone(tmp_path / "backbone", kind, **shape)
    config = brief(tmp_path)
    model = config.model.model_copy(update={"backbone": str(folder)})
    with pytest.raises(UserError, match=named):
        train(config.model_copy(update={"model": model}), ["codec"], tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_backbone_s_weights_are_there_and_whole(tmp_path) -> None:
    folder = write_backbone(tmp_path / "backbone")
    file = folder / "model.safetensors"
    whole = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    config = load_config("tiny", None, reasoner="direct", backbone=folder)
    for weights in ({n: t for n, t in whole.items() if n != name}, {**whole, name: torch.ones(2)}):
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(UserError, match=f"1 weights of a causal qwen3 .*'{name}'"):
            fresh_reasoner(config)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="its weights cannot be read"):
        fresh_reasoner(config)


def test_missing_embeddings_and_unspoken_ties_are_refused() -> None:
    def backbone() -> Any:
        config = AutoConfig.for_model(**{**BACKBONES["qwen3"], "vocab_size": 40})
        return AutoModelForCausalLM.from_config(config)

    check_backbone(backbone(), "x")
    headless = backbone()
    headless.get_output_embeddings = lambda: None
    with pytest.raises(UserError, match="x: qwen3 has no output embeddings; answers are read"):
        check_backbone(headless, "x")
    blind = backbone()
    blind.get_input_embeddings = lambda: None
    with pytest.raises(UserError, match="x: qwen3 has no input embeddings; thoughts enter"):
        check_backbone(blind, "x")
    tied = backbone()
    tied.lm_head.weight = tied.model.embed_tokens.weight
    with pytest.raises(UserError, match=r"share one weight, config\.json has tie_word_embed"):
        check_backbone(tied, "x")
    tied.config = AutoConfig.for_model("t5")
    with pytest.raises(UserError, match="x: t5 is an encoder-decoder"):
        check_backbone(tied, "x")


def test_reasoning_longer_than_the_context_is_refused_for_nfcot_too(tmp_path) -> None:
    config = brief(tmp_path)
    backbone = {**config.model.backbone, "max_position_embeddings": 20}
    model = config.model.model_copy(update={"backbone": backbone})
    with pytest.raises(UserError, match=r"problem '\w+': it needs \d+ positions.*backbone has 20"):
        train(config.model_copy(update={"model": model}), ["codec"], tmp_path / "t")


def test_a_diverging_training_ends_in_one_line(tmp_path, capsys) -> None:
    from nfcot_model.cli import main

    config = brief(tmp_path)
    codec = config.codec.model_copy(update={"lr": 1e30, "steps": 40, "warmup": 0})
    (tmp_path / "c.yaml").write_text(
        json.dumps(config.model_copy(update={"codec": codec}).model_dump(mode="json"))
    )
    with pytest.raises(SystemExit) as ended:
        main(["train", "codec", "--config", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "t")])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("error: training diverged: ten steps in a row")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no"),
              RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9")],
)  # fmt: skip
def test_running_out_of_memory_says_what_to_change(tmp_path, monkeypatch, error) -> None:
    config = brief(tmp_path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    train(config, ["codec", "warmup"], tmp_path / "t")
    monkeypatch.setattr(NFCoTModel, "forward", fail)
    with pytest.raises(UserError) as said:
        train(config, ["joint"], tmp_path / "t")
    line = str(said.value)
    assert "\n" not in line
    for advice in (
        "'joint' ran out",
        "joint.accumulate to 4",
        "gradient_checkpointing",
        "lora",
        "fsdp",
    ):
        assert advice in line
    with pytest.raises(RuntimeError, match="another"), memory_advice("joint", config):
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reasoner": "coconut", "gradient_checkpointing": True}, "key-value cache"),
        ({"reasoner": "looped", "fsdp": True}, "layers run several times"),
        ({"reasoner": "codi", "data": {"packing": 64}}, r"data\.packing: not for codi"),
        ({"data": {"streaming": True}}, "streaming needs examples"),
        ({"data": {"problems": "a", "examples": "b"}}, "give one of them"),
        ({"machine": {"memory_gb": 0.5}}, r"needs about 1\.\d GB on each of 1"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, named) -> None:
    import yaml

    from nfcot_model.training.config import PRESETS

    data = {**yaml.safe_load((PRESETS / "tiny.yaml").read_text()), **changes}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=named):
        train(load_config(None, tmp_path / "c.yaml"), ["codec"], tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("kind", ["text", "direct", "pause", "codi", "regressed"])
def test_every_kind_resumes_with_the_same_curve(kind: str, tmp_path) -> None:
    """Coconut, looped and nfcot have tests of their own."""
    config = brief(tmp_path, reasoner=kind)
    settings = BaselineSettings(thoughts=2, projector=16)
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"baseline": settings}),
            "warmup": config.warmup.model_copy(update={"steps": 0}),
        }
    )

    def stop(progress: Any) -> None:
        if progress.stage == "joint" and progress.step > 10:
            raise KilledError

    train(config, ["codec", "joint"], tmp_path / "whole")
    with pytest.raises(KilledError):
        train(config, ["codec", "joint"], tmp_path / "cut", report=stop)
    train(config, ["codec", "joint"], tmp_path / "cut")
    assert curve(tmp_path / "cut", "joint") == curve(tmp_path / "whole", "joint")
