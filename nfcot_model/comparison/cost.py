"""What does a computation cost? Counted while it runs, never from a formula of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from nfcot_model.backbone import BackboneModel
from nfcot_model.model import NFCoTModel

__all__ = ["Count", "count_flops", "count_passes"]


@dataclass
class Count:
    """What went through a model so far.

    `passes`: how often the backbone's stack was applied, one after the other. `positions`: places
    times rows, padding included, that its stack, or the codec's, computed with gradients.
    """

    passes: int = 0
    positions: int = 0


@contextmanager
def count_passes(model: BackboneModel) -> Iterator[Count]:
    """How many passes and trained positions does what runs inside take?

    Every pass counts: each of Coconut's thoughts, CODI's teacher and student, each loop.
    """
    count = Count()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = kwargs.get("inputs_embeds", args[0] if args else None)
        count.passes += module is model.backbone.base_model
        if x is not None and torch.is_grad_enabled():
            count.positions += x.shape[0] * x.shape[1]

    stacks: list[nn.Module] = [model.backbone.base_model]
    if isinstance(model, NFCoTModel):
        stacks += [model.codec.encoder, model.codec.decoder]
    handles = [s.register_forward_pre_hook(note, with_kwargs=True) for s in stacks]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, _per_query(q, k), _per_query(q, v)))


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, q, _per_query(q, k), _per_query(q, v)))


def _per_query(q: Any, shape: Any) -> tuple[int, ...]:
    """Of keys or values that several heads of queries share, as if each had its own."""
    batch, _, *rest = shape
    return (batch, q[1], *rest)


# torch's own counter knows the attention of GPUs only.
_ON_CPU: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """How many floating-point operations do matrix products and attention take inside?

    `get_total_flops()` of what is yielded says it (2 per multiplication and addition). Causal
    attention counts as full; norms, activations and other element-wise work do not count.
    """
    with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
        yield counter
