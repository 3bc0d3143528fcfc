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

__all__ = ["load_state", "remove_leftovers", "save_state"]

_LEFTOVER = re.compile(
    r"\.(state-\d+\.safetensors|(state|figures)\.json|metrics\.jsonl)\.[0-9a-f]{8}\.tmp"
)


def save_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
) -> None:
    """Write everything a stage needs to go on exactly; the JSON, written last, commits it."""
    tensors = {f"model.{n}": t.detach().contiguous() for n, t in _weights(module).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            tensors[f"optim.{index}.{key}"] = torch.as_tensor(value).contiguous()
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
    """Put a saved state back; returns its progress, or None when there is none."""
    if not (folder / "state.json").exists():
        return None
    try:
        progress = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / progress["tensors"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: damaged training state ({error}); remove it to start again"
        ) from None
    saved = _under(tensors, "model.")
    with torch.no_grad():
        for name, weight in _weights(module).items():
            weight.copy_(saved[name])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optim.").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return progress


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that belong to the state."""
    kept = module.state_dict().keys()
    buffers = {n: b for n, b in module.named_buffers() if n in kept}
    return {**dict(module.named_parameters()), **buffers}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
