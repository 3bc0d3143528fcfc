"""Published formats, from tiny folders in exactly their layout: same numbers, or one clear line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from nfcot_model.errors import UserError
from nfcot_model.reasoners import load_reasoner
from nfcot_model.reasoners.published import load_coconut, load_codi, load_ouro
from nfcot_model.tokenizer import train_tokenizer
from nfcot_model.traces import collect
from tests.tiny import digits, tiny_baseline, tokenizer_texts

D, LAYERS, HEADS, INNER, VOCAB = 16, 2, 4, 24, 320
PROMPT = "#1 add 4"
OURO = {
    "architectures": ["OuroForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_ouro.OuroForCausalLM"},
    "model_type": "ouro",
    "hidden_size": D,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": D // HEADS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 128,
    "vocab_size": VOCAB,
    "layer_types": ["full_attention"] * LAYERS,
    "tie_word_embeddings": False,
    "total_ut_steps": 3,
    "early_exit_threshold": 1.0,
    "initializer_range": 0.02,
}


def plain_tokenizer(folder: Path) -> Any:
    """A tokenizer as base models have it: none of our tokens but end of text."""
    full = train_tokenizer(tokenizer_texts(), VOCAB)
    full.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def ouro_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int, about: float = 0.0) -> Tensor:
        return about + 0.3 * torch.randn(*shape, generator=generator)

    weights = {
        "model.embed_tokens.weight": made(VOCAB, D),
        "model.norm.weight": made(D, about=1.0),
        "model.early_exit_gate.weight": made(1, D),
        "model.early_exit_gate.bias": made(1),
        "lm_head.weight": made(VOCAB, D),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{layer}self_attn.{name}.weight"] = made(D, D)
        weights[f"{layer}mlp.gate_proj.weight"] = made(INNER, D)
        weights[f"{layer}mlp.up_proj.weight"] = made(INNER, D)
        weights[f"{layer}mlp.down_proj.weight"] = made(D, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}{name}.weight"] = made(D, about=1.0)
            weights[f"{layer}{name}_2.weight"] = made(D, about=1.0)
    return weights


def ouro_folder(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    plain_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({**OURO, **changes}))
    save_file(ouro_weights(), folder / "model.safetensors")
    return folder


def ouro_states(weights: dict[str, Tensor], ids: list[int], loops: int) -> list[Tensor]:
    """The looped forward pass, written out from the paper's description alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weights[f"{name}.weight"]

    head = D // HEADS
    angles = torch.arange(len(ids))[:, None] / 1000000.0 ** (torch.arange(0, head, 2) / head)
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))

    def rotated(x: Tensor) -> Tensor:
        one, other = x.chunk(2, -1)
        return x * cos + torch.cat([-other, one], -1) * sin

    x, states = weights["model.embed_tokens.weight"][ids], []
    for _ in range(loops):
        for i in range(LAYERS):
            name = f"model.layers.{i}."
            y = norm(x, f"{name}input_layernorm")
            q, k, v = (
                (y @ weights[f"{name}self_attn.{p}_proj.weight"].T)
                .view(-1, HEADS, head)
                .transpose(0, 1)
                for p in "qkv"
            )
            mixed = functional.scaled_dot_product_attention(
                rotated(q), rotated(k), v, is_causal=True
            )
            mixed = (
                mixed.transpose(0, 1).reshape(-1, D) @ weights[f"{name}self_attn.o_proj.weight"].T
            )
            x = x + norm(mixed, f"{name}input_layernorm_2")
            y = norm(x, f"{name}post_attention_layernorm")
            gate, up = (y @ weights[f"{name}mlp.{p}_proj.weight"].T for p in ("gate", "up"))
            down = (functional.silu(gate) * up) @ weights[f"{name}mlp.down_proj.weight"].T
            x = x + norm(down, f"{name}post_attention_layernorm_2")
        x = norm(x, "model.norm")
        states.append(x)
    return states


def test_an_ouro_folder_thinks_as_written_in_the_paper(tmp_path) -> None:
    reasoner = load_ouro(ouro_folder(tmp_path / "ouro"), max_answer_tokens=4)
    ids = reasoner.tokens([PROMPT], opening=True)[0]
    expected = ouro_states(ouro_weights(), ids, 3)
    thoughts = reasoner.think([PROMPT], tau=0.0, noise_seeds=[])
    assert thoughts.K.tolist() == [3]
    for k in range(3):
        torch.testing.assert_close(thoughts.u[0, k], expected[k][-1], atol=1e-4, rtol=1e-4)
    first = (expected[-1][-1] @ ouro_weights()["lm_head.weight"].T).argmax()
    assert reasoner.decode(thoughts).texts[0][-1] == reasoner.tokenizer.decode([int(first)])
    gate = reasoner.model.gate_logit(thoughts.u)[0, 0]
    weight, bias = (ouro_weights()[f"model.early_exit_gate.{n}"] for n in ("weight", "bias"))
    torch.testing.assert_close(gate, (weight @ expected[0][-1] + bias)[0], atol=1e-4, rtol=1e-4)
    _, scores = reasoner.answer_scored([PROMPT], thoughts, tau=1.0, hidden=True)
    assert scores.hidden.shape == (1, LAYERS + 1, 3, D)
    torch.testing.assert_close(scores.hidden[0, -1], thoughts.u[0])
    reasoner.save(tmp_path / "ours")
    again = load_reasoner(tmp_path / "ours")
    assert torch.equal(again.think([PROMPT], tau=0.0, noise_seeds=[]).u, thoughts.u)
    assert collect(again, digits(3), tmp_path / "run").thoughts == 9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's folder: GPT-2's architecture, as both papers have it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = plain_tokenizer(folder)
    config = AutoConfig.for_model(
        "gpt2", n_embd=D, n_layer=2, n_head=2, n_positions=128, vocab_size=len(tokenizer)
    )
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def coconut_file(path: Path, base: Path, prefix: str = "base_causallm.") -> Any:
    """What the training script saves: the base model under a prefix, the embedding twice."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    weights = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    weights["embedding.weight"] = model.get_input_embeddings().weight.detach()
    torch.save(weights, path)
    return model.eval()


def test_a_coconut_checkpoint_feeds_back_its_states(tmp_path, base: Path) -> None:
    model = coconut_file(tmp_path / "checkpoint_33", base)
    reasoner = load_coconut(tmp_path / "checkpoint_33", base, thoughts=2, max_answer_tokens=8)
    vocabulary = model.config.vocab_size
    ids = [*reasoner.tokens([PROMPT], opening=True)[0], vocabulary - 3]
    x = model.transformer.wte(torch.tensor([ids]))
    thoughts = reasoner.think([PROMPT], tau=0.0, noise_seeds=[])
    with torch.no_grad():
        for k in range(2):
            state = model.transformer(inputs_embeds=x).last_hidden_state[:, -1:]
            torch.testing.assert_close(thoughts.u[0, k], state[0, 0], atol=1e-4, rtol=1e-4)
            x = torch.cat([x, state], dim=1)
        x = torch.cat([x, model.transformer.wte(torch.tensor([[vocabulary - 2]]))], dim=1)
        first = model(inputs_embeds=x).logits[0, -1].argmax()
    answer = reasoner.answer([PROMPT], thoughts)[0]
    assert answer.startswith(reasoner.tokenizer.decode([int(first)], skip_special_tokens=True))


def codi_folder(folder: Path, base: Path, alpha: float = 32.0, rank: int = 4) -> tuple[Any, Any]:
    """What its trainer saves: peft's names under `codi.`, the projector under `prj.`."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    torch.manual_seed(3)
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        stem, leaf = name.rsplit(".", 1)
        key = f"codi.base_model.model.{name}"
        if stem.endswith(("c_attn", "c_proj", "c_fc")):
            key = f"codi.base_model.model.{stem}.base_layer.{leaf}"
        weights[key] = tensor.clone()
        if stem.endswith(("c_attn", "c_proj", "c_fc")) and leaf == "weight":
            wide, out = tensor.shape
            a, b = 0.1 * torch.randn(rank, wide), 0.1 * torch.randn(out, rank)
            weights[f"codi.base_model.model.{stem}.lora_A.default.weight"] = a
            weights[f"codi.base_model.model.{stem}.lora_B.default.weight"] = b
            with torch.no_grad():
                model.get_parameter(name).add_((b @ a).T * alpha / rank)
    projector = nn.Sequential(nn.Dropout(0.0), nn.Linear(D, 12), nn.GELU(), nn.Linear(12, D))
    projector.add_module("ln", nn.LayerNorm(D))
    weights |= {f"prj.{name}": tensor.detach() for name, tensor in projector.state_dict().items()}
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in weights.items()}, folder / "model.safetensors")
    return model.eval(), projector.eval()


def test_a_codi_checkpoint_is_merged_and_projects(tmp_path, base: Path) -> None:
    model, projector = codi_folder(tmp_path / "codi", base)
    reasoner = load_codi(tmp_path / "codi", base, thoughts=2, max_answer_tokens=8)
    ids = [*reasoner.tokens([PROMPT], opening=True)[0], model.config.vocab_size - 2]
    thoughts = reasoner.think([PROMPT], tau=0.0, noise_seeds=[])
    x = model.transformer.wte(torch.tensor([ids]))
    with torch.no_grad():
        for k in range(2):
            state = model.transformer(inputs_embeds=x).last_hidden_state[:, -1:]
            torch.testing.assert_close(thoughts.u[0, k], state[0, 0], atol=1e-4, rtol=1e-4)
            x = torch.cat([x, projector(state)], dim=1)
    folder = tmp_path / "old"
    folder.mkdir()
    torch.save(load_file(tmp_path / "codi" / "model.safetensors"), folder / "pytorch_model.bin")
    older = load_codi(folder, base, thoughts=2, max_answer_tokens=8).think(
        [PROMPT], tau=0.0, noise_seeds=[]
    )
    assert torch.equal(older.u, thoughts.u)
    other = load_codi(folder, base, thoughts=2, lora_alpha=1.0, max_answer_tokens=8)
    assert not torch.allclose(other.think([PROMPT], tau=0.0, noise_seeds=[]).u, thoughts.u)
    assert replace(thoughts, u=older.u)


def test_what_does_not_fit_is_named_in_one_line(tmp_path, base: Path) -> None:
    folder = ouro_folder(tmp_path / "ouro")
    file = folder / "model.safetensors"
    whole = ouro_weights()
    lacking = "model.layers.1.input_layernorm_2.weight"
    for weights, named in (
        ({n: t for n, t in whole.items() if n != lacking}, f"lacks the weight '{lacking}'"),
        ({**whole, "model.extra.weight": torch.zeros(2)}, "'model.extra.weight' that the model"),
        ({**whole, lacking: torch.zeros(3)}, rf"'{lacking}' is \[3\], expected \[16\]"),
        (
            {n: t for n, t in whole.items() if not n.endswith("gate.bias")},
            r"lacks the weight 'model\.early_exit_gate\.bias'",
        ),
    ):
        save_file(weights, file)
        with pytest.raises(UserError, match=named):
            load_ouro(folder)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load_ouro(folder)
    with pytest.raises(UserError, match="model_type is 'gpt2', expected 'ouro'"):
        load_ouro(base)
    with pytest.raises(UserError, match="total_ut_steps is None"):
        load_ouro(ouro_folder(tmp_path / "steps", total_ut_steps=None))
    for i, threshold in enumerate(("half", 1.5, None)):
        with pytest.raises(UserError, match=r"early_exit_threshold is .*, expected 0 to 1"):
            load_ouro(ouro_folder(tmp_path / f"exit{i}", early_exit_threshold=threshold))
    at_once = load_ouro(
        ouro_folder(tmp_path / "at_once", early_exit_threshold=0), max_answer_tokens=8
    )
    assert at_once.think(["a b"]).K.tolist() == [1]
    coconut_file(tmp_path / "plain", base, prefix="")
    with pytest.raises(UserError, match=r"no key starts with 'base_causallm\.'"):
        load_coconut(tmp_path / "plain", base, thoughts=2, max_answer_tokens=8)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read as a torch state dict"):
        load_coconut(tmp_path / "junk", base, thoughts=2, max_answer_tokens=8)
    codi_folder(tmp_path / "codi", base)
    file = tmp_path / "codi" / "model.safetensors"
    weights = load_file(file)
    save_file({n: t for n, t in weights.items() if n != "prj.ln.bias"}, file)
    with pytest.raises(UserError, match=r"lacks the weight 'prj\."):
        load_codi(tmp_path / "codi", base)
    save_file({n: t for n, t in weights.items() if not n.startswith("prj.")}, file)
    with pytest.raises(UserError, match="has no projector"):
        load_codi(tmp_path / "codi", base)
    tiny_baseline("text").save(tmp_path / "ours")
    with pytest.raises(UserError, match="nfcot-baseline has no vocab_size of its own"):
        load_codi(tmp_path / "codi", tmp_path / "ours")


def test_the_command_makes_a_checkpoint_of_ours(tmp_path, base: Path) -> None:
    from nfcot_model.training.cli import app

    coconut_file(tmp_path / "checkpoint_9", base)
    arguments = ["import", "coconut", str(tmp_path / "checkpoint_9"), "-o", str(tmp_path / "m")]
    missing = CliRunner().invoke(app, arguments)
    assert "--backbone" in str(missing.exception)
    alpha = CliRunner().invoke(app, [*arguments, "--lora-alpha", "nan"])
    assert "--lora-alpha nan: expected a number" in str(alpha.exception)
    done = CliRunner().invoke(app, [*arguments, "--backbone", str(base), "--thoughts", "2"])
    assert done.exit_code == 0, done.output
    assert load_reasoner(tmp_path / "m").name == "coconut"
