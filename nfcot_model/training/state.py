"""The state of a training on disk: weights and optimizer moments as safetensors, no pickles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nfcot_model.errors import UserError
from nfcot_model.files import replacing, write_json
from nfcot_model.training.sharding import like, whole

__all__ = ["load_state", "load_weights", "remove_leftovers", "save_state"]

_LEFTOVER = re.compile(
    r"\.(state-\d+\.safetensors|(state|figures)\.json|metrics\.jsonl)\.[0-9a-f]{8}\.tmp"
)


def save_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    writes: bool = True,
) -> None:
    """Write everything a stage needs to go on exactly; the JSON, written last, commits it.

    Where weights are sharded every process has to call, and the one that `writes` does.
    """
    tensors: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        full = whole(tensor.detach())
        if writes:
            tensors[name] = full.cpu().contiguous()

    for name, tensor in _weights(module).items():
        keep(f"model.{name}", tensor)
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            keep(f"optim.{index}.{key}", torch.as_tensor(value))
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{progress['step']}.safetensors"
    with replacing(folder / name) as temporary:
        save_file(tensors, temporary)
    write_json(folder / "state.json", {**progress, "tensors": name})
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a stage that was killed while it wrote; no others."""
    for path in folder.glob(".*.tmp"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink()


def load_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put a saved state back; returns its progress, or None when there is none.

    `module` and `optimizer` are those that train, sharded or not.
    """
    found = _read(folder)
    if found is None:
        return None
    progress, tensors = found
    lacking = {f"model.{name}" for name in _weights(module)} - tensors.keys()
    if lacking:
        raise UserError(
            f"{folder}: damaged training state ('{min(lacking)}' is missing); remove it to start"
            " again"
        )
    _put(module, tensors)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optim.").items():
        index, name = key.split(".", 1)
        place = parameters[int(index)]
        moment = like(value, place) if value.ndim else value
        state.setdefault(int(index), {})[name] = moment
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return progress


def load_weights(folder: Path, module: nn.Module) -> None:
    """Put the trained weights of a saved state into a module that has been trained no further."""
    found = _read(folder)
    if found is not None:
        _put(module, found[1])


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    if not (folder / "state.json").exists():
        return None
    try:
        progress = json.loads((folder / "state.json").read_text())
        return progress, load_file(folder / progress["tensors"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: damaged training state ({error}); remove it to start again"
        ) from None


def _put(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    places = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in _under(tensors, "model.").items():
            places[name].copy_(like(value, places[name]))


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters that are not frozen, tied ones once, and buffers."""
    kept = module.state_dict().keys()
    buffers = {n: b for n, b in module.named_buffers() if n in kept}
    return {**{n: p for n, p in module.named_parameters() if p.requires_grad}, **buffers}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
