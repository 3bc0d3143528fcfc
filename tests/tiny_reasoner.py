"""A real NF-CoT reasoner with random weights: small, seeded, made in a moment, knows nothing."""

from __future__ import annotations

import torch

from nfcot_model.files import content_hash
from nfcot_model.model import model_over
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.tokenizer import train_tokenizer
from nfcot_model.worlds import Problem, make_world

BACKBONE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def tiny_reasoner(seed: int = 0, **config: object) -> NFCoTReasoner:
    """Two layers of 16, D = 4, at most 5 thoughts of one step each unless `config` says else.

    What starts at zero (flow, head) is moved away from it, so that nothing is trivially right.
    """
    texts = [p.prompt + "".join(p.steps) for p in make_world("digits", "train", 0, 50)]
    tokenizer = train_tokenizer(texts, vocab_size=320)
    settings: dict[str, object] = {
        "D": 4,
        "max_thoughts": 5,
        "max_answer_tokens": 6,
        "codec": {"d_model": 16, "layers": 1, "heads": 2, "max_text_tokens": 6},
        "flow": {"d_model": 16, "heads": 2},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_over(BACKBONE, tokenizer, **{**settings, **config})
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return NFCoTReasoner(model, tokenizer, content_hash(["tiny", seed, sorted(config)]))


def problems(n: int = 10, seed: int = 0) -> list[Problem]:
    """Problems of the digits world."""
    return make_world("digits", "test", seed, n)
