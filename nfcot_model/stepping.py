"""One step of a stream on a key-value cache of fixed size, so that it can be compiled.

On a growing cache every step has another shape, and at batch 1 most of its time goes into starting
kernels. With fixed shapes the step is one graph: torch.compile's "reduce-overhead" records it as
CUDA graphs, which start all kernels at once.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, StaticCache

from nfcot_model.errors import UserError

__all__ = ["STEPPING", "Step", "Stepping", "static_cache", "step_of"]

Stepping = Literal["growing", "static", "compiled"]
STEPPING: tuple[Stepping, ...] = ("growing", "static", "compiled")
Step = Callable[[nn.Module, Tensor, Tensor, Tensor, Any], Tensor]
ROOM, KEPT = 128, 4


_Kept = OrderedDict[tuple[Any, ...], tuple[StaticCache, "weakref.ref[object]"]]
_kept: WeakKeyDictionary[PreTrainedModel, _Kept] = WeakKeyDictionary()


def static_cache(
    backbone: PreTrainedModel, batch: int, positions: int, holder: object
) -> tuple[StaticCache, int]:
    """An empty cache for so many positions, rounded up, and its size.

    A recorded graph belongs to one cache's memory, so the last few caches are used again once what
    held them is gone; `holder` is what will hold this one.
    """
    size = -(-positions // ROOM) * ROOM
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


def step_of(stepping: Stepping, backend: str = "inductor") -> Step:
    """The last states [B, n, d_model] of what is fed, in place on a cache of fixed size.

    "compiled" compiles at its first use, anew for another batch size or cache size. Raises
    UserError for an unknown name.
    """
    if stepping not in STEPPING:
        raise UserError(f"stepping '{stepping}': choose one of {', '.join(STEPPING)}")
    return _compiled(backend) if stepping == "compiled" else _step


def _step(base: nn.Module, x: Tensor, attention: Tensor, places: Tensor, cache: Any) -> Tensor:
    states: Tensor = base(
        inputs_embeds=x,
        attention_mask=attention,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return states


@lru_cache(maxsize=2)
def _compiled(backend: str) -> Step:
    mode = "reduce-overhead" if backend == "inductor" else None
    compiled: Step = torch.compile(_step, backend=backend, dynamic=False, mode=mode)

    def step(base: nn.Module, x: Tensor, attention: Tensor, places: Tensor, cache: Any) -> Tensor:
        if x.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        # The graph's own output is overwritten by its next run.
        return compiled(base, x, attention, places, cache).clone()

    return step
