"""Tiny random reasoners over different backbones, built from configurations, no downloads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from nfcot_model.baseline import baseline_over
from nfcot_model.files import content_hash
from nfcot_model.model import model_over
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.reasoners.kinds import reasoner_over
from nfcot_model.tokenizer import train_tokenizer
from nfcot_model.worlds import Problem, make_world

BACKBONES: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": False,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gemma": {
        "model_type": "gemma",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "tie_word_embeddings": True,
    },
}


@lru_cache
def tokenizer_texts() -> tuple[str, ...]:
    problems = make_world("digits", "train", 0, 60) + make_world("shuffle", "train", 0, 60)
    return tuple(t for p in problems for t in (p.prompt, *p.steps, p.answer or ""))


def tiny_reasoner(
    backbone: str = "qwen3", *, seed: int = 0, spread: float = 0.5, **config: Any
) -> NFCoTReasoner:
    """A random reasoner whose flow and head are moved away from the identity by `spread`."""
    settings: dict[str, Any] = {
        "D": 4,
        "max_thoughts": 8,
        "codec": {"d_model": 32, "layers": 1, "heads": 2},
        "flow": {"d_model": 16, "heads": 2},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = train_tokenizer(tokenizer_texts(), 400)
        wide = {**BACKBONES[backbone], "initializer_range": 0.2}  # else it says the same to all
        model = model_over(wide, tokenizer, **{**settings, **config})
        with torch.no_grad():
            for layer in (model.nf_head.out, *(block.out for block in model.flow.blocks)):
                layer.weight.normal_(std=spread / layer.in_features**0.5)
                layer.bias.normal_(std=0.2)
    return NFCoTReasoner(model, tokenizer, content_hash([backbone, seed, spread, sorted(config)]))


def tiny_baseline(kind: str, *, backbone: str = "llama", seed: int = 0, **config: Any) -> Any:
    """A random reasoner of a kind without a flow, whose answers are brief."""
    settings: dict[str, Any] = {
        "thoughts": {"pause": 3, "codi": 3, "coconut": 4}.get(kind, 0),
        "per_step": 2 if kind == "coconut" else None,
        "projector": 24 if kind == "codi" else 0,
        "loops": 3 if kind == "looped" else 0,
        "max_reasoning_tokens": 12,
        "max_answer_tokens": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = train_tokenizer(tokenizer_texts(), 400)
        wide = {**BACKBONES[backbone], "initializer_range": 0.2}
        model = baseline_over(wide, tokenizer, reasoner=kind, **{**settings, **config})
    return reasoner_over(model, tokenizer, content_hash([kind, backbone, seed]))


def brief_reasoner(seed: int = 2, **config: Any) -> NFCoTReasoner:
    """One that thinks and answers briefly: at most 5 thoughts, texts of at most 6 tokens."""
    settings: dict[str, Any] = {
        "max_thoughts": 5,
        "max_answer_tokens": 6,
        "codec": {"d_model": 16, "layers": 1, "heads": 2, "max_text_tokens": 6},
    }
    return tiny_reasoner("llama", seed=seed, **{**settings, **config})


def digits(n: int = 10, seed: int = 0) -> list[Problem]:
    """Problems of the digits world."""
    return make_world("digits", "test", seed, n)
