"""What does an answer do when one hidden state behind a thought is changed? Edits through hooks.

A site is a hook of the backbone that sees positions: the residual stream (`blocks.N.hook_out`,
`hook_resid_mid`, `hook_in`), what attention or MLP add (`blocks.N.attn.hook_out`,
`blocks.N.mlp.hook_out`), or one layer's cached values (`blocks.N.attn.hook_v`). What stands there
at thought k is replaced while thought k is read; all that follows sees it through the key-value
cache. Needs transformer-lens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analyses.causal.edits import MODES, donors, random_unit
from analyses.causal.interventions import BATCH, Base, seeds_of, with_placebos
from analyses.causal.scene import Branch, Scene, set_scene
from nfcot_model.errors import UserError
from nfcot_model.reasoners import Reasoner
from nfcot_model.reasoners.continuing import feed_thoughts
from nfcot_model.reasoners.kinds import reasoner_over
from nfcot_model.sandbox import Sandbox

__all__ = ["STATE_EDITS", "Wired", "intervene_on_states", "wire"]

StateEdit = Callable[["Wired", Scene, Tensor, str, Sequence[int], Tensor], Tensor]


@dataclass(frozen=True)
class Wired:
    """A reasoner over a hooked copy of a model (`wire`), and the bridge whose hooks it has."""

    reasoner: Reasoner
    bridge: Any

    def scene(self, scene: Scene) -> Scene:
        """The same scene, thought by the hooked copy."""
        return set_scene(
            self.reasoner,
            scene.problems,
            scene.thoughts,
            scene.noise,
            scene.tau,
            scene.crowd,
            scene.own,
        )


def wire(reasoner: Reasoner, sites: Sequence[str]) -> Wired:
    """A hooked copy of the reasoner; raises UserError for a site that cannot be edited."""
    from nfcot_model.hooks import hooked
    from nfcot_model.hooks import sites as sites_of

    bridge = hooked(reasoner.model)
    bridge.check_names(sites)
    for site in sites_of(bridge, sites):
        if not (site.name.startswith("blocks.") and site.per_thought):
            raise UserError(
                f"--sites {site.name}: expected a site of a layer that has one row per position,"
                " such as blocks.0.hook_out or blocks.0.attn.hook_v; thoughts themselves are edited"
                " by --edits"
            )
    made = reasoner_over(bridge.original_model, reasoner.tokenizer, reasoner.checkpoint_hash)
    return Wired(made, bridge)


def _zero(
    wired: Wired, scene: Scene, k: Tensor, site: str, seeds: Sequence[int], own: Tensor
) -> Tensor:
    return torch.zeros_like(own)


def _noise(
    wired: Wired, scene: Scene, k: Tensor, site: str, seeds: Sequence[int], own: Tensor
) -> Tensor:
    return random_unit(own, seeds) * own.norm(dim=-1, keepdim=True)


def _from_donor(same_value: bool | None) -> StateEdit:
    def edit(
        wired: Wired, scene: Scene, k: Tensor, site: str, seeds: Sequence[int], own: Tensor
    ) -> Tensor:
        chosen = donors(scene, k, seeds, same_value, matched=same_value is not True)
        given = (chosen >= 0).nonzero()[:, 0]
        out = torch.full_like(own, torch.nan)
        if len(given):
            giver = chosen[given]
            crowd = scene.crowd
            K = crowd.K[giver]
            theirs = replace(
                scene,
                problems=[crowd.problems[j] for j in giver.tolist()],
                opened=wired.reasoner.open_prompts(
                    [crowd.problems[j].prompt for j in giver.tolist()]
                ),
                place=torch.arange(len(given)),
            )
            width = int(K.max())
            out[given] = _seen(wired, theirs, crowd.u[giver, :width], k[given], site)[0]
        return out

    return edit


STATE_EDITS: Mapping[str, StateEdit] = {
    "zero": _zero,
    "noise": _noise,
    "donor": _from_donor(None),
    "swap_same_value": _from_donor(True),
    "swap_different_value": _from_donor(False),
}


def intervene_on_states(
    wired: Wired,
    scene: Scene,
    base: Base,
    sandbox: Sandbox,
    sites: Sequence[str],
    seed: int = 0,
    edits: Mapping[str, StateEdit] = STATE_EDITS,
    modes: Sequence[str] = MODES,
) -> pd.DataFrame:
    """Every edit of what stands at each site at each thought, in every mode, with its placebo.

    `scene` is `Wired.scene` of the traces, `base` that of the same scene. Columns as those of
    `intervene`, with `site`; `distance` is in the units of the site.
    """
    rows, k = scene.places().unbind(-1)
    frames: list[pd.DataFrame] = []
    for site in sites:
        for name, edit in edits.items():
            for some in torch.arange(len(rows)).split(BATCH):
                index, at = rows[some], k[some]
                here = scene.rows(index)
                seeds = seeds_of(here, at, f"{name}@{site}", seed)
                own, _ = _seen(wired, here, here.thoughts.u, at, site)
                to = edit(wired, here, at, site, seeds, own)
                done = (~to.isnan().any(-1)).nonzero()[:, 0]
                if not len(done):
                    continue
                here, index, at = here.rows(done), index[done], at[done]
                made = with_placebos(
                    here,
                    base,
                    index,
                    own[done],
                    to[done],
                    [seeds[i] for i in done.tolist()],
                    modes,
                    sandbox,
                    partial(_edited, wired, here, at, site),
                )
                frames += [f.assign(k=at.numpy(), site=site, edit=name) for f in made]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _edited(wired: Wired, scene: Scene, k: Tensor, site: str, values: Tensor, mode: str) -> Branch:
    """The traces with what stands at a site at thought k[i] replaced by values[i]."""
    u, mask = scene.thoughts.u, scene.thoughts.mask
    _, branch = _seen(wired, scene, u, k, site, values)
    if mode == "total":
        return scene.thought_on(branch.stream, u, k + 1)
    place = torch.arange(u.shape[1])
    feed_thoughts(scene.reasoner, branch.stream, u, mask & (place > k[:, None]))
    return Branch(scene.thoughts, branch.stream)


def _seen(
    wired: Wired, scene: Scene, u: Tensor, k: Tensor, site: str, values: Tensor | None = None
) -> tuple[Tensor, Branch]:
    """What stands at a site at thought k[i], [B, size], replaced by `values`; what is behind it."""
    place = torch.arange(u.shape[1])
    branch = scene.given(u, place < k[:, None])
    found: list[Tensor] = []

    def hook(tensor: Tensor, hook: object) -> Tensor:
        if tensor.shape[:2] != (len(k), 1):
            raise UserError(f"--sites {site}: {tuple(tensor.shape)} has no axis of positions")
        found.append(tensor.detach().flatten(1).clone().float().cpu())
        return tensor if values is None else values.to(tensor).view_as(tensor)

    with wired.bridge.hooks(fwd_hooks=[(site, hook)]):
        own = u[torch.arange(len(k)), k][:, None]
        feed_thoughts(wired.reasoner, branch.stream, own, torch.ones(len(k), 1, dtype=torch.bool))
    if len(found) != 1:
        raise UserError(f"--sites {site}: fired {len(found)} times at one thought, expected once")
    return found[0], branch
