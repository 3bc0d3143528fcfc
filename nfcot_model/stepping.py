"""One step of a stream on a key-value cache of fixed size, so that it can be compiled.

On a growing cache every step has another shape, and at batch 1 most of its time goes into starting
kernels. With fixed shapes the step is one graph: torch.compile's "reduce-overhead" records it as
CUDA graphs, which start all kernels at once.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from nfcot_model.errors import UserError

__all__ = [
    "STEPPING",
    "Step",
    "Stepping",
    "cache_size",
    "grouped_attention",
    "static_cache",
    "step_of",
]

Stepping = Literal["growing", "static", "compiled"]
STEPPING: tuple[Stepping, ...] = ("growing", "static", "compiled")
Step = Callable[[nn.Module, Tensor, Tensor, Tensor, Any], Tensor]
ROOM, KEPT = 128, 4
GROUPED = "grouped_sdpa"
GROUPING = ("gemma", "llama", "qwen3")  # whose attention is all in `sdpa`, and which tests compare
GRAPHS: dict[str, Any] = {"triton.cudagraphs": True}
# A product of one row reaches the memory's speed only as a tuned kernel, which takes a minute.
TUNED: dict[str, Any] = {**GRAPHS, "coordinate_descent_tuning": True, "triton.enable_pdl": True}

_Kept = OrderedDict[tuple[Any, ...], tuple[StaticCache, "weakref.ref[object]"]]
_kept: WeakKeyDictionary[PreTrainedModel, _Kept] = WeakKeyDictionary()


def cache_size(positions: int) -> int:
    """How many positions has a cache with room for so many?"""
    return -(-positions // ROOM) * ROOM


def static_cache(
    backbone: PreTrainedModel, batch: int, positions: int, holder: object
) -> tuple[StaticCache, int]:
    """An empty cache for so many positions, rounded up, and its size.

    A recorded graph belongs to one cache's memory, so the last few caches are used again once what
    held them is gone; `holder` is what will hold this one.
    """
    size = cache_size(positions)
    kept = _kept.setdefault(backbone, OrderedDict())
    key = (batch, size, backbone.dtype, backbone.device)
    cache, held = kept.pop(key, (None, None))
    if cache is None or held is None or held() is not None:
        cache = StaticCache(config=backbone.config, max_cache_len=size)
    else:
        cache.reset()
    kept[key] = (cache, weakref.ref(holder))
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return cache, size


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention of single positions [B, heads, 1, d] on shared keys and values, without copies.

    Query heads that share a key-value head stand as rows of one matrix, and a few rows are quicker
    as plain products, where one kernel would go through the whole cache on few processors.
    Everything else goes to transformers' own `sdpa`. In half precision the scores are rounded
    before the softmax, as transformers' "eager" does and its "sdpa" does not.
    """
    batch, heads, n, d = query.shape
    shared = key.shape[1]
    plain = options.get("position_bias") is None and options.get("softcap") is None
    if n != 1 or attention_mask is None or attention_mask.dtype != torch.bool or not plain:
        said: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[
            0
        ]
        return said, None
    rows = query.reshape(batch, shared, heads // shared, d)
    scores = torch.matmul(rows, key.transpose(-1, -2)).float()
    scores = scores * (options.get("scaling") or d**-0.5)
    scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).to(value.dtype)
    return torch.matmul(weights, value).reshape(batch, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def step_of(stepping: Stepping, batch: int, backend: str = "inductor") -> Step:
    """The last states [B, n, d_model] of what is fed, in place on a cache of fixed size.

    "compiled" compiles at its first use, anew for another batch size or cache size. Raises
    UserError for an unknown name.
    """
    if stepping not in STEPPING:
        raise UserError(f"stepping '{stepping}': choose one of {', '.join(STEPPING)}")
    step = _compiled(backend, batch == 1) if stepping == "compiled" else _step

    def grouped(base: nn.Module, x: Tensor, *rest: Any) -> Tensor:
        with _grouped(base):
            return step(base, x, *rest)

    return grouped


@contextmanager
def _grouped(base: Any) -> Iterator[None]:
    """Within, single positions attend by `grouped_attention`, where it is known to do the same."""
    config, own = base.config, base.config._attn_implementation
    if own == "sdpa" and config.model_type in GROUPING:
        config._attn_implementation = GROUPED
    try:
        yield
    finally:
        config._attn_implementation = own


def _step(base: nn.Module, x: Tensor, attention: Tensor, places: Tensor, cache: Any) -> Tensor:
    states: Tensor = base(
        inputs_embeds=x,
        attention_mask=attention,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return states


@lru_cache(maxsize=4)
def _compiled(backend: str, one: bool) -> Step:
    options = (TUNED if one else GRAPHS) if backend == "inductor" else None
    compiled: Step = torch.compile(_step, backend=backend, dynamic=False, options=options)

    def step(base: nn.Module, x: Tensor, attention: Tensor, places: Tensor, cache: Any) -> Tensor:
        if x.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        # The graph's own output is overwritten by its next run.
        return compiled(base, x, attention, places, cache).clone()

    return step
