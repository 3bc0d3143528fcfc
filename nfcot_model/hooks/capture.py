"""What stands at a site, at every thought? One causal pass over stored traces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.hooks.bridge import ThoughtBridge
from nfcot_model.hooks.sites import Site, choose_sites, ours
from nfcot_model.hooks.walk import walk
from nfcot_model.layout import Layout
from nfcot_model.model import at

__all__ = ["capture", "capture_sites"]


def capture(
    bridge: ThoughtBridge, layout: Layout, u: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """What stands at these hooks at each thought? One causal pass over `[prompt; u; answer]`.

    `layout` (`NFCoTReasoner.layout`) holds the streams, `u` [B, K, D] their thoughts; `names` may
    hold stars (`blocks.*.hook_out`). Returns copies [B, K, ...], 0 where the layout has no thought;
    equal to what step-by-step hooks see up to rounding. Raises UserError for no names, an unknown
    name, a hook that is silent, fires more than once, or has neither positions nor thoughts as its
    second axis.
    """
    if isinstance(names, str):
        raise UserError(f"names: expected a list of hooks, got '{names}'; write ['{names}']")
    D = bridge.original_model.config.D
    if u.ndim != 3 or u.shape[0] != len(layout.mask) or u.shape[1] < layout.mask.shape[1]:
        raise UserError(
            f"u {tuple(u.shape)}: expected [B, K, D] = {(*layout.mask.shape, D)} as the layout has"
        )
    if u.shape[2] != D:
        raise UserError(f"u {tuple(u.shape)}: thoughts of this model are {D} wide")
    return capture_sites(bridge, layout, u, choose_sites(bridge, names))


@torch.no_grad()
def capture_sites(
    bridge: ThoughtBridge, layout: Layout, u: Tensor, chosen: Sequence[Site]
) -> dict[str, Tensor]:
    """The same for sites that `choose_sites` has found already, as for batch after batch."""
    fired: dict[str, list[Tensor]] = {site.name: [] for site in chosen}

    def hook_of(site: Site):  # type: ignore[no-untyped-def]
        def keep(tensor: Tensor, hook: object) -> None:
            fired[site.name].append(_at_thoughts(site, tensor.detach(), layout))

        return keep

    head = any(ours(site.name) for site in chosen)
    flow = any(site.name.startswith(("flow", "answer_projection")) for site in chosen)
    with bridge.hooks(fwd_hooks=[(site.name, hook_of(site)) for site in chosen]):
        walk(bridge.original_model, layout, u, head=head, flow=flow)
    for name, seen in fired.items():
        if len(seen) != 1:
            raise UserError(f"{name} fired {len(seen)} times in one pass over embeddings")
    return {name: seen[0] for name, seen in fired.items()}


def _at_thoughts(site: Site, tensor: Tensor, layout: Layout) -> Tensor:
    """A copy [B, K, ...] of what stands at the thoughts, 0 without one."""
    B, K = layout.mask.shape
    if site.axes[1] == "T":
        tensor = at(tensor.flatten(2), layout.thought_at).unflatten(-1, tensor.shape[2:])
    return tensor.masked_fill(~layout.mask.view(B, K, *[1] * (tensor.ndim - 2)), 0)
