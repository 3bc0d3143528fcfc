"""How much memory will a training take on each device, stage by stage?

Weights, gradients and moments are counted exactly, on a model without storage. Activations are
estimated from the shape of the backbone's layers. What is assumed is part of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nfcot_model.backbone import BackboneModel
from nfcot_model.training.config import StageConfig, TrainConfig, stages_of
from nfcot_model.training.lora import adapt

__all__ = ["ASSUMPTIONS", "StageMemory", "estimate"]

ASSUMPTIONS = (
    "AdamW in fp32: 4 bytes a weight, 4 its gradient, 8 its moments; what is frozen has neither",
    "attention that never holds a matrix of all pairs (sdpa or flash)",
    "every stream as long as the longest, in the largest micro-batch; packed rows are full",
    "a tenth more for fragments, and 1 GB for the device's own context",
    "no other process on the device; loading needs the whole model in the host's memory once for"
    " each process",
)
GIGA = 1e9
FRAGMENTS, CONTEXT_GB = 1.1, 1.0


@dataclass(frozen=True)
class StageMemory:
    """One stage's memory on each device, in GB (10^9 bytes); `total_gb` with overheads.

    `trained` and `parameters` are counts for the whole model. `gathered_gb` is what sharding puts
    together for a moment (two layers and what is outside of layers, with gradients); without
    sharding it is the buckets in which processes exchange gradients.
    """

    stage: str
    processes: int
    parameters: int
    trained: int
    positions: int
    weights_gb: float
    gradients_gb: float
    optimizer_gb: float
    activations_gb: float
    gathered_gb: float
    total_gb: float


def estimate(
    model: BackboneModel, config: TrainConfig, longest: int, processes: int
) -> list[StageMemory]:
    """The memory of each stage that does something; `model` may be on the meta device.

    `longest` is the number of positions of the longest stream. Weights are never touched.
    """
    return [_stage(model, config, name, longest, processes) for name in stages_of(config)]


def _stage(
    model: BackboneModel, config: TrainConfig, name: str, longest: int, processes: int
) -> StageMemory:
    parts = {part: _count(module) for part, module in model.named_children()}
    trained = _trained(model, config, name, parts)
    half = config.lora is not None and config.mixed_precision == "bf16"
    adapters = trained.get("adapters", 0)
    bytes_of = {part: n * (2 if part == "backbone" and half else 4) for part, n in parts.items()}
    shards = processes if config.fsdp and name != "codec" else 1
    whole = bytes_of.get("codec", 0) if name != "codec" else 0
    weights = (sum(bytes_of.values()) + 4 * adapters - whole) / shards + whole
    learned = sum(trained.values())
    if name == "codec" and config.fsdp:
        shards = processes
    gradients, moments = 4 * learned / shards, 8 * learned / shards
    rows, columns = _micro_batch(model, config, name, longest, processes)
    activations = _activations(model, config, name, rows, columns)
    gathered = 4.0 * learned if processes > 1 else 0.0
    if config.fsdp and processes > 1 and name != "codec":
        layer, outside = _layer_and_rest(model)
        both = 2 if trained.get("backbone") else 1
        gathered = both * (2 if half else 4) * (2 * layer + outside)
    counted = weights + gradients + moments + activations + gathered
    return StageMemory(
        name, processes, sum(parts.values()) + adapters, learned, rows * columns,
        weights / GIGA, gradients / GIGA, moments / GIGA, activations / GIGA, gathered / GIGA,
        FRAGMENTS * counted / GIGA + CONTEXT_GB,
    )  # fmt: skip


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _trained(
    model: BackboneModel, config: TrainConfig, name: str, parts: dict[str, int]
) -> dict[str, int]:
    """How many weights of each part learn in this stage?"""
    if name in ("codec", "gate"):
        return {name: parts[name]}
    learns = {part: n for part, n in parts.items() if part != "codec"}
    if config.reasoner == "regressed":
        learns.pop("flow")
    if name == "warmup" or config.lora is not None:
        learns.pop("backbone")
    if name == "joint" and config.lora is not None:
        learns["adapters"] = _adapters(model, config)
    return learns


def _adapters(model: BackboneModel, config: TrainConfig) -> int:
    """Counted on a copy without storage, which is then given adapters for good."""
    assert config.lora is not None
    with torch.device("meta"):
        copy = type(model)(model.config)
        adapt(copy, config.lora)
    return sum(p.numel() for p in copy.backbone.parameters() if p.requires_grad)


def _micro_batch(
    model: BackboneModel, config: TrainConfig, name: str, longest: int, processes: int
) -> tuple[int, int]:
    """Rows and columns of the largest part that one process computes at once."""
    stage: StageConfig = getattr(config, name)
    part = -(-stage.batch // stage.accumulate)
    rows = -(-part // processes)
    if name == "codec":
        codec = model.config.codec
        texts = 1 if codec["alignment"] == "global" else model.config.max_thoughts // codec["slots"]
        return rows * texts, codec["max_text_tokens"] + 1 + codec["slots"]
    packing = config.data.packing
    if packing is None:
        return rows, longest
    columns = max(packing, longest)
    return -(-rows * longest // columns), columns


def _activations(
    model: BackboneModel, config: TrainConfig, name: str, rows: int, columns: int
) -> float:
    """Bytes kept for the backward pass."""
    if name == "codec":
        return _codec_activations(model, rows * columns)
    shape: Any = model.backbone.config.get_text_config()
    d, layers, places = int(shape.hidden_size), int(shape.num_hidden_layers), rows * columns
    size = 2 if config.mixed_precision == "bf16" else 4
    # The residual stream is fp32 wherever weights are: embeddings put it in.
    stream = 2 if config.lora is not None and size == 2 else 4
    per_layer = _layer_bytes(shape, d, size, stream)
    passes = _passes(model)
    inputs = passes * layers * d * stream + per_layer
    kept = inputs if config.gradient_checkpointing else passes * layers * per_layer
    # Logits of what is predicted: fp32, their log-softmax, their gradient.
    predicted = rows * min(columns, model.config.max_answer_tokens + _written(model, columns))
    read_out = passes if model.config.reasoner == "looped" else 1
    vocabulary = int(shape.vocab_size)
    return float(places * (kept + 4 * d) + read_out * predicted * vocabulary * 4 * 3)


def _passes(model: BackboneModel) -> int:
    """How often does the stack run over a stream before the backward pass?

    Each loop; thinking and answering of Dual-Path; teacher and student of CODI, each of which
    leaves out a part of the stream.
    """
    kind = model.config.reasoner
    if kind == "looped":
        return int(model.config.loops)
    return 2 if kind in ("dual", "codi") else 1


def _written(model: BackboneModel, columns: int) -> int:
    """Reasoning tokens that are predicted too."""
    return columns if model.config.reasoner in ("text", "coconut", "codi") else 0


def _layer_bytes(shape: Any, d: int, size: int, stream: int) -> int:
    """Kept for each position by a pre-norm layer with a gated MLP: inputs of every operation."""
    heads = int(shape.num_attention_heads)
    width = int(getattr(shape, "head_dim", None) or d // heads)
    q = heads * width
    kv = int(getattr(shape, "num_key_value_heads", None) or heads) * width
    f = int(getattr(shape, "intermediate_size", None) or 4 * d)
    norms = 2 * (2 * 4 * d + size * d)  # input and normalised in fp32, output
    attention = 3 * size * (q + kv) + size * (kv + 2 * q)  # norm and rotation of q and k, v, out
    mlp = 4 * size * f  # gate, its activation, up, their product
    return norms + attention + mlp + 2 * stream * d


def _codec_activations(model: BackboneModel, places: int) -> float:
    codec = model.config.codec
    d = codec["d_model"]
    vocabulary = model.backbone.config.get_text_config().vocab_size
    layers = codec["layers"] + codec.get("decoder_layers", codec["layers"])
    return float(places * 4 * (layers * 22 * d + 3 * vocabulary))


def _layer_and_rest(model: BackboneModel) -> tuple[int, int]:
    """Weights of the largest decoder layer, and of what is gathered outside layers."""
    names = set(model.backbone._no_split_modules or ())
    layers = [m for m in model.backbone.modules() if type(m).__name__ in names]
    sizes = [_count(layer) for layer in layers]
    codec = getattr(model, "codec", None)
    outside = _count(model) - sum(sizes) - (_count(codec) if codec is not None else 0)
    return max(sizes, default=0), outside
