"""What stands at a site, at every thought? One causal pass over stored traces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.hooks.bridge import ThoughtBridge
from nfcot_model.hooks.sites import ours
from nfcot_model.hooks.walk import walk
from nfcot_model.layout import Layout
from nfcot_model.model import at

__all__ = ["capture"]

POSITIONS = ("hook_in", "hook_resid_mid", "hook_out")


@torch.no_grad()
def capture(
    bridge: ThoughtBridge, layout: Layout, u: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """What stands at these hooks at each thought? One causal pass over `[prompt; u; answer]`.

    `layout` (`NFCoTReasoner.layout`) holds the streams, `u` [B, K, D] their thoughts. Returns
    copies [B, K, ...], 0 where the layout has no thought; equal to what step-by-step hooks see
    up to rounding. Raises UserError for no names, an unknown name, a hook that is silent, fires
    more than once, or has neither positions nor thoughts as its second axis.
    """
    bridge.check_names(names)
    fired: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook_of(name: str):  # type: ignore[no-untyped-def]
        def keep(tensor: Tensor, hook: object) -> None:
            fired[name].append(tensor.detach().clone())

        return keep

    head = any(ours(name) for name in names)
    flow = any(name.startswith("flow") for name in names)
    with bridge.hooks(fwd_hooks=[(name, hook_of(name)) for name in names]):
        walk(bridge.original_model, layout, u, head=head, flow=flow)
    return {name: _at_thoughts(name, seen, layout) for name, seen in fired.items()}


def _at_thoughts(name: str, seen: list[Tensor], layout: Layout) -> Tensor:
    if len(seen) != 1:
        raise UserError(
            f"{name} fired {len(seen)} times in one pass over embeddings"
            + (": read blocks.0.hook_in instead" if name.split(".")[0] in _EMBEDDING else "")
        )
    tensor = seen[0]
    B, K = layout.mask.shape
    if ours(name):
        if tensor.shape[:2] != (B, K):
            raise UserError(f"{name} has one value per trajectory; it cannot be read by thought")
        chosen = tensor
    elif name.rpartition(".")[2] in POSITIONS and tensor.shape[:2] == layout.input_ids.shape:
        chosen = at(tensor.flatten(2), layout.thought_at).unflatten(-1, tensor.shape[2:])
    else:
        raise UserError(
            f"{name} {tuple(tensor.shape)} has no axis of positions; choose a site that has"
        )
    keep = layout.mask.view(B, K, *[1] * (chosen.ndim - 2))
    return chosen * keep


_EMBEDDING = ("embed", "hook_embed", "pos_embed", "hook_pos_embed")
