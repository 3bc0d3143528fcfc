"""Fully sharded training (FSDP2 through Accelerate): weights, gradients, moments in parts.

The same path runs on GPUs (NCCL) and on CPUs (gloo). Layers of the backbone are gathered one at a
time; a frozen codec stays whole in every process, because it encodes outside the module's forward.
Parameters are gathered in their own precision and autocast computes: Accelerate's policy would cast
flow and head to half precision too, and a likelihood in half precision is not a likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor

from nfcot_model.backbone import BackboneModel
from nfcot_model.model import NFCoTModel

__all__ = ["agreed", "gathered", "is_sharded", "like", "prepare", "sharded_accelerator", "whole"]


def sharded_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator that shards; with a single process there is nothing to share out."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy=transformer_auto_wrap_policy,
        mixed_precision_policy=MixedPrecisionPolicy(),
        cpu_ram_efficient_loading=False,
        state_dict_type="FULL_STATE_DICT",
    )
    cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision, fsdp_plugin=plugin)
    if cpu and accelerator.num_processes > 1:
        # Accelerate takes the plugin up on accelerators only; the code behind it knows gloo.
        for state in (PartialState(), accelerator.state):
            state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def prepare(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, Any]:
    """The module and optimizer as this accelerator wants them: alone, replicated or sharded."""
    if is_sharded(accelerator):
        _plan(accelerator, module)
    prepared: tuple[nn.Module, Any] = accelerator.prepare(module, optimizer)
    return prepared


def _plan(accelerator: Accelerator, module: nn.Module) -> None:
    plugin = accelerator.state.fsdp_plugin
    layers: set[str] = set()
    plugin.ignored_modules = None
    if isinstance(module, BackboneModel):
        names = set(module.backbone._no_split_modules or ())
        layers = names & {type(part).__name__ for part in module.backbone.modules()}
        if isinstance(module, NFCoTModel):
            plugin.ignored_modules = [module.codec.to(accelerator.device)]
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = sorted(layers)
    if accelerator.mixed_precision == "bf16":
        forward = type(module).forward
        autocast = torch.autocast(accelerator.device.type, dtype=torch.bfloat16)
        module.forward = MethodType(autocast(forward), module)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within: every process holds all of the module's weights. Nothing for unsharded ones."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def agreed(accelerator: Accelerator, decision: bool) -> bool:
    """The first process's decision, where all have to act together."""
    if not is_sharded(accelerator):
        return decision
    return bool(broadcast_object_list([decision])[0])


def whole(tensor: Tensor) -> Tensor:
    """A tensor whose parts may lie in several processes, put together; all have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, place: Tensor) -> Tensor:
    """This process's part of a whole tensor, laid out as `place` is."""
    value = value.to(place.device)
    if not isinstance(place, DTensor):
        return value
    return distribute_tensor(value, place.device_mesh, place.placements)
